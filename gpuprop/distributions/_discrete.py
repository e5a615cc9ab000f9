"""Distributions of truth values, counts and categories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuprop._array.activation import log_softmax, softmax
from gpuprop._array.arithmetic import minimum, where
from gpuprop._array.creation import full_like
from gpuprop._array.indexing import take_along_axis
from gpuprop._array.shape import broadcast_to
from gpuprop._core.checks import as_integer
from gpuprop._core.mode import no_grad
from gpuprop._core.options import names_class
from gpuprop._core.tensor import Tensor
from gpuprop.distributions import _noise, constraints
from gpuprop.distributions._distribution import Distribution, ExponentialFamily, Shape
from gpuprop.distributions._utils import (
    arange_like,
    broadcast_parameters,
    clamp_probs,
    lazy,
    xlog1py,
    xlogy,
)
from gpuprop.functional import one_hot, softplus
from gpuprop.functional._loss import binary_cross_entropy_with_logits
from gpuprop.random import Generator


def binary_entropy(logits: Tensor, probs: Tensor) -> Tensor:
    """The entropy of a bit, from both of its parameters."""
    return binary_cross_entropy_with_logits(logits, probs, reduction="none")


class _ProbsOrLogits(Distribution):
    """A distribution that is given `probs` or `logits`; the other is computed at its first use."""

    _is_logits: bool
    probs: Any
    logits: Any

    @property
    def _given(self) -> Tensor:
        return self.logits if self._is_logits else self.probs

    @property
    def param_shape(self) -> Shape:
        """The shape of `probs` and `logits`."""
        return self._given.shape


class _Trials(_ProbsOrLogits):
    """A distribution whose parameter is `probs` or its log-odds `logits`."""

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}

    def _set_probs_or_logits(self, probs: Any, logits: Any, **others: Any) -> Shape:
        """Set one of both, and the other parameters broadcast to its shape."""
        check_one_of(type(self).__name__, probs=probs, logits=logits)
        given = {"logits": logits} if probs is None else {"probs": probs}
        self._is_logits = probs is None
        return self._parameters(**given, **others)

    @lazy
    def logits(self) -> Any:
        """The log-odds of success, ``log(probs / (1 - probs))``."""
        p = clamp_probs(self.probs)
        return p.log() - (-p).log1p()

    @lazy
    def probs(self) -> Any:
        """The probability of success."""
        return self.logits.sigmoid()

    def _count(self, value: Any) -> Tensor:
        """A value of `log_prob` in the dtype of the parameters."""
        return self._value(value).astype(self._given.dtype)

    def _drawn(self, sampler: Any, sample_shape: Sequence[int], rng: Generator | None,
               *parameters: Tensor) -> Tensor:
        return drawn(sampler, self._extended_shape(sample_shape), rng, *parameters)


def drawn(sampler: Any, shape: Shape, rng: Generator | None, *parameters: Tensor) -> Tensor:
    """Samples of this shape from a kernel that takes an `rng_key` and parameters of the shape."""
    with no_grad():
        expanded = [broadcast_to(p.detach(), shape) for p in parameters]
        return Tensor(sampler(_noise.new_key(parameters[0], rng), *expanded))


def check_one_of(caller: str, **given: Any) -> None:
    """Raise ValueError unless exactly one argument is given."""
    if sum(value is not None for value in given.values()) != 1:
        raise ValueError(f"{caller}: give exactly one of {', '.join(given)}")


class Bernoulli(_Trials, ExponentialFamily):
    """The result of a trial: 1 with probability `probs`, else 0.

    `logits` are ``log(probs / (1 - probs))``; one of both must be given.
    """

    support = constraints.boolean
    has_enumerate_support = True

    def __init__(self, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        shape = self._set_probs_or_logits(probs, logits)
        super().__init__(shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        """1 or 0, and NaN if both have probability 1/2."""
        rounded = (self.probs >= 0.5).astype(self.probs.dtype)
        return where(self.probs == 0.5, math.nan, rounded)

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        return self._drawn(_noise.bernoulli, sample_shape, rng, self.probs)

    def log_prob(self, value: Any) -> Tensor:
        logits, value = broadcast_parameters("Bernoulli", logits=self.logits,
                                             value=self._count(value))
        return -binary_cross_entropy_with_logits(logits, value, reduction="none")

    def entropy(self) -> Tensor:
        return binary_entropy(self.logits, self.probs)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self._enumerated(arange_like(self._given, 2), expand)


class Geometric(_Trials):
    """The number of failures before the first success: ``p(k) = (1 - probs)**k * probs``."""

    support = constraints.nonnegative_integer

    def __init__(self, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        shape = self._set_probs_or_logits(probs, logits)
        super().__init__(shape, validate_args=validate_args)
        if self._validate_args and not self._is_logits:
            self._require("parameter probs", constraints.positive, self.probs)

    @property
    def mean(self) -> Tensor:
        return 1 / self.probs - 1

    @property
    def mode(self) -> Tensor:
        return full_like(self.probs, 0)

    @property
    def variance(self) -> Tensor:
        return (1 / self.probs - 1) / self.probs

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        with no_grad():
            waiting = self._noise("exponential", sample_shape, self.probs, rng)
            return (waiting / -(-self.probs).log1p()).floor()

    def log_prob(self, value: Any) -> Tensor:
        return xlog1py(self._count(value), -self.probs) + self.probs.log()

    def entropy(self) -> Tensor:
        return binary_entropy(self.logits, self.probs) / self.probs


class Binomial(_Trials):
    """The number of successes in `total_count` trials.

    ``p(k) = binomial(total_count, k) * probs**k * (1 - probs)**(total_count - k)``.
    """

    arg_constraints = {**_Trials.arg_constraints, "total_count": constraints.nonnegative_integer}
    has_enumerate_support = True
    total_count: Tensor

    def __init__(self, total_count: Any = 1, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        shape = self._set_probs_or_logits(probs, logits, total_count=total_count)
        super().__init__(shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.probs

    @property
    def mode(self) -> Tensor:
        return minimum(((self.total_count + 1) * self.probs).floor(), self.total_count)

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        return self._drawn(_noise.binomial, sample_shape, rng, self.total_count, self.probs)

    def log_prob(self, value: Any) -> Tensor:
        k = self._count(value)
        n = self.total_count
        log_choices = (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()
        return log_choices + k * self.logits - n * softplus(self.logits)

    def entropy(self) -> Tensor:
        """The sum over all counts; all `total_count` must be the same number."""
        log_p = self.log_prob(self.enumerate_support(expand=False))
        return -(log_p.exp() * log_p).sum(0)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        largest = int(self.total_count.max().item())
        if int(self.total_count.min().item()) != largest:
            raise NotImplementedError("Binomial: enumerate_support and entropy need one number as "
                                      "total_count, the same for the whole batch")
        return self._enumerated(arange_like(self._given, largest + 1), expand)


class NegativeBinomial(_Trials):
    """The number of successes before `total_count` failures.

    ``p(k) = gamma(total_count + k) / (k! gamma(total_count)) * probs**k *
    (1 - probs)**total_count``, where `total_count` may be any number of at least 0.
    """

    arg_constraints = {"probs": constraints.half_open_interval(0.0, 1.0),
                       "logits": constraints.real,
                       "total_count": constraints.greater_than_eq(0)}
    support = constraints.nonnegative_integer
    total_count: Tensor

    def __init__(self, total_count: Any, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        shape = self._set_probs_or_logits(probs, logits, total_count=total_count)
        super().__init__(shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.logits.exp()

    @property
    def mode(self) -> Tensor:
        return ((self.total_count - 1) * self.logits.exp()).floor().clip(0, None)

    @property
    def variance(self) -> Tensor:
        return self.mean / (-self.logits).sigmoid()

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        with no_grad():
            shape = self._extended_shape(sample_shape)
            alpha = broadcast_to(self.total_count.detach(), shape)
            key = _noise.new_key(alpha, rng)
            drawn_gamma = Tensor(_noise.standard_gamma(key, alpha, False)).astype(alpha.dtype)
            return drawn(_noise.poisson, shape, rng, drawn_gamma * self.logits.detach().exp())

    def log_prob(self, value: Any) -> Tensor:
        k = self._count(value)
        n = self.total_count
        log_choices = (n + k).lgamma() - (1 + k).lgamma() - n.lgamma()
        log_choices = where(n + k == 0, 0, log_choices)
        return log_choices - n * softplus(self.logits) - k * softplus(-self.logits)


class Poisson(ExponentialFamily):
    """The number of events at a rate: ``p(k) = rate**k * exp(-rate) / k!``."""

    arg_constraints = {"rate": constraints.nonnegative}
    support = constraints.nonnegative_integer
    rate: Tensor

    def __init__(self, rate: Any, validate_args: bool | None = None) -> None:
        super().__init__(self._parameters(rate=rate), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.rate

    @property
    def mode(self) -> Tensor:
        return self.rate.floor()

    @property
    def variance(self) -> Tensor:
        return self.rate

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        return drawn(_noise.poisson, self._extended_shape(sample_shape), rng, self.rate)

    def log_prob(self, value: Any) -> Tensor:
        k = self._value(value).astype(self.rate.dtype)
        return xlogy(k, self.rate) - self.rate - (k + 1).lgamma()


# ---- categories --------------------------------------------------------------------------------


class Categorical(_ProbsOrLogits):
    """An index k of the last axis, with probability ``probs[..., k]``.

    `probs` need not add up to 1; `logits` are their logarithms, up to a constant.  One of both must
    be given, with at least one axis.
    """

    arg_constraints = {"probs": constraints.simplex, "logits": constraints.real_vector}
    has_enumerate_support = True

    def __init__(self, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        name = type(self).__name__
        check_one_of(name, probs=probs, logits=logits)
        self._is_logits = probs is None
        given = {"logits": logits} if self._is_logits else {"probs": probs}
        parameter, = broadcast_parameters(name, **given)
        if not parameter.ndim:
            raise ValueError(f"{name}: {next(iter(given))} must have at least one axis, got shape "
                             f"()")
        if self._is_logits:
            vars(self)["logits"] = log_softmax(parameter, -1)
        else:
            vars(self)["probs"] = parameter / parameter.sum(-1, True)
        super().__init__(parameter.shape[:-1], validate_args=validate_args)

    @lazy
    def logits(self) -> Any:
        """The logarithms of `probs`."""
        return clamp_probs(self.probs).log()

    @lazy
    def probs(self) -> Any:
        """The probabilities of the indices, which add up to 1."""
        return softmax(self.logits, -1)

    @property
    def _num_events(self) -> int:
        return self.param_shape[-1]

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self._num_events - 1)

    @property
    def mean(self) -> Tensor:
        """NaN: categories are not numbers."""
        return full_like(self._given[..., 0].detach(), math.nan)

    @property
    def mode(self) -> Tensor:
        return self.probs.argmax(-1)

    @property
    def variance(self) -> Tensor:
        """NaN: categories are not numbers."""
        return self.mean

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        key = _noise.new_key(self._given, rng)
        return Tensor(_noise.categorical(key, self.probs.detach(),
                                         self._extended_shape(sample_shape)))

    def log_prob(self, value: Any) -> Tensor:
        index = self._value(value).astype("int64").unsqueeze(-1)
        shape = broadcast_parameters("Categorical", value=index[..., 0].detach(),
                                     batch=self.logits[..., 0].detach())[0].shape
        logits = broadcast_to(self.logits, (*shape, self._num_events))
        return take_along_axis(logits, broadcast_to(index, (*shape, 1)), -1)[..., 0]

    def entropy(self) -> Tensor:
        # a probability of 0 may have a logit of -inf
        return -where(self.probs == 0, 0, self.logits * self.probs).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = arange_like(self._given, self._num_events, "int64")
        return self._enumerated(values, expand)


class _OfCategorical(Distribution):
    """A distribution of vectors that a Categorical determines."""

    arg_constraints = Categorical.arg_constraints
    _categorical: Categorical

    @property
    def probs(self) -> Tensor:
        """The probabilities of the categories."""
        return self._categorical.probs

    @property
    def logits(self) -> Tensor:
        """The logarithms of `probs`."""
        return self._categorical.logits

    @property
    def param_shape(self) -> Shape:
        """The shape of `probs` and `logits`."""
        return self._categorical.param_shape

    def _reference(self) -> Tensor:
        return self._categorical._given

    def _expand_parts(self, batch_shape: Shape) -> None:
        self._categorical = self._categorical.expand(batch_shape)

    def __repr__(self) -> str:
        return repr(self._categorical).replace("Categorical", type(self).__name__)


class OneHotCategorical(_OfCategorical):
    """The index of `Categorical` as a one-hot vector."""

    support = constraints.one_hot
    has_enumerate_support = True

    @names_class
    def __init__(self, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        self._categorical = Categorical(probs, logits, validate_args)
        shape = self._categorical.param_shape
        super().__init__(shape[:-1], shape[-1:], validate_args)

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        return one_hot(self._categorical.mode, self._event_shape[0]).astype(self.probs.dtype)

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        indices = self._categorical.sample(sample_shape, rng)
        return one_hot(indices, self._event_shape[0]).astype(self.probs.dtype)

    def log_prob(self, value: Any) -> Tensor:
        return self._categorical.log_prob(self._value(value).argmax(-1))

    def entropy(self) -> Tensor:
        return self._categorical.entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        indices = self._categorical.enumerate_support(expand)
        return one_hot(indices, self._event_shape[0]).astype(self.probs.dtype)


class OneHotCategoricalStraightThrough(OneHotCategorical):
    """`OneHotCategorical` with `rsample`, whose gradient is that of `probs`.

    Y. Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013.
    """

    has_rsample = True

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        return self.sample(sample_shape, rng) + (self.probs - self.probs.detach())


class Multinomial(_OfCategorical):
    """The numbers of each category in `total_count` draws from `Categorical`.

    ``p(k) = total_count! * prod(probs**k / k!)``.  `total_count` is an int.
    """

    def __init__(self, total_count: int = 1, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        self.total_count = as_integer("Multinomial: total_count", total_count, 0)
        self._categorical = Categorical(probs, logits, validate_args)
        shape = self._categorical.param_shape
        super().__init__(shape[:-1], shape[-1:], validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return constraints.multinomial(self.total_count)

    @property
    def mean(self) -> Tensor:
        return self.probs * self.total_count

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        self._extended_shape(sample_shape)
        draws = self._categorical.sample((self.total_count, *sample_shape), rng)
        return one_hot(draws, self._event_shape[0]).sum(0).astype(self.probs.dtype)

    def log_prob(self, value: Any) -> Tensor:
        k = self._value(value).astype(self.probs.dtype)
        log_p = where((k == 0) & (self.logits == -math.inf), 0, self.logits)
        return (k.sum(-1) + 1).lgamma() - (k + 1).lgamma().sum(-1) + (log_p * k).sum(-1)

    def entropy(self) -> Tensor:
        binomial = Binomial(self.total_count, self.probs, validate_args=False)
        counts = binomial.enumerate_support(expand=False)[1:]
        expected = (binomial.log_prob(counts).exp() * (counts + 1).lgamma()).sum((0, -1))
        n = float(self.total_count)
        return n * self._categorical.entropy() - math.lgamma(n + 1) + expected
