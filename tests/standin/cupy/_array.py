"""The array class of the stand-in: the strict one under CuPy's name, with CuPy's way to the host."""

from typing import Any

import numpy as np

from gpuprop.testing.strict import Namespace, StrictArray


class ndarray(StrictArray):
    __slots__ = ()
    __module__ = "cupy"

    def get(self) -> np.ndarray:
        return self._read(np.copy, "get()")

    @property
    def device(self) -> Any:
        from cupy.cuda import Device

        return Device(self._device)


machine = ndarray.machine
names = Namespace(machine)
