"""Layers that are a product, and measures of distance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuprop.functional.arithmetic import maximum
from gpuprop.functional.elementwise import composed
from gpuprop.functional.reduction import norm
from gpuprop.functional.shape import broadcast_to, concatenate
from gpuprop.ops import Array, op


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


def check_dtypes(name: str, input: Any, *weights: Any) -> None:
    """Refuse an input of another dtype than the weights, which would change the dtype of all that follows."""
    for weight in weights:
        if weight is not None and weight.dtype != input.dtype:
            remedies = f"input.astype({weight.dtype.name!r})"
            if input.dtype.kind not in "iub":
                remedies += f" or model.to(dtype={input.dtype.name!r})"
            raise TypeError(f"{name}: input is {input.dtype.name} and weight {weight.dtype.name}: use {remedies}")


# ---- distances ------------------------------------------------------------------------------------------------------


@composed(full=True)
def normalize(input: Array, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Array:
    """`input` divided by its `p`-norm along `dim`, or by `eps` if that is larger."""
    return input / maximum(norm(input, p, dim, True), eps)


@composed(full=True)
def cosine_similarity(x1: Array, x2: Array, dim: int = 1, eps: float = 1e-8) -> Array:
    """The cosine of the angle between `x1` and `x2`, which broadcast, along `dim`; no norm counts less than `eps`."""
    if x1.shape != x2.shape:
        shape = np.broadcast_shapes(x1.shape, x2.shape)
        x1, x2 = broadcast_to(x1, shape), broadcast_to(x2, shape)
    return (normalize(x1, 2.0, dim, eps) * normalize(x2, 2.0, dim, eps)).sum(axis=dim)


@composed(full=True)
def pairwise_distance(x1: Array, x2: Array, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Array:
    """The `p`-norm of ``x1 - x2 + eps`` over the last axis; the arrays broadcast."""
    return norm(x1 - x2 + eps, p, -1, keepdim)


@composed(full=True)
def pdist(input: Array, p: float = 2.0) -> Array:
    """The `p`-norms of ``input[i] - input[j]`` for all i < j: (N, D) -> (N * (N - 1) / 2,)."""
    if input.ndim != 2:
        raise ValueError(f"pdist: input is (N, D), not of shape {input.shape}")
    if p < 0:
        raise ValueError(f"pdist: p cannot be negative, and is {p}")
    return norm(concatenate([input[:0], *(input[i] - input[i + 1:] for i in range(len(input)))]), p, -1)
