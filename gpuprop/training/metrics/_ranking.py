"""Ranking metrics: labels (N,), and scores (N, C), or (N,) or (N, 1) for two classes."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np

from gpuprop._core.registry import backend_of
from gpuprop.training.metrics._classes import ClassificationMetric, binary_scores


class RankingMetric(ClassificationMetric):
    """Abstract: how well scores rank the samples of a class above the other samples.

    With more than two classes, the metric is the mean over the classes of each class against the
    rest, with the softmax of the scores.  The device stores all scores of an epoch.  The result is
    NaN if a class has no samples or all samples.
    """

    def merge_sums(self, a: tuple, b: tuple) -> tuple:
        return *a, *b

    def batch_sums(self, xp: Any, output: Any, target: Any) -> tuple:
        if output.ndim == 1 or output.shape[1] == 1:
            output = binary_scores(output, target)[:, None]
        if output.ndim != 2 or target.ndim != 1:
            raise ValueError(f"{self.name} needs scores (N, C) or (N,) and labels (N,), got "
                             f"{output.shape} and {target.shape}")
        classes = output.shape[1]
        if output.shape[0] != len(target):
            raise ValueError(f"{self.name}: there are {output.shape[0]} scores, but {len(target)} "
                             f"labels")
        if target.dtype.kind in "iu":
            self._targets(xp, target, max(classes, 2))
        elif classes > 2:
            raise TypeError(f"{self.name}: target must hold integer labels, got {target.dtype}")
        return output, xp.copy(target)  # a loader may reuse the memory of the target

    def compute(self) -> Any:
        if self._sums:
            xp = backend_of(self._sums[0]).xp
            scores = xp.concatenate(self._sums[::2])
            labels = xp.concatenate(self._sums[1::2])
            self._sums = scores, labels
        return super().compute()

    def from_sums(self, scores: Any, labels: Any) -> Any:
        counted = labels != self.ignore_index
        scores = scores[counted].astype("float64")
        labels = labels[counted]
        classes = scores.shape[1]
        if classes == 1:
            return self._score_class(labels > 0.5, scores[:, 0])
        if classes == 2:
            return self._score_class(labels > 0.5, scores[:, 1] - scores[:, 0])
        probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return np.mean([self._score_class(labels == c, p) for c, p in enumerate(probabilities.T)])

    def _score_class(self, positive: np.ndarray, score: np.ndarray) -> float:
        """The metric of one class against the rest; `positive` marks the samples of the class."""
        if np.isnan(score).any() or positive.all() or not positive.any():
            return math.nan
        order = np.argsort(-score, kind="stable")
        last_of_ties = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
        true_positives = np.cumsum(positive[order])[last_of_ties]
        return self._area(true_positives, last_of_ties + 1 - true_positives)

    @abstractmethod
    def _area(self, true_positives: np.ndarray, false_positives: np.ndarray) -> float:
        """The metric, from the counts at each threshold, from the highest to the lowest."""


class AUROC(RankingMetric):
    """The area under the ROC curve.

    It is the probability that a random positive sample ranks above a random negative one.
    """

    name = "auroc"

    def _area(self, true_positives: np.ndarray, false_positives: np.ndarray) -> float:
        y = np.append(0, true_positives)
        x = np.append(0, false_positives)
        positives = y[-1]
        negatives = x[-1]
        return float(np.trapezoid(y, x) / (positives * negatives))


class AveragePrecision(RankingMetric):
    """The average precision, ``sum((recall[k] - recall[k-1]) * precision[k])`` over thresholds."""

    name = "average_precision"

    def _area(self, true_positives: np.ndarray, false_positives: np.ndarray) -> float:
        precision = true_positives / (true_positives + false_positives)
        new_positives = np.diff(true_positives, prepend=0)
        return float((new_positives * precision).sum() / true_positives[-1])
