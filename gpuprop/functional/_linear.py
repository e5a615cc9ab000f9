"""Layers that are one matrix product."""

from __future__ import annotations

import math

from gpuprop._core.ops import op
from gpuprop._core.signature import Array
from gpuprop.functional._checks import check_dtypes


@op(precision="low")
def linear(xp, input: Array, weight: Array, bias: Array = None):
    """``input @ weight.T + bias`` over the last axis: (..., in), (out, in), (out,) -> (..., out)."""
    check_dtypes("linear", input, weight, bias)
    if weight.ndim != 2 or input.ndim == 0 or input.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear: input {input.shape} has {input.shape[-1] if input.ndim else 'no'} features, "
                         f"weight {weight.shape} takes {weight.shape[-1]}")
    rows = lambda a: a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
    y = xp.matmul(input, weight.T)
    if bias is not None:
        y += bias
    return y, (
        lambda dy: xp.matmul(dy, weight),
        lambda dy: xp.matmul(rows(dy).T, rows(input)),
        lambda dy: dy)  # the engine sums what broadcasting spread


@op(precision="low")
def bilinear(xp, input1: Array, input2: Array, weight: Array, bias: Array = None):
    """``input1 @ weight[k] @ input2 + bias[k]``: (..., in1), (..., in2), (out, in1, in2), (out,) -> (..., out)."""
    check_dtypes("bilinear", input1, weight, bias)
    check_dtypes("bilinear", input2, weight)
    out, in1, in2 = weight.shape
    lead, n = input1.shape[:-1], math.prod(input1.shape[:-1])
    if (input1.shape, input2.shape) != ((*lead, in1), (*lead, in2)):
        raise ValueError(f"bilinear: inputs {input1.shape} and {input2.shape} do not fit weight {weight.shape}, "
                         f"which is (out, in1, in2)")
    x1, x2, w = input1.reshape(n, in1), input2.reshape(n, in2), weight.transpose(1, 0, 2).reshape(in1, out * in2)
    halfway = xp.matmul(x1, w).reshape(n, out, in2)
    y = xp.matmul(halfway, x2[:, :, None]).reshape(*lead, out)
    outer = lambda dy: (dy.reshape(n, out, 1) * x2[:, None]).reshape(n, out * in2)
    return y if bias is None else y + bias, (
        lambda dy: xp.matmul(outer(dy), w.T).reshape(*lead, in1),
        lambda dy: xp.matmul(dy.reshape(n, 1, out), halfway).reshape(*lead, in2),
        lambda dy: xp.matmul(x1.T, outer(dy)).reshape(in1, out, in2).transpose(1, 0, 2),
        lambda dy: dy)
