"""Cholesky factors and triangular systems, for stacks of matrices.

The definitions take one step per column, each for all matrices of the stack at once; they run on
devices and in captured steps.  On the host LAPACK is faster.
"""

from __future__ import annotations

from typing import Any

from gpuprop._array.arithmetic import where
from gpuprop._array.shape import concatenate
from gpuprop._core.ops import op
from gpuprop._core.registry import HOST, backend_of
from gpuprop._core.signature import Array


def _eliminated(a, pivot):
    """The Schur complement of the first pivot."""
    column = a[..., 1:, :1]
    return a[..., 1:, 1:] - column * column.swapaxes(-1, -2) / pivot


def pivots(a: Any) -> Any:
    """The squared diagonal of the Cholesky factor: all are above 0 if `a` is positive definite.

    After a pivot that is not above 0 the others mean nothing.
    """
    found = []
    for _ in range(a.shape[-1]):
        pivot = a[..., :1, :1]
        found.append(pivot[..., 0])
        a = _eliminated(a, where(pivot > 0, pivot, 1))
    return concatenate(found, -1)


@op(precision="full")
def cholesky(xp, a: Array):
    """The lower triangular L with ``L @ L.T == a``: (..., N, N) -> (..., N, N).

    `a` must be symmetric and positive definite; otherwise L has NaN.  The gradient is symmetric.
    """
    columns = []
    rest = a
    for j in range(a.shape[-1]):
        pivot = rest[..., :1, :1]
        column = rest[..., :, :1] / xp.sqrt(pivot)
        columns.append(xp.concatenate([xp.zeros_like(a[..., :j, :1]), column], axis=-2))
        rest = _eliminated(rest, pivot)
    y = xp.concatenate(columns, axis=-1) if columns else a
    return y, (lambda d: _cholesky_grad(xp, y, d),)


def _cholesky_grad(xp, y, d):
    """I. Murray, "Differentiation of the Cholesky decomposition", 2016, equation 10."""
    upper = y.swapaxes(-1, -2)
    inner = xp.tril(xp.matmul(upper, d))
    inner = inner - xp.tril(xp.triu(inner)) / 2
    left = solve_triangular(upper, inner, True)
    both = solve_triangular(upper, left.swapaxes(-1, -2), True)
    return (both + both.swapaxes(-1, -2)) / 2


@cholesky.faster
def cholesky_by_lapack(xp, a):
    """`cholesky` on the host."""
    if backend_of(a).name != HOST:
        return cholesky.fn(xp, a)
    try:
        y = xp.linalg.cholesky(a)
    except ValueError:  # not positive definite
        return cholesky.fn(xp, a)
    return y, (lambda d: _cholesky_grad(xp, y, d),)


@op(precision="full")
def solve_triangular(xp, a: Array, b: Array, upper: bool = False):
    """x with ``a @ x == b`` for triangular a: (..., N, N), (..., N, K) -> (..., N, K).

    Only the lower triangle of `a` is read, or with `upper` only the upper one.
    """
    return _solution(xp, _substituted, a, b, upper)


def _solution(xp, solve, a, b, upper):
    """The result of `solve_triangular` by one of the functions below."""
    x = solve(xp, a, b, upper)

    def b_grad(d):
        return solve(xp, a.swapaxes(-1, -2), d, not upper)

    def a_grad(d):
        da = -xp.matmul(b_grad(d), x.swapaxes(-1, -2))
        return xp.triu(da) if upper else xp.tril(da)

    return x, (a_grad, b_grad)


def _substituted(xp, a, b, upper):
    """Forward or backward substitution."""
    n = a.shape[-1]
    rows = []
    for step in range(n):
        i = n - 1 - step if upper else step
        row = b[..., i:i + 1, :] / a[..., i:i + 1, i:i + 1]
        rows.append(row)
        b = b - a[..., :, i:i + 1] * row
    if not n:
        return b
    return xp.concatenate(rows[::-1] if upper else rows, axis=-2)


@solve_triangular.faster
def solve_triangular_by_lapack(xp, a, b, upper=False):
    """`solve_triangular` on the host."""
    solve = _solved if backend_of(a).name == HOST else _substituted
    try:
        return _solution(xp, solve, a, b, upper)
    except ValueError:  # a singular matrix
        return _solution(xp, _substituted, a, b, upper)


def _solved(xp, a, b, upper):
    a = xp.triu(a) if upper else xp.tril(a)
    if a.ndim > 2 or b.ndim == 2:
        return xp.linalg.solve(a, b)
    columns = xp.moveaxis(b, -2, 0)  # one matrix for a whole stack of right sides
    x = xp.linalg.solve(a, columns.reshape(len(a), -1))
    return xp.moveaxis(x.reshape(columns.shape), 0, -2)
