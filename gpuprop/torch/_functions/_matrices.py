"""Functions of `torch.linalg` that are names of `torch` and methods, too."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from gpuprop import _array as G
from gpuprop.torch._functions._arguments import new

__all__ = [
    "cholesky", "cholesky_inverse", "cholesky_solve", "det", "frobenius_norm", "inverse",
    "logdet", "matrix_power", "nuclear_norm", "pinverse", "qr", "slogdet", "svd",
    "triangular_solve",
]


def _linalg() -> Any:
    """The module, which is loaded at its first use."""
    return importlib.import_module("gpuprop.torch.linalg")


def inverse(input: Any) -> Any:
    return _linalg().inv(input)


def pinverse(input: Any, rcond: float = 1e-15) -> Any:
    return _linalg().pinv(input, rtol=rcond)


def det(input: Any) -> Any:
    return _linalg().det(input)


def slogdet(input: Any) -> Any:
    return _linalg().slogdet(input)


def logdet(input: Any) -> Any:
    """The logarithm of the determinant, NaN if that is negative."""
    sign, log = slogdet(input)
    return G.where(sign < 0, float("nan"), log)


def cholesky(input: Any, upper: bool = False) -> Any:
    return _linalg().cholesky(input, upper=upper)


def cholesky_solve(input: Any, L: Any, upper: bool = False) -> Any:
    """The solution of ``A X = input`` for the factor of A that `cholesky` returns."""
    lower = L.mT if upper else L
    y = _linalg().solve_triangular(lower, input, upper=False)
    return _linalg().solve_triangular(lower.mT, y, upper=True)


def cholesky_inverse(L: Any, upper: bool = False) -> Any:
    """The inverse of the matrix with this factor."""
    lower = L.mT if upper else L
    inverse_factor = _linalg().inv(lower.tril())
    return G.matmul(inverse_factor.mT, inverse_factor)


def triangular_solve(input: Any, A: Any, upper: bool = True, transpose: bool = False,
                     unitriangular: bool = False) -> Any:
    """The solution of ``A X = input``, and `A`."""
    matrix = A.mT if transpose else A
    return _linalg().solve_triangular(matrix, input, upper=upper != transpose,
                                      unitriangular=unitriangular), A.clone()


def svd(input: Any, some: bool = True, compute_uv: bool = True) -> Any:
    """U, S and V, not its transpose as in `linalg.svd`."""
    found = _linalg().svd(input, full_matrices=not some)
    return found._replace(Vh=found.Vh.mT)


def qr(input: Any, some: bool = True) -> Any:
    return _linalg().qr(input, "reduced" if some else "complete")


def nuclear_norm(input: Any, dim: Any = (-2, -1), keepdim: bool = False) -> Any:
    return _linalg().matrix_norm(input, "nuc", dim, keepdim)


def frobenius_norm(input: Any, dim: Any, keepdim: bool = False) -> Any:
    return G.norm(input, 2, tuple(dim) if isinstance(dim, list) else dim, keepdim)


def matrix_power(input: Any, n: int) -> Any:
    """A product of `n` equal matrices, of inverses if `n` is negative."""
    if n < 0:
        return matrix_power(_linalg().inv(input), -n)
    if n == 0:
        eye = np.broadcast_to(np.eye(input.shape[-1], dtype=input.array.dtype), input.shape)
        return new(eye, input)
    half = matrix_power(input, n // 2) if n > 1 else None
    square = input if half is None else G.matmul(half, half)
    return square if n == 1 or n % 2 == 0 else G.matmul(square, input)
