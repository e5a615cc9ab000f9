"""The `xp` that computes on an array or Tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuprop._core.backend import BY_TYPE, SEVERAL, BackendMismatchError
from gpuprop._core.graph import raw
from gpuprop._core.registry import HOST, backend_of, default_backend, get_backend
from gpuprop._core.tensor import Tensor


class Differentiable:
    """The ``xp`` of Tensors: NumPy's names, each an op.  What has no op and no gradient says so."""

    array_type, kernels = Tensor, {}  # type: ignore[var-annotated]
    ops: dict[str, Callable] = {}  # name -> op; gpuprop.functional fills it
    constant = set("""arange zeros ones full empty zeros_like ones_like full_like empty_like eye
                      linspace
                      isnan isfinite isinf broadcast_shapes result_type check copy""".split())

    def __init__(self, xp: Any) -> None:
        self.base = xp

    xp = property(lambda self: self)  # and no attribute, which would be a cycle

    def own(self, out: Any) -> Tensor:
        return out if isinstance(out, Tensor) else Tensor(out)

    def __getattr__(self, name: str) -> Any:
        if name in self.ops:
            return self.ops[name]
        value = getattr(self.base, name)
        if not callable(value) or isinstance(value, type):
            return value
        if name not in self.constant:
            raise NotImplementedError(f"xp.{name} has no gradient here: write it as an op, "
                                      f"or without it")

        def constant(*args: Any, **kwargs: Any) -> Any:
            out = value(*map(raw, args), **{k: raw(v) for k, v in kwargs.items()})
            return Tensor(out) if hasattr(out, "shape") else out

        return constant


def namespace(a: Any) -> Any:
    """The ``xp`` that computes on `a`, an array or Tensor."""
    inside = raw(a)
    backend = BY_TYPE.get(type(inside))
    if backend is None:
        backend = backend_of(inside) if hasattr(inside, "shape") else default_backend()
    xp = backend.xp
    is_own = type(inside) is backend.array_type
    if backend in SEVERAL and is_own and backend.device_of(inside) != backend.device():
        xp = Elsewhere(backend, inside)
    return Differentiable(xp) if isinstance(a, Tensor) else xp


class Elsewhere:
    """The ``xp`` of a device that is not this thread's: what it makes lies where `array` does."""

    def __init__(self, backend: Any, array: Any) -> None:
        self._backend, self._array = backend, array

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend.xp, name)
        if not callable(value) or isinstance(value, type):
            return value

        def there(*args: Any, **kwargs: Any) -> Any:
            with self._backend.at(self._array):
                return value(*args, **kwargs)

        return there


def get_array_module(*values: Any) -> Any:
    """The namespace that computes on these arrays or Tensors: NumPy's for numbers and lists."""
    owners = {id(b): b for v in map(raw, values) if hasattr(v, "shape") for b in [backend_of(v)]}
    if len(owners) > 1:
        names = ", ".join(b.name for b in owners.values())
        raise BackendMismatchError(f"these arrays are of several backends: {names}")
    return next(iter(owners.values()), get_backend(HOST)).xp
