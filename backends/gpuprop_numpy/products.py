"""Matrix products of the CPU, divided among threads of one BLAS thread each.

BLAS's own threads wait for each other inside of a product without sleeping.  If other programs
use the processors, a product of a millisecond then takes 10 times as long.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop.backend import is_half
from gpuprop_numpy import product_loops
from gpuprop_numpy.compiled import may_be_silent
from gpuprop_numpy.product_loops import UNIT
from gpuprop_numpy.threads import (
    flags_of_helpers,
    has_known_blas,
    in_threads,
    openblas,
    product_threads,
    wake_helper_if_missed_again,
    with_one_blas_thread,
)

# multiplications: BLAS itself uses one thread up to SMALL
SMALL = 1 << 18
MIN_WORK = 1 << 23  # of a thread of gpuprop
MIN_LOOP_WORK = 1 << 22  # of one that computes a compiled loop: it is there sooner
MIN_PART_WORK = 1 << 19  # of one that looks for such work
ROWS = 48  # parts with a multiple of so many rows have the bits of the whole: see `_parts`
COLUMNS = 256  # of a part, at least: with fewer, BLAS's copy of `a` in each part takes too long
GRAM_ROWS = 256  # of a part of a matrix times its transpose
AVX512 = b"SkylakeX", b"Cooperlake", b"SapphireRapids"  # OpenBLAS's kernels with small products


def matmul(a: np.ndarray, b: np.ndarray, dtype: Any = None) -> np.ndarray:
    """``np.matmul``, but faster for a stack of matrices times one matrix, and for half types.

    Half types are multiplied in float32 and the result is rounded once, or not at all if `dtype` is
    float32.
    """
    if a.ndim > 2 and b.ndim == 2:  # one product; NumPy makes one per matrix, up to 3 times slower
        return matmul(as_matrix(a), b, dtype).reshape(*a.shape[:-1], b.shape[-1])
    if (dtype is None or a.dtype == b.dtype == dtype) and a.itemsize > 2 and b.itemsize > 2:
        return product(a, b)  # the usual case
    if not (is_half(a.dtype) or is_half(b.dtype)):
        return np.matmul(a, b, dtype=dtype)
    y = product(_in_float32(a), _in_float32(b))  # NumPy's loop for float16 is 15 times slower
    with np.errstate(over="ignore"):  # loss scaling detects the infinities
        return y.astype(dtype or (a.dtype if a.dtype == b.dtype else y.dtype), copy=False)


def as_matrix(a: np.ndarray) -> np.ndarray:
    """All rows of a stack of matrices as one matrix: (..., n) -> (rows, n)."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def _in_float32(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float32) if is_half(a.dtype) else a


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``np.matmul(a, b)``, in gpuprop's threads instead of BLAS's.

    The bits do not depend on the number of threads.
    """
    if a.ndim == b.ndim > 2 and len(a) == len(b) == 1:
        return product(a[0], b[0])[None]
    work = a.size * b.shape[-1] if b.ndim else 0
    if work <= SMALL or not (threads := product_threads()):
        return np.matmul(a, b)
    fits = a.ndim > 1 < b.ndim and a.shape[-1] == b.shape[-2]
    if fits and work >= 2 * MIN_WORK:
        return _large_product(a, b, work // MIN_WORK, threads)
    if fits and can_be_added(a, b):
        return _added(a, b)
    return np.matmul(a, b) if threads == 1 else with_one_blas_thread(np.matmul, a, b)


def can_be_added(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether `add_product` supports these arrays, whose shapes fit, and is faster than BLAS."""
    return (a.ndim == b.ndim == 2 and a.size * b.shape[1] > SMALL
            and product_loops.is_supported(a, b) and has_known_blas() and may_be_silent())


