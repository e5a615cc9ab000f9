"""The loss and the metrics of one pass over the data, accumulated on the device."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from gpuprop._core.backend import Backend
from gpuprop._core.checks import as_instance, as_number
from gpuprop._core.dtypes import is_float, widened
from gpuprop._core.loading import as_entries
from gpuprop._core.tensor import asnumpy
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
        """Add a batch, or nothing if a metric raises; `output` may be None without metrics."""
        before = [metric._sums for metric in self.metrics]
        try:
            for metric in self.metrics:
                metric.update(output, target)
        except BaseException:
            for metric, sums in zip(self.metrics, before, strict=True):
                metric._sums = sums
            raise
        self.total = self.total + widened(loss.value.array) * loss.scale
        self.count = self.count + loss.count

    def loss(self) -> float:
        """The mean loss so far; NaN if no batches were added or all their labels are ignored."""
        total = self._number(self.total)
        count = self._number(self.count)
        return total / count if count else math.nan

    def compute(self) -> dict[str, Any]:
        """The loss and the metrics by name."""
        return {"loss": self.loss(), **{metric.name: metric.compute() for metric in self.metrics}}

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """The sums over all batches, as Python numbers and NumPy arrays."""
        return {"total": self._number(self.total), "count": self._number(self.count),
                "sums": {m.name: [_on_host(s) for s in m._sums] for m in self.metrics}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from sums that `checked_sums` has checked."""
        backend = self.backend
        self.total = backend.asarray(np.asarray(state["total"], "float64"))
        self.count = backend.asarray(np.asarray(state["count"], "float64"))
        for metric in self.metrics:
            metric._sums = tuple(backend.asarray(s) if isinstance(s, np.ndarray) else s
                                 for s in state["sums"][metric.name])

    def _number(self, a: Any) -> float:
        return float(self.backend.to_numpy(self.backend.own(a)))


def _on_host(value: Any) -> Any:
    return asnumpy(value) if hasattr(value, "shape") else value


def checked_sums(what: str, state: Any, metrics: Iterable[Metric]) -> dict[str, Any]:
    """The state of the RunningMetrics of these metrics; raises if it is not one."""
    entries = as_entries(what, state, ("total", "count", "sums"), ())
    as_number(f"{what}: total", _number_or_zero(entries["total"]))
    as_number(f"{what}: count", entries["count"], "[0, inf)")
    all_sums = as_entries(f"{what}: sums", entries["sums"], [m.name for m in metrics], ())
    for name, sums in all_sums.items():
        for value in as_instance(f"{what}: {name}", sums, (list, tuple), "a list of numbers"):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            is_array = isinstance(value, np.ndarray) and (
                value.dtype.kind in "biu" or is_float(value.dtype))
            if not is_number and not is_array:
                raise TypeError(f"{what}: {name} must be a list of numbers and arrays, got "
                                f"{value!r} in it")
    return entries


def _number_or_zero(total: Any) -> Any:
    """0 for NaN and the infinities, which are the total of a run that diverged."""
    return 0 if isinstance(total, float) and not math.isfinite(total) else total
