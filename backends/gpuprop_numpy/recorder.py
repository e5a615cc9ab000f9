"""The backend of recorded arrays, on which a step computes while it is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop.backend import Backend, definition, is_half, waits
from gpuprop_numpy import linear
from gpuprop_numpy.pointwise import runs_as_it_is
from gpuprop_numpy.products import SMALL
from gpuprop_numpy.recorded import Recorded, call, current_recording, plain, refuse_read

# overrides that run the definition if this function of the arrays returns True
DEFINED = {"gpuprop.functional:linear": linear.is_small}


class RecordingNamespace:
    """``xp`` of recorded arrays: NumPy's functions, as calls of the recording."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.ndarray = Recorded

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if isinstance(value, type(np)):
            value = RecordingNamespace(value)
        elif callable(value) and not isinstance(value, type):
            value = RecordedFunction(value)
        vars(self)[name] = value
        return value


class RecordedFunction:
    """A function of NumPy; a ufunc has its methods, such as `reduce`."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return call(self.function, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.function, name)
        return RecordedFunction(value) if callable(value) else value


class RecordingBackend(Backend):
    """NumPy, by calls of this context's recording.

    Overrides, elementwise bodies of large arrays and their like are recorded as one call each.
    """

    name = "numpy"
    array_type = Recorded
    guests = (np.ndarray,)

    def __init__(self, host: Backend) -> None:
        self.host = host
        self.xp = RecordingNamespace(host.xp)
        self.xp.matmul = self._matmul

    @property
    def kernels(self) -> dict[str, Callable]:  # type: ignore[override]
        return {name: self._recorded_override(name, fn)
                for name, fn in self.host.kernels.items()}

    def _recorded_override(self, name: str, override: Callable) -> Callable:
        def run(_: Any, *arrays: Any, **constants: Any) -> Any:
            recording = current_recording()
            if recording is None:
                return override(self.host.xp, *plain(arrays), **constants)
            if name in DEFINED and DEFINED[name](*arrays, **constants):
                return definition(name)(self.xp, *arrays, **constants)
            if name not in type(self.host).kernels:  # a user's, perhaps of a kernel
                recording._may_write(arrays)
            return recording.call_op(override, (self.host.xp, *arrays), constants)

        return run

    def _matmul(self, a: Any, b: Any, dtype: Any = None) -> Any:
        """``host.xp.matmul``, but NumPy's own for small arrays, where these are the same."""
        work = a.size * b.shape[-1] if b.ndim else 0
        is_small = a.ndim == b.ndim == 2 and work <= SMALL and dtype is None
        if is_small and not (is_half(a.dtype) or is_half(b.dtype)):
            return call(np.matmul, (a, b), {})
        return call(self.host.xp.matmul, (a, b, dtype), {})

    def one_call(self, run: Callable) -> Callable:
        """The body of a kernel, ``run(xp, *arrays, **constants)``, as one call."""
        def recorded(_: Any, *arrays: Any, **constants: Any) -> Any:
            return current_recording().call_writing(run, (self.host.xp, *arrays), constants)

        return recorded

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        recording = current_recording()
        if type(value) is np.ndarray and recording is not None:
            value = recording.inner(value)
        is_array = type(value) is Recorded and isinstance(value.value, np.ndarray)
        if is_array and dtype in (None, value.dtype):
            return value
        return call(self.host.asarray, (value, dtype), {})

    def stored(self, array: Any) -> Any:
        """NumPy's array in place of a recorded one from before the recording."""
        is_older = type(array) is Recorded and array.name.startswith("c")
        return array.value if is_older else array

    def own(self, out: Any) -> Any:
        is_array = type(out) is Recorded and isinstance(out.value, np.ndarray)
        return out if is_array else self.asarray(out)

    def to_numpy(self, array: Any) -> np.ndarray:
        waits("to_numpy() (called by .numpy(), .item(), float() and bool())")
        return self._to_numpy(array)

    def _to_numpy(self, array: Any) -> np.ndarray:
        refuse_read("to_numpy()")
        return np.array(array.value)

    def _read_flags(self, flags: Any) -> np.ndarray:
        return self._to_numpy(flags)

    def _pointwise(self, body: Callable) -> Callable:
        run = self.host._pointwise(body) or body
        xp = self.host.xp

        def recorded(_: Any, *arrays: Any, **constants: Any) -> Any:
            recording = current_recording()
            if recording is None:
                return run(xp, *plain(arrays), **constants)
            if runs_as_it_is(plain(arrays)):
                return body(self.xp, *arrays, **constants)
            return recording.call_writing(run, (xp, *arrays), constants)

        return recorded

    def extent(self, array: Any) -> tuple[int, int]:
        return self.host.extent(array.value)

    def check(self, condition: Any, message: str, values: Any = None) -> None:
        call(self.host.check, (condition, message, values), {})

    def workspace(self) -> int:
        return self.host.workspace()

