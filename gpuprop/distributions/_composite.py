"""Distributions that are made of other distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuprop._array.activation import log_softmax
from gpuprop._array.arithmetic import where
from gpuprop._array.indexing import take_along_axis
from gpuprop._array.reduction import logsumexp
from gpuprop._array.shape import broadcast_to
from gpuprop._core.checks import as_instance, as_integer
from gpuprop._core.mode import no_grad
from gpuprop._core.tensor import Tensor
from gpuprop.distributions import constraints
from gpuprop.distributions._discrete import Categorical
from gpuprop.distributions._distribution import Distribution, Shape
from gpuprop.distributions._gamma import Gamma
from gpuprop.distributions._location_scale import Exponential, Normal, Uniform
from gpuprop.distributions._transform import as_transforms
from gpuprop.distributions._utils import EULER, broadcast_shapes, sum_rightmost
from gpuprop.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    PowerTransform,
    StickBreakingTransform,
    Transform,
)
from gpuprop.random import Generator


class Independent(Distribution):
    """`base_distribution` with its last `reinterpreted_batch_ndims` batch axes as event axes.

    `log_prob` and `entropy` are summed over them.

    >>> import gpuprop as gp
    >>> normal = gp.distributions.Normal(gp.zeros(3), gp.ones(3))
    >>> gp.distributions.Independent(normal, 1).log_prob(gp.zeros(3)).shape
    ()
    """

    def __init__(self, base_distribution: Distribution, reinterpreted_batch_ndims: int,
                 validate_args: bool | None = None) -> None:
        base = as_instance("Independent: base_distribution", base_distribution, Distribution,
                           "a distribution")
        n = as_integer("Independent: reinterpreted_batch_ndims", reinterpreted_batch_ndims, 0,
                       len(base.batch_shape))
        self.base_dist = base
        self.reinterpreted_batch_ndims = n
        cut = len(base.batch_shape) - n
        super().__init__(base.batch_shape[:cut], base.batch_shape[cut:] + base.event_shape,
                         validate_args)

    has_rsample = property(lambda self: self.base_dist.has_rsample)
    mean = property(lambda self: self.base_dist.mean)
    mode = property(lambda self: self.base_dist.mode)
    variance = property(lambda self: self.base_dist.variance)

    @property
    def has_enumerate_support(self) -> bool:
        return not self.reinterpreted_batch_ndims and self.base_dist.has_enumerate_support

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        support = self.base_dist.support
        n = self.reinterpreted_batch_ndims
        return constraints.independent(support, n) if n else support

    def _reference(self) -> Tensor | None:
        return self.base_dist._reference()

    def _expand_parts(self, batch_shape: Shape) -> None:
        events = self._event_shape[:self.reinterpreted_batch_ndims]
        self.base_dist = self.base_dist.expand(batch_shape + events)

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        return self.base_dist.sample(sample_shape, rng)

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        return self.base_dist.rsample(sample_shape, rng)

    def log_prob(self, value: Any) -> Tensor:
        return sum_rightmost(self.base_dist.log_prob(value), self.reinterpreted_batch_ndims)

    def entropy(self) -> Tensor:
        return sum_rightmost(self.base_dist.entropy(), self.reinterpreted_batch_ndims)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        if self.reinterpreted_batch_ndims:
            raise NotImplementedError("Independent: enumerate_support would have all combinations "
                                      "of the values of its elements")
        return self.base_dist.enumerate_support(expand)

    def __repr__(self) -> str:
        return f"Independent({self.base_dist!r}, {self.reinterpreted_batch_ndims})"


class TransformedDistribution(Distribution):
    """The distribution of ``y = t(x)`` for x of `base_distribution` and transforms t, in order.

    ``log p(y) = log p_base(x) - log abs det(dy/dx)``.

    >>> import gpuprop as gp
    >>> from gpuprop.distributions import Normal, TanhTransform, TransformedDistribution
    >>> squashed = TransformedDistribution(Normal(0.0, 1.0), [TanhTransform()])
    >>> round(squashed.log_prob(0.0).item(), 4)
    -0.9189
    """

    def __init__(self, base_distribution: Distribution, transforms: Transform | list[Transform],
                 validate_args: bool | None = None) -> None:
        name = type(self).__name__
        base = as_instance(f"{name}: base_distribution", base_distribution, Distribution,
                           "a distribution")
        if isinstance(transforms, Transform):
            transforms = [transforms]
        self.transforms = as_transforms(f"{name}: transforms", transforms)
        whole = ComposeTransform(self.transforms)
        shape = base.batch_shape + base.event_shape
        domain_dim, codomain_dim = whole.domain.event_dim, whole.codomain.event_dim
        event_dim = len(base.event_shape)
        if len(shape) < domain_dim:
            raise ValueError(f"{name}: the transforms need at least {domain_dim} axes, and the "
                             f"base distribution has shape {shape}")
        forward_shape = whole.forward_shape(shape)
        expanded = whole.inverse_shape(forward_shape)
        if expanded != shape:
            base = base.expand(expanded[:len(expanded) - event_dim])
        if domain_dim > event_dim:
            base = Independent(base, domain_dim - event_dim)
        self.base_dist = base
        cut = len(forward_shape) - max(codomain_dim, event_dim + codomain_dim - domain_dim)
        super().__init__(forward_shape[:cut], forward_shape[cut:], validate_args)

    has_rsample = property(lambda self: self.base_dist.has_rsample)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        if not self.transforms:
            return self.base_dist.support
        support = self.transforms[-1].codomain
        more = len(self._event_shape) - support.event_dim
        return constraints.independent(support, more) if more > 0 else support

    def _reference(self) -> Tensor | None:
        return self.base_dist._reference()

    def _expand_parts(self, batch_shape: Shape) -> None:
        super()._expand_parts(batch_shape)
        shape = batch_shape + self._event_shape
        for transform in reversed(self.transforms):
            shape = transform.inverse_shape(shape)
        self.base_dist = self.base_dist.expand(
            shape[:len(shape) - len(self.base_dist.event_shape)])

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        with no_grad():
            return self._transformed(self.base_dist.sample(sample_shape, rng))

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        return self._transformed(self.base_dist.rsample(sample_shape, rng))

    def _transformed(self, x: Tensor) -> Tensor:
        for transform in self.transforms:
            x = transform(x)
        return x

    def log_prob(self, value: Any) -> Tensor:
        y = self._value(value)
        event_dim = len(self._event_shape)
        log_prob: Any = 0
        for transform in reversed(self.transforms):
            x = transform.inv(y)
            event_dim += transform.domain.event_dim - transform.codomain.event_dim
            log_prob = log_prob - sum_rightmost(transform.log_abs_det_jacobian(x, y),
                                                event_dim - transform.domain.event_dim)
            y = x
        return log_prob + sum_rightmost(self.base_dist.log_prob(y),
                                        event_dim - len(self.base_dist.event_shape))

    def _monotone(self, probability: Any) -> Any:
        """``1 - probability`` where the transforms decrease."""
        sign: Any = math.prod([transform.sign for transform in self.transforms])
        return probability if isinstance(sign, int) and sign == 1 else (
            sign * (probability - 0.5) + 0.5)

    def cdf(self, value: Any) -> Tensor:
        x = self._value(value, validate=False)
        for transform in reversed(self.transforms):
            x = transform.inv(x)
        return self._monotone(self.base_dist.cdf(x))

    def icdf(self, value: Any) -> Tensor:
        probability = self._monotone(self._value(value, validate=False))
        return self._transformed(self.base_dist.icdf(probability))

    def __repr__(self) -> str:
        if self.arg_constraints:
            return super().__repr__()
        return f"TransformedDistribution({self.base_dist!r}, {self.transforms!r})"


# ---- transformed distributions with names ------------------------------------------------------


class LogNormal(TransformedDistribution):
    """The distribution of ``exp(x)`` for x of ``Normal(loc, scale)``."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.positive
    loc = property(lambda self: self.base_dist.loc)
    scale = property(lambda self: self.base_dist.scale)

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        base = Normal(loc, scale, validate_args=validate_args)
        super().__init__(base, ExpTransform(), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return (self.loc + self.scale * self.scale / 2).exp()

    @property
    def mode(self) -> Tensor:
        return (self.loc - self.scale * self.scale).exp()

    @property
    def variance(self) -> Tensor:
        square = self.scale * self.scale
        return square.expm1() * (2 * self.loc + square).exp()

    def entropy(self) -> Tensor:
        return self.base_dist.entropy() + self.loc


class LogisticNormal(TransformedDistribution):
    """The distribution of `StickBreakingTransform` of x of ``Normal(loc, scale)``."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.simplex
    loc = property(lambda self: self.base_dist.base_dist.loc)
    scale = property(lambda self: self.base_dist.base_dist.scale)

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        base = Normal(loc, scale, validate_args=validate_args)
        base = base if base.batch_shape else base.expand((1,))
        super().__init__(base, StickBreakingTransform(), validate_args=validate_args)


class InverseGamma(TransformedDistribution):
    """The distribution of ``1 / x`` for x of ``Gamma(concentration, rate)``."""

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}
    support = constraints.positive
    concentration = property(lambda self: self.base_dist.concentration)
    rate = property(lambda self: self.base_dist.rate)

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        base = Gamma(concentration, rate, validate_args=validate_args)
        super().__init__(base, PowerTransform(-1.0), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Infinite for concentration <= 1."""
        return _finite_above(1, self.concentration, lambda a: self.rate / (a - 1))

    @property
    def mode(self) -> Tensor:
        return self.rate / (self.concentration + 1)

    @property
    def variance(self) -> Tensor:
        """Infinite for concentration <= 2."""
        return _finite_above(2, self.concentration, lambda a: self.rate * self.rate / (
            (a - 1) * (a - 1) * (a - 2)))

    def entropy(self) -> Tensor:
        a = self.concentration
        return a + self.rate.log() + a.lgamma() - (1 + a) * a.digamma()


class Pareto(TransformedDistribution):
    """The Pareto distribution: ``p(x) = alpha * scale**alpha / x**(alpha + 1)`` for x >= scale."""

    arg_constraints = {"alpha": constraints.positive, "scale": constraints.positive}
    scale: Tensor
    alpha: Tensor

    def __init__(self, scale: Any, alpha: Any, validate_args: bool | None = None) -> None:
        self._parameters(scale=scale, alpha=alpha)
        base = Exponential(self.alpha, validate_args=validate_args)
        super().__init__(base, [ExpTransform(), AffineTransform(0, self.scale)],
                         validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.greater_than_eq(self.scale)

    @property
    def mean(self) -> Tensor:
        """Infinite for alpha <= 1."""
        return _finite_above(1, self.alpha, lambda a: a * self.scale / (a - 1))

    @property
    def mode(self) -> Tensor:
        return self.scale

    @property
    def variance(self) -> Tensor:
        """Infinite for alpha <= 2."""
        return _finite_above(2, self.alpha, lambda a: self.scale * self.scale * a / (
            (a - 1) * (a - 1) * (a - 2)))

    def entropy(self) -> Tensor:
        return (self.scale / self.alpha).log() + (1 + self.alpha.reciprocal())


def _finite_above(limit: float, parameter: Tensor, moment: Any) -> Tensor:
    """``moment(parameter)`` where the parameter is above a limit, else infinity."""
    above = parameter > limit
    return where(above, moment(where(above, parameter, limit + 1)), math.inf)


class Weibull(TransformedDistribution):
    """The Weibull distribution: ``cdf(x) = 1 - exp(-(x / scale)**concentration)``."""

    arg_constraints = {"scale": constraints.positive, "concentration": constraints.positive}
    support = constraints.positive
    scale: Tensor
    concentration: Tensor

    def __init__(self, scale: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self._parameters(scale=scale, concentration=concentration)
        base = Exponential(self.scale * 0 + 1, validate_args=validate_args)
        super().__init__(base, [PowerTransform(self.concentration_reciprocal),
                                AffineTransform(0, self.scale)], validate_args=validate_args)

    @property
    def concentration_reciprocal(self) -> Tensor:
        """``1 / concentration``."""
        return self.concentration.reciprocal()

    @property
    def mean(self) -> Tensor:
        return self.scale * (1 + self.concentration_reciprocal).lgamma().exp()

    @property
    def mode(self) -> Tensor:
        k = self.concentration
        return self.scale * ((k - 1) / k) ** self.concentration_reciprocal

    @property
    def variance(self) -> Tensor:
        k = self.concentration_reciprocal
        return self.scale * self.scale * ((1 + 2 * k).lgamma().exp()
                                          - (2 * (1 + k).lgamma()).exp())

    def entropy(self) -> Tensor:
        k = self.concentration_reciprocal
        return EULER * (1 - k) + (self.scale * k).log() + 1


class Kumaraswamy(TransformedDistribution):
    """Kumaraswamy's distribution: ``cdf(x) = 1 - (1 - x**concentration1)**concentration0``."""

    arg_constraints = {"concentration1": constraints.positive,
                       "concentration0": constraints.positive}
    support = constraints.unit_interval
    concentration1: Tensor
    concentration0: Tensor

    def __init__(self, concentration1: Any, concentration0: Any,
                 validate_args: bool | None = None) -> None:
        self._parameters(concentration1=concentration1, concentration0=concentration0)
        zero = self.concentration0 * 0
        base = Uniform(zero, zero + 1, validate_args=validate_args)
        super().__init__(base, [PowerTransform(self.concentration0.reciprocal()),
                                AffineTransform(1.0, -1.0),
                                PowerTransform(self.concentration1.reciprocal())],
                         validate_args=validate_args)

    def _moment(self, n: int) -> Tensor:
        a = 1 + n / self.concentration1
        b = self.concentration0
        return (b.log() + a.lgamma() + b.lgamma() - (a + b).lgamma()).exp()

    @property
    def mean(self) -> Tensor:
        return self._moment(1)

    @property
    def mode(self) -> Tensor:
        """``((a - 1) / (a * b - 1))**(1 / a)``; NaN if a or b is below 1, or both are 1."""
        a, b = self.concentration1, self.concentration0
        valid = (a >= 1) & (b >= 1) & (a * b > 1)
        base = where(valid, a - 1, 1) / where(valid, a * b - 1, 1)
        return where(valid, base ** a.reciprocal(), math.nan)

    @property
    def variance(self) -> Tensor:
        return self._moment(2) - self.mean * self.mean

    def entropy(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        harmonic = (b + 1).digamma() + EULER
        return 1 - 1 / b + (1 - 1 / a) * harmonic - a.log() - b.log()


# ---- mixtures ----------------------------------------------------------------------------------


class MixtureSameFamily(Distribution):
    """A component of `component_distribution` that `mixture_distribution` chooses.

    The components are the last batch axis.  ``p(x) = sum(mixture.probs * component.p(x))``.

    >>> import gpuprop as gp
    >>> D = gp.distributions
    >>> mixture = D.MixtureSameFamily(D.Categorical(gp.ones(3)), D.Normal(gp.arange(3.0), 1.0))
    >>> mixture.mean.item()
    1.0
    """

    def __init__(self, mixture_distribution: Categorical, component_distribution: Distribution,
                 validate_args: bool | None = None) -> None:
        self._mixture = as_instance("MixtureSameFamily: mixture_distribution",
                                    mixture_distribution, Categorical, "a Categorical")
        self._component = as_instance("MixtureSameFamily: component_distribution",
                                      component_distribution, Distribution, "a distribution")
        shape = self._component.batch_shape
        broadcast_shapes("MixtureSameFamily", mixture_distribution=self._mixture.batch_shape,
                         components=shape[:-1])
        if not shape or shape[-1] != self._mixture._num_events:
            raise ValueError(f"MixtureSameFamily: mixture_distribution has "
                             f"{self._mixture._num_events} categories, so the batch_shape of "
                             f"component_distribution must end with that, got {shape}")
        super().__init__(shape[:-1], self._component.event_shape, validate_args)

    mixture_distribution = property(lambda self: self._mixture)
    component_distribution = property(lambda self: self._component)
    has_rsample = False

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.MixtureSameFamilyConstraint(self._component.support)

    def _reference(self) -> Tensor | None:
        return self._component._reference()

    def _expand_parts(self, batch_shape: Shape) -> None:
        self._component = self._component.expand((*batch_shape, self._mixture._num_events))
        self._mixture = self._mixture.expand(batch_shape)

    def _averaged(self, x: Tensor) -> Tensor:
        """The average of a property of the components."""
        n = len(self._event_shape)
        probs = self._mixture.probs
        return (probs.reshape(*probs.shape, *(1,) * n) * x).sum(-1 - n)

    @property
    def mean(self) -> Tensor:
        return self._averaged(self._component.mean)

    @property
    def variance(self) -> Tensor:
        distance = self._component.mean - self._padded(self.mean)
        return self._averaged(self._component.variance) + self._averaged(distance * distance)

    def _padded(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1 - len(self._event_shape))

    def cdf(self, value: Any) -> Tensor:
        value = self._padded(self._value(value, validate=False))
        return (self._component.cdf(value) * self._mixture.probs).sum(-1)

    def log_prob(self, value: Any) -> Tensor:
        log_p = self._component.log_prob(self._padded(self._value(value)))
        return logsumexp(log_p + log_softmax(self._mixture.logits, -1), -1)

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        with no_grad():
            mixture = self._mixture.expand(self._batch_shape)
            index = mixture.sample(sample_shape, rng)
            samples = self._component.sample(sample_shape, rng)
            n = len(self._event_shape)
            index = index.reshape(*index.shape, *(1,) * (n + 1))
            index = broadcast_to(index, (*index.shape[:index.ndim - n], *self._event_shape))
            return take_along_axis(samples, index, -1 - n).squeeze(-1 - n)

    def __repr__(self) -> str:
        return f"MixtureSameFamily({self._mixture!r}, {self._component!r})"
