"""Matrix products compiled by Numba: tiles of sums in the CPU's registers, of packed operands.

Each thread copies its operands once, into panels in the order in which the tiles read them.  For
products of a few hundred rows, as in most layers, this takes less time than in OpenBLAS.  The sums
of TERMS are added in the order of the terms, whatever the rows and columns, so that all divisions
of a product have the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.microkernels import has_avx, microkernels, tile_of_strips

FLOATS = np.dtype(np.float32), np.dtype(np.float64)
MIN_SIZE = 8  # rows, columns and terms: fewer do not fill a tile
TERMS = 1536  # bytes of the terms of a row that are packed and summed at once
LINE = 64  # bytes
ROWS = 192  # packed at once: with their terms they stay in the second cache


def is_supported(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether `multiply` supports two matrices; on processors without AVX nothing was measured."""
    return (a.dtype is b.dtype and a.dtype in FLOATS and a.flags.aligned and b.flags.aligned
            and min(len(a), *b.shape) >= MIN_SIZE and has_avx())


def multiply(start: np.ndarray, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """``out[...] = start + a @ b``, for a row and matrices; rows of `out` are contiguous."""
    product_loop(a.dtype)(start, a, b, out)


@functools.cache
def product_loop(dtype: np.dtype) -> Callable:
    """The loop of `multiply`."""
    from numba import types

    kernels = microkernels(dtype)
    copy, transpose, move, prefetch, rows, lanes = (
        kernels.copy, kernels.transpose, kernels.move, kernels.prefetch, kernels.rows,
        kernels.lanes)
    tile = tile_of_strips(dtype)
    size = dtype.itemsize
    max_terms = TERMS // size
    columns = kernels.columns
    decorate = compiled.njit()
    assert decorate is not None  # see `is_faster`

    @decorate
    def pack(source: Any, step: Any, term_step: Any, count: Any, terms: Any, to: Any,
             width: Any) -> None:
        """Copy `count` rows: ``to[k * width + i] = source[i * step + k * term_step]``, k < terms.

        Steps are in bytes.
        """
        whole = count // rows * rows
        packed = 0  # terms
        if step == size:
            packed = terms
            for k in range(terms):
                for i in range(0, whole, rows):
                    move(source + i * size + k * term_step, to + (k * width + i) * size)
        elif term_step == size:
            packed = terms // rows * rows
            starts = np.arange(rows) * (step // size)
            for i in range(0, whole, rows):
                for k in range(0, packed, rows):
                    transpose(source + i * step + k * size, starts.ctypes.data,
                              to + (k * width + i) * size, width)
        for i in range(whole):
            copy(to + (packed * width + i) * size, width * size,
                 source + i * step + packed * term_step, term_step, terms - packed)
        for i in range(whole, count):
            copy(to + i * size, width * size, source + i * step, term_step, terms)

    @decorate
    def prefetch_part(part: Any, parts: Any, source: Any, step: Any, term_step: Any, count: Any,
                      terms: Any) -> None:
        """Prefetch a part of what `pack` is going to read."""
        n, row_step, length = ((terms, term_step, count) if step == size
                               else (count, step, terms))
        for i in range(n * part // parts, n * (part + 1) // parts):
            for byte in range(0, length * size, LINE):
                prefetch(source + i * row_step + byte)

    @decorate
    def move_rows(to: Any, step: Any, source: Any, source_step: Any, count: Any,
                  width: Any) -> None:
        for r in range(count):
            copy(to + r * step, size, source + r * source_step, size, width)

    @decorate
    def add(start: Any, a: Any, b: Any, out: Any, packed_a: Any, packed_b: Any,
            edge: Any) -> None:
        m, terms = a.shape
        n = b.shape[1]
        a_row, a_term = a.strides
        b_term, b_column = b.strides
        out_row = out.strides[0]
        to_a, to_b, to_edge = packed_a.ctypes.data, packed_b.ctypes.data, edge.ctypes.data
        to_out = out.ctypes.data
        of_start, start_row = start.ctypes.data, 0
        edge_row = columns * size
        for k in range(0, terms, max_terms):
            count = min(max_terms, terms - k)
            of_a, of_b = a.ctypes.data + k * a_term, b.ctypes.data + k * b_term
            for first in range(0, m, ROWS):
                last = min(first + ROWS, m)
                for row in range(first, last, rows):
                    if first == 0:
                        prefetch_part((row - first) // rows, (last - first + rows - 1) // rows,
                                      of_b, b_column, b_term, min(columns, n), count)
                    pack(of_a + row * a_row, a_row, a_term, min(rows, last - row), count,
                         to_a + (row - first) * count * size, rows)
                for column in range(0, n, columns):
                    width = min(columns, n - column)
                    strips = (width + lanes - 1) // lanes
                    panel = to_b + column * count * size
                    if first == 0:
                        pack(of_b + column * b_column, b_column, b_term, width, count, panel,
                             strips * lanes)
                    following = column + columns
                    for row in range(first, last, rows):
                        if first == 0 and following < n:
                            prefetch_part((row - first) // rows, (last - first + rows - 1) // rows,
                                          of_b + following * b_column, b_column, b_term,
                                          min(columns, n - following), count)
                        height = min(rows, last - row)
                        sliver = to_a + (row - first) * count * size
                        begin = of_start + row * start_row + column * size
                        end = to_out + row * out_row + column * size
                        if height == rows and width == strips * lanes:
                            tile(strips, sliver, panel, count, begin, start_row, end, out_row)
                        else:
                            move_rows(to_edge, edge_row, begin, start_row, height, width)
                            tile(strips, sliver, panel, count, to_edge, edge_row, to_edge,
                                 edge_row)
                            move_rows(end, out_row, to_edge, edge_row, height, width)
            of_start, start_row = to_out, out_row  # the sums of the terms before

    @decorate
    def product(start: Any, a: Any, b: Any, out: Any) -> None:
        m, terms = a.shape
        n = b.shape[1]
        packed_terms = min(terms, max_terms)
        packed_a = np.empty((min(m, ROWS) + rows) * packed_terms, dtype)
        packed_b = np.empty((n + lanes) * packed_terms, dtype)
        edge = np.zeros((rows, columns), dtype)
        # Numba frees an array after its last use, and does not see the use of an address: in this
        # call the arrays live until it returns
        add(start, a, b, out, packed_a, packed_b, edge)

    real = types.float32 if size == 4 else types.float64
    row = types.Array(real, 1, "C", readonly=True)
    matrix, out = (types.Array(real, 2, "A", readonly) for readonly in (True, False))
    return compiled.Loop(product, (row, matrix, matrix, out))
