"""Linear algebra, as `torch.linalg`.

Gradients have: norms, products, `inv`, `solve`, `det`, `slogdet`, `cholesky`, `solve_triangular`,
`eigh`, `eigvalsh`, `pinv` of matrices of full rank.  LAPACK computes on the host.
"""

from __future__ import annotations

import builtins
import functools
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any, NamedTuple

import numpy as np

from gpuprop import _array as G
from gpuprop.distributions import _linalg
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._failures import explain_all
from gpuprop.torch._functions._arguments import host, new, without_gradient
from gpuprop.torch._functions._matrices import matrix_power
from gpuprop.torch._functions._products import cross as _cross
from gpuprop.torch._functions._products import matmul
from gpuprop.torch._functions._shapes import diagonal as _diagonal
from gpuprop.torch._functions._shapes import reshape
from gpuprop.torch._graph import Function

__all__ = [
    "LinAlgError", "cholesky", "cond", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv",
    "lstsq", "matmul", "matrix_norm", "matrix_power", "matrix_rank", "multi_dot", "norm",
    "pinv", "qr", "slogdet", "solve", "solve_triangular", "svd", "svdvals", "vander", "vecdot",
    "vector_norm",
]


class LinAlgError(RuntimeError):
    """A matrix that an algorithm cannot handle: singular, or not positive definite."""


def _of_matrices(name: str, f: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of NumPy on the host, and its error in PyTorch's class."""
    try:
        found = f(host(x), *args, **kwargs)
    except np.linalg.LinAlgError as e:
        raise LinAlgError(f"linalg.{name}: {e}") from None
    if isinstance(found, tuple):
        return tuple(new(np.asarray(a), x) for a in found)
    return new(np.asarray(found), x)


# ---- norms and products --------------------------------------------------------------------------


def vector_norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *,
                dtype: Any = None) -> Any:
    """``sum(abs(x) ** ord) ** (1 / ord)`` over axes."""
    x = x if dtype is None else x.to(dtype)
    return G.norm(x, ord, tuple(dim) if isinstance(dim, list) else dim, keepdim)


def matrix_norm(A: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *,
                dtype: Any = None) -> Any:
    """A norm of matrices: "fro", "nuc", 1, 2, inf or a negative one."""
    A = A if dtype is None else A.to(dtype)
    x = G.moveaxis(A, tuple(dim), (-2, -1))
    if ord == "fro":
        found = G.norm(x, 2, (-2, -1))
    elif ord == "nuc" or builtins.abs(ord) == 2:
        s = svdvals(x)
        found = {"nuc": G.sum, 2: G.max, -2: G.min}[ord](s, -1)
    else:
        sums = G.sum(G.abs(x), -2 if builtins.abs(ord) == 1 else -1)
        found = (G.max if ord > 0 else G.min)(sums, -1)
    if keepdim:
        kept = [1 if i in {d % x.array.ndim for d in dim} else n for i, n in enumerate(A.shape)]
        return reshape(found, kept)
    return found


