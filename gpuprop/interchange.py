"""How arrays come in from other libraries, by sharing their memory, and how they travel in pickles."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from gpuprop.backend import AS_IT_IS, BY_TYPE, default_backend, get_backend

HOMES = {1: "numpy", 2: "cupy", 3: "numpy", 13: "cupy"}  # DLPack's CPU, CUDA, pinned and managed memory


def adopt(value: Any) -> Any:
    """Another library's array as one of ours in the same memory, by DLPack or CUDA's array interface.

    Ours, and what is no array, stay as they are.  Raises BufferError for memory or types that are not shared that way.
    """
    if type(value) in BY_TYPE or isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__dlpack__"):
        where = int(value.__dlpack_device__()[0])
        backend = get_backend(HOMES[where]) if where in HOMES else default_backend()
        try:
            return backend.xp.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as e:
            what = f"{type(value).__module__}.{type(value).__qualname__} ({getattr(value, 'dtype', 'of no dtype')})"
            raise BufferError(f"backend {backend.name!r} cannot share the memory of this {what}: {e}") from e
    return get_backend("cupy").asarray(value) if hasattr(value, "__cuda_array_interface__") else value


class Luggage:
    """An array inside of a copy, which stays on its device, or of a pickle, which takes it along in host memory.

    Out of a pickle it goes to the backend in use.  What is not to be `kept` is None there.
    """

    __slots__ = ("array", "kept")

    def __init__(self, array: Any, kept: bool = True) -> None:
        self.array, self.kept = array, kept

    def __deepcopy__(self, memo: dict) -> Luggage:
        a = self.array
        with BY_TYPE[type(a)].at(a) if type(a) in BY_TYPE else AS_IT_IS:
            return Luggage(copy.deepcopy(a, memo), self.kept)

    def __reduce__(self) -> tuple:
        a = self.array if self.kept else None
        if type(a) not in BY_TYPE:  # None, or a Tensor inside of one
            return Luggage, (a,)
        return unpacked, (a if type(a) is np.ndarray else BY_TYPE[type(a)].to_numpy(a),)


def unpacked(host: np.ndarray) -> Luggage:
    """What pickle makes of a host array."""
    return Luggage(default_backend().asarray(host))
