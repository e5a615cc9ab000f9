"""Arrays of other libraries, which share their memory, and arrays in pickles."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np

from gpuprop._core.backend import BY_TYPE, NO_SWITCH
from gpuprop._core.dtypes import as_dtype
from gpuprop._core.registry import backend_for, default_backend

CUDA = 2  # DLPack's device type kDLCUDA


def adopt(value: Any) -> Any:
    """Another library's array as an array of a backend that shares its memory.

    The memory is shared through DLPack or CUDA's array interface.  A backend's own array, and a
    value that is no array, is returned as it is.  Raises BufferError for memory and dtypes that
    cannot be shared.
    """
    if type(value) in BY_TYPE or isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__dlpack__"):
        device = int(value.__dlpack_device__()[0])
        backend = backend_for(lambda cls: device in cls.dlpack_devices) or default_backend()
        try:
            if str(getattr(value, "dtype", "")) in ("bfloat16", "torch.bfloat16"):
                bits = backend.xp.from_dlpack(_int16_view(value))
                return bits.view(as_dtype("bfloat16"))
            return backend.xp.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as e:
            dtype = getattr(value, "dtype", "of no dtype")
            what = f"{type(value).__module__}.{type(value).__qualname__} ({dtype})"
            raise BufferError(
                f"backend {backend.name!r} cannot share the memory of this {what}: {e}") from e
    if hasattr(value, "__cuda_array_interface__"):
        owner = backend_for(lambda cls: CUDA in cls.dlpack_devices)
        return value if owner is None else owner.asarray(value)
    return value


def _int16_view(value: Any) -> Any:
    """The bits of a bfloat16 array of PyTorch or JAX, since NumPy's DLPack has no bfloat16."""
    if getattr(value, "requires_grad", False):
        raise BufferError("it requires a gradient: use .detach()")
    is_torch = str(value.dtype) == "torch.bfloat16"
    return value.view(sys.modules["torch"].int16 if is_torch else "int16")


class PickledArray:
    """A container for an array (or None) to copy or pickle.

    A copy stays on its device.  A pickle contains the array in host memory, and unpickling puts it
    on the default backend.  With ``kept=False`` a pickle contains None in place of the array.
    """

    __slots__ = ("array", "kept")

    def __init__(self, array: Any, kept: bool = True) -> None:
        self.array = array
        self.kept = kept

    def __deepcopy__(self, memo: dict) -> PickledArray:
        a = self.array
        with BY_TYPE[type(a)].at(a) if type(a) in BY_TYPE else NO_SWITCH:
            return PickledArray(copy.deepcopy(a, memo), self.kept)

    def __reduce__(self) -> tuple:
        a = self.array if self.kept else None
        if type(a) not in BY_TYPE:  # None, or a nested Tensor
            return PickledArray, (a,)
        host_array = a if type(a) is np.ndarray else BY_TYPE[type(a)].to_numpy(a)
        return unpacked, (host_array,)


def unpacked(host_array: np.ndarray) -> PickledArray:
    """Called by pickle to restore an array."""
    return PickledArray(default_backend().asarray(host_array))
