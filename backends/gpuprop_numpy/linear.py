"""The override of `linear` for the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop.backend import Into, definition
from gpuprop_numpy.products import add_product, can_be_added, product


def linear(xp: Any, input: Any, weight: Any, bias: Any = None) -> tuple:
    """``input @ weight.T + bias`` in one pass; the gradient of `weight` needs no copy."""
    if not is_faster(input, weight, bias):
        return definition("gpuprop.functional:linear")(xp, input, weight, bias)
    features = len(weight)
    x = input.reshape(-1, input.shape[-1])
    y = np.empty((len(x), features), x.dtype)
    start = np.zeros(features, x.dtype) if bias is None else np.ascontiguousarray(bias)
    add_product(start[None], x, weight.T, y)

    def weight_grad(dy: Any, out: Any) -> Any:
        d = dy.reshape(y.shape).T
        if out is None or not can_be_added(d, x):
            return product(d, x)
        add_product(np.zeros((1, x.shape[1]), x.dtype), d, x, out)
        return out

    return y.reshape(*input.shape[:-1], features), (
        lambda dy: product(dy.reshape(y.shape), weight).reshape(input.shape),
        Into(weight_grad),
        lambda dy: dy)  # the engine sums over the axes along which bias was broadcast


def is_faster(input: Any, weight: Any, bias: Any) -> bool:
    """Whether the loops of products support the arrays, whose shapes fit, and are faster."""
    if input.ndim < 2 or weight.ndim != 2 or input.shape[-1] != weight.shape[1]:
        return False
    if bias is not None and not (bias.dtype is weight.dtype and bias.shape == weight.shape[:1]):
        return False
    return can_be_added(input.reshape(-1, input.shape[-1]), weight.T)
