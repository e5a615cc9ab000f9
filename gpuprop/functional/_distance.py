"""Norms and distances of vectors."""

from __future__ import annotations

import numpy as np

from gpuprop._array.arithmetic import maximum
from gpuprop._array.reduction import norm
from gpuprop._array.shape import broadcast_to, concatenate
from gpuprop._core.arguments import promoted
from gpuprop._core.composed import composed
from gpuprop._core.dtypes import check_floating
from gpuprop._core.signature import Array


@composed(full=True)
def normalize(input: Array, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Array:
    """Divide by the `p`-norm along `dim`: ``y = input / max(norm(input, p, dim), eps)``.

    The output has the shape of `input`.

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> F.normalize(gp.tensor([[3.0, 4.0]])).numpy()
    array([[0.6, 0.8]], dtype=float32)
    """
    check_floating("normalize", input)
    return input / maximum(norm(input, p, dim, True), eps)


@composed(full=True)
def cosine_similarity(x1: Array, x2: Array, dim: int = 1, eps: float = 1e-8) -> Array:
    """Cosine similarity along `dim`: ``y = (x1 * x2).sum(dim) / (norm(x1) * norm(x2))``.

    The norms are 2-norms along `dim`, clamped to at least `eps`.  `x1` and `x2` broadcast; the
    output has their common shape without the axis `dim`.

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> F.cosine_similarity(gp.tensor([[2.0, 0.0]]), gp.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    x1, x2 = promoted([x1, x2])
    if x1.shape != x2.shape:
        shape = np.broadcast_shapes(x1.shape, x2.shape)
        x1 = broadcast_to(x1, shape)
        x2 = broadcast_to(x2, shape)
    return (normalize(x1, 2.0, dim, eps) * normalize(x2, 2.0, dim, eps)).sum(axis=dim)


@composed(full=True)
def pairwise_distance(x1: Array, x2: Array, p: float = 2.0, eps: float = 1e-6,
                      keepdim: bool = False) -> Array:
    """Distance of vectors: ``y = norm(x1 - x2 + eps, p)``, with the `p`-norm along the last axis.

    `x1` and `x2` broadcast.  (N, D), (N, D) -> (N,), or (N, 1) with `keepdim`.
    """
    check_floating("pairwise_distance", x1)
    return norm(x1 - x2 + eps, p, -1, keepdim)


@composed(full=True)
def pdist(input: Array, p: float = 2.0) -> Array:
    """Distances of all pairs of rows: ``norm(input[i] - input[j], p)`` for all i < j.

    (N, D) -> (N * (N - 1) / 2,).  Raises ValueError if `input` is not 2-D or `p` is negative.
    """
    if input.ndim != 2:
        raise ValueError(f"pdist: input must be (N, D), got shape {input.shape}")
    if p < 0:
        raise ValueError(f"pdist: p must not be negative, got {p}")
    check_floating("pdist", input)
    differences = [input[i] - input[i + 1:] for i in range(len(input))]
    return norm(concatenate([input[:0], *differences]), p, -1)
