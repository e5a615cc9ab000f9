"""The gamma distribution, and distributions that are made of gamma variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuprop._array.arithmetic import maximum, where
from gpuprop._array.shape import broadcast_to
from gpuprop._core.tensor import Tensor
from gpuprop.distributions import _noise, constraints
from gpuprop.distributions._beta_functions import beta_logit, dirichlet
from gpuprop.distributions._distribution import Distribution, ExponentialFamily, Shape
from gpuprop.distributions._gamma_functions import gammainc, standard_gamma
from gpuprop.distributions._utils import as_tensors, broadcast_parameters, epsilon, tiny, xlogy
from gpuprop.functional import one_hot
from gpuprop.random import Generator


class Gamma(ExponentialFamily):
    """The gamma distribution.

    ``p(x) = rate**concentration * x**(concentration - 1) * exp(-rate * x) / gamma(concentration)``.

    Samples are made by Marsaglia and Tsang's method.  The gradient of `rsample` is the implicit
    one, ``-(dcdf/dconcentration) / p(x)``, in float64; it has no second derivative.
    M. Figurnov et al., NeurIPS 2018.
    """

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True
    concentration: Tensor
    rate: Tensor

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        super().__init__(self._parameters(concentration=concentration, rate=rate),
                         validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.rate

    @property
    def mode(self) -> Tensor:
        return ((self.concentration - 1) / self.rate).clip(0, None)

    @property
    def variance(self) -> Tensor:
        return self.concentration / (self.rate * self.rate)

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        a = broadcast_to(self.concentration, self._extended_shape(sample_shape))
        x = standard_gamma(a, _noise.new_key(a, rng)) / self.rate
        smallest = tiny(x.dtype)
        return x + where(x < smallest, smallest, 0).detach()  # never 0; the gradient is kept

    def log_prob(self, value: Any) -> Tensor:
        value = self._value(value)
        return (xlogy(self.concentration, self.rate) + xlogy(self.concentration - 1, value)
                - self.rate * value - self.concentration.lgamma())

    def cdf(self, value: Any) -> Tensor:
        a, x = broadcast_parameters("Gamma", concentration=self.concentration,
                                    value=self.rate * self._value(value))
        return gammainc(a, x)

    def entropy(self) -> Tensor:
        a = self.concentration
        return a - self.rate.log() + a.lgamma() + (1 - a) * a.digamma()


class Chi2(Gamma):
    """The sum of the squares of `df` standard normal variables: ``Gamma(df / 2, 1 / 2)``."""

    arg_constraints = {"df": constraints.positive}

    def __init__(self, df: Any, validate_args: bool | None = None) -> None:
        df, = as_tensors("Chi2", df=df)
        super().__init__(0.5 * df, 0.5, validate_args=validate_args)
        if self._validate_args:
            self._require("parameter df", constraints.positive, df)

    @property
    def df(self) -> Tensor:
        """The degrees of freedom."""
        return self.concentration * 2

    def _reference(self) -> Tensor:
        return self.concentration

    def _expand_parts(self, batch_shape: Shape) -> None:
        self.concentration = broadcast_to(self.concentration, batch_shape)
        self.rate = broadcast_to(self.rate, batch_shape)


class Beta(ExponentialFamily):
    """The beta distribution.

    ``p(x) = x**(concentration1 - 1) * (1 - x)**(concentration0 - 1) / B(concentration1,
    concentration0)``.  A sample is ``g1 / (g1 + g0)`` of two gamma variables; `rsample` has the
    implicit gradient, as in `Gamma`.
    """

    arg_constraints = {"concentration1": constraints.positive,
                       "concentration0": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True
    concentration1: Tensor
    concentration0: Tensor

    def __init__(self, concentration1: Any, concentration0: Any,
                 validate_args: bool | None = None) -> None:
        shape = self._parameters(concentration1=concentration1, concentration0=concentration0)
        super().__init__(shape, validate_args=validate_args)

    @property
    def _total(self) -> Tensor:
        return self.concentration1 + self.concentration0

    @property
    def mean(self) -> Tensor:
        return self.concentration1 / self._total

    @property
    def mode(self) -> Tensor:
        a = (self.concentration1 - 1).clip(0, None)
        b = (self.concentration0 - 1).clip(0, None)
        at_ends = (self.concentration1 < 1) & (self.concentration0 < 1)
        total = a + b
        return where(at_ends, 1, a / where(total == 0, math.nan, total))

    @property
    def variance(self) -> Tensor:
        total = self._total
        return self.concentration1 * self.concentration0 / (total * total * (total + 1))

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        shape = self._extended_shape(sample_shape)
        a, b = (broadcast_to(t, shape) for t in (self.concentration1, self.concentration0))
        x = beta_logit(a, b, _noise.new_key(a, rng)).sigmoid()
        return x.clip(tiny(x.dtype), 1 - epsilon(x.dtype) / 2)

    def log_prob(self, value: Any) -> Tensor:
        value = self._value(value)
        a, b = self.concentration1, self.concentration0
        return (xlogy(a - 1, value) + xlogy(b - 1, 1 - value) + (a + b).lgamma() - a.lgamma()
                - b.lgamma())

    def entropy(self) -> Tensor:
        a, b, total = self.concentration1, self.concentration0, self._total
        return (a.lgamma() + b.lgamma() - total.lgamma() - (2 - total) * total.digamma()
                - (a - 1) * a.digamma() - (b - 1) * b.digamma())


class Dirichlet(ExponentialFamily):
    """The Dirichlet distribution of vectors x whose elements are at least 0 and add up to 1.

    ``p(x) = gamma(sum(concentration)) * prod(x**(concentration - 1) / gamma(concentration))``.
    A sample is a vector of gamma variables divided by its sum.  `rsample` has the implicit gradient
    of its elements, which are beta variables: that of PyTorch.
    """

    arg_constraints = {"concentration": constraints.independent(constraints.positive, 1)}
    support = constraints.simplex
    has_rsample = True
    concentration: Tensor

    def __init__(self, concentration: Any, validate_args: bool | None = None) -> None:
        shape = self._parameters(concentration=concentration)
        if not shape:
            raise ValueError("Dirichlet: concentration must have at least one axis, got shape ()")
        super().__init__(shape[:-1], shape[-1:], validate_args)

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.concentration.sum(-1, True)

    @property
    def mode(self) -> Tensor:
        above = (self.concentration - 1).clip(0, None)
        at_corner = (self.concentration < 1).all(-1, True)
        corner = one_hot(above.argmax(-1), self._event_shape[0]).astype(above.dtype)
        total = above.sum(-1, True)
        return where(at_corner, corner, above / where(total == 0, math.nan, total))

    @property
    def variance(self) -> Tensor:
        a = self.concentration
        total = a.sum(-1, True)
        return a * (total - a) / (total * total * (total + 1))

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        a = broadcast_to(self.concentration, self._extended_shape(sample_shape))
        return dirichlet(a, _noise.new_key(a, rng))

    def log_prob(self, value: Any) -> Tensor:
        a = self.concentration
        return (xlogy(a - 1, self._value(value)).sum(-1) + a.sum(-1).lgamma()
                - a.lgamma().sum(-1))

    def entropy(self) -> Tensor:
        a = self.concentration
        total = a.sum(-1)
        return (a.lgamma().sum(-1) - total.lgamma() - (self._event_shape[0] - total)
                * total.digamma() - ((a - 1) * a.digamma()).sum(-1))


class StudentT(Distribution):
    """Student's t-distribution: ``loc + scale * z / sqrt(c / df)``.

    z is a standard normal variable and c one of `Chi2`.  ``p(x)`` is proportional to ``(1 + y**2 /
    df)**(-(df + 1) / 2)`` for y = (x - loc) / scale.
    """

    arg_constraints = {"df": constraints.positive, "loc": constraints.real,
                       "scale": constraints.positive}
    support = constraints.real
    has_rsample = True
    df: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(self, df: Any, loc: Any = 0.0, scale: Any = 1.0,
                 validate_args: bool | None = None) -> None:
        super().__init__(self._parameters(df=df, loc=loc, scale=scale),
                         validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """`loc`, and NaN for df <= 1."""
        return where(self.df <= 1, math.nan, self.loc)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Infinite for df <= 2, and NaN for df <= 1."""
        df = _above(2, self.df)
        finite = self.scale * self.scale * df / (df - 2)
        return where(self.df > 2, finite, where(self.df > 1, math.inf, math.nan))

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        z = self._noise("normal", sample_shape, self.df, rng)
        chi2 = Chi2(self.df, validate_args=False).rsample(sample_shape, rng)
        return self.loc + self.scale * (z * (chi2 / self.df).rsqrt())

    def log_prob(self, value: Any) -> Tensor:
        y = (self._value(value) - self.loc) / self.scale
        df = self.df
        log_scale = (self.scale.log() + 0.5 * df.log() + 0.5 * math.log(math.pi)
                     + (0.5 * df).lgamma() - (0.5 * (df + 1)).lgamma())
        return -0.5 * (df + 1) * (y * y / df).log1p() - log_scale

    def entropy(self) -> Tensor:
        half, more = 0.5 * self.df, 0.5 * (self.df + 1)
        log_beta = half.lgamma() + math.lgamma(0.5) - more.lgamma()
        return (self.scale.log() + more * (more.digamma() - half.digamma())
                + 0.5 * self.df.log() + log_beta)


