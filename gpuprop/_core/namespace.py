"""`namespace`: the ``xp`` that computes on an array or Tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuprop._core.backend import BY_TYPE, MULTI_DEVICE, BackendMismatchError
from gpuprop._core.graph import raw
from gpuprop._core.registry import HOST, backend_of, default_backend, get_backend
from gpuprop._core.tensor import Tensor


class Differentiable:
    """The ``xp`` of Tensors: its functions are ops, or functions whose result has no gradient.

    Other functions of the backend's namespace raise NotImplementedError.
    """

    array_type = Tensor
    ops: dict[str, Callable] = {}  # name -> op; gpuprop._array fills it
    constant = {  # functions whose result has no gradient
        "arange", "broadcast_shapes", "check", "copy", "empty", "empty_like", "eye", "full",
        "full_like", "isfinite", "isinf", "isnan", "linspace", "ones", "ones_like", "result_type",
        "zeros", "zeros_like",
    }

    def __init__(self, xp: Any) -> None:
        self.base = xp

    xp = property(lambda self: self)  # as of a backend; an attribute would be a reference cycle

    def own(self, out: Any) -> Tensor:
        return out if isinstance(out, Tensor) else Tensor(out)

    def __getattr__(self, name: str) -> Any:
        if name in self.ops:
            return self.ops[name]
        value = getattr(self.base, name)
        if not callable(value) or isinstance(value, type):
            return value
        if name not in self.constant:
            raise NotImplementedError(f"xp.{name} is not an op and has no gradient: define an op "
                                      f"for it, or use other functions")

        def constant(*args: Any, **kwargs: Any) -> Any:
            out = value(*map(raw, args), **{k: raw(v) for k, v in kwargs.items()})
            return Tensor(out) if hasattr(out, "shape") else out

        return constant


def namespace(a: Any) -> Any:
    """The ``xp`` that computes on `a`, an array or Tensor."""
    array = raw(a)
    backend = BY_TYPE.get(type(array))
    if backend is None:
        backend = backend_of(array) if hasattr(array, "shape") else default_backend()
    xp = backend.xp
    is_own = type(array) is backend.array_type
    if backend in MULTI_DEVICE and is_own and backend.device_of(array) != backend.device():
        xp = OtherDevice(backend, array)
    return Differentiable(xp) if isinstance(a, Tensor) else xp


class OtherDevice:
    """An ``xp`` that computes on the device of `array`, which is not this thread's current one."""

    def __init__(self, backend: Any, array: Any) -> None:
        self._backend, self._array = backend, array

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend.xp, name)
        if not callable(value) or isinstance(value, type):
            return value

        def on_other_device(*args: Any, **kwargs: Any) -> Any:
            with self._backend.at(self._array):
                return value(*args, **kwargs)

        return on_other_device


def get_array_module(*values: Any) -> Any:
    """The namespace that computes on these arrays or Tensors: NumPy's for numbers and lists."""
    arrays = [a for a in map(raw, values) if hasattr(a, "shape")]
    backends = list(dict.fromkeys(map(backend_of, arrays))) or [get_backend(HOST)]
    if len(backends) > 1:
        names = ", ".join(backend.name for backend in backends)
        raise BackendMismatchError(f"these arrays are of several backends: {names}")
    return backends[0].xp
