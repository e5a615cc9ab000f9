"""The continuous Bernoulli distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuprop._array.arithmetic import where
from gpuprop._core.checks import as_instance, as_number
from gpuprop._core.tensor import Tensor
from gpuprop.distributions import constraints
from gpuprop.distributions._discrete import _Trials
from gpuprop.distributions._distribution import ExponentialFamily
from gpuprop.distributions._utils import broadcast_parameters, clamp_probs, lazy
from gpuprop.functional._loss import binary_cross_entropy_with_logits
from gpuprop.random import Generator


class ContinuousBernoulli(_Trials, ExponentialFamily):
    """Numbers in [0, 1]: ``p(x) = C * probs**x * (1 - probs)**(1 - x)``.

    C is ``2 arctanh(1 - 2 probs) / (1 - 2 probs)``.  For `probs` within `lims`, near 0 / 0, series
    are used.  G. Loaiza-Ganem and J. P. Cunningham, NeurIPS 2019.
    """

    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, probs: Any = None, logits: Any = None,
                 lims: tuple[float, float] = (0.499, 0.501),
                 validate_args: bool | None = None) -> None:
        shape = self._set_probs_or_logits(probs, logits)
        pair = as_instance("ContinuousBernoulli: lims", lims, Sequence, "a pair of numbers")
        self._lims = [as_number("ContinuousBernoulli: lims", value) for value in pair]
        super().__init__(shape, validate_args=validate_args)
        if not self._is_logits:
            self.probs = clamp_probs(self.probs)

    @lazy
    def probs(self) -> Any:
        """The parameter as a number in (0, 1); not the mean."""
        return clamp_probs(self.logits.sigmoid())

    @property
    def _is_outside(self) -> Any:
        """Whether `probs` is far enough from 1/2 for the closed forms."""
        return (self.probs <= self._lims[0]) | (self.probs > self._lims[1])

    def _cut(self) -> tuple[Any, Tensor, Tensor]:
        """`_is_outside`, `probs` where that is True, and their log-odds."""
        p = where(self._is_outside, self.probs, self._lims[0])
        return self._is_outside, p, p.log() - (-p).log1p()

    @property
    def _log_height(self) -> Tensor:
        """log(C)."""
        outside, p, odds = self._cut()
        d = self.probs - 0.5
        series = math.log(2) + (4 / 3 + 104 / 45 * d * d) * d * d
        return where(outside, odds.abs().log() - (1 - 2 * p).abs().log(), series)

    @property
    def mean(self) -> Tensor:
        outside, p, odds = self._cut()
        d = self.probs - 0.5
        series = 0.5 + (1 / 3 + 16 / 45 * d * d) * d
        return where(outside, p / (2 * p - 1) - 1 / odds, series)

    @property
    def variance(self) -> Tensor:
        outside, p, odds = self._cut()
        d = self.probs - 0.5
        series = 1 / 12 - (1 / 15 - 128 / 945 * d * d) * d * d
        width = 1 - 2 * p
        return where(outside, p * (p - 1) / (width * width) + 1 / (odds * odds), series)

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        return self.icdf(self._noise("uniform", sample_shape, self.probs, rng))

    def log_prob(self, value: Any) -> Tensor:
        logits, value = broadcast_parameters("ContinuousBernoulli", logits=self.logits,
                                             value=self._count(value))
        return self._log_height - binary_cross_entropy_with_logits(logits, value, reduction="none")

    def cdf(self, value: Any) -> Tensor:
        value = self._count(value)
        outside, p, _ = self._cut()
        inside = value.clip(0, 1)
        result = (p**inside * (1 - p) ** (1 - inside) + p - 1) / (2 * p - 1)
        return where(outside, result, inside)

    def icdf(self, value: Any) -> Tensor:
        value = self._value(value, validate=False)
        outside, p, odds = self._cut()
        return where(outside, ((-p + value * (2 * p - 1)).log1p() - (-p).log1p()) / odds, value)

    def entropy(self) -> Tensor:
        log_rest = (-self.probs).log1p()
        return self.mean * (log_rest - self.probs.log()) - self._log_height - log_rest
