"""Metrics of numbers: output and target have one shape, with a row a sample; several columns count alike."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np

from gpuprop.training.metrics._metric import Metric, ratio


class OfNumbers(Metric):
    """Abstract: a metric of the differences, in float64."""

    more_is_better = False

    def terms(self, xp: Any, output: Any, target: Any) -> tuple:
        if output.shape != target.shape:
            raise ValueError(f"{self.name}: output {output.shape} and target {target.shape} must have the same shape")
        target = target.astype("float64")
        return len(target), *self.columns(output.astype("float64") - target, target)

    @abstractmethod
    def columns(self, error: Any, target: Any) -> tuple:
        """What a batch adds, for each column."""


class MAE(OfNumbers):
    """The mean absolute error."""

    name = "mae"

    def columns(self, error: Any, target: Any) -> tuple:
        return (abs(error).sum(axis=0),)

    def value(self, n: Any, total: Any) -> Any:
        return ratio(total, n).mean()


class RMSE(OfNumbers):
    """The root of the mean squared error."""

    name = "rmse"

    def columns(self, error: Any, target: Any) -> tuple:
        return ((error * error).sum(axis=0),)

    def value(self, n: Any, total: Any) -> Any:
        return np.sqrt(ratio(total, n)).mean()


class R2(OfNumbers):
    """The share of the target's variance that the output explains: 1 for all of it, 0 for what the mean alone would.

    Means and squared deviations of two batches are merged as T. Chan et al. do, "Updating formulae", 1979.
    """

    name, more_is_better = "r2", True

    def columns(self, error: Any, target: Any) -> tuple:
        mean = target.sum(axis=0) / max(len(target), 1)
        deviation = target - mean
        return (error * error).sum(axis=0), mean, (deviation * deviation).sum(axis=0)

    def merged(self, sums: tuple, terms: tuple) -> tuple:
        (n, error, mean, spread), (m, error_, mean_, spread_) = sums, terms
        apart, share = mean_ - mean, m / max(n + m, 1)
        return n + m, error + error_, mean + share * apart, spread + spread_ + n * share * apart * apart

    def value(self, n: Any, error: Any, mean: Any, spread: Any) -> Any:
        return (1 - ratio(error, spread, np.where(error > 0, 1.0, 0.0))).mean() if n > 1 else math.nan
