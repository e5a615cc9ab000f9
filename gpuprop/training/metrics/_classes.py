"""Classification metrics: labels (N, ...), and scores (N, C, ...) for C classes.

For two classes there may be one score for each label, (N, ...) or (N, ..., 1), such as a logit: a
positive score predicts class 1.  Labels may then be floating-point: class 1 if above 0.5.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np

import gpuprop.functional as F
from gpuprop._core.dtypes import widened
from gpuprop._core.options import checks_options
from gpuprop.training.metrics._metric import Metric, ratio


class ClassificationMetric(Metric):
    """Abstract: a metric of predicted labels; targets equal to `ignore_index` do not count."""

    @checks_options
    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def _labels(self, xp: Any, output: Any, target: Any) -> tuple:
        """(predicted labels, targets or 0 if ignored, mask of targets that count, classes).

        Targets are int64: `ConfusionMatrix` computes indices from them.
        """
        if self._has_class_axis(output, target):
            predicted = xp.argmax(output, axis=1)
            classes = output.shape[1]
        else:
            predicted = binary_scores(output, target) > 0
            classes = 2
            target = target if target.dtype.kind in "iu" else target > 0.5
        actual, counted = self._targets(xp, target, classes)
        return predicted, actual, counted, classes

    def _has_class_axis(self, output: Any, target: Any) -> bool:
        """Whether the output has scores of several classes; raises for labels that do not fit."""
        if output.ndim != target.ndim + 1 or output.shape[1] < 2:
            return False
        if target.shape != (expected := (output.shape[0], *output.shape[2:])):
            raise ValueError(f"{self.name}: target must have shape {expected} for output "
                             f"{output.shape}, one label per sample, got {target.shape}")
        if target.dtype.kind not in "iu":
            raise TypeError(f"{self.name}: target must hold integer labels, got {target.dtype}")
        return True

    def _targets(self, xp: Any, target: Any, classes: int) -> tuple:
        """(targets or 0 if ignored, mask of targets that count); all must be below `classes`."""
        counted = target != self.ignore_index
        xp.check(((target >= 0) & (target < classes)) | ~counted,
                 f"{self.name}: label out of range: expected 0 <= label < {classes} or label == "
                 f"{self.ignore_index} (ignore_index)", target)
        return (target * counted).astype("int64"), counted


def binary_scores(output: Any, target: Any) -> Any:
    """The scores of class 1, reshaped to the shape of the labels."""
    if output.shape not in (target.shape, (*target.shape, 1)):
        raise ValueError(f"output {output.shape} and target {target.shape} do not match: expected "
                         f"scores (N, C, ...) and labels (N, ...), or one score per label")
    return output.reshape(target.shape)


class Accuracy(ClassificationMetric):
    """The fraction of labels that are predicted correctly.

    >>> import numpy as np
    >>> from gpuprop.training import Accuracy
    >>> accuracy = Accuracy()
    >>> accuracy.update(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    >>> accuracy.compute()
    0.5
    """

    name = "accuracy"

    def batch_sums(self, xp: Any, output: Any, target: Any) -> tuple:
        predicted, actual, counted, _ = self._labels(xp, output, target)
        return ((predicted == actual) & counted).sum(), counted.sum()

    def from_sums(self, correct: Any, n: Any) -> Any:
        return ratio(correct, n)


class TopK(ClassificationMetric):
    """The fraction of labels that are among the `k` classes with the highest scores.

    Of equal scores, that of the last class ranks highest.
    """

    @checks_options(k=1)
    def __init__(self, k: int = 5, ignore_index: int = -100) -> None:
        super().__init__(ignore_index)
        self.k = k
        self.name = f"top{k}"

    def batch_sums(self, xp: Any, output: Any, target: Any) -> tuple:
        if not self._has_class_axis(output, target):
            raise ValueError(f"{self.name} needs scores (N, C, ...) and labels (N, ...), got "
                             f"{output.shape} and {target.shape}")
        classes = output.shape[1]
        actual, counted = self._targets(xp, target, classes)
        label = xp.expand_dims(actual, 1)
        label_score = xp.take_along_axis(output, label, axis=1)
        index = xp.arange(classes).reshape(-1, *(1,) * (output.ndim - 2))
        # comparisons with NaN are False, so a NaN score never counts as correct
        lower = (output < label_score) | ((output == label_score) & (index < label))
        correct = (lower.sum(axis=1) >= classes - self.k) & counted
        return correct.sum(), counted.sum()

    def from_sums(self, correct: Any, n: Any) -> Any:
        return ratio(correct, n)


class ConfusionMatrix(ClassificationMetric):
    """Counts (C, C): element (i, j) is the number of labels i that were predicted as j."""

    name = "confusion_matrix"

    def batch_sums(self, xp: Any, output: Any, target: Any) -> tuple:
        predicted, actual, counted, classes = self._labels(xp, output, target)
        cell = (actual * classes + predicted).reshape(-1)
        zeros = xp.zeros(classes * classes, "int64")
        counts = xp.index_add(zeros, cell, counted.astype("int64").reshape(-1))
        return (counts.reshape(classes, classes),)

    def from_sums(self, matrix: Any) -> Any:
        return matrix


class ClassScore(ConfusionMatrix):
    """Abstract: a score for each class, from the confusion matrix, and their average.

    `average` is "macro", the mean over the classes that occur among predictions or labels;
    "micro", the score of the counts summed over the classes; "binary", the score of class 1; or
    None for an array of the scores of all classes.
    """

    @checks_options(average=("macro", "micro", "binary"))
    def __init__(self, average: str | None = "macro", ignore_index: int = -100) -> None:
        super().__init__(ignore_index)
        self.average = average
        suffix = {"macro": "", None: "_each"}.get(average, f"_{average}")
        self.name = type(self).__name__.lower() + suffix

    def from_sums(self, matrix: Any) -> Any:
        correct = matrix.diagonal()
        predicted = matrix.sum(axis=0)
        actual = matrix.sum(axis=1)
        if self.average == "micro":
            return self._score(correct.sum(), predicted.sum(), actual.sum())
        scores = self._score(correct, predicted, actual)
        if self.average == "binary":
            return scores[1]
        if self.average is None:
            return scores
        occurring = predicted + actual > 0
        return scores[occurring].mean() if occurring.any() else math.nan

    @staticmethod
    @abstractmethod
    def _score(correct: Any, predicted: Any, actual: Any) -> Any:
        """The score of each class, from counts of labels; 0 for 0 / 0."""


class Precision(ClassScore):
    """Of the samples predicted as a class, the fraction that belong to it."""

    @staticmethod
    def _score(correct: Any, predicted: Any, actual: Any) -> Any:
        return ratio(correct, predicted, 0.0)


class Recall(ClassScore):
    """Of the samples of a class, the fraction that were predicted as this class."""

    @staticmethod
    def _score(correct: Any, predicted: Any, actual: Any) -> Any:
        return ratio(correct, actual, 0.0)


class F1(ClassScore):
    """The harmonic mean, ``2 * precision * recall / (precision + recall)``."""

    @staticmethod
    def _score(correct: Any, predicted: Any, actual: Any) -> Any:
        return ratio(2 * correct, predicted + actual, 0.0)


class Perplexity(ClassificationMetric):
    """``exp`` of the mean cross-entropy.

    The uniform distribution over n classes has perplexity n.
    """

    name = "perplexity"
    higher_is_better = False

    def batch_sums(self, xp: Any, output: Any, target: Any) -> tuple:
        total = F.cross_entropy(
            widened(output), target, ignore_index=self.ignore_index, reduction="sum")
        return total.astype("float64"), (target != self.ignore_index).sum()

    def from_sums(self, total: Any, n: Any) -> Any:
        return np.exp(ratio(total, n))
