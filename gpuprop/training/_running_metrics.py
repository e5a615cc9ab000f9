"""The loss and the metrics of one pass over data: added up on the device, read at its end."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

from gpuprop._core.backend import Backend
from gpuprop.training.metrics import Metric


class Figures:
    """Starts at nothing; `add` never waits for the device, `read` and `loss` do."""

    def __init__(self, backend: Backend, metrics: Iterable[Metric]) -> None:
        self.backend, self.metrics = backend, [copy.copy(m) for m in metrics]
        self.total = self.count = backend.xp.zeros((), "float64")
        for metric in self.metrics:
            metric.reset()

    def add(self, found: tuple, target: Any) -> None:
        """A batch, of which (output, value, weight, count) were found: see `in_parts`."""
        output, value, weight, count = found
        self.total = self.total + value.data * weight
        self.count = self.count + count
        for metric in self.metrics:
            metric.update(output, target)

    def loss(self) -> float:
        """The mean so far, NaN if nothing counted."""
        total, count = (float(self.backend.to_numpy(self.backend.own(a))) for a in (self.total, self.count))
        return total / count if count else math.nan

    def read(self) -> dict[str, Any]:
        """The loss and the metrics, by name."""
        return {"loss": self.loss(), **{metric.name: metric.compute() for metric in self.metrics}}
