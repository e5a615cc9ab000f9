"""Options of parameter groups: their intervals, and the checks of values that a user gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuprop._core.checks import as_bool, as_choice, as_integer, as_number
from gpuprop._core.tensor import Tensor

FINITE = "(-inf, inf)"
# Options that schedules add to a group.
SCHEDULED = {"initial_lr": "[0, inf)", "max_lr": "[0, inf)", "min_lr": "[0, inf)",
             "max_momentum": "[0, inf)", "base_momentum": "[0, inf)", "swa_lr": "[0, inf)"}
# Options that PyTorch added in the course of time: a state dict of an older version lacks them.
ADDED_LATER = ("maximize", "foreach", "capturable", "differentiable", "fused",
               "decoupled_weight_decay")


def checked_options(rule: Any, options: Mapping[str, Any],
                    current: Mapping[str, Any]) -> dict[str, Any]:
    """The options with checked values: numbers as Python numbers, Tensors as they are.

    `rule` is the Optimizer's class.  Raises TypeError or ValueError for a number outside of its
    interval in `rule.scalar_options`, for a flag that is not True, False or None, and for a value
    that is none of `rule.choices`.  Where the rule declares no intervals, an option has as many
    numbers as in `current`.
    """
    known = {**SCHEDULED, **_intervals(rule, current)}
    return {name: _checked(rule, name, value, known.get(name)) for name, value in options.items()}


def _intervals(rule: Any, current: Mapping[str, Any]) -> dict[str, Any]:
    """{option: interval, or a tuple with one interval for each of its numbers}."""
    if isinstance(rule.scalar_options, dict):
        return rule.scalar_options
    counts = {name: current.get(name) for name in rule.scalar_options}
    return {name: (FINITE,) * len(value) if isinstance(value, tuple | list) else FINITE
            for name, value in counts.items()}


def _checked(rule: Any, name: str, value: Any, interval: Any) -> Any:
    what = f"{rule.__name__}: {name}"
    if name in rule.choices:
        choices = rule.choices[name]
        if isinstance(choices, range):
            return as_integer(what, plain_scalar(value), choices.start, choices.stop - 1)
        value = as_choice(what, value, choices)
    elif name in rule.flags:
        value = None if value is None else as_bool(what, plain_scalar(value))
        if name == "differentiable" and value:
            raise NotImplementedError(
                "differentiable=True is not supported, because a step updates parameters in place: "
                "write the update as an expression inside gpuprop.grad(f)")
    elif isinstance(interval, str):
        value = _number(what, value, interval)
    elif interval is not None:
        if isinstance(value, np.ndarray) and value.ndim == 1:
            value = value.tolist()
        if not isinstance(value, tuple | list) or len(value) != len(interval):
            raise ValueError(f"{what} must be a tuple of {len(interval)} numbers, got {value!r}")
        if len({isinstance(v, Tensor) for v in value}) == 2:
            raise ValueError(f"{what} must be either all numbers or all Tensors, got {value!r}")
        value = tuple(_number(f"{what}[{i}]", v, bounds)
                      for i, (v, bounds) in enumerate(zip(value, interval, strict=True)))
    return value


def _number(what: str, value: Any, interval: str) -> Any:
    if interval.startswith("None or "):
        if value is None:
            return None
        interval = interval.removeprefix("None or ")
    if isinstance(value, Tensor):
        if value.size != 1:
            raise ValueError(f"{what}: a Tensor must be 1-element, got shape {value.shape}")
        as_number(what, value.item(), interval)
        return value
    return as_number(what, plain_scalar(value), interval)


def plain_scalar(value: Any) -> Any:
    """A 0-d array of any library as a Python number; other values as they are."""
    return value.item() if getattr(value, "shape", None) == () else value


def as_tuple(value: Any) -> tuple:
    """The numbers of an option, which is one number or a tuple of numbers."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)
