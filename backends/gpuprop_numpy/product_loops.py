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
from gpuprop_numpy.spinning import part_loops

FLOATS = np.dtype(np.float32), np.dtype(np.float64)
MIN_SIZE = 8  # rows, columns and terms: fewer do not fill a tile
TERMS = 1536  # bytes of the terms of a row that are packed and summed at once
LINE = 64  # bytes
DIRECT_ROWS = 4  # a tile of so many rows reads them where they are: their lines fit the cache
ROWS = 192  # packed at once: with their terms they stay in the second cache
UNIT = 16  # of the rows or columns of a part
# numbers of a part, after those that describe it:
FLAGS_OF_PART = 12  # the address of its helper's flags
IS_DONE = 13  # whether it was computed: not if there was no memory


def is_supported(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether `multiply` supports two matrices; on processors without AVX nothing was measured."""
    return (a.dtype is b.dtype and a.dtype in FLOATS and a.flags.aligned and b.flags.aligned
            and min(len(a), *b.shape) >= MIN_SIZE and has_avx())


def multiply(start: np.ndarray, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """``out[...] = start + a @ b``, for a row and matrices; rows of `out` are contiguous."""
    product_loop(a.dtype)(start, a, b, out)


def multiply_with(helpers: np.ndarray, least: int, most: int, start: np.ndarray, a: np.ndarray,
                  b: np.ndarray, out: np.ndarray) -> int:
    """`multiply`, divided among this thread and up to `most` helpers that look for work.

    `helpers` are the addresses of flags of all helpers (`spinning`).  Returns how many took part,
    or -1 without a product if fewer than `least` look.
    """
    return divided_loop(a.dtype)(start, a, b, out, part_loop(a.dtype).address, helpers, least, most)


@functools.cache
def packing(dtype: np.dtype) -> tuple[Callable, Callable]:
    """``pack`` and ``pack_slivers``: copies of rows, for loops.  Addresses and steps in bytes."""
    kernels = microkernels(dtype)
    copy, transpose, move, move_row = (
        kernels.copy, kernels.transpose, kernels.move, kernels.move_row)
    rows, piece = kernels.rows, kernels.piece
    size = dtype.itemsize
    decorate = compiled.njit()
    assert decorate is not None  # see `is_supported`

    @decorate
    def pack(source: Any, step: Any, term_step: Any, count: Any, terms: Any, to: Any,
             width: Any) -> None:
        """``to[k * width + i] = source[i * step + k * term_step]`` for i < count, k < terms."""
        whole = count // piece * piece
        packed = 0  # terms
        if step == size:
            packed = terms
            for k in range(terms):
                for i in range(0, whole, piece):
                    move(source + i * size + k * term_step, to + (k * width + i) * size)
        elif term_step == size:
            packed = terms // piece * piece
            starts = np.arange(piece) * (step // size)
            for i in range(0, whole, piece):
                for k in range(0, packed, piece):
                    transpose(source + i * step + k * size, starts.ctypes.data,
                              to + (k * width + i) * size, width)
        for i in range(whole):
            copy(to + (packed * width + i) * size, width * size,
                 source + i * step + packed * term_step, term_step, terms - packed)
        for i in range(whole, count):
            copy(to + i * size, width * size, source + i * step, term_step, terms)

    @decorate
    def pack_slivers(source: Any, step: Any, term_step: Any, count: Any, terms: Any,
                     to: Any) -> None:
        """Copy `count` rows to slivers, each of which has the rows of a tile."""
        whole = 0
        if step == size:
            whole = count // rows * rows
            for k in range(terms):
                for i in range(0, whole, rows):
                    move_row(source + i * size + k * term_step, to + (i * terms + k * rows) * size)
        for i in range(whole, count, rows):
            pack(source + i * step, step, term_step, min(rows, count - i), terms,
                 to + i * terms * size, rows)

    return pack, pack_slivers


@functools.cache
def address_loop(dtype: np.dtype) -> Callable:
    """``multiply(m, n, terms, start, start_row, *a, *b, out, out_row, to_a, to_b, to_edge)``.

    For loops: `product_loop` of arrays that are given by their addresses and steps, in bytes.  `a`
    is its address, and the steps of rows and terms; `b`, and the steps of terms and columns.  There
    is memory for packed operands at `to_a` and `to_b` (see `workspace`), and for a tile at
    `to_edge`.
    """
    kernels = microkernels(dtype)
    copy, prefetch = kernels.copy, kernels.prefetch
    rows, columns, lanes = kernels.rows, kernels.columns, kernels.lanes
    tile = tile_of_strips(dtype)
    pack, pack_slivers = packing(dtype)
    size = dtype.itemsize
    max_terms = TERMS // size
    group = LINE // size  # rows whose elements of one term are in one line
    decorate = compiled.njit()
    assert decorate is not None  # see `is_supported`

    @decorate
    def prefetch_rows(source: Any, step: Any, length: Any, first: Any, last: Any) -> None:
        """Prefetch rows of a matrix; steps and lengths are in bytes."""
        for i in range(first, last):
            for byte in range(0, length, LINE):
                prefetch(source + i * step + byte)

    @decorate
    def move_rows(to: Any, step: Any, source: Any, source_step: Any, count: Any,
                  width: Any) -> None:
        for r in range(count):
            copy(to + r * step, size, source + r * source_step, size, width)

    @decorate
    def even_size(count: Any, most: Any) -> Any:
        """The size of equal blocks of at most `most` of `count` terms."""
        blocks = (count + most - 1) // most
        return (count + blocks - 1) // blocks

    @decorate
    def multiply(m: Any, n: Any, terms: Any, start: Any, start_row: Any, a: Any, a_row: Any,
                 a_term: Any, b: Any, b_term: Any, b_column: Any, out: Any, out_row: Any,
                 to_a: Any, to_b: Any, to_edge: Any) -> None:
        edge_row = columns * size
        is_direct = a_term == size and rows <= DIRECT_ROWS
        block = even_size(terms, max_terms)
        for k in range(0, terms, block):
            count = min(block, terms - k)
            of_a, of_b = a + k * a_term, b + k * b_term
            for first in range(0, m, ROWS):
                last = min(first + ROWS, m)
                packed = last - (last - first) % rows if is_direct else first  # and those after it
                for row in range(packed, last, group):
                    pack_slivers(of_a + row * a_row, a_row, a_term, min(group, last - row), count,
                                 to_a + (row - first) * count * size)
                for column in range(0, n, columns):
                    width = min(columns, n - column)
                    strips = (width + lanes - 1) // lanes
                    panel = to_b + (column * count * size if m > ROWS else 0)
                    if first == 0:
                        pack(of_b + column * b_column, b_column, b_term, width, count, panel,
                             strips * lanes)
                    # rows of the next panel, of which each tile prefetches some
                    following = of_b + (column + columns) * b_column
                    ahead = min(columns, n - column - columns) if first == 0 else 0
                    ahead, step, length = (
                        (count, b_term, ahead * size) if b_column == size
                        else (ahead, b_column, count * size))
                    each = ahead * rows // (last - first) + 1
                    fetched = 0
                    for row in range(first, last, rows):
                        prefetch_rows(following, step, length, fetched, min(fetched + each, ahead))
                        fetched += each
                        height = min(rows, last - row)
                        sliver, row_step, term_step = (
                            to_a + (row - first) * count * size, size, rows * size)
                        if row < packed:
                            sliver, row_step, term_step = of_a + row * a_row, a_row, a_term
                        begin = start + row * start_row + column * size
                        end = out + row * out_row + column * size
                        if height == rows and width == strips * lanes:
                            tile(strips, sliver, row_step, term_step, panel, count, begin,
                                 start_row, end, out_row)
                        else:
                            move_rows(to_edge, edge_row, begin, start_row, height, width)
                            tile(strips, sliver, row_step, term_step, panel, count, to_edge,
                                 edge_row, to_edge, edge_row)
                            move_rows(end, out_row, to_edge, edge_row, height, width)
            start, start_row = out, out_row  # the sums of the terms before

    return multiply


@functools.cache
def workspace(dtype: np.dtype) -> Callable:
    """For loops: ``sizes(m, n, terms)`` of packed operands, of `m` rows and `n` columns."""
    kernels = microkernels(dtype)
    rows, columns, lanes = kernels.rows, kernels.columns, kernels.lanes
    max_terms = TERMS // dtype.itemsize
    decorate = compiled.njit()
    assert decorate is not None  # see `is_supported`

    @decorate
    def sizes(m: Any, n: Any, terms: Any) -> Any:
        terms = min(terms, max_terms)
        # one panel of columns is enough if all rows use it at once
        return (min(m, ROWS) + rows) * terms, (n + lanes if m > ROWS else columns) * terms

    return sizes


@functools.cache
def allocating_loop(dtype: np.dtype) -> Callable:
    """For loops: `address_loop` of ``(m, n, terms, start, *a, *b, out, out_row)`` in new memory."""
    kernels = microkernels(dtype)
    tile_size = kernels.rows * kernels.columns
    multiply, sizes = address_loop(dtype), workspace(dtype)
    decorate = compiled.njit()
    assert decorate is not None  # see `is_supported`

    @decorate
    def run(m: Any, n: Any, terms: Any, start: Any, a: Any, a_row: Any, a_term: Any, b: Any,
            b_term: Any, b_column: Any, out: Any, out_row: Any, packed_a: Any, packed_b: Any,
            edge: Any) -> None:
        multiply(m, n, terms, start, 0, a, a_row, a_term, b, b_term, b_column, out, out_row,
                 packed_a.ctypes.data, packed_b.ctypes.data, edge.ctypes.data)

    @decorate
    def compute(m: Any, n: Any, terms: Any, start: Any, a: Any, a_row: Any, a_term: Any, b: Any,
                b_term: Any, b_column: Any, out: Any, out_row: Any) -> None:
        size_a, size_b = sizes(m, n, terms)
        # Numba frees an array after its last use, and does not see the use of an address: in this
        # call the arrays live until it returns
        run(m, n, terms, start, a, a_row, a_term, b, b_term, b_column, out, out_row,
            np.empty(size_a, dtype), np.empty(size_b, dtype), np.zeros(tile_size, dtype))

    return compute


def _types(dtype: np.dtype) -> tuple:
    """Numba's types of ``start, a, b, out``."""
    from numba import types

    real = types.float32 if dtype.itemsize == 4 else types.float64
    row = types.Array(real, 1, "C", readonly=True)
    matrix, out = (types.Array(real, 2, "A", readonly) for readonly in (True, False))
    return row, matrix, matrix, out


@functools.cache
def product_loop(dtype: np.dtype) -> Callable:
    """The loop of `multiply`."""
    compute = allocating_loop(dtype)
    decorate = compiled.njit()
    assert decorate is not None  # see `is_supported`

    @decorate
    def product(start: Any, a: Any, b: Any, out: Any) -> None:
        m, n = out.shape
        compute(m, n, a.shape[1], start.ctypes.data, a.ctypes.data, *a.strides, b.ctypes.data,
                *b.strides, out.ctypes.data, out.strides[0])

    return compiled.Loop(product, _types(dtype))


@functools.cache
def part_loop(dtype: np.dtype) -> compiled.Loop:
    """The loop of a part of `multiply_with`: of the address of its numbers."""
    from numba import types

    compute = allocating_loop(dtype)
    *_, load, store = part_loops()
    decorate = compiled.njit()
    assert decorate is not None  # see `is_supported`

    @decorate
    def product_part(n: Any) -> None:
        compute(load(n, 0), load(n, 1), load(n, 2), load(n, 3), load(n, 4), load(n, 5), load(n, 6),
                load(n, 7), load(n, 8), load(n, 9), load(n, 10), load(n, 11))
        store(n, IS_DONE, 1)

    return compiled.Loop(product_part, (types.int64,))


@functools.cache
def divided_loop(dtype: np.dtype) -> compiled.Loop:
    """The loop of `multiply_with`."""
    from numba import types

    size = dtype.itemsize
    take, release, give, run, wait, *_ = part_loops()
    decorate = compiled.njit()
    assert decorate is not None  # see `is_supported`

    @decorate
    def take_some(helpers: Any, parts: Any) -> Any:
        """The number of helpers that are now taken, for the parts from number 1 on."""
        count = 0
        for flags in helpers:
            if count + 1 < len(parts) and take(flags):
                count += 1
                parts[count, FLAGS_OF_PART] = flags
        return count

    @decorate
    def divided_product(start: Any, a: Any, b: Any, out: Any, part: Any, helpers: Any, least: Any,
                        most: Any) -> Any:
        parts = np.zeros((1 + most, 1 + IS_DONE), np.int64)
        count = take_some(helpers, parts)
        if count < least:
            for i in range(1, count + 1):
                release(parts[i, FLAGS_OF_PART])
            return -1
        m, n = out.shape
        by_rows = m >= n
        whole = m if by_rows else n
        at, step = parts.ctypes.data, parts.strides[0]
        last = whole
        for i in range(count, -1, -1):  # part 0, which is computed here, is made at the end
            first = whole * i // ((count + 1) * UNIT) * UNIT
            row, column = (first, 0) if by_rows else (0, first)
            of = parts[i]
            of[0], of[1] = (last - first, n) if by_rows else (m, last - first)
            of[2] = a.shape[1]
            of[3] = start.ctypes.data + column * size
            of[4] = a.ctypes.data + row * a.strides[0]
            of[5], of[6] = a.strides
            of[7] = b.ctypes.data + column * b.strides[1]
            of[8], of[9] = b.strides
            of[10], of[11] = out.ctypes.data + row * out.strides[0] + column * size, out.strides[0]
            last = first
            if i:
                give(of[FLAGS_OF_PART], part, at + i * step)
        run(part, at)
        for i in range(1, count + 1):
            wait(parts[i, FLAGS_OF_PART])
        for i in range(count + 1):
            if not parts[i, IS_DONE]:
                raise MemoryError("no memory for copies of the operands of a product")
        return count

    integers = types.Array(types.int64, 1, "C", readonly=True)
    return compiled.Loop(divided_product, (
        *_types(dtype), types.int64, integers, types.int64, types.int64))
