"""What all losses share: the reduction, and checks of shapes and dtypes."""

from __future__ import annotations

import math
from typing import Any

from gpuprop._core.dtypes import check_floating
from gpuprop._core.ops import op
from gpuprop._core.signature import Array


@op(precision="full", promote=True)
def reduce_loss(xp, loss: Array, total: Array = None, reduction: str = "mean"):
    """The losses ("none"), their "sum", or their "mean", which is the sum divided by `total`.

    By default `total` is the number of losses.  The mean of no losses is NaN, as in PyTorch.
    """
    out, to_each = reduced(xp, loss, total, reduction)
    shape = loss.shape
    return out, (
        to_each if reduction == "none" else lambda d: xp.broadcast_to(to_each(d), shape),
        lambda d: -to_each(d) * out if reduction == "mean" else xp.zeros_like(total))


def reduced(xp, loss, total, reduction):
    """The output of `reduce_loss`, and the function from its gradient to that of each loss.

    The losses of a sum or mean have one gradient, which is 0-d.
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if reduction == "none":
        return loss, lambda d: d
    loss_sum = loss.sum()
    if reduction == "sum":
        return loss_sum, lambda d: d
    if total is None:
        n = math.prod(loss.shape) or math.nan
        return loss_sum / n, lambda d: d / n
    n = total + (total == 0)  # the gradient is 0 where the mean is NaN
    return loss_sum / xp.where(total == 0, math.nan, total), lambda d: d / n


def match_shape_and_dtype(loss: str, input: Any, other: Any, name: str = "target") -> Any:
    """`match_dtype` of an `other` with the shape of `input`; ValueError for another shape."""
    if input.shape != other.shape:
        raise ValueError(
            f"{loss}: input {input.shape} and {name} {other.shape} must have the same shape")
    return match_dtype(loss, input, other, name)


def match_dtype(loss: str, input: Any, other: Any, name: str = "target") -> Any:
    """`other`, cast to the dtype of `input` if it holds integers or bools.

    Raises TypeError for float64, which would widen an `input` of another dtype, and for an `input`
    of integers, whose differences may overflow.
    """
    check_floating(loss, input)
    if other.dtype.kind in "iub":
        return other.astype(input.dtype)
    if other.dtype == "float64" and input.dtype != "float64":
        dtype = input.dtype.name
        raise TypeError(
            f"{loss}: input is {dtype} and {name} float64: use {name}.astype({dtype!r})")
    return other
