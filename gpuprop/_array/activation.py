"""The activations that are also methods of Tensor: relu, softmax and log_softmax."""

from __future__ import annotations

from typing import Any

from numpy.exceptions import AxisError

from gpuprop._array.shape import astype
from gpuprop._core.dtypes import check_floating
from gpuprop._core.ops import op
from gpuprop._core.pointwise import pointwise_op
from gpuprop._core.signature import Array
from gpuprop._core.warnings import warn

__all__ = ["log_softmax", "relu", "softmax"]


@pointwise_op
def relu(xp, input: Array, inplace: bool = False):
    """Rectified linear unit: ``y = max(input, 0)``.

    `inplace` has no effect.
    """
    return xp.maximum(input, 0)


@relu.backward_from_output
def relu_backward(xp, output, dy):
    return xp.where(output != 0, dy, 0)  # it is not negative, and the gradient of NaN is dy


@op(precision="full")
def softmax(xp, input: Array, dim: int | None = None, dtype: Any = None):
    """Probabilities along `dim`, which sum to 1: ``y = exp(input) / exp(input).sum(dim)``.

    The output has the shape of `input`.  If `dtype` is given, `input` is cast to it first.  If
    `dim` is not given, it is 0 for an input of 0, 1 or 3 dimensions, otherwise 1, as in PyTorch,
    and a warning says so.

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> F.softmax(gp.tensor([[0.0, 0.0], [1000.0, 0.0]]), dim=1).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    if dtype is not None:
        return cast_and_apply(xp, softmax, input, dim, dtype)
    dim = choose_dim("softmax", input, dim)
    if input.size == 0:  # max() of no elements raises
        return input, (lambda dy: dy,)
    y = xp.exp(input - input.max(axis=dim, keepdims=True))
    y /= y.sum(axis=dim, keepdims=True)
    return y, (lambda dy: y * (dy - (y * dy).sum(axis=dim, keepdims=True)),)


@op(precision="full")
def log_softmax(xp, input: Array, dim: int | None = None, dtype: Any = None):
    """Log-probabilities along `dim`: ``y = input - log(exp(input).sum(dim))``, without overflow.

    The output has the shape of `input`.  `dim` and `dtype` are those of `softmax`.
    """
    if dtype is not None:
        return cast_and_apply(xp, log_softmax, input, dim, dtype)
    dim = choose_dim("log_softmax", input, dim)
    if input.size == 0:
        return input, (lambda dy: dy,)
    y = input - input.max(axis=dim, keepdims=True)
    y -= xp.log(xp.exp(y).sum(axis=dim, keepdims=True))
    return y, (lambda dy: dy - xp.exp(y) * dy.sum(axis=dim, keepdims=True),)


def cast_and_apply(xp, op, input, dim, dtype):
    """Apply `op` to `input` cast to `dtype`; the gradient has the dtype of `input`."""
    x, (to_input,) = astype.fn(xp, input, dtype)
    y, (to_x,) = op.fn(xp, x, dim)
    return y, (lambda dy: to_input(to_x(dy)),)


def choose_dim(name: str, input: Any, dim: int | None) -> int | None:
    """`dim`, or PyTorch's choice if it is None.  The result is None for a 0-D input.

    Raises AxisError, an IndexError, if `dim` is out of bounds; 0-D input counts as 1-D.
    """
    check_floating(name, input)
    if dim is None:
        dim = 0 if input.ndim in (0, 1, 3) else 1
        warn(f"{name}: dim was not given; PyTorch's choice for {input.ndim}-D input is used: "
             f"pass dim={dim}")
    axes = input.ndim or 1
    if not -axes <= dim < axes:
        raise AxisError(dim, axes)
    return dim if input.ndim else None
