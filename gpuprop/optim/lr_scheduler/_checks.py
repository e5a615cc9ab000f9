"""Checks of a schedule's attributes, in its constructor and in a state dict."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop._core.checks import as_choice, as_instance, as_integer, as_number
from gpuprop.optim._options import plain_scalar

Check = Callable[[str, Any], Any]  # takes what is checked, in words, and the value to check


def integer(minimum: int) -> Check:
    """An integer, which may be given as a float such as 10.0, as in PyTorch."""
    def check(what: str, value: Any) -> int:
        is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
        number = as_integer(what, int(value) if is_whole else value, minimum)
        if number >= 2**63:
            raise ValueError(f"{what} must be less than 2**63, got {value!r}")
        return number

    return check


def number(interval: str = "[0, inf)") -> Check:
    return lambda what, value: as_number(what, plain_scalar(value), interval)


def choice(*choices: Any) -> Check:
    return functools.partial(as_choice, choices=choices)


def list_of(check: Check) -> Check:
    def check_list(what: str, value: Any) -> list:
        items = as_instance(what, value, (list, tuple), "a list")
        return [check(f"{what}[{i}]", item) for i, item in enumerate(items)]

    return check_list


def one_or_list_of(check: Check) -> Check:
    def check_value(what: str, value: Any) -> Any:
        return list_of(check)(what, value) if isinstance(value, list | tuple) \
            else check(what, value)

    return check_value


def same_kind(what: str, value: Any, own: Any) -> Any:
    """An attribute that no class declares: a value of the kind of the schedule's own, or None."""
    kinds = (bool,), (int, float, np.number), (str,), (list, tuple), (dict,)
    kind = next((kind for kind in kinds if isinstance(own, kind)), None)
    if kind is None or value is None:
        return value
    return as_instance(what, value, kind, f"a {type(own).__name__}")
