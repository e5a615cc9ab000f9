"""Transforms of each element of a sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuprop._array.creation import full_like
from gpuprop._array.shape import broadcast_to
from gpuprop.distributions import constraints
from gpuprop.distributions._composed_transforms import with_event_dim
from gpuprop.distributions._transform import Shape, Transform
from gpuprop.distributions._utils import as_tensors, epsilon, is_number, sum_rightmost, tiny
from gpuprop.functional import softplus


class ExpTransform(Transform):
    """``y = exp(x)``."""

    domain = constraints.real
    codomain = constraints.positive
    bijective = True
    sign = 1

    def _call(self, x: Any) -> Any:
        return x.exp()

    def _inverse(self, y: Any) -> Any:
        return y.log()

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return x


class _WithParameters(Transform):
    """A transform whose parameters broadcast with x."""

    def _parameter_shapes(self) -> list[Shape]:
        return [getattr(value, "shape", ()) for value in self._parts()]

    def forward_shape(self, shape: Shape) -> Shape:
        return np.broadcast_shapes(tuple(shape), *self._parameter_shapes())

    inverse_shape = forward_shape


class PowerTransform(_WithParameters):
    """``y = x**exponent`` for x > 0."""

    domain = constraints.positive
    codomain = constraints.positive
    bijective = True

    def __init__(self, exponent: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.exponent, = as_tensors("PowerTransform", exponent=exponent)

    sign = property(lambda self: self.exponent.sign())

    def _call(self, x: Any) -> Any:
        return x ** self.exponent.astype(x.dtype)

    def _inverse(self, y: Any) -> Any:
        return y ** (1 / self.exponent.astype(y.dtype))

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return (self.exponent.astype(x.dtype) * y / x).abs().log()

    def _parts(self) -> tuple:
        return (self.exponent,)


def clipped_sigmoid(x: Any) -> Any:
    return x.sigmoid().clip(tiny(x.dtype), 1 - epsilon(x.dtype))


class SigmoidTransform(Transform):
    """``y = 1 / (1 + exp(-x))``."""

    domain = constraints.real
    codomain = constraints.unit_interval
    bijective = True
    sign = 1

    def _call(self, x: Any) -> Any:
        return clipped_sigmoid(x)

    def _inverse(self, y: Any) -> Any:
        y = y.clip(tiny(y.dtype), 1 - epsilon(y.dtype))
        return y.log() - (-y).log1p()

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return -softplus(-x) - softplus(x)


class SoftplusTransform(Transform):
    """``y = log(1 + exp(x))``."""

    domain = constraints.real
    codomain = constraints.positive
    bijective = True
    sign = 1

    def _call(self, x: Any) -> Any:
        return softplus(x)

    def _inverse(self, y: Any) -> Any:
        return (-(-y).expm1()).log() + y

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return -softplus(-x)


class TanhTransform(Transform):
    """``y = tanh(x)``.  With ``cache_size=1`` the inverse is exact near -1 and 1 too."""

    domain = constraints.real
    codomain = constraints.interval(-1.0, 1.0)
    bijective = True
    sign = 1

    def _call(self, x: Any) -> Any:
        return x.tanh()

    def _inverse(self, y: Any) -> Any:
        return y.arctanh()

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return 2 * (math.log(2) - x - softplus(-2 * x))  # log(1 - tanh(x)**2) without cancellation


class AbsTransform(Transform):
    """``y = abs(x)``, which is not bijective."""

    domain = constraints.real
    codomain = constraints.positive

    def _call(self, x: Any) -> Any:
        return x.abs()

    def _inverse(self, y: Any) -> Any:
        return y


class AffineTransform(_WithParameters):
    """``y = loc + scale * x``; the last `event_dim` axes are one event."""

    bijective = True

    def __init__(self, loc: Any, scale: Any, event_dim: int = 0, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.loc = loc
        self.scale = scale
        self._event_dim = event_dim

    event_dim = property(lambda self: self._event_dim)
    domain = property(lambda self: with_event_dim(constraints.real, self._event_dim))
    codomain = domain

    @property
    def sign(self) -> Any:
        if is_number(self.scale):
            return (self.scale > 0) - (self.scale < 0)
        return self.scale.sign()

    def _call(self, x: Any) -> Any:
        return self.loc + self.scale * x

    def _inverse(self, y: Any) -> Any:
        return (y - self.loc) / self.scale

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        if is_number(self.scale):
            logs = full_like(x.detach(), math.log(abs(self.scale)))
        else:
            logs = broadcast_to(as_tensors("AffineTransform", scale=self.scale)[0].abs().log(),
                                np.broadcast_shapes(x.shape, self.scale.shape))
        return sum_rightmost(logs, self._event_dim)

    def _parts(self) -> tuple:
        return self.loc, self.scale, self._event_dim


class CumulativeDistributionTransform(Transform):
    """The cumulative distribution function of a distribution."""

    bijective = True
    codomain = constraints.unit_interval
    sign = 1

    def __init__(self, distribution: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.distribution = distribution

    domain = property(lambda self: self.distribution.support)

    def _call(self, x: Any) -> Any:
        return self.distribution.cdf(x)

    def _inverse(self, y: Any) -> Any:
        return self.distribution.icdf(y)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return self.distribution.log_prob(x)

    def _parts(self) -> tuple:
        return (id(self.distribution),)
