"""New Tensors: float32 unless said otherwise, on the backend in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.registry import default_backend, making_on
from gpuprop._core.tensor import Tensor

__all__ = [
    "arange", "empty", "eye", "full", "full_like", "linspace", "ones", "ones_like", "zeros",
    "zeros_like",
]

Shape = int | Sequence[int]


def _shape(words: tuple, dtype: Any) -> tuple[Any, Any]:
    """A shape as NumPy has it, ``((2, 3),)`` or with a dtype behind it, or as PyTorch does, ``(2, 3)``."""
    if words and not isinstance(words[-1], tuple | list | int | np.integer):
        *words, dtype = words  # type: ignore[assignment]
    return words[0] if len(words) == 1 else tuple(words), dtype


def _make(name: str, *args: Any, dtype: Any, device: str | None = None, requires_grad: bool = False) -> Tensor:
    if device:
        with making_on(device):
            return _make(name, *args, dtype=dtype, requires_grad=requires_grad)
    return Tensor(getattr(default_backend().xp, name)(*args, dtype=dtype)).requires_grad_(requires_grad)


def zeros(*shape: Any, dtype: Any = "float32", device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros of a shape: ``zeros((2, 3))`` or ``zeros(2, 3)``."""
    shape, dtype = _shape(shape, dtype)
    return _make("zeros", shape, dtype=dtype, device=device, requires_grad=requires_grad)


def ones(*shape: Any, dtype: Any = "float32", device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Ones of a shape: ``ones((2, 3))`` or ``ones(2, 3)``."""
    shape, dtype = _shape(shape, dtype)
    return _make("ones", shape, dtype=dtype, device=device, requires_grad=requires_grad)


def empty(*shape: Any, dtype: Any = "float32", device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Memory of a shape, with whatever it holds: ``empty((2, 3))`` or ``empty(2, 3)``."""
    shape, dtype = _shape(shape, dtype)
    return _make("empty", shape, dtype=dtype, device=device, requires_grad=requires_grad)


def full(shape: Shape, value: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A number over a shape: float32, or int64 or bool as the number is."""
    return _make("full", shape, value, dtype=dtype or _of_numbers(value), device=device, requires_grad=requires_grad)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None, device: str | None = None) -> Tensor:
    """The numbers from `start` (0 where there is one argument) up to `stop`, which is left out: int64, or float32."""
    start, stop = (0, start) if stop is None else (start, stop)
    return _make("arange", start, stop, step, dtype=dtype or _of_numbers(start, stop, step), device=device)


def linspace(start: float, stop: float, num: int = 50, dtype: Any = "float32", device: str | None = None) -> Tensor:
    """So many numbers at equal distances from `start` to `stop`, both included."""
    return _make("linspace", start, stop, num, dtype=dtype, device=device)


def eye(n: int, m: int | None = None, dtype: Any = "float32", device: str | None = None) -> Tensor:
    """The (n, n) or (n, m) matrix with ones on its diagonal."""
    return _make("eye", n, m, dtype=dtype, device=device)


def _of_numbers(*numbers: Any) -> str:
    kinds = {type(n) for n in numbers}
    return "bool" if kinds == {bool} else "int64" if kinds <= {int, bool} else "float32"


def zeros_like(x: Any, dtype: Any = None) -> Any:
    """Zeros of the shape, dtype and device of `x`: a Tensor for a Tensor, an array for an array."""
    return full_like(x, 0, dtype)


def ones_like(x: Any, dtype: Any = None) -> Any:
    """Ones of the shape, dtype and device of `x`: a Tensor for a Tensor, an array for an array."""
    return full_like(x, 1, dtype)


def full_like(x: Any, value: Any, dtype: Any = None) -> Any:
    """A number over the shape of `x`, in its dtype and on its device: a Tensor for a Tensor, an array for an array."""
    made = namespace(raw(x)).full(x.shape, value, x.dtype if dtype is None else dtype)
    return Tensor(made) if isinstance(x, Tensor) else made
