"""The backend ``"numpy"``: arrays in host memory, computed by the CPU."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop.backend import Backend, Namespace, is_half
from gpuprop_numpy import activation, normalization, special
from gpuprop_numpy.memory import keep_freed_memory
from gpuprop_numpy.pointwise import blockwise

CHUNK = 1 << 16  # elements added at once: their positions take more memory than they do


def index_add(a: np.ndarray, index: np.ndarray, values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Add ``values`` to the rows of `a` along `axis` that the 1-D `index` names, in place and in the order of `index`.

    Raises IndexError for rows that are not there, before it adds anything.
    """
    half = is_half(a.dtype)
    if half or not a.flags.c_contiguous:
        total = np.zeros(a.shape, np.float32 if half else a.dtype)  # rounded once, however many rows come together
        a += index_add(total, index, values, axis)
        return a
    axis, index = axis % a.ndim, index.astype(np.int64, copy=False)  # a narrow type does not hold the positions
    n, outer, inner = a.shape[axis], math.prod(a.shape[:axis]), math.prod(a.shape[axis + 1:])
    wrong = index[(index < -n) | (index >= n)]
    if wrong.size:
        raise IndexError(f"index {wrong[0]} is out of bounds for axis {axis} with size {n}")
    # NumPy is fast at positions in a flat array only, and where no type changes
    flat, values = a.reshape(-1), values.astype(a.dtype, casting="same_kind").reshape(outer, len(index), inner)
    rows = (np.arange(outer)[:, None] * n + index % n)[:, :, None] * inner
    step = max(1, CHUNK // max(1, outer * inner))
    for i in range(0, len(index), step):
        np.add.at(flat, (rows[:, i:i + step] + np.arange(inner)).reshape(-1), values[:, i:i + step].reshape(-1))
    return a


def check(condition: Any, message: str) -> None:
    """All of `condition`, or IndexError(message)."""
    if not np.all(condition):
        raise IndexError(message)


def matmul(a: np.ndarray, b: np.ndarray, dtype: Any = None) -> np.ndarray:
    """NumPy's product, but of a stack and one matrix in one go, and of half types by way of float32, rounded once."""
    if a.ndim > 2 and b.ndim == 2:  # NumPy multiplies matrix by matrix: up to three times slower
        return matmul(a.reshape(math.prod(a.shape[:-1]), a.shape[-1]), b, dtype).reshape(*a.shape[:-1], b.shape[-1])
    if dtype is None and a.itemsize > 2 and b.itemsize > 2:  # nearly always
        return np.matmul(a, b)
    if not (is_half(a.dtype) or is_half(b.dtype)):
        return np.matmul(a, b, dtype=dtype)
    y = np.matmul(_in_float32(a), _in_float32(b))  # NumPy's own loop for float16 takes 15 times as long
    return y.astype(dtype or (a.dtype if a.dtype == b.dtype else y.dtype), copy=False)


def _in_float32(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float32) if is_half(a.dtype) else a


xp = Namespace(
    np,
    erf=special.erf, erfc=special.erfc, erfinv=special.erfinv, lgamma=special.lgamma, digamma=special.digamma,
    polygamma=special.polygamma, sigmoid=special.sigmoid, index_add=index_add, matmul=matmul, check=check,
)


class NumpyBackend(Backend):
    """NumPy, with elementwise bodies in blocks and threads, and freed memory kept.

    NumPy's warnings stay as the user has them: unlike a device, they name the line where a NaN is born.
    """

    name, xp, array_type = "numpy", xp, np.ndarray
    aliases, priority = ("cpu",), 0
    array_modules, dlpack_devices = ("numpy",), (1, 3)  # the CPU's memory, and pinned memory
    kernels = {
        "gpuprop.functional:gelu": activation.gelu,
        "gpuprop.functional:standardize": normalization.standardize,
    }

    def __init__(self) -> None:
        keep_freed_memory()

    def asarray(self, value: Any, dtype: Any = None) -> np.ndarray:
        if isinstance(value, np.ndarray) and type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray):
            raise TypeError("a masked array is not taken, for its mask would be lost: fill it first, with .filled(...)")
        return np.asarray(value, dtype)

    def _to_numpy(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def own(self, out: Any) -> np.ndarray:
        return out if type(out) is np.ndarray else np.asarray(out)

    def _pointwise(self, fn: Callable) -> Callable:
        return blockwise(fn)

    def check(self, condition: Any, message: str) -> None:
        check(condition, message)

    def memory(self) -> dict[str, int]:
        """Bytes: ``used`` by this process, ``free`` and ``total`` in the machine, as far as the system says."""
        try:
            with open("/proc/self/statm") as f:
                used = int(f.read().split()[1])
            pages = {"used": used, "free": os.sysconf("SC_AVPHYS_PAGES"), "total": os.sysconf("SC_PHYS_PAGES")}
            return {kind: n * os.sysconf("SC_PAGE_SIZE") for kind, n in pages.items()}
        except (AttributeError, OSError, ValueError):
            return {}
