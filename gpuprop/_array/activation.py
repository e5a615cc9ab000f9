"""The activations that are methods of Tensors too: relu, softmax and log_softmax."""

from __future__ import annotations

import warnings
from typing import Any

from gpuprop._array.shape import astype
from gpuprop._core.ops import op
from gpuprop._core.pointwise import pointwise_op
from gpuprop._core.signature import Array

__all__ = ["log_softmax", "relu", "softmax"]


@pointwise_op
def relu(xp, input: Array, inplace: bool = False):
    """``max(input, 0)``."""
    return xp.maximum(input, 0)


@relu.backward_from_output
def relu_backward(xp, output, dy):
    return dy * (output > 0)


@op(precision="full")
def softmax(xp, input: Array, dim: int | None = None, dtype: Any = None):
    """``exp(input) / exp(input).sum(dim)``: probabilities along `dim`.  With `dtype`, `input` is cast to it first."""
    if dtype is not None:
        return cast_first(xp, softmax, input, dim, dtype)
    if input.size == 0:  # which has no largest
        return input, (lambda dy: dy,)
    dim = choose_dim("softmax", input, dim)
    y = xp.exp(input - input.max(axis=dim, keepdims=True))
    y /= y.sum(axis=dim, keepdims=True)
    return y, (lambda dy: y * (dy - (y * dy).sum(axis=dim, keepdims=True)),)


@op(precision="full")
def log_softmax(xp, input: Array, dim: int | None = None, dtype: Any = None):
    """``log(softmax(input, dim))``; `dtype` is cast to first."""
    if dtype is not None:
        return cast_first(xp, log_softmax, input, dim, dtype)
    if input.size == 0:
        return input, (lambda dy: dy,)
    dim = choose_dim("log_softmax", input, dim)
    y = input - input.max(axis=dim, keepdims=True)
    y -= xp.log(xp.exp(y).sum(axis=dim, keepdims=True))
    return y, (lambda dy: dy - xp.exp(y) * dy.sum(axis=dim, keepdims=True),)


def cast_first(xp, op, input, dim, dtype):
    """The op of `input` in another dtype; the gradient comes back in its own."""
    x, (to_input,) = astype.fn(xp, input, dtype)
    y, (to_x,) = op.fn(xp, x, dim)
    return y, (lambda dy: to_input(to_x(dy)),)


def choose_dim(name: str, input: Any, dim: int | None) -> int | None:
    """`dim`, or PyTorch's choice if it is None; a 0-d array has no axes, so None."""
    if dim is None:
        dim = 0 if input.ndim in (0, 1, 3) else 1
        warnings.warn(f"{name}: no dim was given, and PyTorch takes {dim} of {input.ndim}: say dim={dim}", stacklevel=5)
    return dim if input.ndim else None
