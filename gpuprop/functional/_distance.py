"""Norms and distances of vectors."""

from __future__ import annotations

import numpy as np

from gpuprop._array.arithmetic import maximum
from gpuprop._array.reduction import norm
from gpuprop._array.shape import broadcast_to, concatenate
from gpuprop._core.composed import composed
from gpuprop._core.signature import Array


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
