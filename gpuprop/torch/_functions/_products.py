"""Products of matrices and vectors."""

from __future__ import annotations

import builtins
import functools
from typing import Any

import numpy as np

from gpuprop import _array as G
from gpuprop.torch._functions._arguments import binary, listed, new
from gpuprop.torch._functions._shapes import reshape, unsqueeze

__all__ = [
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "cdist", "chain_matmul", "cross",
    "dot", "einsum", "ger", "inner", "kron", "matmul", "mm", "mv", "outer", "spmm", "tensordot",
    "vander", "vdot",
]

matmul = binary(G.matmul)


def mm(input: Any, mat2: Any) -> Any:
    return G.matmul(input, mat2)


spmm = mm  # of a dense matrix


def bmm(input: Any, mat2: Any) -> Any:
    return G.matmul(input, mat2)


def mv(input: Any, vec: Any) -> Any:
    return G.matmul(input, vec)


def dot(input: Any, tensor: Any) -> Any:
    return G.dot(input, tensor)


def inner(input: Any, other: Any) -> Any:
    return G.inner(input, other)


def outer(input: Any, vec2: Any) -> Any:
    return G.outer(input, vec2)


ger = outer


def _added(x: Any, beta: Any, product: Any, alpha: Any) -> Any:
    """``beta * x + alpha * product``; a factor 0 hides what it multiplies, NaN included."""
    scaled = product if alpha == 1 else G.zeros_like(product) if alpha == 0 else alpha * product
    if beta == 0:
        return G.broadcast_to(scaled, np.broadcast_shapes(tuple(x.shape), tuple(scaled.shape)))
    return (x if beta == 1 else beta * x) + scaled


def addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _added(input, beta, G.matmul(mat1, mat2), alpha)


def addmv(input: Any, mat: Any, vec: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _added(input, beta, G.matmul(mat, vec), alpha)


def addbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _added(input, beta, G.sum(G.matmul(batch1, batch2), 0), alpha)


def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _added(input, beta, G.matmul(batch1, batch2), alpha)


def einsum(equation: str, *operands: Any) -> Any:
    return G.einsum(equation, *listed(operands))


def cdist(x1: Any, x2: Any, p: float = 2.0,
          compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Any:
    return G.norm(unsqueeze(x1, -2) - unsqueeze(x2, -3), p, -1)


def addr(input: Any, vec1: Any, vec2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _added(input, beta, G.outer(vec1, vec2), alpha)


def vdot(input: Any, other: Any) -> Any:
    return G.dot(input, other)


def tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    """The sum of products over the last `dims` axes of `a` and the first of `b`, or given ones."""
    if not isinstance(dims, int):
        dims = tuple([d] if isinstance(d, int) else tuple(d) for d in dims)
    return G.tensordot(a, b, dims)


def kron(input: Any, other: Any) -> Any:
    """The Kronecker product."""
    n = builtins.max(input.array.ndim, other.array.ndim)
    a, b = (reshape(t, (*(1,) * (n - t.array.ndim), *t.shape)) for t in (input, other))
    pairs = [k for i in range(n) for k in (i, n + i)]
    product = G.transpose(G.expand_dims(a, tuple(range(n, 2 * n))) * b, pairs)
    return reshape(product, tuple(i * j for i, j in zip(a.shape, b.shape, strict=True)))


def cross(input: Any, other: Any, dim: int | None = None) -> Any:
    """The vector product of 3-vectors along an axis; without `dim` the first axis of size 3."""
    shape = np.broadcast_shapes(tuple(input.shape), tuple(other.shape))
    axis = shape.index(3) - len(shape) if dim is None else dim
    a, b = (G.broadcast_to(t, shape) for t in (input, other))
    return G.roll(a, -1, axis) * G.roll(b, -2, axis) - G.roll(a, -2, axis) * G.roll(b, -1, axis)


def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    """The Vandermonde matrix: powers of `x` as columns."""
    powers = np.arange(x.shape[0] if N is None else N)
    exponents = new(powers if increasing else powers[::-1].copy(), x)
    return G.power(G.expand_dims(x, -1), exponents)


def chain_matmul(*matrices: Any) -> Any:
    return functools.reduce(G.matmul, listed(matrices))
