"""The base class of metrics: sums over batches on the device, the result on the host."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import asnumpy


class Metric(ABC):
    """Abstract: a metric that is computed from sums over batches.

    A subclass defines `name`; `batch_sums`, which computes sums over one batch on its device; and
    `from_sums`, which computes the metric from the sums over all batches on the host.  It sets
    `higher_is_better` to False if smaller values are better, and overrides `merge_sums` if the sums
    of two batches are not to be added.

    >>> import numpy as np
    >>> from gpuprop.training import Metric
    >>> class Bias(Metric):
    ...     name = "bias"
    ...     higher_is_better = False
    ...     def batch_sums(self, xp, output, target):
    ...         return (output - target).sum(), len(target)
    ...     def from_sums(self, total, count):
    ...         return total / count
    >>> bias = Bias()
    >>> bias.update(np.array([1.0, 2.0]), np.array([0.0, 2.0]))
    >>> bias.compute()
    0.5
    """

    name: str
    higher_is_better = True
    from_sums: Callable[..., Any]  # (*sums as NumPy arrays) -> a number or an array

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Discard all batches added so far."""
        self._sums: tuple = ()

    def update(self, output: Any, target: Any) -> None:
        """Add a batch of arrays or Tensors; does not wait for the device."""
        output = raw(output)
        target = raw(target)
        backend = backend_of(output)
        sums = self.batch_sums(backend.xp, output, target)
        if self._sums:
            sums = self.merge_sums(self._sums, sums)
        self._sums = tuple(backend.own(s) if hasattr(s, "shape") else s for s in sums)

    def compute(self) -> Any:
        """The metric over all batches since the last reset, a float or a NumPy array.

        Waits for the device.  Raises ValueError if there were no batches.
        """
        if not self._sums:
            raise ValueError(f"{self.name}: no batches: call update(output, target) first")
        value = self.from_sums(*map(asnumpy, self._sums))
        return float(value) if np.ndim(value) == 0 else value

    @abstractmethod
    def batch_sums(self, xp: Any, output: Any, target: Any) -> tuple:
        """The sums over one batch, as arrays or numbers.  `xp` is the namespace of the arrays."""

    def merge_sums(self, a: tuple, b: tuple) -> tuple:
        """The sums over the batches of both `a` and `b`; by default ``x + y`` for each pair."""
        return tuple(x + y for x, y in zip(a, b, strict=True))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def ratio(a: Any, b: Any, otherwise: Any = math.nan) -> Any:
    """``a / b`` where b is positive, else `otherwise`."""
    positive = np.greater(b, 0)
    return np.where(positive, a / np.where(positive, b, 1), otherwise)
