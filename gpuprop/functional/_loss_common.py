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
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if reduction == "none":
        return loss, (lambda d: d, lambda d: xp.zeros_like(total))
    shape = loss.shape
    loss_sum = loss.sum()
    if reduction == "sum":
        return loss_sum, (lambda d: xp.broadcast_to(d, shape), lambda d: xp.zeros_like(total))
    if total is None:
        n = math.prod(shape) or math.nan
        mean = loss_sum / n
    else:
        n = total + (total == 0)  # the gradient is 0 where the mean is NaN
        mean = loss_sum / xp.where(total == 0, math.nan, total)
    return mean, (lambda d: xp.broadcast_to(d / n, shape), lambda d: -d * mean / n)


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
