"""The override of max pooling for the CPU: a few images at a time, in threads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuprop.backend import portable
from gpuprop_numpy.threads import in_threads

PER_TASK = 1 << 18  # elements of the input; temporaries of this size stay in the CPU's cache


def max_pool(xp: Any, input: Any, size: Any, counts: Any, stride: Any, padding: Any, dilation: Any,
             return_indices: Any) -> tuple:
    """`max_pool` of parts of the batch."""
    pool = portable("gpuprop.functional:max_pool")
    options = size, counts, stride, padding, dilation, return_indices
    step = max(1, PER_TASK // max(1, math.prod(input.shape[1:])))
    if return_indices or len(input) <= step:
        return pool(xp, input, *options)
    parts = [slice(i, i + step) for i in range(0, len(input), step)]
    results = in_threads(lambda part: pool(xp, input[part], *options), parts)

    def input_grad(dy: np.ndarray) -> np.ndarray:
        dx = np.empty(input.shape, dy.dtype)

        def work(i: int) -> None:
            (part_grad,) = results[i][1]
            dx[parts[i]] = part_grad(dy[parts[i]])

        in_threads(work, range(len(parts)))
        return dx

    return np.concatenate([y for y, _ in results]), (input_grad,)
