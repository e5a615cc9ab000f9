"""The override of max pooling for the CPU: a few images at a time, in threads."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpuprop.backend import portable
from gpuprop_numpy import compiled
from gpuprop_numpy.pooling_loops import LANES, PADDING, compiled_loops
from gpuprop_numpy.threads import even_slices, in_threads

PER_TASK = 1 << 18  # elements of the input; temporaries of this size stay in the CPU's cache


def max_pool(xp: Any, input: Any, size: Any, counts: Any, stride: Any, padding: Any, dilation: Any,
             return_indices: Any) -> tuple:
    """`max_pool` of parts of the batch, or of planes by loops of Numba."""
    if not return_indices and is_supported(input, size):
        loops = compiled_loops(input.dtype, size[-1], stride[-1], dilation[-1])
        if loops is not None:
            places = find_places(input.shape[2:], size, counts, stride, padding, dilation)
            return pool_planes(input, counts, places, *loops)
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


# ---- loops of Numba ------------------------------------------------------------------------------

PER_LOOP = 1 << 20  # elements of the input: about 0.3 ms of work
MAX_SIDE = 256  # rows of a window, or elements of a row: one byte is the number of each


class Places(NamedTuple):
    """Where the elements of windows are in a plane, ``rows[r, i] + columns[w, j]``.

    A row of windows has one place along all axes but the last.  Places in the padding are negative.
    """

    rows: np.ndarray  # (rows of windows, rows of a window)
    columns: np.ndarray  # (windows of a row, elements of a row)
    first: int  # the windows from here to `end`, LANES or more, have no padding at their sides
    end: int
    others: np.ndarray


def is_supported(input: np.ndarray, size: Sequence[int]) -> bool:
    """Whether loops are used for windows of `size`."""
    return input.size >= compiled.MIN_SIZE and input.dtype in (np.float32, np.float64) \
        and max(size[-1], math.prod(size[:-1])) <= MAX_SIDE


@functools.lru_cache
def find_places(space: tuple, *options: tuple) -> Places:
    """The places of windows; `options` are those of `places_of_axis`, for each axis of `space`."""
    *leading, columns = map(places_of_axis, space, *options)
    rows = np.zeros((1, 1), int)
    for length, places in zip(space[:-1], leading, strict=True):
        grid = rows[:, None, :, None] * length + places[:, None]
        rows = grid.reshape(math.prod(grid.shape[:2]), -1)
    inner = np.flatnonzero((columns >= 0).all(axis=1))
    first, end = (inner[0], inner[-1] + 1) if inner.size >= LANES else (0, 0)
    others = np.delete(np.arange(len(columns)), slice(first, end))
    return Places(rows * space[-1], columns, first, end, others)


def places_of_axis(length: int, size: int, count: int, stride: int, padding: tuple[int, int],
                   dilation: int) -> np.ndarray:
    """The places of windows along one axis: (count, size)."""
    places = np.arange(count)[:, None] * stride - padding[0] + np.arange(size) * dilation
    return np.where((places >= 0) & (places < length), places, PADDING)


def pool_planes(input: np.ndarray, counts: Sequence[int], places: Places, forward: Callable,
                backward: Callable) -> tuple:
    """The output and the pullback of max pooling by `compiled_loops`."""
    x = np.ascontiguousarray(input).reshape(-1, math.prod(input.shape[2:]))
    y = np.empty((len(x), len(places.rows), counts[-1]), x.dtype)
    best = np.empty(y.shape, np.uint16)
    parts = even_slices(len(x), max(1, PER_LOOP // x.shape[1]))
    in_threads(lambda part: forward(x[part], *places, y[part], best[part]), parts)
    plane_shape = x.shape
    input_shape = input.shape

    def input_grad(dy: np.ndarray) -> np.ndarray:
        dy = np.ascontiguousarray(dy).reshape(best.shape)
        dx = np.empty(plane_shape, dy.dtype)
        in_threads(lambda part: backward(dy[part], best[part], places.rows, places.columns,
                                         dx[part]), parts)
        return dx.reshape(input_shape)

    return y.reshape(*input.shape[:2], *counts), (input_grad,)
