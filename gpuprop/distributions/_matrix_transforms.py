"""Transforms of vectors and matrices."""

from __future__ import annotations

from typing import Any

from gpuprop._array.activation import softmax
from gpuprop._array.creation import full_like
from gpuprop._array.shape import concatenate
from gpuprop.distributions import constraints
from gpuprop.distributions._elementwise_transforms import clipped_sigmoid
from gpuprop.distributions._linalg import cholesky
from gpuprop.distributions._transform import Shape, Transform
from gpuprop.distributions._utils import arange_like, diagonal_matrix, tiny
from gpuprop.functional import logsigmoid


class SoftmaxTransform(Transform):
    """``y = softmax(x)`` over the last axis, which is not bijective."""

    domain = constraints.real_vector
    codomain = constraints.simplex

    def _call(self, x: Any) -> Any:
        return softmax(x, -1)

    def _inverse(self, y: Any) -> Any:
        return y.log()


class StickBreakingTransform(Transform):
    """A vector of K numbers to K + 1 numbers of at least 0 that add up to 1.

    Element k is the part ``sigmoid(x[k] - log(K - k))`` of what the elements before it leave of a
    stick of length 1.
    """

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def _shifted(self, x: Any) -> Any:
        n = x.shape[-1]
        return x - (n - arange_like(x, n)).log()

    def _call(self, x: Any) -> Any:
        z = clipped_sigmoid(self._shifted(x))
        one = full_like(z[..., :1].detach(), 1)
        left = (1 - z).cumprod(-1)
        return concatenate([z, one], -1) * concatenate([one, left], -1)

    def _inverse(self, y: Any) -> Any:
        parts = y[..., :-1]
        n = parts.shape[-1]
        left = (1 - parts.cumsum(-1)).clip(tiny(y.dtype), None)
        return parts.log() - left.log() + (n - arange_like(y, n)).log()

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        x = self._shifted(x)
        return (-x + logsigmoid(x) + y[..., :-1].log()).sum(-1)

    def forward_shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], _vector(self, shape) + 1)

    def inverse_shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], _vector(self, shape) - 1)


def _vector(transform: Transform, shape: Shape) -> int:
    if not shape:
        raise ValueError(f"{transform!r} needs at least one axis, got shape ()")
    return shape[-1]


class LowerCholeskyTransform(Transform):
    """A matrix to a lower triangular one, whose diagonal is ``exp`` of the matrix's."""

    domain = constraints.independent(constraints.real, 2)
    codomain = constraints.lower_cholesky

    def _call(self, x: Any) -> Any:
        return x.tril(-1) + diagonal_matrix(x.diagonal(0, -2, -1).exp())

    def _inverse(self, y: Any) -> Any:
        return y.tril(-1) + diagonal_matrix(y.diagonal(0, -2, -1).log())


class PositiveDefiniteTransform(Transform):
    """A matrix to ``L @ L.T``, where L is its `LowerCholeskyTransform`."""

    domain = constraints.independent(constraints.real, 2)
    codomain = constraints.positive_definite

    def _call(self, x: Any) -> Any:
        lower = LowerCholeskyTransform()(x)
        return lower @ lower.swapaxes(-1, -2)

    def _inverse(self, y: Any) -> Any:
        return LowerCholeskyTransform().inv(cholesky(y))
