"""The Kullback-Leibler divergence of two distributions in closed form."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from gpuprop._array.arithmetic import where
from gpuprop._array.creation import full_like
from gpuprop._core.tensor import Tensor
from gpuprop.distributions._composite import Independent, Pareto, TransformedDistribution
from gpuprop.distributions._continuous_bernoulli import ContinuousBernoulli
from gpuprop.distributions._discrete import (
    Bernoulli,
    Binomial,
    Categorical,
    Geometric,
    OneHotCategorical,
    Poisson,
)
from gpuprop.distributions._distribution import Distribution
from gpuprop.distributions._gamma import Beta, Dirichlet, Gamma
from gpuprop.distributions._location_scale import (
    Cauchy,
    Exponential,
    Gumbel,
    HalfNormal,
    Laplace,
    Normal,
    Uniform,
)
from gpuprop.distributions._multivariate_normal import (
    LowRankMultivariateNormal,
    MultivariateNormal,
)
from gpuprop.distributions._utils import EULER, sum_rightmost, xlogy
from gpuprop.functional import softplus

__all__ = ["kl_divergence", "register_kl"]

_registered: dict[tuple[type, type], Callable] = {}


def register_kl(type_p: type, type_q: type) -> Callable:
    """A decorator: the function computes ``KL(p || q)`` for these classes and their subclasses.

    For a pair of classes the function of the nearest registered classes is called.
    """
    for name, kind in (("type_p", type_p), ("type_q", type_q)):
        if not (isinstance(kind, type) and issubclass(kind, Distribution)):
            raise TypeError(f"register_kl: {name} must be a class of distributions, got {kind!r}")

    def decorate(fn: Callable) -> Callable:
        _registered[type_p, type_q] = fn
        return fn

    return decorate


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """``KL(p || q)``, the expected ``log(p(x) / q(x))`` for x of p: one number per distribution.

    Raises NotImplementedError if no function is registered for the classes.

    >>> import gpuprop as gp
    >>> from gpuprop.distributions import Normal, kl_divergence
    >>> kl_divergence(Normal(0.0, 1.0), Normal(1.0, 1.0)).item()
    0.5
    """
    return _function_for(type(p), type(q))(p, q)


def _function_for(type_p: type, type_q: type) -> Callable:
    """The function of the nearest pair of base classes, where the class of p counts first."""
    pairs = [(super_p, super_q) for super_p in type_p.__mro__ for super_q in type_q.__mro__
             if (super_p, super_q) in _registered]
    if not pairs:
        raise NotImplementedError(f"kl_divergence: no formula is registered for "
                                  f"{type_p.__name__} and {type_q.__name__}: estimate it by "
                                  f"(p.log_prob(x) - q.log_prob(x)).mean() for x = p.rsample(...)")
    nearest = pairs[0]
    by_q = min(pairs, key=lambda pair: type_q.__mro__.index(pair[1]))
    if _registered[by_q] is not _registered[nearest]:
        warnings.warn(f"kl_divergence({type_p.__name__}, {type_q.__name__}) is ambiguous: "
                      f"register_kl({nearest[0].__name__}, {by_q[1].__name__}) decides it",
                      RuntimeWarning, stacklevel=3)
    return _registered[nearest]


def _register_each(types_p: tuple[type, ...], type_q: type, fn: Callable) -> None:
    for type_p in types_p:
        register_kl(type_p, type_q)(fn)


def _infinite(p: Any, q: Any) -> Tensor:
    """The divergence is infinite, because p has values that q has not."""
    return full_like((p._reference() + q._reference()).detach(), math.inf)


def _unless(outside: Any, divergence: Tensor) -> Tensor:
    """Infinity where p has values outside of q's support."""
    return where(outside, math.inf, divergence)


# ---- one family --------------------------------------------------------------------------------


@register_kl(Bernoulli, Bernoulli)
def _bernoulli_bernoulli(p, q):
    def part(probs_p, probs_q, logits_p, logits_q):
        term = probs_p * (softplus(-logits_q) - softplus(-logits_p))
        return where(probs_p == 0, 0, where(probs_q == 0, math.inf, term))

    return part(p.probs, q.probs, p.logits, q.logits) + part(
        1 - p.probs, 1 - q.probs, -p.logits, -q.logits)


