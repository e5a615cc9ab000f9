"""What the functions of this package share: arguments, and names of parameters."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from gpuprop._core.graph import raw
from gpuprop._core.mode import is_grad_enabled
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor as Plain
from gpuprop._core.tensor import asnumpy
from gpuprop._core.tensor import tensor as plain_tensor
from gpuprop.torch import _results
from gpuprop.torch._tensor import as_torch


def named(fn: Any, *names: str) -> Callable:
    """An op with other names of its first parameters: the same code, at the same cost."""
    code = fn.__code__
    renamed = FunctionType(code.replace(co_varnames=(*names, *code.co_varnames[len(names):])),
                           fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    renamed.__kwdefaults__ = fn.__kwdefaults__
    renamed.__module__ = __name__
    renamed.__doc__ = fn.__doc__
    return renamed


def unary(fn: Any) -> Callable:
    return named(fn, "input")


def binary(fn: Any) -> Callable:
    return named(fn, "input", "other")


def axes_of(dim: Any) -> Any:
    return tuple(dim) or None if isinstance(dim, list | tuple) else dim


def cast(x: Any, dtype: Any) -> Any:
    return x if dtype is None else x.to(dtype)


def is_integer(x: Any) -> bool:
    return x.array.dtype.kind in "iub"


def without_gradient(name: str, x: Any) -> Any:
    """`x`; an error if a gradient would be lost."""
    if x.requires_grad and is_grad_enabled():
        raise RuntimeError(f"{name} has no gradient in gpuprop.torch: call it under "
                           f"torch.no_grad(), or with x.detach()")
    return x


def listed(args: tuple) -> tuple:
    """The sizes of ``f(2, 3)`` or ``f((2, 3))``."""
    one = len(args) == 1 and isinstance(args[0], tuple | list)
    return tuple(args[0]) if one else args


def along(x: Any, dim: int, key: Any) -> tuple:
    """An index along one axis."""
    return (*(slice(None),) * (dim % x.array.ndim), key)


def not_negative(name: str, index: Any) -> Any:
    """An index of which PyTorch's `name` does not count negative elements from the end."""
    a = raw(index)
    backend = backend_of(a)
    with backend.at(a):
        backend.xp.check((a >= 0).all(), f"{name}: index must be at least 0: write index % n for "
                                         f"indices that count from the end of n elements")
    return index


def of_scalar(f: Callable, *args: Any, **kwargs: Any) -> Any:
    """What `f` does with 0-d Tensors: they count as vectors of one element, as in PyTorch."""
    args = tuple(t.reshape(1) if isinstance(t, Plain) and not t.array.ndim else t for t in args)
    found = f(*args, **kwargs)
    if isinstance(found, tuple):
        return type(found)(*(t.reshape(()) for t in found))
    return found.reshape(())


def host(x: Any) -> Any:
    return asnumpy(x)


def new(array: Any, like: Any = None) -> Any:
    """A Tensor of a NumPy array, on the device of another one."""
    t = plain_tensor(array)
    return as_torch(t if like is None else t.to(like.device))


def default_dtype() -> str:
    return _results.default_dtype[0]


def placed(t: Any, device: Any, requires_grad: bool) -> Any:
    t = as_torch(t if device is None else t.to(device))
    return t.requires_grad_() if requires_grad else t
