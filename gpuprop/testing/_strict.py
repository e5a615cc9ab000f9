"""The strict backend: a simulated device, whose arrays are in host memory but behave as CuPy's do.

The arrays raise when they are converted to NumPy arrays or used together with them.  Indices out
of range wrap around, and new memory is poisoned.  Reductions add in another order, and return 0-d
arrays, not scalars.  The backend lists the host's waits for the device, and can record and replay
calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop._core import extras
from gpuprop._core.backend import Backend
from gpuprop._core.registry import get_backend
from gpuprop.testing._cupy_semantics import CUPY_FUNCTIONS
from gpuprop.testing._recording import Recording
from gpuprop.testing._strict_array import (
    ABSENT,
    CUBLAS,
    HOST,
    MODULES,
    Machine,
    StrictArray,
    Ufunc,
)


class Namespace:
    """``xp``: NumPy's names that CuPy has, and additional names."""

    def __init__(self, machine: Machine, module: Any = np, **additional: Any) -> None:
        self._machine = machine
        self._module = module
        vars(self).update(additional)

    def __getattr__(self, name: str) -> Any:
        value = vars(self)[name] = self._find(name)
        return value

    def _find(self, name: str) -> Any:
        module = self._module
        machine = self._machine
        value = getattr(module, name, None)
        known = value is not None or name == "newaxis"
        if not known or name.startswith("_") or name in ABSENT.get(module.__name__, ()):
            cupy_module = module.__name__.replace("numpy", "cupy")
            raise AttributeError(f"CuPy's {cupy_module} has no {name!r}")
        if isinstance(value, type(np)):
            if name not in MODULES:
                raise AttributeError(f"xp.{name} does not exist on every backend")
            return Namespace(machine, value)
        if name == "ndarray":
            return machine.array_type
        if name in ("asarray", "array", "asanyarray"):
            return self._conversion(copies=name == "array")
        if isinstance(value, np.ufunc):
            return Ufunc(machine, value)
        if isinstance(value, type) or not callable(value):
            return value
        return self._function(name, value)

    def _conversion(self, copies: bool) -> Callable:
        def convert(value: Any, dtype: Any = None, copy: Any = copies) -> Any:
            return self._machine.asarray(value, dtype, bool(copy))

        return convert

    def _function(self, name: str, fn: Callable) -> Callable:
        machine = self._machine
        if name in HOST:
            return lambda *args, **kwargs: fn(*machine._raw(args, []), **kwargs)
        if self._module is np:
            fn = CUPY_FUNCTIONS.get(name, fn)
            calls_library = name in CUBLAS
        else:
            calls_library = self._module is np.linalg and name != "norm"

        def function(*args: Any, **kwargs: Any) -> Any:
            if calls_library:
                machine.forbid(f"{name} by a CUDA library")
            return machine.function(name, fn, args, kwargs)

        return function


class StrictBackend(Backend):
    """The backend ``"strict"``: NumPy's arithmetic with CuPy's behaviour and errors.

    `syncs` lists the waits for the device.
    """

    name = "strict"
    array_type = StrictArray
    machine = StrictArray.machine
    records = True

    def __init__(self) -> None:
        additional = {name: _extra(self.machine, name) for name in (*extras.NAMES, "matmul")}
        additional["check"] = self.check
        self.xp = Namespace(self.machine, **additional)

    @property
    def syncs(self) -> list[str]:
        return self.machine.syncs

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        if self.machine.owns(value) and value.device != self.device():
            self.machine.forbid("a copy from another device")
            value = self.machine.new(value._a.copy())
        return self.machine.asarray(value, dtype)

    def _to_numpy(self, array: Any) -> np.ndarray:
        self.machine.check(array)
        self.machine.sync("to_numpy()")
        return array._a.copy()

    def extent(self, array: Any) -> tuple[int, int]:
        return super().extent(array._a)

    def _read_flags(self, flags: Any) -> np.ndarray:
        self.machine.forbid("reading the flags of check()")
        return flags._a.copy()

    def _synchronize(self) -> None:
        self.machine.sync("synchronize()")

    def record(self, tensors: Any = ()) -> contextlib.AbstractContextManager[Recording]:
        return self.machine.record()

    def device_count(self) -> int:
        return self.machine.devices

    def device(self) -> int:
        return self.machine.device

    def device_of(self, array: Any) -> int:
        return array.device

    def use_device(self, index: int) -> None:
        self.machine.device = index


def _extra(machine: Machine, name: str) -> Callable:
    """A function that NumPy's namespace does not have, as the NumPy backend computes it."""
    def extra(*args: Any, **kwargs: Any) -> Any:
        fn = CUPY_FUNCTIONS.get(name) or getattr(get_backend("numpy").xp, name)
        return machine.function(name, fn, args, kwargs)

    return extra
