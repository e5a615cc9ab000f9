"""Max pooling compiled by Numba: the maxima of several windows in one vector."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.vector_code import Vectors, intrinsic

LANES = 8  # windows of a vector
PADDING = -(1 << 32)  # a place in the padding


@functools.cache
def compiled_loops(dtype: np.dtype, size: int, stride: int,
                   dilation: int) -> tuple[Callable, Callable] | None:
    """``forward(x, *places, y, best)`` and ``backward(dy, best, rows, columns, dx)``, or None.

    `x` and `dx` are (planes, elements); `y`, `dy` and `best` are (planes, rows of windows, windows
    of a row).  `best` is 256 * i + j if a window takes element j of its row i; it is 0 for a window
    in the padding.  The options are those of the last axis.
    """
    decorate = compiled.njit()
    if decorate is None:
        return None
    update = _update(dtype, size, stride, dilation)

    @decorate
    def forward(x: Any, rows: Any, columns: Any, first: Any, end: Any, others: Any, y: Any,
                best: Any) -> None:
        for plane in range(y.shape[0]):
            elements = x[plane]
            for r in range(y.shape[1]):
                row_y, row_best = y[plane, r], best[plane, r]
                row_y[:] = -np.inf
                row_best[:] = 0  # of a window in the padding: nothing else writes it
                for i in range(rows.shape[1] - 1, -1, -1):
                    start = rows[r, i]
                    if start < 0:
                        continue
                    for following in range(first, end, LANES):
                        w = min(following, end - LANES)  # the last ones may be done again
                        update(elements[start + columns[w, 0]:].ctypes.data, row_y[w:].ctypes.data,
                               row_best[w:].ctypes.data, i)
                    for w in others:
                        for j in range(size - 1, -1, -1):
                            if columns[w, j] >= 0:
                                value = elements[start + columns[w, j]]
                                if (value >= row_y[w]) | (value != value):
                                    row_y[w], row_best[w] = value, i << 8 | j

    @decorate
    def backward(dy: Any, best: Any, rows: Any, columns: Any, dx: Any) -> None:
        for plane in range(dy.shape[0]):
            elements = dx[plane]
            elements[:] = 0
            for r in range(dy.shape[1]):
                for w in range(dy.shape[2]):
                    i, j = best[plane, r, w] >> 8, best[plane, r, w] & 255
                    place = rows[r, i] + columns[w, j]
                    if place >= 0:
                        elements[place] += dy[plane, r, w]

    return compiled.Loop(forward), compiled.Loop(backward)


def _update(dtype: np.dtype, size: int, stride: int, dilation: int) -> Callable:
    """``update(source, maxima, numbers, row)`` of LANES windows by the elements of one row.

    A window takes the first NaN, or the first one of equal elements.  Rows come in reverse order.
    """

    def generate(code: Vectors, source: Any, maxima: Any, numbers: Any, row: Any) -> None:
        builder = code.builder
        best = code.load(maxima, code.integer(0), code.vector)
        short = code.ir.VectorType(code.ir.IntType(16), LANES)
        place = builder.inttoptr(numbers, short.as_pointer())
        number = builder.load(place, align=2)
        of_row = builder.shl(row, code.integer(8))
        for j in range(size - 1, -1, -1):
            value = code.every(source, j * dilation, stride, (size - 1) * dilation)
            is_new = builder.or_(builder.fcmp_ordered(">=", value, best),
                                 builder.fcmp_unordered("uno", value, value))
            best = builder.select(is_new, value, best)
            this = builder.trunc(builder.or_(of_row, code.integer(j)), short.element)
            number = builder.select(is_new, code.filled(this), number)
        code.store(best, maxima, code.integer(0))
        builder.store(number, place, align=2)

    return intrinsic(generate, 4, dtype, LANES)
