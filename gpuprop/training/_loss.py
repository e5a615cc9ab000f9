"""What a loss of a batch is the mean of: its sum and its count, so that the losses of several batches add up to one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import gpuprop.functional as F
from gpuprop._core.dtypes import widened
from gpuprop._core.graph import raw
from gpuprop._core.mode import no_grad
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor
from gpuprop.nn import Module

Parts = tuple[Tensor, Any, Any]  # (value, weight, count), each a number or 0-d


def backward(found: tuple, alone: bool) -> None:
    """Accumulate the gradient of the mean over a batch, or, if it is not `alone`, that of the sum."""
    *_, value, weight, count = found
    own = value.data
    value.backward(backend_of(own).xp.full_like(own, weight / nonzero(count) if alone else weight))


def nonzero(count: Any) -> Any:
    """What to divide by: `count`, or 1 where it is 0, for then the sum and its gradients are 0 too."""
    return count + (count == 0)


def in_parts(loss: Callable) -> Callable[[Any, Any], Parts]:
    """`loss` as a function that returns (value, weight, count): value * weight is a sum, and over the count a mean.

    The losses of gpuprop, functions or modules, are summed, and counted as their mean counts: labels that are not
    ignored, by the weight of their class.  Any other returns a pair (sum, count), or a mean over the target's rows.
    """
    function, options = _options(loss)
    if function is None:
        return functools.partial(_own, loss)
    if options["reduction"] not in ("mean", "batchmean"):
        raise ValueError(f"a loss to train by is a mean, and this one has reduction={options['reduction']!r}: leave "
                         f"that out, or write a function that returns a pair (sum, count)")
    summed = functools.partial(function, **{**options, "reduction": "sum"})
    count = _counting(function, options)
    return lambda output, target: (summed(output, target), 1, count(output.data, target.data))


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


def _own(loss: Callable, output: Any, target: Any) -> Parts:
    value = loss(output, target)
    if isinstance(value, tuple):
        total, count = value
        return total, 1, raw(count)
    if value.data.size != 1:
        raise ValueError(f"a loss is one number, the mean over the batch, not of shape {value.shape}: reduce it by "
                         f".mean()")
    rows = len(target)
    return value, rows, rows


# ---- counts ---------------------------------------------------------------------------------------------------------


def _counting(function: Callable, options: dict[str, Any]) -> Callable[[Any, Any], Any]:
    """What the mean of ``function(output, target, **options)`` divides the sum by, as a function of the arrays."""
    weight = options.get("weight")
    if function in (F.cross_entropy, F.nll_loss):
        every = _number(function, {**options, "weight": None})
        labels = functools.partial(_labels, weight, options["ignore_index"])
        return lambda output, target: labels(target) if target.dtype.kind in "iub" else every(output, target)
    if options["reduction"] == "batchmean":
        return lambda output, target: len(output)
    if function in (F.mse_loss, F.l1_loss) and weight is not None:
        return lambda output, target: widened(raw(weight)).sum()
    return _number(function, options)


def _labels(weight: Tensor | None, ignored: int, target: Any) -> Any:
    """The labels that are not ignored, by the weights of their classes."""
    counted = target != ignored
    return counted.sum() if weight is None else (widened(raw(weight))[target * counted] * counted).sum()


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
