"""What a metric is: sums over batches on the device, and what is made of them on the host."""

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
    """Abstract: `terms` of each batch are added up on the device, and `value` makes the result of the sums."""

    name: str
    more_is_better = True
    value: Callable[..., Any]  # of the sums, in host memory: the metric, a number or an array

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.sums: tuple = ()

    def update(self, output: Any, target: Any) -> None:
        """Take a batch into account, arrays or Tensors; nothing waits for the device."""
        output, target = raw(output), raw(target)
        backend = backend_of(output)
        terms = self.terms(backend.xp, output, target)
        sums = self.merged(self.sums, terms) if self.sums else terms
        self.sums = tuple(backend.own(s) if hasattr(s, "shape") else s for s in sums)

    def merged(self, sums: tuple, terms: tuple) -> tuple:
        """The sums with those of another batch."""
        return tuple(a + b for a, b in zip(sums, terms, strict=True))

    def compute(self) -> Any:
        """The metric of all batches since the last reset: a float, or an array in host memory; waits for the device."""
        if not self.sums:
            raise ValueError(f"{self.name} of no batches is not defined: call update(output, target) first")
        value = self.value(*map(asnumpy, self.sums))
        return float(value) if np.ndim(value) == 0 else value

    @abstractmethod
    def terms(self, xp: Any, output: Any, target: Any) -> tuple:
        """What a batch adds to the sums: arrays and Python numbers."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def ratio(a: Any, b: Any, otherwise: Any = math.nan) -> Any:
    """``a / b``, and `otherwise` where b is not above 0."""
    above = np.greater(b, 0)
    return np.where(above, a / np.where(above, b, 1), otherwise)
