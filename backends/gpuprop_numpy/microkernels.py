"""The innermost loops of matrix products: tiles of sums that stay in the CPU's registers.

Numba keeps no array in registers, so these loops are written in LLVM's instructions
(`vector_code`).  Arrays are given by the addresses of their first elements, so that one compiled
function reads arrays in any memory order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.vector_code import Vectors, intrinsic

VECTORS = 3  # of the columns of a tile


class Microkernels(NamedTuple):
    """Functions for Numba's loops, and the sizes of their tiles."""

    multiply: Callable
    dot: Callable
    copy: Callable
    transpose: Callable
    move: Callable
    move_row: Callable  # of `rows` elements
    gather: Callable
    prefetch: Callable
    tiles: tuple[Callable, ...]  # of 1 to VECTORS vectors
    rows: int  # of a tile of `multiply` and of `tiles`
    columns: int
    piece: int  # elements that `transpose`, `move` and `gather` move together
    dot_rows: int  # of a tile of `dot`
    dot_columns: int
    lanes: int  # elements of a vector


@functools.cache
def microkernels(dtype: np.dtype) -> Microkernels:
    """Those for a dtype, float32 or float64.  Numba must be installed."""
    size, registers = vectors()
    lanes = size // dtype.itemsize
    rows = 8 if registers == 32 else 4
    piece = min(8, lanes)
    dot_rows, dot_columns = (4, 6) if registers == 32 else (3, 4)
    return Microkernels(
        _multiply(dtype, lanes, rows), _dot(dtype, lanes, dot_rows, dot_columns), _copy(dtype),
        _transpose(dtype, piece), _move(dtype, piece), _move(dtype, rows),
        _gather(dtype, piece, VECTORS * lanes), _prefetch(dtype),
        tuple(_tile(dtype, lanes, rows, 1 + v) for v in range(VECTORS)),
        rows, VECTORS * lanes, piece, dot_rows, dot_columns, lanes)


def vectors() -> tuple[int, int]:
    """The bytes of the longest vectors for which Numba compiles, and the registers for them."""
    from llvmlite.binding import get_process_triple
    from numba.core import codegen, config

    features = config.CPU_FEATURES  # type: ignore[attr-defined]  # of the environment, or None
    if features is None:
        features = codegen.get_host_cpu_features()
    features = features.split(",")
    if "+avx512f" in features:
        return 64, 32
    if "+avx" in features:
        return 32, 16
    return 16, 32 if get_process_triple().startswith(("aarch64", "arm64")) else 16


@functools.cache
def has_avx() -> bool:
    """Whether Numba is installed and compiles for AVX."""
    return compiled.njit() is not None and vectors()[0] >= 32


def _add_outer(code: Vectors, columns: list, rows: int, sums: list, row: Callable) -> list:
    """``sums[r * len(columns) + c] + row(r) * columns[c]``.

    A row is loaded just before it is used.  If all are loaded first, LLVM has not enough of 16
    registers, and the loop takes 2.3 times as long.
    """
    results = []
    for r in range(rows):
        factor = row(r)
        for c, column in enumerate(columns):
            results.append(code.multiply_add(factor, column, sums[r * len(columns) + c]))
    return results


