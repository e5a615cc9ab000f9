"""Cholesky factors and triangular systems, for stacks of small matrices.

The definitions take one step per column, each for all matrices of the stack at once.
"""

from __future__ import annotations

from typing import Any

from gpuprop._array.arithmetic import where
from gpuprop._array.shape import concatenate
from gpuprop._core.ops import op
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
    n = a.shape[-1]
    columns = []
    rest = a
    for j in range(n):
        pivot = rest[..., :1, :1]
        column = rest[..., :, :1] / xp.sqrt(pivot)
        columns.append(xp.concatenate([xp.zeros_like(a[..., :j, :1]), column], axis=-2))
        rest = _eliminated(rest, pivot)
    y = xp.concatenate(columns, axis=-1) if n else a

    def a_grad(d):
        # I. Murray, "Differentiation of the Cholesky decomposition", 2016, equation 10
        inner = xp.tril(xp.matmul(y.swapaxes(-1, -2), d))
        inner = inner - xp.tril(xp.triu(inner)) / 2
        left = solve_triangular.fn(xp, y.swapaxes(-1, -2), inner, True)[0]
        both = solve_triangular.fn(xp, y.swapaxes(-1, -2), left.swapaxes(-1, -2), True)[0]
        return (both + both.swapaxes(-1, -2)) / 2

    return y, (a_grad,)


@op(precision="full")
def solve_triangular(xp, a: Array, b: Array, upper: bool = False):
    """x with ``a @ x == b`` for triangular a: (..., N, N), (..., N, K) -> (..., N, K).

    Only the lower triangle of `a` is read, or with `upper` only the upper one.
    """
    x = _substituted(xp, a, b, upper)

    def b_grad(d):
        return _substituted(xp, a.swapaxes(-1, -2), d, not upper)

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