def add_product(start: np.ndarray, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """``out[...] = start + a @ b`` for a row and matrices.

    The bits do not depend on the number of threads.
    """
    rows, columns = out.shape
    work = a.size * columns
    threads = product_threads() if work >= 2 * MIN_PART_WORK else 1
    n = min(threads, work // MIN_LOOP_WORK)
    most = min(threads, work // MIN_PART_WORK, max(rows, columns) // UNIT)
    if most > 1 and (flags := flags_of_helpers()) is not None:
        helpers = product_loops.multiply_with(flags, n - 1, most - 1, start, a, b, out)
        if helpers == 0:
            wake_helper_if_missed_again()
        if helpers >= 0:
            return
    product_loops.product_loop(a.dtype)  # compiled here, not by each thread
    if n < 2:
        product_loops.multiply(start, a, b, out)
    elif rows >= columns:
        in_threads(lambda i: product_loops.multiply(start, a[i], b, out[i]),
                   _parts(rows, n, UNIT))
    else:
        in_threads(lambda i: product_loops.multiply(start[i], a, b[:, i], out[:, i]),
                   _parts(columns, n, UNIT))


def _added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of matrices, or of stacks of them, by `add_product`."""
    y = np.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
    start = np.zeros(b.shape[-1], a.dtype)
    if a.ndim == 2:
        add_product(start, a, b, y)
    else:
        for matrix, other, out in zip(a, b, y, strict=True):
            add_product(start, matrix, other, out)
    return y


def _large_product(a: np.ndarray, b: np.ndarray, n: int, threads: int) -> np.ndarray:
    """A product that is worth at most `n` parts."""
    if a.dtype != b.dtype:
        dtype = np.result_type(a, b)
        a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    if a.dtype.kind not in "fc":  # NumPy multiplies without BLAS
        return np.matmul(a, b)
    if a.shape[:-2] != b.shape[:-2]:
        stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (np.broadcast_to(x, stack + x.shape[-2:]) for x in (a, b))
    if _is_gram(a, b):
        return _gram(a, b, threads)
    is_stack = a.ndim == 3 and a[0].size * b.shape[2] >= MIN_LOOP_WORK
    if can_be_added(a[0], b[0]) if is_stack else can_be_added(a, b):
        return _added(a, b)
    return _in_parts(a, b, n, threads)


def _in_parts(a: np.ndarray, b: np.ndarray, n: int, threads: int) -> np.ndarray:
    """The product in at most `n` parts, with the same bits for every number of threads."""
    rows, columns = a.shape[-2], b.shape[-1]
    y = np.empty((*a.shape[:-1], columns), a.dtype)
    if a.ndim > 2:
        parts = _parts(len(a), min(n, threads), 1)
        work = lambda i: np.matmul(a[i], b[i], out=y[i])
    elif rows >= min(columns, 8 * ROWS):
        parts = _parts(rows, min(n, threads), ROWS)
        work = lambda i: np.matmul(a[i], b, out=y[i])
    else:  # parts of columns may have other bits than the whole: they are the same on one thread
        parts = _parts(columns, max(1, min(n, columns // COLUMNS)), 16)
        work = lambda i: np.matmul(a, b[:, i], out=y[:, i])
    _run(work, parts, threads)
    return y


def _run(work: Callable[[slice], Any], parts: Sequence[slice], threads: int) -> None:
    """Run the parts in threads, unless BLAS may use only one, as after OPENBLAS_NUM_THREADS=1."""
    if threads > 1:
        in_threads(work, parts)
        return
    for part in parts:
        work(part)


def _is_gram(a: np.ndarray, b: np.ndarray) -> bool:
    """True if `b` is the transpose of the matrix `a`."""
    return (a.ndim == 2 and a.shape == b.shape[::-1] and a.strides == b.strides[::-1]
            and a.ctypes.data == b.ctypes.data)


def _gram(a: np.ndarray, b: np.ndarray, threads: int) -> np.ndarray:
    """``a @ b``, which is symmetric: one half is computed, and copied to the other."""
    y = np.empty((len(a), len(a)), a.dtype)

    def work(i: slice) -> None:
        left, square = y[i, :i.start], y[i, i]
        np.matmul(a[i], b[:, :i.start], out=left)
        y[:i.start, i] = left.T
        np.matmul(a[i], b[:, i], out=square)

    _run(work, _parts(len(a), len(a) // GRAM_ROWS, ROWS)[::-1], threads)  # the longest ones first
    return y


def _parts(count: int, n: int, unit: int) -> list[slice]:
    """At most `n` similar slices of `count` rows; all lengths but the last are multiples of `unit`.

    OpenBLAS computes 12, 16 or 24 rows at a time.  The last slice is not much shorter: BLAS has
    other functions for small matrices and vectors.
    """
    n = max(1, min(n, count // unit))
    bounds = [round(count * i / (n * unit)) * unit for i in range(n)]
    return list(map(slice, bounds, [*bounds[1:], count]))


@functools.cache
def has_small_products() -> bool:
    """True if OpenBLAS multiplies small matrices without a copy of them."""
    corename = openblas("openblas_get_corename")
    if corename is None:
        return False
    corename.restype = ctypes.c_char_p
    return corename() in AVX512