def _multiply(dtype: np.dtype, lanes: int, rows: int) -> Callable:
    """``multiply(a, row_step, term_step, b, starts, terms, bias, out, step)``.

    ``out[r * step + c] = bias[r] + sum(a[r * row_step + k * term_step] * b[starts[k] + c] for k in
    range(terms))`` for r < rows and c < VECTORS * lanes; there is at least one term.
    """

    def generate(code: Vectors, a: Any, row_step: Any, term_step: Any, b: Any, starts: Any,
                 terms: Any, bias: Any, out: Any, step: Any) -> None:
        of_rows = [code.multiply(row_step, r) for r in range(rows)]

        def add_terms(k: Any, sums: list) -> list:
            first = code.load(starts, k, code.index)
            columns = [code.load(b, code.add(first, v * lanes), code.vector)
                       for v in range(VECTORS)]
            term = code.multiply(k, term_step)
            return _add_outer(code, columns, rows, sums,
                              lambda r: code.repeated(a, code.add(term, of_rows[r])))

        biases = [code.repeated(bias, code.integer(r)) for r in range(rows)]
        sums = code.loop(terms, 1, add_terms, [b for b in biases for _ in range(VECTORS)])
        for n, total in enumerate(sums):
            row = code.multiply(step, n // VECTORS)
            code.store(total, out, code.add(row, n % VECTORS * lanes))

    return intrinsic(generate, 9, dtype, lanes)


def _dot(dtype: np.dtype, lanes: int, rows: int, columns: int) -> Callable:
    """``dot(a, step, b, starts, count, out)``.

    ``out[r * columns + c] = sum(a[r * step + k] * b[starts[c] + k] for k in range(count))``;
    `count` is a multiple of `lanes`, at least once.
    """

    def generate(code: Vectors, a: Any, step: Any, b: Any, starts: Any, count: Any,
                 out: Any) -> None:
        firsts = [code.load(starts, code.integer(c), code.index) for c in range(columns)]

        def add_terms(k: Any, sums: list) -> list:
            x = [code.load(a, code.add(code.multiply(step, r), k), code.vector)
                 for r in range(rows)]
            return _add_outer(code, x, columns, sums,
                              lambda c: code.load(b, code.add(firsts[c], k), code.vector))

        sums = code.loop(count, lanes, add_terms, [code.zeros] * (rows * columns))
        for n, total in enumerate(sums):
            c, r = divmod(n, rows)
            code.store(code.sum(total), out, code.integer(r * columns + c))

    return intrinsic(generate, 6, dtype, lanes)


@functools.cache
def tile_of_strips(dtype: np.dtype) -> Callable:
    """`Microkernels.tiles` for loops, of `strips` vectors.  Steps are in bytes.

    ``tile(strips, a, row_step, term_step, b, terms, start, start_step, out, step)``
    """
    one, two, three = microkernels(dtype).tiles
    size = dtype.itemsize
    decorate = compiled.njit()
    assert decorate is not None

    @decorate
    def tile(strips: Any, a: Any, row_step: Any, term_step: Any, b: Any, terms: Any, start: Any,
             start_step: Any, out: Any, step: Any) -> None:
        row, term = row_step // size, term_step // size
        first, last = start_step // size, step // size
        if strips == 3:
            three(a, row, term, b, terms, start, first, out, last)
        elif strips == 2:
            two(a, row, term, b, terms, start, first, out, last)
        else:
            one(a, row, term, b, terms, start, first, out, last)

    return tile


def _tile(dtype: np.dtype, lanes: int, rows: int, vectors: int) -> Callable:
    """``tile(a, row_step, term_step, b, terms, start, start_step, out, step)`` of packed `b`.

    ``out[r * step + c] = start[r * start_step + c] + sum(a[r * row_step + k * term_step] * b[k *
    columns + c] for k in range(terms))`` for r < rows and c < columns = vectors * lanes; there is
    at least one term.
    """

    def generate(code: Vectors, a: Any, row_step: Any, term_step: Any, b: Any, terms: Any,
                 start: Any, start_step: Any, out: Any, step: Any) -> None:
        of_rows = [code.multiply(row_step, r) for r in range(rows)]
        places = [(r, v * lanes) for r in range(rows) for v in range(vectors)]
        place = lambda step, r, c: code.add(code.multiply(step, r), c)

        def add_terms(k: Any, sums: list) -> list:
            column, term = code.multiply(k, vectors * lanes), code.multiply(k, term_step)
            columns = [code.load(b, code.add(column, v * lanes), code.vector)
                       for v in range(vectors)]
            return _add_outer(code, columns, rows, sums,
                              lambda r: code.repeated(a, code.add(term, of_rows[r])))

        sums = code.loop(terms, 1, add_terms, [code.zeros] * len(places))
        for total, (r, c) in zip(sums, places, strict=True):
            before = code.load(start, place(start_step, r, c), code.vector)
            code.store(code.plus(before, total), out, place(step, r, c))

    return intrinsic(generate, 9, dtype, lanes)


def _transpose(dtype: np.dtype, n: int) -> Callable:
    """``transpose(source, starts, to, step)``: ``to[j * step + i] = source[starts[i] + j]``.

    For i, j < n, a power of two.
    """

    def generate(code: Vectors, source: Any, starts: Any, to: Any, step: Any) -> None:
        rows = [code.load(source, code.load(starts, code.integer(i), code.index), code.vector)
                for i in range(n)]
        distance = n // 2
        while distance:  # exchange the blocks of this size that lie across the diagonal
            for i in range(n):
                if i & distance == 0:
                    rows[i], rows[i + distance] = code.exchanged(
                        rows[i], rows[i + distance], distance)
            distance //= 2
        for j, row in enumerate(rows):
            code.store(row, to, code.multiply(step, j))

    return intrinsic(generate, 4, dtype, n)


def _move(dtype: np.dtype, n: int) -> Callable:
    """``move(source, to)``: n elements."""

    def generate(code: Vectors, source: Any, to: Any) -> None:
        code.store(code.load(source, code.integer(0), code.vector), to, code.integer(0))

    return intrinsic(generate, 2, dtype, n)


def _gather(dtype: np.dtype, n: int, columns: int) -> Callable:
    """``gather(source, starts, terms, places, to)``.

    ``to[k * columns + p * n + i] = source[starts[k] + places[p] + i]`` for k < terms,
    p < columns / n and i < n; there is at least one term.
    """

    def generate(code: Vectors, source: Any, starts: Any, terms: Any, places: Any, to: Any) -> None:
        pieces = [code.load(places, code.integer(p), code.index) for p in range(columns // n)]

        def move_term(k: Any, _: list) -> list:
            start = code.load(starts, k, code.index)
            row = code.multiply(k, columns)
            for p, place in enumerate(pieces):
                piece = code.load(source, code.add(start, place), code.vector)
                code.store(piece, to, code.add(row, p * n))
            return []

        code.loop(terms, 1, move_term, [])

    return intrinsic(generate, 5, dtype, n)


def _prefetch(dtype: np.dtype) -> Callable:
    """``prefetch(source)``: bring the line at an address into the cache."""

    def generate(code: Vectors, source: Any) -> None:
        ir = code.ir
        pointer = code.builder.inttoptr(source, ir.IntType(8).as_pointer())
        options = [ir.Constant(ir.IntType(32), n) for n in (0, 2, 1)]  # to read, near, data
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, *(n.type for n in options)])
        function = code.builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        code.builder.call(function, [pointer, *options])

    return intrinsic(generate, 1, dtype, 1)


def _copy(dtype: np.dtype) -> Callable:
    """``copy(to, step, source, stride, count)``: elements, with steps in bytes.

    Rows are copied as they are, and every second element of a row by vectors.
    """
    size, lanes = dtype.itemsize, 4

    def generate(code: Vectors, to: Any, step: Any, source: Any, stride: Any, count: Any) -> None:
        from numba.core import cgutils

        builder = code.builder
        to_row, from_row, from_pairs, is_long = (
            builder.icmp_signed(relation, n, code.integer(value)) for relation, n, value in (
                ("==", step, size), ("==", stride, size), ("==", stride, 2 * size),
                (">", count, lanes)))
        with builder.if_else(builder.and_(to_row, from_row)) as (row, other):
            with row:
                first, second = (builder.inttoptr(n, code.real.as_pointer()) for n in (to, source))
                cgutils.raw_memcpy(builder, first, second, count, size)
            with other:
                is_vector = builder.and_(builder.and_(to_row, from_pairs), is_long)
                with builder.if_else(is_vector) as (vectors, elements):
                    with vectors:
                        last = code.add(count, -lanes)
                        with cgutils.for_range_slice(
                                builder, code.integer(0), last, code.integer(lanes)) as (k, _):
                            code.copy_from_pairs(to, source, k, 0)
                        code.copy_from_pairs(to, source, last, 1)  # up to the last element
                    with elements, cgutils.for_range(builder, count) as loop:
                        offsets = [builder.mul(loop.index, n) for n in (step, stride)]
                        zero = code.integer(0)
                        value = code.load(builder.add(source, offsets[1]), zero, code.real)
                        code.store(value, builder.add(to, offsets[0]), zero)

    return intrinsic(generate, 5, dtype, lanes)