@register_kl(Binomial, Binomial)
def _binomial_binomial(p, q):
    if (p.total_count < q.total_count).any().item():
        raise NotImplementedError("kl_divergence: for Binomial, total_count of p must be at least "
                                  "that of q")
    divergence = p.total_count * (p.probs * (p.logits - q.logits) + (-p.probs).log1p()
                                  - (-q.probs).log1p())
    return _unless(p.total_count > q.total_count, divergence)


@register_kl(Categorical, Categorical)
def _categorical_categorical(p, q):
    terms = where(q.probs == 0, math.inf, p.probs * (p.logits - q.logits))
    return where(p.probs == 0, 0, terms).sum(-1)


@register_kl(OneHotCategorical, OneHotCategorical)
def _one_hot_one_hot(p, q):
    return _categorical_categorical(p._categorical, q._categorical)


@register_kl(Geometric, Geometric)
def _geometric_geometric(p, q):
    return -p.entropy() - (-q.probs).log1p() / p.probs - q.logits


@register_kl(Poisson, Poisson)
def _poisson_poisson(p, q):
    return p.rate * (p.rate.log() - q.rate.log()) - (p.rate - q.rate)


@register_kl(Normal, Normal)
def _normal_normal(p, q):
    ratio = p.scale / q.scale
    distance = (p.loc - q.loc) / q.scale
    return 0.5 * (ratio * ratio + distance * distance - 1) - ratio.log()


@register_kl(HalfNormal, HalfNormal)
def _half_normal_half_normal(p, q):
    return _normal_normal(p.base_dist, q.base_dist)


@register_kl(Laplace, Laplace)
def _laplace_laplace(p, q):
    ratio = p.scale / q.scale
    distance = (p.loc - q.loc).abs()
    return -ratio.log() + distance / q.scale + ratio * (-distance / p.scale).exp() - 1


@register_kl(Cauchy, Cauchy)
def _cauchy_cauchy(p, q):
    # F. Chyzak and F. Nielsen, 2019
    scales, distance = p.scale + q.scale, p.loc - q.loc
    return (scales * scales + distance * distance).log() - (4 * p.scale * q.scale).log()


@register_kl(Gumbel, Gumbel)
def _gumbel_gumbel(p, q):
    ratio = p.scale / q.scale
    distance = (p.loc - q.loc) / q.scale
    return (-ratio.log() + distance + ratio * EULER + ((1 + ratio).lgamma() - distance).exp()
            - (1 + EULER))


@register_kl(Exponential, Exponential)
def _exponential_exponential(p, q):
    ratio = q.rate / p.rate
    return ratio - ratio.log() - 1


@register_kl(Gamma, Gamma)
def _gamma_gamma(p, q):
    a, b = p.concentration, q.concentration
    return (b * (p.rate / q.rate).log() + b.lgamma() - a.lgamma() + (a - b) * a.digamma()
            + (q.rate - p.rate) * (a / p.rate))


@register_kl(Beta, Beta)
def _beta_beta(p, q):
    p1, p0, q1, q0 = p.concentration1, p.concentration0, q.concentration1, q.concentration0
    return (q1.lgamma() + q0.lgamma() + (p1 + p0).lgamma()
            - p1.lgamma() - p0.lgamma() - (q1 + q0).lgamma()
            + (p1 - q1) * p1.digamma() + (p0 - q0) * p0.digamma()
            + (q1 + q0 - p1 - p0) * (p1 + p0).digamma())


@register_kl(Dirichlet, Dirichlet)
def _dirichlet_dirichlet(p, q):
    a, b = p.concentration, q.concentration
    expected = a.digamma() - a.sum(-1, True).digamma()
    return (a.sum(-1).lgamma() - b.sum(-1).lgamma() - (a.lgamma() - b.lgamma()).sum(-1)
            + ((a - b) * expected).sum(-1))


@register_kl(Pareto, Pareto)
def _pareto_pareto(p, q):
    ratio = q.alpha / p.alpha
    divergence = q.alpha * (p.scale / q.scale).log() - ratio.log() + ratio - 1
    return _unless(p.scale < q.scale, divergence)


@register_kl(Uniform, Uniform)
def _uniform_uniform(p, q):
    divergence = ((q.high - q.low) / (p.high - p.low)).log()
    return _unless((q.low > p.low) | (q.high < p.high), divergence)


