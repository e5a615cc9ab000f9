"""What a loss of a batch is the mean of: its sum and its count, so that the losses of several batches add up to one."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import gpuprop.functional as F
from gpuprop.autograd import Tensor, asnumpy, is_float, namespace, raw
from gpuprop.backend import Backend
from gpuprop.mode import no_grad
from gpuprop.nn import Module


class Part(NamedTuple):
    """The loss of one batch: ``value * weight`` is a sum, and over `count` a mean.  Numbers, or 0-d arrays."""

    value: Tensor
    weight: Any
    count: Any

    def backward(self, alone: bool) -> None:
        """Accumulate the gradient of the mean over this batch alone, else that of the sum."""
        g = self.weight / nonzero(self.count) if alone else self.weight
        self.value.backward(namespace(raw(self.value)).full_like(raw(self.value), g))


def in_parts(loss: Callable) -> Callable[[Any, Any], Part]:
    """`loss` as a function that returns a `Part`.

    The losses of gpuprop, functions or modules, are summed, and counted as their mean counts: labels that are not
    ignored, by the weight of their class.  Any other returns a pair (sum, count), or a mean over the rows of the target.
    """
    function, options = _options(loss)
    if function is None:
        return functools.partial(_own, loss)
    if options["reduction"] not in ("mean", "batchmean"):
        raise ValueError(f"a loss to train by is the mean of its batch, and this one has reduction={options['reduction']!r}: "
                         f"leave it out, or write a function that returns a pair (sum, count)")
    summed = functools.partial(function, **{**options, "reduction": "sum"})
    count = _counting(function, options)
    return lambda output, target: Part(summed(output, target), 1, count(raw(output), raw(target)))


def _options(loss: Any) -> tuple[Callable | None, dict[str, Any]]:
    """The function behind a loss that takes `reduction`, and its options by name."""
    if isinstance(loss, Module):
        known = hasattr(loss, "options") and hasattr(loss, "reduction")
        return (type(loss).function, loss.options()) if known else (None, {})  # type: ignore[attr-defined]
    function, given = (loss.func, loss.keywords) if isinstance(loss, functools.partial) else (loss, {})
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None, {}
    options = {**{p.name: p.default for p in parameters[2:] if p.default is not p.empty}, **given}
    return (function, options) if "reduction" in options else (None, {})


def _own(loss: Callable, output: Any, target: Any) -> Part:
    value = loss(output, target)
    if isinstance(value, tuple):
        total, count = value
        return Part(total, 1, raw(count))
    rows = len(target)
    return Part(value, rows, rows)


def nonzero(count: Any) -> Any:
    """What to divide by: `count`, or 1 where it is 0, for then the sum and its gradients are 0 too."""
    return count + (count == 0)


class Tally:
    """Adds up the loss of many batches on the device, in place: a captured step goes on adding."""

    def __init__(self, backend: Backend) -> None:
        self.total, self.count = backend.xp.zeros((), "float64"), backend.xp.zeros((), "float64")

    def reset(self) -> None:
        self.total[...] = self.count[...] = 0

    def add(self, part: Part) -> None:
        self.total += raw(part.value) * part.weight
        self.count += part.count

    def mean(self) -> float:
        """The mean of all, NaN if nothing counted; waits for the device."""
        total, count = float(asnumpy(self.total)), float(asnumpy(self.count))
        return total / count if count else math.nan


# ---- counts ---------------------------------------------------------------------------------------------------------


def _counting(function: Callable, options: dict[str, Any]) -> Callable[[Any, Any], Any]:
    """What the mean of ``function(output, target, **options)`` divides the sum by, as a function of the arrays."""
    weight = options.get("weight")
    if function in (F.cross_entropy, F.nll_loss):
        every = _number(function, {**options, "weight": None})
        labels = functools.partial(_labels, weight, options["ignore_index"])
        return lambda output, target: every(output, target) if is_float(target.dtype) else labels(target)
    if options["reduction"] == "batchmean":
        return lambda output, target: len(output)
    if function in (F.mse_loss, F.l1_loss) and weight is not None:
        return lambda output, target: raw(weight).sum()
    return _number(function, options)


def _labels(weight: Tensor | None, ignored: int, target: Any) -> Any:
    """The labels that are not ignored, by the weights of their classes."""
    counted = target != ignored
    return counted.sum() if weight is None else (raw(weight)[target * counted] * counted).sum()


def _number(function: Callable, options: dict[str, Any]) -> Callable[[Any, Any], int]:
    """How many losses the function makes of a batch; asked once for each shape."""
    known: dict[tuple, int] = {}

    def number(output: Any, target: Any) -> int:
        shapes = output.shape, target.shape
        if shapes not in known:
            with no_grad():
                known[shapes] = function(output, target, **{**options, "reduction": "none"}).size
        return known[shapes]

    return number
