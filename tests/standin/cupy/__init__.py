"""A stand-in for CuPy: what gpuprop_cupy uses of it, on the strict array, with CuPy's own limits."""

from typing import Any

import numpy as np

from cupy import cuda
from cupy._array import machine, names, ndarray

__all__ = ["asnumpy", "concatenate", "cuda", "get_default_memory_pool", "matmul", "ndarray", "stack"]


def __getattr__(name: str) -> Any:
    return getattr(names, name)


def asnumpy(a: Any) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def matmul(a: Any, b: Any) -> Any:
    if max(a.ndim, b.ndim) > 2 and np.promote_types(a.dtype, b.dtype).name == "bfloat16":
        raise TypeError("CuPy sends bfloat16 products of more than two dimensions to its integer kernel")
    return names.matmul(a, b)


def concatenate(arrays: Any, axis: int = 0) -> Any:
    if len(arrays) > 8:
        machine.forbid("a table of pointers to more than 8 arrays")
    return names.concatenate(arrays, axis)


def stack(arrays: Any, axis: int = 0) -> Any:
    return concatenate([names.expand_dims(a, axis) for a in arrays], axis)


class _MemoryPool:
    """A pool that keeps nothing: the arrays are NumPy's."""

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0


def get_default_memory_pool() -> _MemoryPool:
    return _MemoryPool()
