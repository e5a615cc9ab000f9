"""Products of matrices and vectors."""

from __future__ import annotations

from typing import Any

from gpuprop import _array as G
from gpuprop.torch._functions._arguments import binary, listed
from gpuprop.torch._functions._shapes import unsqueeze

__all__ = [
    "addbmm", "addmm", "addmv", "baddbmm", "bmm", "cdist", "dot", "einsum", "ger", "inner",
    "matmul", "mm", "mv", "outer",
]

matmul = binary(G.matmul)


def mm(input: Any, mat2: Any) -> Any:
    return G.matmul(input, mat2)


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


def addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return beta * input + alpha * G.matmul(mat1, mat2)


def addmv(input: Any, mat: Any, vec: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return beta * input + alpha * G.matmul(mat, vec)


def addbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return beta * input + alpha * G.sum(G.matmul(batch1, batch2), 0)


def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return beta * input + alpha * G.matmul(batch1, batch2)


def einsum(equation: str, *operands: Any) -> Any:
    return G.einsum(equation, *listed(operands))


def cdist(x1: Any, x2: Any, p: float = 2.0) -> Any:
    return G.norm(unsqueeze(x1, -2) - unsqueeze(x2, -3), p, -1)
