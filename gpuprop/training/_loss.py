"""The loss of a batch as a sum and a count, which add up over batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor
from gpuprop.nn._loss import sum_and_count


class BatchLoss(NamedTuple):
    """The loss of a batch: ``value * scale`` is the sum of the losses, and over `count` their mean.

    The scale keeps a loss function's own mean as it is: the value is that mean, and the scale and
    the count are the number of samples.
    """

    value: Tensor
    scale: int
    count: Any  # a number or a 0-d array

    def backward(self, mean: bool) -> None:
        """Accumulate the gradient of the mean, or of the sum."""
        value = self.value.data
        gradient = self.scale / nonzero(self.count) if mean else self.scale
        self.value.backward(backend_of(value).xp.full_like(value, gradient))


def nonzero(count: Any) -> Any:
    """`count`, or 1 where it is 0: a divisor.  The sum and its gradient are 0 then."""
    return count + (count == 0)


def batch_loss(loss: Callable) -> Callable[[Any, Any], BatchLoss]:
    """`loss` as a function (output, target) -> BatchLoss.

    Raises ValueError if it is a loss of gpuprop whose reduction is not a mean.
    """
    pair = sum_and_count(loss)

    def apply(output: Any, target: Any) -> BatchLoss:
        if pair is not None:
            total, count = pair(output, target)
            return BatchLoss(total, 1, raw(count))
        value = loss(output, target)
        if isinstance(value, tuple):
            total, count = value
            return BatchLoss(total, 1, raw(count))
        if value.data.size != 1:
            raise ValueError(f"a training loss must be one number, the mean over the batch, but "
                             f"has shape {value.shape}: reduce it with .mean()")
        samples = len(target)
        return BatchLoss(value, samples, samples)

    return apply
