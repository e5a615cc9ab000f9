"""How arrays come in from other libraries, by sharing their memory, and how they travel in pickles."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from gpuprop.backend import BY_TYPE, backend_of, default_backend, get_backend

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
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            dtype = getattr(value, "dtype", "unknown dtype")
            raise BufferError(f"this {kind} ({dtype}) cannot share its memory with backend {backend.name!r}: {e}") from e
    return get_backend("cupy").asarray(value) if hasattr(value, "__cuda_array_interface__") else value


class Luggage:
    """An array inside of a copy, which stays on its device, or of a pickle, which takes it along in host memory.

    Out of a pickle it goes to the backend in use.  What is not to be `kept` is None there.
    """

    __slots__ = ("array", "kept")

    def __init__(self, array: Any, kept: bool = True) -> None:
        self.array, self.kept = array, kept

    def __deepcopy__(self, memo: dict) -> Luggage:
        return Luggage(copy.deepcopy(self.array, memo), self.kept)

    def __reduce__(self) -> tuple:
        if self.array is None or not self.kept:
            return Luggage, (None,)
        a = self.array
        return unpacked, (a if isinstance(a, np.ndarray) else backend_of(a).to_numpy(a),)


def unpacked(host: np.ndarray) -> Luggage:
    """What pickle makes of a host array."""
    return Luggage(default_backend().asarray(host))