@register_kl(MultivariateNormal, MultivariateNormal)
@register_kl(MultivariateNormal, LowRankMultivariateNormal)
@register_kl(LowRankMultivariateNormal, MultivariateNormal)
@register_kl(LowRankMultivariateNormal, LowRankMultivariateNormal)
def _multivariate_normal(p, q):
    if p.event_shape != q.event_shape:
        raise ValueError(f"kl_divergence: the vectors of p and q have different lengths, "
                         f"{p.event_shape} and {q.event_shape}")
    distance = q._squared_norm((q.loc - p.loc)[..., None])
    n = p.event_shape[0]
    return q._half_log_det - p._half_log_det + 0.5 * (q._squared_norm(p._factor) + distance - n)


# ---- made of others ----------------------------------------------------------------------------


@register_kl(Independent, Independent)
def _independent_independent(p, q):
    n = p.reinterpreted_batch_ndims
    if n != q.reinterpreted_batch_ndims:
        raise NotImplementedError("kl_divergence: reinterpreted_batch_ndims of p and q differ")
    return sum_rightmost(kl_divergence(p.base_dist, q.base_dist), n)


@register_kl(TransformedDistribution, TransformedDistribution)
def _transformed_transformed(p, q):
    if p.transforms != q.transforms or p.event_shape != q.event_shape:
        raise NotImplementedError("kl_divergence: the transforms of p and q differ")
    return kl_divergence(p.base_dist, q.base_dist)


# ---- two families ------------------------------------------------------------------------------

_register_each((Exponential, Gamma, Gumbel, Laplace, Normal, Pareto), ContinuousBernoulli,
               _infinite)
_register_each((Exponential, Gamma, Gumbel, Laplace, Normal, Pareto), Beta, _infinite)
_register_each((Beta, ContinuousBernoulli, Exponential, Gamma, Gumbel, Laplace, Normal), Pareto,
               _infinite)
_register_each((Exponential, Gamma, Gumbel, Laplace, Normal, Pareto), Uniform, _infinite)
_register_each((Gumbel, Laplace, Normal), Exponential, _infinite)
_register_each((Gumbel, Laplace, Normal), Gamma, _infinite)
_register_each((Poisson,), Bernoulli, _infinite)
_register_each((Poisson,), Binomial, _infinite)


def _log_normal_height(q):
    """``log(scale * sqrt(2 * pi))``."""
    return q.scale.log() + 0.5 * math.log(2 * math.pi)


def _against_normal(p, q):
    """``KL(p || q)`` for a normal q, from the mean and the variance of p."""
    distance = p.mean - q.loc
    return (-p.entropy() + _log_normal_height(q)
            + 0.5 * (p.variance + distance * distance) / (q.scale * q.scale))


_register_each((Beta, ContinuousBernoulli, Exponential, Gamma, Gumbel, Laplace, Uniform), Normal,
               _against_normal)


@register_kl(Pareto, Normal)
def _pareto_normal(p, q):
    alpha = where(p.alpha > 2, p.alpha, 3)
    inside = Pareto(p.scale, alpha, validate_args=False)
    return _unless(p.alpha <= 2, _against_normal(inside, q))


def _against_exponential(p, q):
    return -p.entropy() - q.rate.log() + q.rate * p.mean


_register_each((Beta, ContinuousBernoulli, Gamma), Exponential, _against_exponential)


@register_kl(Pareto, Exponential)
def _pareto_exponential(p, q):
    return _against_exponential(p, q)  # the mean is infinite for alpha <= 1


@register_kl(Uniform, Exponential)
def _uniform_exponential(p, q):
    return _unless(p.low < 0, _against_exponential(p, q))


def _against_gamma(p, q, expected_log):
    """``KL(p || q)`` for a gamma q, from the mean of p and that of its logarithm."""
    a = q.concentration
    return (-p.entropy() + a.lgamma() - a * q.rate.log() - (a - 1) * expected_log
            + q.rate * p.mean)


def _expected_log(p):
    """The mean of log(x) for a uniform p."""
    width = p.high - p.low
    return (xlogy(p.high, p.high) - xlogy(p.low, p.low)) / width - 1