def norm(A: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *,
         dtype: Any = None) -> Any:
    """The vector norm, or for two axes and an `ord` the matrix norm."""
    axes = dim if isinstance(dim, tuple | list) else None
    is_matrix = len(axes) == 2 if axes else dim is None and A.array.ndim == 2
    if ord is not None and is_matrix:
        return matrix_norm(A, ord, axes or (-2, -1), keepdim, dtype=dtype)
    if ord is not None and dim is None and A.array.ndim != 1:
        raise RuntimeError(f"linalg.norm: expected 1 or 2 axes with ord={ord!r}, got "
                           f"{A.array.ndim}: name them by dim=")
    return vector_norm(A, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


def vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    return G.sum(x * y, dim)


def cross(input: Any, other: Any, *, dim: int = -1) -> Any:
    return _cross(input, other, dim)


def diagonal(A: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    return _diagonal(A, offset, dim1, dim2)


def vander(x: Any, *, N: int | None = None) -> Any:
    """The Vandermonde matrix with rising powers of `x` along a new last axis."""
    x = x if x.array.ndim else reshape(x, (1,))
    powers = new(np.arange(x.shape[-1] if N is None else N), x)
    return G.power(G.expand_dims(x, -1), powers)


def multi_dot(tensors: Any) -> Any:
    return functools.reduce(G.matmul, tensors)


# ---- systems of equations ------------------------------------------------------------------------


class _Solve(Function):
    """``A^-1 B`` of matrices."""

    @staticmethod
    def forward(ctx: Any, A: Any, B: Any) -> Any:
        x = _of_matrices("solve", np.linalg.solve, A, host(B))
        ctx.save_for_backward(A, x)
        return x

    @staticmethod
    def backward(ctx: Any, d: Any) -> Any:
        A, x = ctx.saved_tensors
        dB = _Solve.apply(A.mT, d)
        return _summed(-G.matmul(dB, x.mT), A), dB


def _summed(d: Any, like: Any) -> Any:
    """A gradient, summed over broadcast axes of stacks."""
    return d.sum_to_size(tuple(like.shape))


def solve(A: Any, B: Any, *, left: bool = True) -> Any:
    """The solution of ``A X = B``, or ``X A = B``; `B` is a vector, a matrix or a stack of them."""
    if not left:
        return solve(A.mT, B.mT).mT
    if B.array.ndim == 1 or (B.array.ndim == A.array.ndim - 1 and B.shape == A.shape[:-1]):
        return G.squeeze(solve(A, G.expand_dims(B, -1)), -1)
    stack = np.broadcast_shapes(A.shape[:-2], B.shape[:-2])
    A, B = (G.broadcast_to(t, (*stack, *t.shape[-2:])) for t in (A, B))
    return _Solve.apply(A, B)


def inv(A: Any) -> Any:
    """The inverse of each matrix."""
    eye = np.broadcast_to(np.eye(A.shape[-1], dtype=A.array.dtype), A.shape)
    return solve(A, new(eye, A))


def solve_triangular(A: Any, B: Any, *, upper: bool, left: bool = True,
                     unitriangular: bool = False) -> Any:
    """The solution of ``A X = B`` for a triangular matrix."""
    if unitriangular:
        eye = new(np.eye(A.shape[-1], dtype="bool"), A)
        A = G.where(eye, G.ones_like(A.detach()), A)
    if not left:
        return solve_triangular(A.mT, B.mT, upper=not upper).mT
    return _linalg.solve_triangular(A, B, upper)


def cholesky(A: Any, *, upper: bool = False) -> Any:
    """The lower triangular L with ``A = L L.mT``, or its transpose."""
    _of_matrices("cholesky", np.linalg.cholesky, A)  # raises
    factor = _linalg.cholesky(A)
    return factor.mT if upper else factor


class _LogAbsDet(Function):
    @staticmethod
    def forward(ctx: Any, A: Any) -> Any:
        ctx.save_for_backward(A)
        return _of_matrices("slogdet", lambda a: np.linalg.slogdet(a)[1], A)

    @staticmethod
    def backward(ctx: Any, d: Any) -> Any:
        return d[..., None, None] * inv(ctx.saved_tensors[0]).mT


class _Det(Function):
    @staticmethod
    def forward(ctx: Any, A: Any) -> Any:
        y = _of_matrices("det", np.linalg.det, A)
        ctx.save_for_backward(A, y)
        return y

    @staticmethod
    def backward(ctx: Any, d: Any) -> Any:
        A, _ = ctx.saved_tensors
        return (d * det(A))[..., None, None] * inv(A).mT


class _SignAndLog(NamedTuple):
    """The result of `slogdet`."""

    sign: Any
    logabsdet: Any


def det(A: Any) -> Any:
    """The determinant; its gradient needs an invertible matrix."""
    return _Det.apply(A)


def slogdet(A: Any) -> Any:
    """The sign of the determinant and the logarithm of its absolute value."""
    sign = _of_matrices("slogdet", lambda a: np.linalg.slogdet(a)[0], A)
    return _SignAndLog(sign, _LogAbsDet.apply(A))


class _Solution(NamedTuple):
    """The result of `lstsq`."""

    solution: Any
    residuals: Any
    rank: Any
    singular_values: Any


def lstsq(A: Any, B: Any, *, rcond: float | None = None, driver: str | None = None) -> Any:
    """The least squares solution of ``A X = B``."""
    found = np.linalg.lstsq(host(without_gradient("linalg.lstsq", A)),
                            host(without_gradient("linalg.lstsq", B)), rcond)
    return _Solution(*(new(np.asarray(a), A) for a in found))


# ---- decompositions ------------------------------------------------------------------------------


class _Eigh(Function):
    @staticmethod
    def forward(ctx: Any, A: Any, triangle: str) -> Any:
        values, vectors = _of_matrices("eigh", np.linalg.eigh, A, triangle)
        ctx.save_for_backward(values, vectors)
        return values, vectors

    @staticmethod
    def backward(ctx: Any, dvalues: Any, dvectors: Any) -> Any:
        values, vectors = ctx.saved_tensors
        gaps = values[..., None, :] - values[..., :, None]
        is_own = new(np.eye(values.shape[-1], dtype="bool"), values)
        inner = G.where(is_own, 0.0, G.matmul(vectors.mT, dvectors) / G.where(is_own, 1.0, gaps))
        inner = inner + G.where(is_own, dvalues[..., None, :], 0.0)
        d = G.matmul(G.matmul(vectors, inner), vectors.mT)
        return (d + d.mT) / 2, None


class _Eigen(NamedTuple):
    """The result of `eigh`."""

    eigenvalues: Any
    eigenvectors: Any


def eigh(A: Any, UPLO: str = "L") -> Any:
    """Eigenvalues in ascending order and eigenvectors of symmetric matrices."""
    return _Eigen(*_Eigh.apply(A, UPLO))


def eigvalsh(A: Any, UPLO: str = "L") -> Any:
    return eigh(A, UPLO)[0]


class _SVD(NamedTuple):
    """The result of `svd`."""

    U: Any
    S: Any
    Vh: Any


def svd(A: Any, full_matrices: bool = True) -> Any:
    """``A = U @ diag(S) @ Vh``; it has no gradient here."""
    return _SVD(*_of_matrices("svd", np.linalg.svd, without_gradient("linalg.svd", A),
                             full_matrices))


def svdvals(A: Any) -> Any:
    """The singular values in descending order; they have no gradient here."""
    return _of_matrices("svdvals", np.linalg.svd, without_gradient("linalg.svdvals", A),
                        compute_uv=False)


class _QR(NamedTuple):
    """The result of `qr`."""

    Q: Any
    R: Any


def qr(A: Any, mode: str = "reduced") -> Any:
    """``A = Q @ R``; it has no gradient here."""
    a = without_gradient("linalg.qr", A)
    if mode == "r":
        return _QR(new(np.empty(0, A.array.dtype), A), _of_matrices("qr", np.linalg.qr, a, "r"))
    return _QR(*_of_matrices("qr", np.linalg.qr, a, mode))


def pinv(A: Any, *, rtol: float | None = None, hermitian: bool = False) -> Any:
    """The Moore-Penrose inverse; it has no gradient here."""
    a = without_gradient("linalg.pinv", A)
    return _of_matrices("pinv", np.linalg.pinv, a, rtol, hermitian)


def matrix_rank(A: Any, *, atol: float | None = None, rtol: float | None = None,
                hermitian: bool = False) -> Any:
    """The number of singular values above the larger of `atol` and `rtol` times the largest."""
    s = np.abs(np.linalg.eigvalsh(host(A))) if hermitian else np.linalg.svd(
        host(A), compute_uv=False)
    largest = s.max(-1, initial=0, keepdims=True)
    if rtol is None:
        rtol = 0.0 if atol else builtins.max(A.shape[-2:]) * np.finfo(A.array.dtype).eps
    absolute = 0.0 if atol is None else np.asarray(host(atol))[..., None]
    limit = np.maximum(np.asarray(host(rtol))[..., None] * largest, absolute)
    return new(np.asarray((s > limit).sum(-1)), A)


def cond(A: Any, p: Any = None) -> Any:
    """The condition number; it has no gradient here."""
    return _of_matrices("cond", np.linalg.cond, without_gradient("linalg.cond", A), p)


explain_all(globals(), __all__)

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
