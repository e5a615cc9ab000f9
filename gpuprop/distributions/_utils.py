"""Parameters as Tensors of one shape, and functions that several distributions need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop._array.arithmetic import where
from gpuprop._array.creation import full_like
from gpuprop._array.shape import broadcast_to
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.mode import enable_grad
from gpuprop._core.namespace import namespace
from gpuprop._core.tensor import Tensor, tensor

EULER = 0.57721566490153286060
Number = int | float


def is_number(value: Any) -> bool:
    return isinstance(value, Number | np.number | np.bool_)


def as_tensors(caller: str, **values: Any) -> list[Tensor]:
    """Parameters as floating Tensors.

    Numbers and integers get the dtype and the device of the first floating array; without one,
    they are float32.  Raises TypeError for other objects, such as lists.
    """
    for name, value in values.items():
        if not (is_number(value) or hasattr(value, "shape")):
            raise TypeError(f"{caller}: {name} must be a Tensor, an array or a number, got "
                            f"{value!r}: convert it with gpuprop.tensor")
    arrays = [v for v in values.values() if hasattr(v, "shape") and not is_number(v)]
    tensors = {id(a): a if isinstance(a, Tensor) else tensor(a) for a in arrays}
    like = next((t for t in tensors.values() if is_float(t.dtype)), None)

    def converted(value: Any) -> Tensor:
        if id(value) not in tensors:
            if like is None:
                return tensor(float(value), "float32")
            return scalar_like(like, value)
        t = tensors[id(value)]
        return t if is_float(t.dtype) else t.astype("float32" if like is None else like.dtype)

    return [converted(value) for value in values.values()]


def scalar_like(like: Tensor, value: float) -> Tensor:
    """A number as a 0-d Tensor with the dtype and on the device of `like`."""
    return full_like(like.detach().reshape(-1)[:0].sum(), value)


def broadcast_parameters(caller: str, **values: Any) -> list[Tensor]:
    """`as_tensors`, broadcast to one shape.  Raises ValueError if their shapes do not match."""
    tensors = as_tensors(caller, **values)
    shape = broadcast_shapes(caller, **dict(zip(values, (t.shape for t in tensors), strict=True)))
    return [t if t.shape == shape else broadcast_to(t, shape) for t in tensors]


def broadcast_shapes(caller: str, **shapes: tuple) -> tuple[int, ...]:
    """The common shape of named shapes.  Raises ValueError with all of them if there is none."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{caller}: these shapes do not broadcast together: {given}") from None


class lazy:
    """A property that is computed once per object, with its gradient also inside `no_grad`."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        with enable_grad():
            value = self.compute(instance)
        vars(instance)[self.compute.__name__] = value
        return value


def sum_rightmost(x: Any, n: int) -> Any:
    """The sum over the last `n` axes."""
    return x.sum(tuple(range(-n, 0))) if n else x


def xlogy(x: Tensor, y: Tensor) -> Tensor:
    """``x * log(y)``, and 0 where both are 0."""
    return x * where((x == 0) & (y <= 0), 1, y).log()


def xlog1py(x: Tensor, y: Tensor) -> Tensor:
    """``x * log(1 + y)``, and 0 where `x` is 0 and `y` is -1."""
    return x * where((x == 0) & (y <= -1), 0, y).log1p()


def arange_like(like: Tensor, n: int, dtype: Any = None) -> Tensor:
    """The numbers 0, ..., n - 1 in the dtype and on the device of `like`."""
    return Tensor(namespace(raw(like)).arange(n, dtype=dtype or like.dtype))


def clamp_probs(probs: Tensor) -> Tensor:
    """Probabilities moved into [eps, 1 - eps], where eps is the dtype's."""
    eps = epsilon(probs.dtype)
    return probs.clip(eps, 1 - eps)


def epsilon(dtype: Any) -> float:
    """The distance from 1 to the next number of a floating dtype."""
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)


def tiny(dtype: Any) -> float:
    """The smallest normal number of a floating dtype."""
    return float(np.finfo("float32" if dtype.name == "bfloat16" else dtype).tiny)


def diagonal_matrix(x: Tensor) -> Tensor:
    """Matrices with `x` on their diagonals: (..., N) -> (..., N, N)."""
    index = arange_like(x, x.shape[-1], "int64")
    return where(index[:, None] == index, x[..., None], 0)
