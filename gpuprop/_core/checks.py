"""Checks of arguments that are no arrays: numbers, names, paths and objects of a class.

Each function returns the checked value, a NumPy number as a Python number, or raises with the call,
the argument, the expected value and the given one.  `what` names the call and the argument, as in
"Linear: in_features".
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def as_integer(what: str, value: Any, minimum: int | None = None,
               maximum: int | None = None) -> int:
    """`value` as an int: also an integer array or Tensor without axes, as for NumPy.

    Raises TypeError unless it is an integer, and ValueError out of range.
    """
    wanted = "an integer"
    if minimum is not None and maximum is not None:
        wanted += f" from {minimum} to {maximum}"
    elif minimum is not None:
        wanted += f" of at least {minimum}"
    elif maximum is not None:
        wanted += f" of at most {maximum}"
    is_flag = isinstance(value, bool) or getattr(value, "dtype", None) == "bool"
    try:
        number = None if is_flag or getattr(value, "shape", ()) != () else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{what} must be {wanted}, got {value!r}")
    if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
        raise ValueError(f"{what} must be {wanted}, got {value!r}")
    return number


def as_number(what: str, value: Any, interval: str = "(-inf, inf)") -> float:
    """`value` as an int or float within an interval such as "[0, 1)"; NaN is in no interval.

    Raises TypeError unless it is a real number, and ValueError outside of the interval.
    """
    if isinstance(value, np.integer | np.floating):
        value = value.item()
    described = "a number" if interval == "[-inf, inf]" else f"a number in {interval}"
    if interval == "(-inf, inf)":
        described = "a finite number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be {described}, got {value!r}")
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    try:
        number = float(value)
    except OverflowError:  # an int that is no float
        number = math.nan
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(f"{what} must be {described}, got {value!r}")
    return value


def as_element(what: str, value: Any, dtype: Any) -> Any:
    """`value`, a number that an array of `dtype` can hold; integers drop its fraction.

    Raises TypeError unless it is a real number, and OverflowError if it is out of the range of an
    integer dtype, as NaN is of all.
    """
    if isinstance(value, np.generic) and value.dtype.kind != "c":
        value = value.item()
    if not isinstance(value, int | float):
        raise TypeError(f"{what} must be a real number, got {value!r}")
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        if not info.min - 1 < value < info.max + 1:
            raise OverflowError(f"{what} must be from {info.min} to {info.max}, the range of "
                                f"{dtype}, got {value!r}")
    return value


def check_elements(what: str, array: np.ndarray, dtype: Any) -> None:
    """Raise OverflowError if a number of an array is out of the range of an integer dtype."""
    if dtype.kind in "iu" and array.size:
        for extreme in (array.min(), array.max()):  # NaN if any number is
            as_element(what, extreme, dtype)


def as_bool(what: str, value: Any) -> bool:
    """`value` as a bool; the integers 0 and 1 are flags too.  Raises TypeError for all else."""
    if not isinstance(value, int | np.bool_ | np.integer) or value not in (0, 1):
        raise TypeError(f"{what} must be True or False, got {value!r}")
    return bool(value)


def as_choice(what: str, value: Any, choices: Sequence[Any]) -> Any:
    """`value`, one of `choices`.  Raises ValueError for another one."""
    if not any(value is choice or (type(value) is type(choice) and value == choice)
               for choice in choices):
        *others, last = map(repr, choices)
        wanted = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{what} must be {wanted}, got {value!r}")
    return value


def as_instance(what: str, value: Any, kind: type | tuple[type, ...], described: str) -> Any:
    """`value`, an object of a class.  Raises TypeError, with the class `described` in words."""
    if not isinstance(value, kind):
        hint = ""
        if isinstance(value, type) and issubclass(value, kind):
            hint = f": construct it, as in {value.__name__}(...)"
        raise TypeError(f"{what} must be {described}, got {value!r}{hint}")
    return value


def as_callable(what: str, value: Any) -> Callable:
    """`value`, a function or another callable.  Raises TypeError for other objects."""
    if not callable(value):
        raise TypeError(f"{what} must be a function, got {value!r}")
    return value


def as_path(what: str, value: Any) -> Path:
    """`value` as a Path.  Raises TypeError unless it is a string or path, ValueError if empty."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a path, a string or os.PathLike, got {value!r}")
    if not text or "\0" in text:
        raise ValueError(f"{what} must be a path, got {value!r}")
    return Path(text)