def _above(limit: float, parameter: Tensor) -> Tensor:
    """The parameter where it is above a limit, and elsewhere another number above the limit."""
    return where(parameter > limit, parameter, limit + 1)


class FisherSnedecor(Distribution):
    """The F-distribution: the quotient of two `Chi2` variables, each divided by its df."""

    arg_constraints = {"df1": constraints.positive, "df2": constraints.positive}
    support = constraints.positive
    has_rsample = True
    df1: Tensor
    df2: Tensor

    def __init__(self, df1: Any, df2: Any, validate_args: bool | None = None) -> None:
        super().__init__(self._parameters(df1=df1, df2=df2), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """NaN for df2 <= 2."""
        df2 = _above(2, self.df2)
        return where(self.df2 > 2, df2 / (df2 - 2), math.nan)

    @property
    def mode(self) -> Tensor:
        """NaN for df1 <= 2."""
        mode = (self.df1 - 2) / self.df1 * self.df2 / (self.df2 + 2)
        return where(self.df1 > 2, mode, math.nan)

    @property
    def variance(self) -> Tensor:
        """NaN for df2 <= 4."""
        df2 = _above(4, self.df2)
        variance = 2 * df2 * df2 * (self.df1 + df2 - 2) / (
            self.df1 * (df2 - 2) * (df2 - 2) * (df2 - 4))
        return where(self.df2 > 4, variance, math.nan)

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        x, y = (Gamma(0.5 * df, df, validate_args=False).rsample(sample_shape, rng)
                for df in (self.df1, self.df2))
        return maximum(x / y, tiny(x.dtype))

    def log_prob(self, value: Any) -> Tensor:
        value = self._value(value)
        a, b, ratio = 0.5 * self.df1, 0.5 * self.df2, self.df1 / self.df2
        return ((a + b).lgamma() - a.lgamma() - b.lgamma() + a * ratio.log()
                + (a - 1) * value.log() - (a + b) * (ratio * value).log1p())
