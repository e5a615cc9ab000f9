"""The loss and the metrics of one pass over the data, accumulated on the device."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

from gpuprop._core.backend import Backend
from gpuprop.training._loss import BatchLoss
from gpuprop.training.metrics import Metric


class RunningMetrics:
    """The loss and the metrics of all batches added so far.

    `add` does not wait for the device; `loss` and `compute` do.
    """

    def __init__(self, backend: Backend, metrics: Iterable[Metric]) -> None:
        self.backend = backend
        self.metrics = [copy.copy(m) for m in metrics]
        self.total = backend.xp.zeros((), "float64")  # the sum of the losses
        self.count = backend.xp.zeros((), "float64")
        for metric in self.metrics:
            metric.reset()

    def add(self, output: Any, loss: BatchLoss, target: Any) -> None:
        """Add a batch; `output` may be None if there are no metrics."""
        self.total = self.total + loss.value.data * loss.scale
        self.count = self.count + loss.count
        for metric in self.metrics:
            metric.update(output, target)

    def loss(self) -> float:
        """The mean loss so far; NaN if no batches were added or all their labels are ignored."""
        total = self._number(self.total)
        count = self._number(self.count)
        return total / count if count else math.nan

    def compute(self) -> dict[str, Any]:
        """The loss and the metrics by name."""
        return {"loss": self.loss(), **{metric.name: metric.compute() for metric in self.metrics}}

    def _number(self, a: Any) -> float:
        return float(self.backend.to_numpy(self.backend.own(a)))
