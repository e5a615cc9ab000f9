"""Distributions that move and stretch one standard distribution, and their halves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuprop._array.arithmetic import where
from gpuprop._array.creation import full_like
from gpuprop._core.options import names_class
from gpuprop._core.tensor import Tensor
from gpuprop.distributions import constraints
from gpuprop.distributions._distribution import Distribution, ExponentialFamily
from gpuprop.distributions._utils import EULER
from gpuprop.random import Generator


class _LocationScale(Distribution):
    """``loc + scale * noise``."""

    arg_constraints: Any = {"loc": constraints.real, "scale": constraints.positive}
    support: Any = constraints.real
    has_rsample = True
    loc: Tensor
    scale: Tensor
    _kind: str

    @names_class
    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        super().__init__(self._parameters(loc=loc, scale=scale), validate_args=validate_args)

    @property
    def mode(self) -> Tensor:
        return self.loc

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        return self.loc + self.scale * self._noise(self._kind, sample_shape, self.loc, rng)

    def _standardized(self, value: Any) -> Tensor:
        return (self._value(value) - self.loc) / self.scale


class Normal(_LocationScale, ExponentialFamily):
    """The normal distribution.

    ``p(x) = exp(-((x - loc) / scale)**2 / 2) / (scale * sqrt(2 * pi))``.

    >>> import gpuprop as gp
    >>> normal = gp.distributions.Normal(0.0, 1.0)
    >>> normal.sample((2, 3)).shape
    (2, 3)
    >>> round(normal.log_prob(0.0).item(), 4)
    -0.9189
    """

    _kind = "normal"

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return self.scale

    @property
    def variance(self) -> Tensor:
        return self.scale * self.scale

    def log_prob(self, value: Any) -> Tensor:
        z = self._standardized(value)
        return -0.5 * z * z - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def cdf(self, value: Any) -> Tensor:
        return 0.5 * (1 + (self._standardized(value) * math.sqrt(0.5)).erf())

    def icdf(self, value: Any) -> Tensor:
        q = self._value(value, validate=False)
        return self.loc + self.scale * (2 * q - 1).erfinv() * math.sqrt(2)

    def entropy(self) -> Tensor:
        return 0.5 + 0.5 * math.log(2 * math.pi) + self.scale.log()


class Laplace(_LocationScale):
    """The Laplace distribution: ``p(x) = exp(-abs(x - loc) / scale) / (2 * scale)``."""

    _kind = "laplace"

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return 2 * self.scale * self.scale

    @property
    def stddev(self) -> Tensor:
        return math.sqrt(2) * self.scale

    def log_prob(self, value: Any) -> Tensor:
        return -(2 * self.scale).log() - self._standardized(value).abs()

    def cdf(self, value: Any) -> Tensor:
        z = self._standardized(value)
        return 0.5 - 0.5 * z.sign() * (-z.abs()).expm1()

    def icdf(self, value: Any) -> Tensor:
        q = self._value(value, validate=False) - 0.5
        return self.loc - self.scale * q.sign() * (-2 * q.abs()).log1p()

    def entropy(self) -> Tensor:
        return 1 + (2 * self.scale).log()


class Cauchy(_LocationScale):
    """The Cauchy distribution: ``p(x) = 1 / (pi * scale * (1 + ((x - loc) / scale)**2))``.

    It has no mean (NaN) and an infinite variance.
    """

    @property
    def mean(self) -> Tensor:
        return full_like(self.loc, math.nan)

    @property
    def variance(self) -> Tensor:
        return full_like(self.loc, math.inf)

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        # the quotient of two normal variables, since a tangent differs between backends
        x, y = (self._noise("normal", sample_shape, self.loc, rng) for _ in range(2))
        return self.loc + self.scale * (x / y)

    def log_prob(self, value: Any) -> Tensor:
        z = self._standardized(value)
        return -math.log(math.pi) - self.scale.log() - (z * z).log1p()

    def cdf(self, value: Any) -> Tensor:
        return self._standardized(value).arctan() / math.pi + 0.5

    def icdf(self, value: Any) -> Tensor:
        q = self._value(value, validate=False)
        return (math.pi * (q - 0.5)).tan() * self.scale + self.loc

    def entropy(self) -> Tensor:
        return math.log(4 * math.pi) + self.scale.log()


class Gumbel(_LocationScale):
    """The Gumbel distribution: ``cdf(x) = exp(-exp(-(x - loc) / scale))``."""

    _kind = "gumbel"

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * EULER

    @property
    def stddev(self) -> Tensor:
        return math.pi / math.sqrt(6) * self.scale

    @property
    def variance(self) -> Tensor:
        return self.stddev * self.stddev

    def log_prob(self, value: Any) -> Tensor:
        z = self._standardized(value)
        return -z - (-z).exp() - self.scale.log()

    def cdf(self, value: Any) -> Tensor:
        return (-(-self._standardized(value)).exp()).exp()

    def icdf(self, value: Any) -> Tensor:
        q = self._value(value, validate=False)
        return self.loc - self.scale * (-q.log()).log()

    def entropy(self) -> Tensor:
        return self.scale.log() + (1 + EULER)


# ---- halves ------------------------------------------------------------------------------------


class _Half(Distribution):
    """``scale * abs(noise)``: the absolute value of a `_full` distribution around 0."""

    arg_constraints = {"scale": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True
    scale: Tensor
    _full: type[_LocationScale]

    @names_class
    def __init__(self, scale: Any, validate_args: bool | None = None) -> None:
        super().__init__(self._parameters(scale=scale), validate_args=validate_args)

    @property
    def base_dist(self) -> Any:
        """The distribution of which this is the absolute value."""
        return self._full(0.0, self.scale, validate_args=False)

    @property
    def mode(self) -> Tensor:
        return full_like(self.scale, 0)

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        return self.base_dist.rsample(sample_shape, rng).abs()

    def log_prob(self, value: Any) -> Tensor:
        value = self._value(value)
        return where(value >= 0, self.base_dist.log_prob(value) + math.log(2), -math.inf)

    def cdf(self, value: Any) -> Tensor:
        return 2 * self.base_dist.cdf(self._value(value)) - 1

    def icdf(self, value: Any) -> Tensor:
        return self.base_dist.icdf((self._value(value, validate=False) + 1) / 2)

    def entropy(self) -> Tensor:
        return self.base_dist.entropy() - math.log(2)


class HalfNormal(_Half):
    """The absolute value of a `Normal` variable around 0.

    ``p(x) = sqrt(2 / pi) / scale * exp(-(x / scale)**2 / 2)`` for x >= 0.
    """

    _full = Normal

    @property
    def mean(self) -> Tensor:
        return self.scale * math.sqrt(2 / math.pi)

    @property
    def variance(self) -> Tensor:
        return self.scale * self.scale * (1 - 2 / math.pi)


class HalfCauchy(_Half):
    """The absolute value of a `Cauchy` variable around 0.

    ``p(x) = 2 / (pi * scale * (1 + (x / scale)**2))`` for x >= 0; mean and variance are infinite.
    """

    _full = Cauchy

    @property
    def mean(self) -> Tensor:
        return full_like(self.scale, math.inf)

    @property
    def variance(self) -> Tensor:
        return full_like(self.scale, math.inf)


# ---- exponential and uniform -------------------------------------------------------------------


class Exponential(ExponentialFamily):
    """The exponential distribution: ``p(x) = rate * exp(-rate * x)`` for x >= 0."""

    arg_constraints = {"rate": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True
    rate: Tensor

    def __init__(self, rate: Any, validate_args: bool | None = None) -> None:
        super().__init__(self._parameters(rate=rate), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.rate.reciprocal()

    @property
    def mode(self) -> Tensor:
        return full_like(self.rate, 0)

    @property
    def stddev(self) -> Tensor:
        return self.rate.reciprocal()

    @property
    def variance(self) -> Tensor:
        return (self.rate * self.rate).reciprocal()

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        return self._noise("exponential", sample_shape, self.rate, rng) / self.rate

    def log_prob(self, value: Any) -> Tensor:
        return self.rate.log() - self.rate * self._value(value)

    def cdf(self, value: Any) -> Tensor:
        return -(-self.rate * self._value(value)).expm1()

    def icdf(self, value: Any) -> Tensor:
        return -(-self._value(value, validate=False)).log1p() / self.rate

    def entropy(self) -> Tensor:
        return 1 - self.rate.log()


class Uniform(Distribution):
    """The uniform distribution: ``p(x) = 1 / (high - low)`` for low <= x < high."""

    arg_constraints = {"low": constraints.dependent(is_discrete=False, event_dim=0),
                       "high": constraints.dependent(is_discrete=False, event_dim=0)}
    has_rsample = True
    low: Tensor
    high: Tensor

    def __init__(self, low: Any, high: Any, validate_args: bool | None = None) -> None:
        super().__init__(self._parameters(low=low, high=high), validate_args=validate_args)
        if self._validate_args:
            self._require("parameter high", constraints.greater_than(self.low), self.high)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        return (self.high + self.low) / 2

    @property
    def mode(self) -> Tensor:
        return full_like(self.low, math.nan)

    @property
    def stddev(self) -> Tensor:
        return (self.high - self.low) / math.sqrt(12)

    @property
    def variance(self) -> Tensor:
        width = self.high - self.low
        return width * width / 12

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        u = self._noise("uniform", sample_shape, self.low, rng)
        return self.low + u * (self.high - self.low)

    def log_prob(self, value: Any) -> Tensor:
        value = self._value(value)
        inside = (self.low <= value) & (self.high > value)
        return where(inside, -(self.high - self.low).log(), -math.inf)

    def cdf(self, value: Any) -> Tensor:
        return ((self._value(value) - self.low) / (self.high - self.low)).clip(0, 1)

    def icdf(self, value: Any) -> Tensor:
        return self.low + self._value(value, validate=False) * (self.high - self.low)

    def entropy(self) -> Tensor:
        return (self.high - self.low).log()


class GeneralizedPareto(_LocationScale):
    """The generalized Pareto distribution of x >= loc.

    ``cdf(x) = 1 - (1 + concentration * z)**(-1 / concentration)`` for z = (x - loc) / scale, or ``1
    - exp(-z)`` for concentration 0; x is below ``loc - scale / concentration`` if that is negative.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive,
                       "concentration": constraints.real}
    concentration: Tensor

    def __init__(self, loc: Any, scale: Any, concentration: Any,
                 validate_args: bool | None = None) -> None:
        shape = self._parameters(loc=loc, scale=scale, concentration=concentration)
        Distribution.__init__(self, shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        c = where(self.concentration < 0, self.concentration, -1)
        upper = where(self.concentration < 0, self.loc - self.scale / c, math.inf)
        return constraints.interval(self.loc, upper)

    def _branches(self) -> tuple[Any, Tensor]:
        """Whether `concentration` counts as 0, and elsewhere its value."""
        is_zero = self.concentration.abs() <= 1e-8
        return is_zero, where(is_zero, 1, self.concentration)

    @property
    def mean(self) -> Tensor:
        """NaN for concentration >= 1."""
        valid = self.concentration < 1
        c = where(valid, self.concentration, 0.5)
        return where(valid, self.loc + self.scale / (1 - c), math.nan)

    @property
    def variance(self) -> Tensor:
        """NaN for concentration >= 1/2."""
        valid = self.concentration < 0.5
        c = where(valid, self.concentration, 0.25)
        return where(valid, self.scale * self.scale / ((1 - c) * (1 - c) * (1 - 2 * c)), math.nan)

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        waiting = self._noise("exponential", sample_shape, self.loc, rng)
        return self._at(waiting)

    def _at(self, exponential: Tensor) -> Tensor:
        """The value whose survival probability is ``exp(-exponential)``."""
        is_zero, c = self._branches()
        z = where(is_zero, exponential, (c * exponential).expm1() / c)
        return self.loc + self.scale * z

    def log_survival_function(self, value: Any) -> Tensor:
        """The logarithm of ``1 - cdf(value)``."""
        z = self._standardized(value)
        is_zero, c = self._branches()
        return where(is_zero, -z, -(c * z).log1p() / c)

    def log_prob(self, value: Any) -> Tensor:
        z = self._standardized(value)
        is_zero, c = self._branches()
        return -self.scale.log() - where(is_zero, z, (1 / c + 1) * (c * z).log1p())

    def log_cdf(self, value: Any) -> Tensor:
        """The logarithm of `cdf`."""
        return (-self.log_survival_function(value).exp()).log1p()

    def cdf(self, value: Any) -> Tensor:
        return -self.log_survival_function(value).expm1()

    def icdf(self, value: Any) -> Tensor:
        return self._at(-(-self._value(value, validate=False)).log1p())

    def entropy(self) -> Tensor:
        return self.scale.log() + self.concentration + 1
