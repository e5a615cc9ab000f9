"""The loss of a batch as a sum and a count, which can be added over batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor
from gpuprop.nn._loss import sum_and_count


class BatchLoss(NamedTuple):
    """The loss of a batch: ``value * scale`` is the sum, ``value * scale / count`` the mean.

    If the loss has a `sum_and_count`, `value` is the sum and `scale` is 1.  If it returns a mean,
    `value` is that mean, and `scale` and `count` are both the number of samples: the scale of the
    gradient of the mean is then exactly 1.
    """

    value: Tensor
    scale: int
    count: Any  # a number or a 0-d array

    def backward(self, mean: bool) -> None:
        """Accumulate the gradient of the mean of the losses, or of their sum."""
        value = self.value.data
        gradient = self.scale / safe_divisor(self.count) if mean else self.scale
        self.value.backward(backend_of(value).xp.full_like(value, gradient))


def safe_divisor(count: Any) -> Any:
    """`count`, or 1 where it is 0: the sum that it divides is 0 then, and so is its gradient."""
    return count + (count == 0)


def batch_loss(loss: Callable) -> Callable[[Any, Any], BatchLoss]:
    """Wrap `loss` in a function (output, target) -> BatchLoss.

    Raises ValueError if `loss` is a loss of gpuprop whose reduction is not "mean".
    """
    function = sum_and_count(loss) or loss

    def apply(output: Any, target: Any) -> BatchLoss:
        value = function(output, target)
        if isinstance(value, tuple | list):
            total, count = value
            return BatchLoss(total, 1, raw(count))
        if value.data.size != 1:
            raise ValueError(f"a training loss must return one number, the mean over the batch, "
                             f"got shape {value.shape}: reduce it with .mean()")
        samples = len(target)
        return BatchLoss(value, samples, samples)

    return apply
