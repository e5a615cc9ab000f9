"""Matrix products of the CPU, divided among threads of one BLAS thread each.

BLAS's own threads wait for each other inside of a product without sleeping.  If other programs
use the processors, a product of a millisecond then takes 10 times as long.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import numpy as np

from gpuprop.backend import is_half
from gpuprop_numpy.threads import in_threads, openblas, product_threads, with_one_blas_thread

# multiplications: BLAS itself uses one thread up to SMALL; MIN_WORK is that of a thread of gpuprop
SMALL, MIN_WORK = 1 << 18, 1 << 23
ROWS = 48  # parts of multiples of it have the bits of the whole: of 12, 16 or 24 in OpenBLAS
COLUMNS = 256  # of a part, at least: with fewer, BLAS's copy of `a` in each part takes too long
AVX512 = b"SkylakeX", b"Cooperlake", b"SapphireRapids"  # OpenBLAS's kernels with small products


def matmul(a: np.ndarray, b: np.ndarray, dtype: Any = None) -> np.ndarray:
    """``np.matmul``, but faster for a stack of matrices times one matrix, and for half types.

    Half types are multiplied in float32 and the result is rounded once, or not at all if `dtype` is
    float32.
    """
    if a.ndim > 2 and b.ndim == 2:  # one product; NumPy makes one per matrix, up to 3 times slower
        rows = a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
        return matmul(rows, b, dtype).reshape(*a.shape[:-1], b.shape[-1])
    if (dtype is None or a.dtype == b.dtype == dtype) and a.itemsize > 2 and b.itemsize > 2:
        return product(a, b)  # the usual case
    if not (is_half(a.dtype) or is_half(b.dtype)):
        return np.matmul(a, b, dtype=dtype)
    y = product(_in_float32(a), _in_float32(b))  # NumPy's loop for float16 is 15 times slower
    with np.errstate(over="ignore"):  # loss scaling detects the infinities
        return y.astype(dtype or (a.dtype if a.dtype == b.dtype else y.dtype), copy=False)


def _in_float32(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float32) if is_half(a.dtype) else a


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``np.matmul(a, b)``; large ones in gpuprop's threads instead of BLAS's."""
    if a.ndim == b.ndim > 2 and len(a) == len(b) == 1:
        return product(a[0], b[0])[None]
    work = a.size * b.shape[-1] if b.ndim else 0
    if work <= SMALL or not (threads := product_threads()):
        return np.matmul(a, b)
    is_large = work >= 2 * MIN_WORK
    if is_large and _can_be_divided(a, b):
        return _in_parts(a, b, work // MIN_WORK, threads)
    if threads == 1 or is_large:
        return np.matmul(a, b)
    return with_one_blas_thread(np.matmul, a, b)


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
    if threads == 1:
        for i in parts:
            work(i)
    else:
        in_threads(work, parts)
    return y


def _can_be_divided(a: np.ndarray, b: np.ndarray) -> bool:
    same_stack = a.ndim == b.ndim > 1 and a.shape[:-2] == b.shape[:-2]
    floating = a.dtype == b.dtype and a.dtype.kind == "f"
    return same_stack and floating and a.shape[-1] == b.shape[-2] and not _is_gram(a, b)


def _is_gram(a: np.ndarray, b: np.ndarray) -> bool:
    """True if `b` is the transpose of `a`: NumPy then computes one half, and copies it."""
    return (a.ndim == 2 and a.shape == b.shape[::-1] and a.strides == b.strides[::-1]
            and a.ctypes.data == b.ctypes.data)


def _parts(count: int, n: int, unit: int) -> list[slice]:
    """At most `n` similar slices of `count` rows; all lengths but the last are multiples of `unit`.

    The last is not much shorter: BLAS has other functions for small matrices and vectors.
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
