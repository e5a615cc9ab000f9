"""New Tensors, on the default backend; float32 unless another dtype is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.registry import default_backend, making_on
from gpuprop._core.tensor import Tensor

__all__ = [
    "arange",
    "empty",
    "eye",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "zeros",
    "zeros_like",
]


def _shape_and_dtype(args: tuple, dtype: Any) -> tuple[Any, Any]:
    """The shape and dtype of NumPy's ``((2, 3),)`` or ``((2, 3), dtype)``, PyTorch's ``(2, 3)``."""
    if args and not isinstance(args[-1], tuple | list | int | np.integer):
        *args, dtype = args  # type: ignore[assignment]
    return args[0] if len(args) == 1 else tuple(args), dtype


def _make(name: str, *args: Any, dtype: Any, device: str | None = None,
          requires_grad: bool = False) -> Tensor:
    if device:
        with making_on(device):
            return _make(name, *args, dtype=dtype, requires_grad=requires_grad)
    array = getattr(default_backend().xp, name)(*args, dtype=dtype)
    return Tensor(array).requires_grad_(requires_grad)


def zeros(*shape: Any, dtype: Any = "float32", device: str | None = None,
          requires_grad: bool = False) -> Tensor:
    """Zeros of a shape: ``zeros((2, 3))`` or ``zeros(2, 3)``."""
    shape, dtype = _shape_and_dtype(shape, dtype)
    return _make("zeros", shape, dtype=dtype, device=device, requires_grad=requires_grad)


def ones(*shape: Any, dtype: Any = "float32", device: str | None = None,
         requires_grad: bool = False) -> Tensor:
    """Ones of a shape: ``ones((2, 3))`` or ``ones(2, 3)``."""
    shape, dtype = _shape_and_dtype(shape, dtype)
    return _make("ones", shape, dtype=dtype, device=device, requires_grad=requires_grad)


def empty(*shape: Any, dtype: Any = "float32", device: str | None = None,
          requires_grad: bool = False) -> Tensor:
    """A Tensor with uninitialized elements: ``empty((2, 3))`` or ``empty(2, 3)``."""
    shape, dtype = _shape_and_dtype(shape, dtype)
    return _make("empty", shape, dtype=dtype, device=device, requires_grad=requires_grad)


def full(shape: int | Sequence[int], value: Any, dtype: Any = None, device: str | None = None,
         requires_grad: bool = False) -> Tensor:
    """A Tensor filled with a number: float32, int64 or bool, as the number, if `dtype` is None.

    >>> import gpuprop
    >>> gpuprop.full((2, 2), 7).tolist()
    [[7, 7], [7, 7]]
    """
    dtype = dtype or _dtype_of(value)
    return _make("full", shape, value, dtype=dtype, device=device, requires_grad=requires_grad)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None,
           device: str | None = None) -> Tensor:
    """The numbers from `start` up to but without `stop`; with one argument, from 0 up to it.

    int64 if all arguments are ints, else float32, if `dtype` is None.

    >>> import gpuprop
    >>> gpuprop.arange(3).tolist(), gpuprop.arange(1, 2, 0.5).tolist()
    ([0, 1, 2], [1.0, 1.5])
    """
    if stop is None:
        start, stop = 0, start
    dtype = dtype or _dtype_of(start, stop, step)
    return _make("arange", start, stop, step, dtype=dtype, device=device)


def linspace(start: float, stop: float, num: int = 50, dtype: Any = "float32",
             device: str | None = None) -> Tensor:
    """`num` equally spaced numbers from `start` to `stop`, both included."""
    return _make("linspace", start, stop, num, dtype=dtype, device=device)


def eye(n: int, m: int | None = None, dtype: Any = "float32", device: str | None = None) -> Tensor:
    """The matrix (n, n) or (n, m) with ones on its diagonal and zeros elsewhere."""
    return _make("eye", n, m, dtype=dtype, device=device)


def _dtype_of(*numbers: Any) -> str:
    kinds = {type(n) for n in numbers}
    if kinds == {bool}:
        return "bool"
    return "int64" if kinds <= {int, bool} else "float32"


def zeros_like(x: Any, dtype: Any = None) -> Any:
    """Zeros with the shape, dtype and device of `x`; a Tensor for a Tensor, else an array."""
    return full_like(x, 0, dtype)


def ones_like(x: Any, dtype: Any = None) -> Any:
    """Ones with the shape, dtype and device of `x`; a Tensor for a Tensor, else an array."""
    return full_like(x, 1, dtype)


def full_like(x: Any, value: Any, dtype: Any = None) -> Any:
    """A number repeated, with the shape, dtype and device of `x`.

    A Tensor for a Tensor, else an array.
    """
    xp = namespace(raw(x))
    array = xp.full(x.shape, value, x.dtype if dtype is None else dtype)
    return Tensor(array) if isinstance(x, Tensor) else array
