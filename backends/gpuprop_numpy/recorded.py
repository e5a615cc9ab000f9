"""Arrays by which a step is recorded: calls with them compute at once, and are noted."""

from __future__ import annotations

import operator
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from gpuprop.backend import CaptureError, calling_line

OPERATORS = {  # Python's names, and NumPy's
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide",
    "floordiv": "floor_divide", "mod": "remainder", "pow": "power", "matmul": "matmul",
    "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift",
    "rshift": "right_shift"}
COMPARISONS = "lt le eq ne gt ge".split()
UNARY = "neg pos abs invert".split()
METADATA = "shape dtype ndim size itemsize nbytes strides flags device base".split()
VIEWS = "T mT real imag".split()  # attributes that are arrays
READS = "item tolist tobytes tofile dump dumps flat data ctypes".split()
SEQUENCES = tuple, list, deque  # NumPy's functions take them in place of arrays
OWN_MODULES = ("gpuprop_numpy.recorded", "gpuprop_numpy.recorded_calls", "gpuprop_numpy.recording",
               "gpuprop_numpy.recorder")

# The recording of this context: its method `call` is given each call with recorded arrays.
active: ContextVar[Any] = ContextVar("gpuprop_cpu_recording", default=None)


def current_recording() -> Any:
    """The recording of this context; None after its end, which copies of the context outlive."""
    recording = active.get()
    return None if recording is None or recording.has_ended else recording


class Recorded:
    """An array of a step that is recorded.

    It computes as `value` does, an array or a scalar of NumPy's.  `name` is its variable in the
    recording's function.  In a context that does not record, calls return NumPy's arrays.
    """

    __slots__ = ("__weakref__", "name", "recording", "value", "where")

    def __init__(self, recording: Any, name: str, value: Any, where: str) -> None:
        self.recording = recording
        self.name = name
        self.value = value
        self.where = where  # the code that made it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(np.ndarray, name):
            raise AttributeError(f"an array has no attribute {name!r}")
        if name in READS:
            refuse_read(name)
            return getattr(self.value, name)
        if name in VIEWS:
            return call(getattr, (self, name), {})
        method = getattr(type(self.value), name)
        return lambda *args, **kwargs: call(method, (self, *args), kwargs)

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return call(ufunc if method == "__call__" else getattr(ufunc, method), args, kwargs)

    def __array_function__(self, function: Callable, types: Any, args: Any, kwargs: Any) -> Any:
        return call(function, args, kwargs)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        refuse_read("a conversion to a NumPy array")
        return np.array(self.value, dtype, copy=copy)

    def __reduce_ex__(self, protocol: Any) -> Any:
        refuse_read("a copy or a pickle")
        return self.value.__reduce_ex__(protocol)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        return call(operator.getitem, (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        call(operator.setitem, (self, key, value), {})

    def __repr__(self) -> str:
        return f"<a recorded array of shape {self.value.shape}, made by {self.where}>"

    __hash__ = object.__hash__


def call(function: Callable, args: tuple, kwargs: dict) -> Any:
    """``function(*args, **kwargs)`` with recorded arrays, as a part of this context's recording."""
    recording = current_recording()
    if recording is None:
        return function(*plain(args), **plain(kwargs))
    return recording.call(function, args, kwargs)


def plain(tree: Any) -> Any:
    """A tree with NumPy's arrays in place of recorded ones."""
    kind = type(tree)
    if kind is Recorded:
        return tree.value
    if kind is tuple:
        return tuple([plain(value) for value in tree])
    if isinstance(tree, SEQUENCES):
        return [plain(value) for value in tree]
    if kind is dict:
        return {key: plain(value) for key, value in tree.items()}
    return tree


def refuse_read(what: str) -> None:
    """Raise CaptureError while this context records: a replay cannot repeat what follows a read."""
    recording = current_recording()
    if recording is not None:
        message = (f"{what} in {caller()} reads a value, which a replay cannot repeat: read values "
                   f"after the step")
        recording.error = recording.error or message
        raise CaptureError(message)


def caller() -> str:
    """The code that made the array call."""
    return calling_line(traceback.walk_stack(sys._getframe(1)), skip=OWN_MODULES)[0]


# ---- the operators of arrays ---------------------------------------------------------------------


def _binary(function: Callable) -> Callable:
    return lambda self, other: call(function, (self, other), {})


def _reflected(function: Callable) -> Callable:
    return lambda self, other: call(function, (other, self), {})


def _unary(function: Callable) -> Callable:
    return lambda self: call(function, (self,), {})


def _reading(function: Callable) -> Callable:
    def read(self: Recorded) -> Any:
        refuse_read(f"{function.__name__}()")
        return function(self.value)

    return read


def _define(name: str, method: Any) -> None:
    setattr(Recorded, name, method)


for name in METADATA:
    _define(name, property(operator.attrgetter(f"value.{name}")))
for name in OPERATORS:
    _define(f"__{name}__", _binary(getattr(operator, f"__{name}__")))
    _define(f"__r{name}__", _reflected(getattr(operator, f"__{name}__")))
    _define(f"__i{name}__", _binary(getattr(operator, f"__i{name}__")))
for name in COMPARISONS:
    _define(f"__{name}__", _binary(getattr(operator, f"__{name}__")))
for name in UNARY:
    _define(f"__{name}__", _unary(getattr(operator, f"__{name}__")))
for function in (bool, int, float, complex, operator.index):
    _define(f"__{function.__name__}__", _reading(function))
