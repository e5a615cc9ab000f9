"""Continuous versions of Bernoulli and OneHotCategorical, whose samples have a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuprop._array.activation import log_softmax
from gpuprop._core.tensor import Tensor
from gpuprop.distributions import constraints
from gpuprop.distributions._composite import TransformedDistribution
from gpuprop.distributions._discrete import Categorical, _OfCategorical, _Trials
from gpuprop.distributions._utils import as_tensors
from gpuprop.distributions.transforms import ExpTransform, SigmoidTransform
from gpuprop.functional import softplus
from gpuprop.random import Generator


class LogitRelaxedBernoulli(_Trials):
    """The logit of `RelaxedBernoulli`: ``(logits + logistic noise) / temperature``."""

    support = constraints.real
    has_rsample = True

    def __init__(self, temperature: Any, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        shape = self._set_probs_or_logits(probs, logits)
        self.temperature, _ = as_tensors("RelaxedBernoulli", temperature=temperature,
                                         parameter=self._given)
        super().__init__(shape, validate_args=validate_args)

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        noise = self._noise("logistic", sample_shape, self._given, rng)
        return (self.logits + noise) / self.temperature

    def log_prob(self, value: Any) -> Tensor:
        difference = self.logits - self._value(value) * self.temperature
        return self.temperature.log() + difference - 2 * softplus(difference)


class RelaxedBernoulli(TransformedDistribution):
    """A number in (0, 1) that approaches `Bernoulli` as `temperature` approaches 0.

    ``x = sigmoid((logits + logistic noise) / temperature)``.  C. Maddison et al., "The concrete
    distribution", ICLR 2017.
    """

    arg_constraints = _Trials.arg_constraints
    support = constraints.unit_interval
    temperature = property(lambda self: self.base_dist.temperature)
    probs = property(lambda self: self.base_dist.probs)
    logits = property(lambda self: self.base_dist.logits)

    def __init__(self, temperature: Any, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        base = LogitRelaxedBernoulli(temperature, probs, logits, validate_args)
        super().__init__(base, SigmoidTransform(), validate_args=validate_args)


class ExpRelaxedCategorical(_OfCategorical):
    """The logarithm of `RelaxedOneHotCategorical`."""

    support = constraints.real_vector
    has_rsample = True

    def __init__(self, temperature: Any, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        self._categorical = Categorical(probs, logits, validate_args)
        self.temperature, _ = as_tensors("RelaxedOneHotCategorical", temperature=temperature,
                                         parameter=self._categorical._given)
        shape = self._categorical.param_shape
        super().__init__(shape[:-1], shape[-1:], validate_args)

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        noise = self._noise("gumbel", sample_shape, self.logits, rng)
        return log_softmax((self.logits + noise) / self.temperature, -1)

    def log_prob(self, value: Any) -> Tensor:
        k = self._event_shape[0]
        score = log_softmax(self.logits - self._value(value) * self.temperature, -1)
        return score.sum(-1) + (math.lgamma(k) + (k - 1) * self.temperature.log())


class RelaxedOneHotCategorical(TransformedDistribution):
    """A vector on the simplex that approaches `OneHotCategorical` as `temperature` approaches 0.

    ``x = softmax((logits + gumbel noise) / temperature)``.  E. Jang et al., "Categorical
    reparameterization with Gumbel-softmax", ICLR 2017.
    """

    arg_constraints = Categorical.arg_constraints
    support = constraints.simplex
    temperature = property(lambda self: self.base_dist.temperature)
    probs = property(lambda self: self.base_dist.probs)
    logits = property(lambda self: self.base_dist.logits)

    def __init__(self, temperature: Any, probs: Any = None, logits: Any = None,
                 validate_args: bool | None = None) -> None:
        base = ExpRelaxedCategorical(temperature, probs, logits, validate_args)
        super().__init__(base, ExpTransform(), validate_args=validate_args)
