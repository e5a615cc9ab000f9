"""Metrics of how scores rank labels: (N, C) of classes, or (N,) or (N, 1) for yes or no, and labels (N,)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np

from gpuprop._core.registry import backend_of
from gpuprop.training.metrics._classes import Classification, yes


class OfRanking(Classification):
    """Abstract: how far true labels rank above others; with more than two classes the mean of each against the rest.

    All scores of an epoch are kept on the device.  Where a class has no labels, or all, the result is NaN.
    """

    def merged(self, sums: tuple, terms: tuple) -> tuple:
        return *sums, *terms

    def terms(self, xp: Any, output: Any, target: Any) -> tuple:
        if output.ndim == 1 or output.shape[1] == 1:
            output = yes(output, target)[:, None]
        if output.ndim != 2 or target.ndim != 1:
            raise ValueError(f"{self.name} needs scores (N, C) or (N,) and labels (N,), not {output.shape} and "
                             f"{target.shape}")
        return output, xp.copy(target)  # whose memory a loader may use again

    def compute(self) -> Any:
        if self.sums:
            xp = backend_of(self.sums[0]).xp
            self.sums = xp.concatenate(self.sums[::2]), xp.concatenate(self.sums[1::2])
        return super().compute()

    def value(self, scores: Any, labels: Any) -> Any:
        counted = labels != self.ignore_index
        scores, labels = scores[counted].astype("float64"), labels[counted]
        if scores.shape[1] <= 2:
            return self.one(labels > 0.5, scores[:, -1] - (scores[:, 0] if scores.shape[1] == 2 else 0))
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return np.mean([self.one(labels == c, share) for c, share in enumerate(shares.T)])

    def one(self, positive: np.ndarray, score: np.ndarray) -> float:
        """The metric of one class against the rest."""
        if np.isnan(score).any() or positive.all() or not positive.any():
            return math.nan
        order = np.argsort(-score, kind="stable")
        last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # of equal scores
        right = np.cumsum(positive[order])[last]
        return self.area(right, last + 1 - right)

    @abstractmethod
    def area(self, right: np.ndarray, wrong: np.ndarray) -> float:
        """Of the numbers of true and false labels above each threshold, the highest first."""


class AUROC(OfRanking):
    """The chance that a label of the class ranks above another: the area under the ROC curve."""

    name = "auroc"

    def area(self, right: np.ndarray, wrong: np.ndarray) -> float:
        right, wrong = np.append(0, right), np.append(0, wrong)
        return float(np.trapezoid(right, wrong) / (right[-1] * wrong[-1]))


class AveragePrecision(OfRanking):
    """The mean of precision over recall."""

    name = "average_precision"

    def area(self, right: np.ndarray, wrong: np.ndarray) -> float:
        return float((np.diff(right, prepend=0) * right / (right + wrong)).sum() / right[-1])