@register_kl(Beta, Gamma)
def _beta_gamma(p, q):
    total = p.concentration1 + p.concentration0
    return _against_gamma(p, q, p.concentration1.digamma() - total.digamma())


@register_kl(Exponential, Gamma)
def _exponential_gamma(p, q):
    return _against_gamma(p, q, -p.rate.log() - EULER)


@register_kl(Pareto, Gamma)
def _pareto_gamma(p, q):
    return _against_gamma(p, q, p.scale.log() + p.alpha.reciprocal())


@register_kl(Uniform, Gamma)
def _uniform_gamma(p, q):
    outside = p.low < 0
    inside = Uniform(where(outside, 0, p.low), where(outside, 1, p.high), validate_args=False)
    return _unless(outside, _against_gamma(inside, q, _expected_log(inside)))


@register_kl(Uniform, Beta)
def _uniform_beta(p, q):
    outside = (p.low < 0) | (p.high > 1)
    inside = Uniform(where(outside, 0, p.low), where(outside, 1, p.high), validate_args=False)
    mirrored = Uniform(1 - inside.high, 1 - inside.low, validate_args=False)
    a, b = q.concentration1, q.concentration0
    divergence = (-inside.entropy() + a.lgamma() + b.lgamma() - (a + b).lgamma()
                  - (a - 1) * _expected_log(inside) - (b - 1) * _expected_log(mirrored))
    return _unless(outside, divergence)


@register_kl(Uniform, Pareto)
def _uniform_pareto(p, q):
    outside = p.low < q.scale
    inside = Uniform(where(outside, 1, p.low), where(outside, 2, p.high), validate_args=False)
    divergence = (-inside.entropy() - q.alpha.log() - q.alpha * q.scale.log()
                  + (q.alpha + 1) * _expected_log(inside))
    return _unless(outside, divergence)


def _against_continuous_bernoulli(p, q):
    return -p.entropy() - p.mean * q.logits - (-q.probs).log1p() - q._log_height


_register_each((Beta, ContinuousBernoulli), ContinuousBernoulli, _against_continuous_bernoulli)


@register_kl(Uniform, ContinuousBernoulli)
def _uniform_continuous_bernoulli(p, q):
    return _unless((p.low < 0) | (p.high > 1), _against_continuous_bernoulli(p, q))


@register_kl(Beta, Uniform)
@register_kl(ContinuousBernoulli, Uniform)
def _beta_uniform(p, q):
    divergence = -p.entropy() + (q.high - q.low).log()
    return _unless((q.low > 0) | (q.high < 1), divergence)


@register_kl(Bernoulli, Poisson)
def _bernoulli_poisson(p, q):
    return -p.entropy() - (p.probs * q.rate.log() - q.rate)


def _against_gumbel(p, q, expected_exp):
    """``KL(p || q)`` for a Gumbel q, from the mean of ``exp(-x / q.scale)``."""
    return (-p.entropy() + q.scale.log() + (p.mean - q.loc) / q.scale
            + (q.loc / q.scale).exp() * expected_exp)


@register_kl(Exponential, Gumbel)
def _exponential_gumbel(p, q):
    product = p.rate * q.scale
    return _against_gumbel(p, q, product / (product + 1))


@register_kl(Gamma, Gumbel)
def _gamma_gumbel(p, q):
    return _against_gumbel(p, q, (1 + 1 / (p.rate * q.scale)) ** -p.concentration)


@register_kl(Normal, Gumbel)
def _normal_gumbel(p, q):
    ratio = p.scale / q.scale
    return _against_gumbel(p, q, (0.5 * ratio * ratio - p.loc / q.scale).exp())


@register_kl(Uniform, Gumbel)
def _uniform_gumbel(p, q):
    difference = (-p.low / q.scale).exp() - (-p.high / q.scale).exp()
    return _against_gumbel(p, q, q.scale / (p.high - p.low) * difference)


@register_kl(Normal, Laplace)
def _normal_laplace(p, q):
    z = (p.loc - q.loc) / p.scale
    expected = (math.sqrt(2 / math.pi) * p.scale * (-0.5 * z * z).exp()
                + (p.loc - q.loc) * (z * math.sqrt(0.5)).erf())
    return -p.entropy() + (2 * q.scale).log() + expected / q.scale
