"""Regression metrics: output and target have the same shape, (N,) or (N, D).

For (N, D) a metric is computed for each of the D columns, and the result is their mean.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np

from gpuprop.training.metrics._metric import Metric, ratio


class RegressionMetric(Metric):
    """Abstract: a metric of ``output - target``, computed in float64."""

    higher_is_better = False

    def batch_sums(self, xp: Any, output: Any, target: Any) -> tuple:
        if output.shape != target.shape:
            raise ValueError(f"{self.name}: output {output.shape} and target {target.shape} must "
                             f"have the same shape")
        target = target.astype("float64")
        return len(target), *self._column_sums(output.astype("float64") - target, target)

    @abstractmethod
    def _column_sums(self, error: Any, target: Any) -> tuple:
        """The sums over one batch, for each column; `error` is ``output - target``."""


class MAE(RegressionMetric):
    """The mean absolute error, ``mean(|output - target|)``."""

    name = "mae"

    def _column_sums(self, error: Any, target: Any) -> tuple:
        return (abs(error).sum(axis=0),)

    def from_sums(self, n: Any, total: Any) -> Any:
        return ratio(total, n).mean()


class RMSE(RegressionMetric):
    """The root mean squared error, ``sqrt(mean((output - target)**2))`` of each column."""

    name = "rmse"

    def _column_sums(self, error: Any, target: Any) -> tuple:
        return ((error * error).sum(axis=0),)

    def from_sums(self, n: Any, total: Any) -> Any:
        return np.sqrt(ratio(total, n)).mean()


class R2(RegressionMetric):
    """The coefficient of determination: the fraction of the target's variance that is explained.

    ``1 - sum((output - target)**2) / sum((target - mean(target))**2)``: 1 for a perfect output, 0
    for an output equal to the target's mean.  A constant target gives 1 for a perfect output and
    else 0.  NaN for fewer than two samples.  Means and squared deviations of batches are merged as
    in T. Chan, G. Golub and R. LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979.
    """

    name = "r2"
    higher_is_better = True

    def _column_sums(self, error: Any, target: Any) -> tuple:
        mean = target.sum(axis=0) / max(len(target), 1)
        deviation = target - mean
        return (error * error).sum(axis=0), mean, (deviation * deviation).sum(axis=0)

    def merge_sums(self, a: tuple, b: tuple) -> tuple:
        n_a, error_a, mean_a, squares_a = a
        n_b, error_b, mean_b, squares_b = b
        n = n_a + n_b
        difference = mean_b - mean_a
        fraction = n_b / max(n, 1)
        mean = mean_a + fraction * difference
        squares = squares_a + squares_b + n_a * fraction * difference * difference
        return n, error_a + error_b, mean, squares

    def from_sums(self, n: Any, error: Any, mean: Any, squares: Any) -> Any:
        if n <= 1:
            return math.nan
        if_constant = np.where(error > 0, 1.0, 0.0)
        return (1 - ratio(error, squares, if_constant)).mean()
