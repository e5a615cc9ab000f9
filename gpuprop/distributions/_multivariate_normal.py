"""The multivariate normal distribution, with any covariance and with one of low rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuprop._array.products import matmul
from gpuprop._array.shape import broadcast_to, concatenate
from gpuprop._core.tensor import Tensor
from gpuprop.distributions import constraints
from gpuprop.distributions._discrete import check_one_of
from gpuprop.distributions._distribution import Distribution
from gpuprop.distributions._linalg import cholesky, solve_triangular
from gpuprop.distributions._noise import noise
from gpuprop.distributions._utils import as_tensors, broadcast_shapes, diagonal_matrix, lazy
from gpuprop.random import Generator


class _NormalVector(Distribution):
    """A normal distribution of vectors."""

    loc: Tensor
    support = constraints.real_vector
    has_rsample = True

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc


class MultivariateNormal(_NormalVector):
    """The normal distribution of vectors, with mean `loc` (..., N).

    ``p(x) = exp(-(x - loc) @ inv(C) @ (x - loc) / 2) / sqrt(det(2 * pi * C))`` with the covariance
    C, of which one form is given: `covariance_matrix`, its inverse `precision_matrix`, or its
    Cholesky factor `scale_tril`, lower triangular matrices (..., N, N).  `scale_tril` is the
    fastest and the most accurate.
    """

    arg_constraints = {"loc": constraints.real_vector,
                       "covariance_matrix": constraints.positive_definite,
                       "precision_matrix": constraints.positive_definite,
                       "scale_tril": constraints.lower_cholesky}

    def __init__(self, loc: Any, covariance_matrix: Any = None, precision_matrix: Any = None,
                 scale_tril: Any = None, validate_args: bool | None = None) -> None:
        forms = {"covariance_matrix": covariance_matrix, "precision_matrix": precision_matrix,
                 "scale_tril": scale_tril}
        check_one_of("MultivariateNormal", **forms)
        name = next(name for name, value in forms.items() if value is not None)
        mean, matrix = as_tensors("MultivariateNormal", loc=loc, **{name: forms[name]})
        if not mean.ndim or matrix.ndim < 2:
            raise ValueError(f"MultivariateNormal: loc must have at least one axis and {name} at "
                             f"least two, got shapes {mean.shape} and {matrix.shape}")
        n, = event = broadcast_shapes("MultivariateNormal", **{
            "the last axis of loc": mean.shape[-1:], f"the last axis of {name}": matrix.shape[-1:]})
        if matrix.shape[-2:] != (n, n):
            raise ValueError(f"MultivariateNormal: {name} must end with shape {(n, n)} like loc, "
                             f"got {matrix.shape}")
        batch = broadcast_shapes("MultivariateNormal", loc=mean.shape[:-1],
                                 **{name: matrix.shape[:-2]})
        self.loc = broadcast_to(mean, batch + event)
        vars(self)[name] = broadcast_to(matrix, (*batch, n, n))
        super().__init__(batch, event, validate_args)

    @lazy
    def scale_tril(self) -> Any:
        """The lower triangular L with ``L @ L.T == covariance_matrix``."""
        if "covariance_matrix" in vars(self):
            return cholesky(self.covariance_matrix)
        # With the axes reversed, a lower triangular factor of the precision is the upper one
        # whose inverse is L.
        upper = cholesky(self.precision_matrix.flip((-2, -1))).flip((-2, -1))
        return solve_triangular(upper.swapaxes(-1, -2), self._identity)

    @property
    def _identity(self) -> Tensor:
        return diagonal_matrix(self.loc.detach() * 0 + 1)

    @lazy
    def covariance_matrix(self) -> Any:
        """The covariance of each pair of elements."""
        return matmul(self.scale_tril, self.scale_tril.swapaxes(-1, -2))

    @lazy
    def precision_matrix(self) -> Any:
        """The inverse of the covariance matrix."""
        inverse = solve_triangular(self.scale_tril, self._identity)
        return matmul(inverse.swapaxes(-1, -2), inverse)

    @property
    def variance(self) -> Tensor:
        """The variance of each element."""
        return (self.scale_tril * self.scale_tril).sum(-1)

    @property
    def _half_log_det(self) -> Tensor:
        return self.scale_tril.diagonal(0, -2, -1).log().sum(-1)

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        z = self._noise("normal", sample_shape, self.loc, rng)
        return self.loc + matmul(self.scale_tril, z[..., None])[..., 0]

    def log_prob(self: Any, value: Any) -> Tensor:
        distance = self._squared_norm((self._value(value) - self.loc)[..., None])
        n = self._event_shape[0]
        return -0.5 * (n * math.log(2 * math.pi) + distance) - self._half_log_det

    @property
    def _factor(self) -> Tensor:
        """A matrix F with ``F @ F.T == covariance_matrix``."""
        return self.scale_tril

    def _squared_norm(self, f: Tensor) -> Tensor:
        """The sum of ``x @ inv(covariance) @ x`` over the columns x of `f` (..., N, K)."""
        z = solve_triangular(self.scale_tril, f)
        return (z * z).sum((-2, -1))

    def entropy(self: Any) -> Tensor:
        n = self._event_shape[0]
        return 0.5 * n * (1 + math.log(2 * math.pi)) + self._half_log_det


class LowRankMultivariateNormal(_NormalVector):
    """The normal distribution of vectors with covariance ``W @ W.T + diag(cov_diag)``.

    `loc` and `cov_diag` are (..., N), and W is `cov_factor` (..., N, M).  It is for M much smaller
    than N: only matrices of size M are factored (Woodbury's identity).
    """

    arg_constraints = {"loc": constraints.real_vector,
                       "cov_factor": constraints.independent(constraints.real, 2),
                       "cov_diag": constraints.independent(constraints.positive, 1)}
    cov_factor: Tensor
    cov_diag: Tensor

    def __init__(self, loc: Any, cov_factor: Any, cov_diag: Any,
                 validate_args: bool | None = None) -> None:
        name = "LowRankMultivariateNormal"
        loc, w, diagonal = as_tensors(name, loc=loc, cov_factor=cov_factor, cov_diag=cov_diag)
        if not loc.ndim or w.ndim < 2 or not diagonal.ndim:
            raise ValueError(f"{name}: loc and cov_diag must have at least one axis and cov_factor "
                             f"at least two, got shapes {loc.shape}, {diagonal.shape} and "
                             f"{w.shape}")
        event = loc.shape[-1:]
        if w.shape[-2:-1] != event or diagonal.shape[-1:] != event:
            raise ValueError(f"{name}: loc (..., N), cov_factor (..., N, M) and cov_diag (..., N) "
                             f"must have one N, got shapes {loc.shape}, {w.shape} and "
                             f"{diagonal.shape}")
        batch = broadcast_shapes(name, loc=loc.shape[:-1], cov_factor=w.shape[:-2],
                                 cov_diag=diagonal.shape[:-1])
        self.loc = broadcast_to(loc, batch + event)
        self.cov_factor = broadcast_to(w, batch + w.shape[-2:])
        self.cov_diag = broadcast_to(diagonal, batch + event)
        super().__init__(batch, event, validate_args)

    @property
    def _scaled(self) -> Tensor:
        """``W.T @ inv(diag(cov_diag))``."""
        return self.cov_factor.swapaxes(-1, -2) / self.cov_diag[..., None, :]

    @lazy
    def _capacitance_tril(self) -> Any:
        """The Cholesky factor of ``1 + W.T @ inv(diag(cov_diag)) @ W``."""
        inner = matmul(self._scaled, self.cov_factor)
        return cholesky(inner + diagonal_matrix(inner[..., 0].detach() * 0 + 1))

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance of each pair of elements."""
        w = self.cov_factor
        return matmul(w, w.swapaxes(-1, -2)) + diagonal_matrix(self.cov_diag)

    @property
    def precision_matrix(self) -> Tensor:
        """The inverse of the covariance matrix."""
        a = solve_triangular(self._capacitance_tril, self._scaled)
        return diagonal_matrix(self.cov_diag.reciprocal()) - matmul(a.swapaxes(-1, -2), a)

    @property
    def scale_tril(self) -> Tensor:
        """The Cholesky factor of the covariance matrix."""
        return cholesky(self.covariance_matrix)

    @property
    def variance(self) -> Tensor:
        """The variance of each element."""
        return (self.cov_factor * self.cov_factor).sum(-1) + self.cov_diag

    @property
    def _factor(self) -> Tensor:
        return concatenate([self.cov_factor, diagonal_matrix(self.cov_diag.sqrt())], -1)

    @property
    def _half_log_det(self) -> Tensor:
        inner = self._capacitance_tril.diagonal(0, -2, -1).log().sum(-1)
        return inner + 0.5 * self.cov_diag.log().sum(-1)

    def _squared_norm(self, f: Tensor) -> Tensor:
        z = solve_triangular(self._capacitance_tril, matmul(self._scaled, f))
        return (f * f / self.cov_diag[..., None]).sum((-2, -1)) - (z * z).sum((-2, -1))

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        shape = self._extended_shape(sample_shape)
        few = noise("normal", (*shape[:-1], self.cov_factor.shape[-1], 1), self.loc, rng)
        each = noise("normal", shape, self.loc, rng)
        return self.loc + matmul(self.cov_factor, few)[..., 0] + self.cov_diag.sqrt() * each

    log_prob = MultivariateNormal.log_prob
    entropy = MultivariateNormal.entropy
