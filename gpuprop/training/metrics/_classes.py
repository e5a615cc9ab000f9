"""Metrics of labels (N, ...): outputs are scores (N, C, ...) of classes, or, of the labels' shape, for yes or no."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np

import gpuprop.functional as F
from gpuprop._core.dtypes import is_float
from gpuprop.training.metrics._metric import Metric, ratio


class Classification(Metric):
    """Abstract: a metric of labels."""

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def labels(self, xp: Any, output: Any, target: Any) -> tuple:
        """Predicted labels, true ones (0 where ignored), which of them count, and the number of classes."""
        if self.are_classes(output, target):
            found, classes = xp.argmax(output, axis=1), output.shape[1]
        else:
            found, classes = yes(output, target) > 0, 2
            target = target > 0.5 if is_float(target.dtype) else target
        counted = target != self.ignore_index
        return found, target * counted, counted, classes

    def are_classes(self, output: Any, target: Any) -> bool:
        return output.ndim == target.ndim + 1 and output.shape[1] > 1


def yes(output: Any, target: Any) -> Any:
    """The scores for yes, in the shape of the labels."""
    if output.shape not in (target.shape, (*target.shape, 1)):
        raise ValueError(f"output {output.shape} and target {target.shape} are neither scores (N, C, ...) of classes "
                         f"and labels (N, ...), nor scores for yes or no and labels in one shape")
    return output.reshape(target.shape)


class Accuracy(Classification):
    """The share of labels that are right."""

    name = "accuracy"

    def terms(self, xp: Any, output: Any, target: Any) -> tuple:
        found, actual, counted, _ = self.labels(xp, output, target)
        return ((found == actual) & counted).sum(), counted.sum()

    def value(self, right: Any, n: Any) -> Any:
        return ratio(right, n)


class TopK(Classification):
    """The share of labels that are among the `k` classes of highest score; of equal scores the last is the highest."""

    def __init__(self, k: int = 5, ignore_index: int = -100) -> None:
        super().__init__(ignore_index)
        self.k, self.name = k, f"top{k}"

    def terms(self, xp: Any, output: Any, target: Any) -> tuple:
        if not self.are_classes(output, target):
            raise ValueError(f"{self.name} needs scores (N, C, ...), not {output.shape}, for labels {target.shape}")
        counted, classes = target != self.ignore_index, output.shape[1]
        label = xp.expand_dims(target * counted, 1)
        own = xp.take_along_axis(output, label, axis=1)
        number = xp.arange(classes).reshape(-1, *(1,) * (output.ndim - 2))
        lower = (output < own) | ((output == own) & (number < label))  # nothing is lower than NaN
        return ((lower.sum(axis=1) >= classes - self.k) & counted).sum(), counted.sum()

    def value(self, right: Any, n: Any) -> Any:
        return ratio(right, n)


class ConfusionMatrix(Classification):
    """How often each class, a row, was taken for each, a column: counts (C, C)."""

    name = "confusion_matrix"

    def terms(self, xp: Any, output: Any, target: Any) -> tuple:
        found, actual, counted, classes = self.labels(xp, output, target)
        where = (actual * classes + found).reshape(-1)
        counts = xp.index_add(xp.zeros(classes * classes, "int64"), where, counted.astype("int64").reshape(-1))
        return (counts.reshape(classes, classes),)

    def value(self, matrix: Any) -> Any:
        return matrix


class OfEachClass(ConfusionMatrix):
    """Abstract: a score of each class, and one of them all.

    `average` is "macro", the mean over the classes that occur; "micro", of the counts of all classes together;
    "binary", that of class 1; or None for an array of all.
    """

    def __init__(self, average: str | None = "macro", ignore_index: int = -100) -> None:
        if average not in ("macro", "micro", "binary", None):
            raise ValueError(f"average is 'macro', 'micro', 'binary' or None, not {average!r}")
        super().__init__(ignore_index)
        self.average = average
        self.name = type(self).__name__.lower() + {"macro": "", None: "_each"}.get(average, f"_{average}")

    def value(self, matrix: Any) -> Any:
        counts = right, found, actual = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)
        if self.average == "micro":
            return self.score(*(c.sum() for c in counts))
        scores = self.score(right, found, actual)
        if self.average == "binary":
            return scores[1]
        occur = found + actual > 0
        return scores if self.average is None else scores[occur].mean() if occur.any() else math.nan

    @staticmethod
    @abstractmethod
    def score(right: Any, found: Any, actual: Any) -> Any:
        """Of the numbers of labels of a class that were right, that were found, and that there are; 0 for 0 / 0."""


class Precision(OfEachClass):
    """Of what was taken for a class, the share that is of it."""

    @staticmethod
    def score(right: Any, found: Any, actual: Any) -> Any:
        return ratio(right, found, 0.0)


class Recall(OfEachClass):
    """Of what is of a class, the share that was taken for it."""

    @staticmethod
    def score(right: Any, found: Any, actual: Any) -> Any:
        return ratio(right, actual, 0.0)


class F1(OfEachClass):
    """The harmonic mean of precision and recall."""

    @staticmethod
    def score(right: Any, found: Any, actual: Any) -> Any:
        return ratio(2 * right, found + actual, 0.0)


class Perplexity(Classification):
    """exp of the mean cross-entropy: among how many equally likely classes the model is left in doubt."""

    name, more_is_better = "perplexity", False

    def terms(self, xp: Any, output: Any, target: Any) -> tuple:
        total = F.cross_entropy(output, target, ignore_index=self.ignore_index, reduction="sum")
        return total.astype("float64"), (target != self.ignore_index).sum()

    def value(self, total: Any, n: Any) -> Any:
        return np.exp(ratio(total, n))
