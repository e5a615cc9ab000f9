"""Orthogonal matrices as functions of any matrices."""

from __future__ import annotations

import numpy as np

from gpuprop._array.indexing import diagonal, tril, triu
from gpuprop._array.products import matmul
from gpuprop._array.shape import concatenate
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.registry import HOST, backend_of
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor
from gpuprop.nn._module import Module

MAPS = "matrix_exp", "cayley", "householder"


@op(precision="full")
def solve_without_pivots(xp, a: Array, b: Array):
    """x with ``a @ x == b``: (..., N, N), (..., N, K) -> (..., N, K).

    By elimination in the order of the rows, which is stable if the symmetric part of `a` is
    positive definite or `a` is triangular.
    """
    y = _eliminated(xp, a, b)
    return y, _solution_grads(xp, _eliminated, a, y)


@solve_without_pivots.faster
def solve_by_lapack(xp, a, b):
    """`solve_without_pivots` on the host."""
    solve = _eliminated
    if backend_of(a).name == HOST:
        solve = lambda xp, a, b: xp.linalg.solve(a, b)
    try:
        y = solve(xp, a, b)
    except ValueError:  # a singular matrix
        return solve_without_pivots.fn(xp, a, b)
    return y, _solution_grads(xp, solve, a, y)


def _eliminated(xp, a, b):
    rows = xp.arange(a.shape[-1])[:, None]
    for j in range(a.shape[-1]):
        column = a[..., :, j:j + 1]
        pivot = a[..., j:j + 1, j:j + 1]
        factor = xp.where(rows == j, column - 1, column) / pivot
        b = b - factor * b[..., j:j + 1, :]
        a = a - factor * a[..., j:j + 1, :]
    return b


def _solution_grads(xp, solve, a, y):
    def b_grad(d):
        return solve(xp, a.swapaxes(-1, -2), d)

    return lambda d: -xp.matmul(b_grad(d), y.swapaxes(-1, -2)), b_grad


def matrix_exp(a: Tensor) -> Tensor:
    """The matrix exponential of (..., N, N), by scaling, a Taylor polynomial and squaring.

    The number of steps is fixed, for norms up to 100: the host does not wait for the norm.
    """
    squarings, degree = 7, 16
    eye = _eye(a, a.shape[-1])
    a = a * 0.5**squarings
    y = eye
    for i in range(degree, 0, -1):
        y = eye + matmul(a, y) * (1.0 / i)
    for _ in range(squarings):
        y = matmul(y, y)
    return y


def cayley(a: Tensor) -> Tensor:
    """``(I - a / 2)^-1 (I + a / 2)`` of skew-symmetric (..., N, N)."""
    eye = _eye(a, a.shape[-1])
    return solve_without_pivots(eye - a * 0.5, eye + a * 0.5)


def householder(x: Tensor) -> Tensor:
    """The product of the reflections in the columns of x below its diagonal: (..., N, K), K <= N.

    ``I - V T^-1 V.T``, where T is the upper triangle of ``V.T V``, its diagonal halved:
    C. Puglisi, 1992.
    """
    n, k = x.shape[-2:]
    eye = _eye(x, n)[:, :k]
    v = tril(x, -1) + eye
    transposed = v.swapaxes(-1, -2)
    product = matmul(transposed, v)
    t = triu(product) - tril(triu(product)) * 0.5
    return eye - matmul(v, solve_without_pivots(t, matmul(transposed, eye)))


def _eye(like: Tensor, n: int) -> Tensor:
    return Tensor(namespace(raw(like)).eye(n, dtype=like.dtype))


class Orthogonal(Module):
    """A matrix with orthonormal columns, or rows if it has more columns than rows."""

    def __init__(self, weight: Tensor, orthogonal_map: str, use_trivialization: bool) -> None:
        self.shape = tuple(weight.shape)
        self.orthogonal_map = orthogonal_map
        self.use_trivialization = use_trivialization
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, x: Tensor) -> Tensor:
        n, k = x.shape[-2:]
        is_wide = n < k
        if is_wide:
            x = x.swapaxes(-1, -2)
            n, k = k, n
        if self.orthogonal_map == "householder":
            signs = diagonal(x.detach(), 0, -2, -1).astype("int32").astype(x.dtype)
            q = householder(x) * signs[..., None, :]
        else:
            x = tril(x)
            if n != k:
                xp = namespace(raw(x))
                rest = Tensor(xp.zeros((*x.shape[:-1], n - k), x.dtype))
                x = concatenate([x, rest], -1)
            a = x - x.swapaxes(-1, -2)
            q = matrix_exp(a) if self.orthogonal_map == "matrix_exp" else cayley(a)
            q = q[..., :k]
        if self.use_trivialization:
            q = matmul(vars(self)["base"], q)
        return q.swapaxes(-1, -2) if is_wide else q

    def right_inverse(self, q: Tensor) -> Tensor:
        """The original of a matrix; one that is not orthogonal is replaced by the Q of its QR."""
        if tuple(q.shape) != self.shape:
            raise ValueError(f"orthogonal: expected a weight of shape {self.shape}, got "
                             f"{tuple(q.shape)}")
        given = backend_of(raw(q)).to_numpy(raw(q))
        is_wide = given.shape[-2] < given.shape[-1]
        matrix = given.swapaxes(-1, -2) if is_wide else given
        n, k = matrix.shape[-2:]
        as_tensor = lambda a: Tensor(backend_of(raw(q)).asarray(a.astype(given.dtype)))
        if self.use_trivialization:
            if n != k:
                more = np.stack([_completion(m) for m in matrix.reshape(-1, n, k)])
                matrix = np.concatenate([matrix, more.reshape(*matrix.shape[:-1], n - k)], -1)
            self.base = as_tensor(_orthonormal(matrix))
            original = np.zeros_like(given)
            i = np.arange(k)
            original[..., i, i] = -1
            return as_tensor(original)
        if self.orthogonal_map != "householder":
            raise NotImplementedError(
                f"orthogonal: a value is assigned to a weight by {self.orthogonal_map} without "
                f"trivialization: use use_trivialization=True")
        wide = matrix.astype(np.result_type(matrix.dtype, "float32"))
        factors, tau = np.linalg.qr(wide, mode="raw")
        factors = factors.swapaxes(-1, -2).copy()
        i = np.arange(k)
        signs = np.sign(factors[..., i, i])
        factors[..., i, i] = np.where(tau == 0, -signs, signs)
        return as_tensor(factors.swapaxes(-1, -2) if is_wide else factors)


def _orthonormal(matrix: np.ndarray) -> np.ndarray:
    """The matrix if it is orthogonal, else Q of its QR decomposition with a positive diagonal."""
    wide = matrix.astype(np.result_type(matrix.dtype, "float32"))
    n = wide.shape[-1]
    error = np.abs(wide.swapaxes(-1, -2) @ wide - np.eye(n)).max(initial=0)
    if error < 10 * n * np.finfo(wide.dtype).eps:
        return wide.copy()
    q, r = np.linalg.qr(wide)
    signs = np.sign(np.diagonal(r, axis1=-2, axis2=-1))
    return q * signs[..., None, :]


def _completion(matrix: np.ndarray) -> np.ndarray:
    """Columns that, with those of a matrix (N, K), span all vectors: (N, N - K)."""
    wide = matrix.astype(np.result_type(matrix.dtype, "float32"))
    return np.linalg.qr(wide, mode="complete")[0][:, matrix.shape[1]:]
