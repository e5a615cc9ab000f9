"""The array class of the stand-in: the strict one under CuPy's name, with CuPy's way to the host."""

import weakref
from typing import Any

import numpy as np

from gpuprop.testing.strict import Namespace, StrictArray


class ndarray(StrictArray):
    __slots__ = ()
    __module__ = "cupy"

    def get(self) -> np.ndarray:
        return self._read(np.copy, "get()")

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if type(arr) is not np.ndarray or arr.dtype != self.dtype or arr.shape != self.shape:
            raise TypeError(f"set() of {getattr(arr, 'dtype', type(arr))} {arr.shape} to {self.dtype} {self.shape}")
        machine.forbid("a copy from the host")
        source = weakref.ref(arr)  # asynchronous: the caller must keep it

        def copy() -> None:
            host = source()
            assert host is not None, "pinned memory was freed before it was copied"
            np.copyto(self._a, host)

        copy() if stream is None else stream._ask(copy)

    @property
    def device(self) -> Any:
        from cupy.cuda import Device

        return Device(self._device)


machine = ndarray.machine
names = Namespace(machine)
