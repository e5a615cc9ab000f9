"""The loss of a batch as a sum and a count, which can be added over batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor
from gpuprop.amp import GradScaler
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

    def backward(self, scaler: GradScaler, mean: bool) -> None:
        """Accumulate the gradient of the mean of the losses, or of their sum, scaled."""
        if not self.value.requires_grad:
            raise ValueError("the training loss has no gradient: compute it from the model's "
                             "output with functions of gpuprop, outside of no_grad() and without "
                             ".detach(), and train at least one parameter")
        scaled = scaler.scale(self.value)
        value = scaled.array
        gradient = self.scale / safe_divisor(self.count) if mean else self.scale
        scaled.backward(backend_of(value).xp.full_like(value, gradient))


def safe_divisor(count: Any) -> Any:
    """`count`, or 1 where it is 0: the sum that it divides is 0 then, and so is its gradient."""
    return count + (count == 0)


def batch_loss(loss: Callable) -> Callable[[Any, Any], BatchLoss]:
    """Wrap `loss` in a function (output, target) -> BatchLoss.

    Raises TypeError if `loss` cannot be called, and ValueError if it is a loss of gpuprop whose
    reduction is not "mean".
    """
    if isinstance(loss, type):
        raise TypeError(f"the loss is a class: construct the loss, as in {loss.__name__}()")
    if not callable(loss):
        raise TypeError(f"the loss must be a function or a module, loss(output, target), "
                        f"got {loss!r}")
    function = sum_and_count(loss) or loss

    def apply(output: Any, target: Any) -> BatchLoss:
        try:
            value = function(output, target)
        except (AttributeError, TypeError) as error:
            if output is None:
                raise TypeError("the model returned None: its forward must return the output for "
                                "the loss") from error
            raise
        if isinstance(value, tuple | list) and len(value) == 2:
            total, count = value
            _check_tensor(total, "a pair (sum, count) whose sum is ")
            return BatchLoss(_scalar(total, "sum", ".sum()"), 1, _scalar_count(count, total))
        _check_tensor(value)
        samples = len(target)
        return BatchLoss(_scalar(value, "mean over the batch", ".mean()"), samples, samples)

    return apply


def _check_tensor(value: Any, found: str = "") -> None:
    if isinstance(value, Tensor):
        return
    found += "None" if value is None else f"a {type(value).__name__}"
    if isinstance(value, tuple | list):
        found += f" of length {len(value)}"
    raise TypeError(f"a training loss must return a Tensor, the mean over the batch, or a pair "
                    f"(sum, count), got {found}: use functions of gpuprop, and no .item() or "
                    f".numpy(), whose results have no gradient")


def _scalar(value: Tensor, role: str, reduction: str) -> Tensor:
    """A Tensor with one element as a 0-d Tensor."""
    if value.array.size != 1:
        raise ValueError(f"a training loss must return one number, the {role}, got shape "
                         f"{value.shape}: reduce it with {reduction}")
    return value if value.ndim == 0 else value.reshape(())


def _scalar_count(count: Any, total: Tensor) -> Any:
    """The count as a number or a 0-d array, which can be added to the array of `total`."""
    array = raw(count)
    if isinstance(array, int | float):
        return array
    if not hasattr(array, "shape"):
        raise TypeError(f"the count in a pair (sum, count) must be a number or an array, got a "
                        f"{type(count).__name__}")
    if array.size != 1:
        raise ValueError(f"the count in a pair (sum, count) must be one number, got shape "
                         f"{array.shape}")
    if isinstance(array, np.ndarray | np.generic) and not isinstance(total.array, np.ndarray):
        return array.item()  # a host array, while the loss is on a device
    return array if array.ndim == 0 else array.reshape(())
