"""Sums of rows that indices choose, such as the gradients of embeddings."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop.backend import Into, definition, is_half
from gpuprop_numpy import compiled
from gpuprop_numpy.memory import is_place

MIN_SIZE = 1 << 14  # elements of the values; nobody should wait for Numba for fewer
CHUNK = 1 << 16  # elements per call of np.add.at, which bounds the memory of their int64 indices


def embedding(xp: Any, input: Any, weight: Any, padding_idx: Any = None,
              scale_grad_by_freq: Any = False) -> tuple:
    """The definition; the gradient of `weight`, as large as the table, needs no copy."""
    y, (_, to_weight) = definition("gpuprop.functional:embedding_lookup")(
        xp, input, weight, padding_idx, scale_grad_by_freq)
    if padding_idx is not None or scale_grad_by_freq:
        return y, (None, to_weight)
    shape = weight.shape

    def weight_grad(dy: Any, out: Any) -> Any:
        if not is_place(out, shape, dy.dtype, dy):
            return to_weight(dy)
        out[...] = 0
        return index_add(out, input.reshape(-1), dy.reshape(input.size, *shape[1:]))

    return y, (None, Into(weight_grad))


def index_add(a: np.ndarray, index: np.ndarray, values: np.ndarray, axis: int = 0) -> np.ndarray:
    """``a[index[i]] += values[i]`` along `axis` for each i in order, in place; returns `a`.

    `index` is 1-D and may repeat.  Raises IndexError for an index out of bounds, before any
    addition, and ValueError for an array that is read-only.
    """
    if not a.flags.writeable:  # np.add.at does not look
        raise ValueError("index_add: the array is read-only: add to a copy of it")
    half = is_half(a.dtype)
    if half or not a.flags.c_contiguous:
        # half types are summed in float32 and rounded once, even if an index repeats
        total = np.zeros(a.shape, np.float32 if half else a.dtype)
        a += index_add(total, index, values, axis)
        return a
    axis = axis % a.ndim
    index = index.astype(np.int64, copy=False)  # flat indices overflow narrow types
    n, outer, inner = a.shape[axis], math.prod(a.shape[:axis]), math.prod(a.shape[axis + 1:])
    if index.size and index.view(np.uint64).max() >= n:  # negative ones are larger than all
        outside = index[(index < -n) | (index >= n)]
        if outside.size:
            raise IndexError(f"index {outside[0]} is out of bounds for axis {axis} with size {n}")
        index = index % n
    values = values.astype(a.dtype, casting="same_kind", copy=False)
    values = values.reshape(outer, len(index), inner)
    is_large = values.size >= MIN_SIZE and a.dtype.kind == "f"
    if is_large and (loop := compiled_loop()):
        loop(a.reshape(outer, n, inner), np.ascontiguousarray(index),
             np.ascontiguousarray(values))
        return a
    # np.add.at is fast only for flat indices and equal dtypes
    flat = a.reshape(-1)
    if outer == inner == 1:
        np.add.at(flat, index, values.reshape(-1))
        return a
    row_starts = (np.arange(outer)[:, None] * n + index)[:, :, None] * inner
    step = max(1, CHUNK // max(1, outer * inner))
    for i in range(0, len(index), step):
        flat_index = (row_starts[:, i:i + step] + np.arange(inner)).reshape(-1)
        np.add.at(flat, flat_index, values[:, i:i + step].reshape(-1))
    return a


@functools.cache
def compiled_loop() -> Callable | None:
    """``loop(a, index, values)`` adds the rows of each matrix in order; None without Numba.

    `a` is (matrices, rows, elements), and `values` (matrices, indices, elements).
    """
    decorate = compiled.njit()
    if decorate is None:
        return None

    @decorate
    def loop(a: Any, index: Any, values: Any) -> None:
        for n in range(len(a)):
            for i in range(len(index)):
                row, added = a[n, index[i]], values[n, i]
                for j in range(len(row)):
                    row[j] += added[j]

    return compiled.Loop(loop)
