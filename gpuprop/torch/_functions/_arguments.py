"""What the functions of this package share: arguments, and names of parameters."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

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


def listed(args: tuple) -> tuple:
    """The sizes of ``f(2, 3)`` or ``f((2, 3))``."""
    one = len(args) == 1 and isinstance(args[0], tuple | list)
    return tuple(args[0]) if one else args


def along(x: Any, dim: int, key: Any) -> tuple:
    """An index along one axis."""
    return (*(slice(None),) * (dim % x.array.ndim), key)


def host(x: Any) -> Any:
    return asnumpy(x)


def new(array: Any) -> Any:
    return as_torch(plain_tensor(array))


def default_dtype() -> str:
    return _results.default_dtype[0]


def placed(t: Any, device: Any, requires_grad: bool) -> Any:
    t = as_torch(t if device is None else t.to(device))
    t.requires_grad = requires_grad
    return t
