"""The table every op has rows in: what it is called with when it is checked, on every backend.

A row is a call.  From its NumPy arrays (float64 and integers) the kit makes the calls it checks: first and second order
gradients, agreement of backends, versions and memory layouts.  One module a family.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop._core.signature import public_module

FAMILIES = ("arithmetic", "shape", "indexing", "reduction", "products", "linear", "activation", "dropout",
            "normalization", "padding", "resampling", "loss",
            "windows", "convolution", "pooling",
            "recurrent", "embedding", "attention", "sequences")


class Row:
    """One call of an op: ``Row(F.linear, floats(2, 4), floats(3, 4))``; `but` says what is not checked, and why."""

    def __init__(self, op: Callable, *args: Any, **kwargs: Any) -> None:
        self.op, self.args, self.kwargs = op, args, kwargs
        self.reasons: dict[str, str] = {}

    def but(self, **reasons: str) -> Row:
        """State what is not checked and why: ``gradient=``, ``second=``, ``capture=``, ``parity=``, ``layouts=``."""
        unknown = set(reasons) - {"gradient", "second", "capture", "parity", "layouts"}
        if unknown:
            raise TypeError(f"a row cannot be excused from {', '.join(sorted(unknown))}")
        self.reasons = self.reasons | reasons
        return self

    @property
    def name(self) -> str:
        if hasattr(self.op, "spec"):
            return self.op.spec.name
        return f"{public_module(self.op.__module__)}:{self.op.__name__}"

    def arrays(self) -> list[np.ndarray]:
        """The arrays of the call, in order, those in lists included."""
        found: list[np.ndarray] = []
        self.substituted(found.append)
        return found

    def substituted(self, f: Callable[[np.ndarray], Any]) -> tuple[tuple, dict[str, Any]]:
        """The arguments with `f(array)` for every array."""
        def each(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return f(value)
            return type(value)(map(each, value)) if isinstance(value, list | tuple) else value

        return tuple(map(each, self.args)), {k: each(v) for k, v in self.kwargs.items()}

    def replaced(self, f: Callable[[np.ndarray], Any]) -> Callable:
        """The call with `f(array)` for every array: a function without arguments."""
        args, kwargs = self.substituted(f)
        return lambda: self.op(*args, **kwargs)

    def __repr__(self) -> str:
        words = [*map(_text, self.args), *(f"{k}={_text(v)}" for k, v in self.kwargs.items())]
        return f"{self.name.partition(':')[2]}({', '.join(words)})"


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name}{list(value.shape)}"
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list | tuple) else repr(value)


@functools.cache
def _rng(family: str) -> np.random.Generator:
    """Each family draws its own numbers, which another family's rows do not change."""
    return np.random.default_rng(list(family.encode()))


def _family() -> str:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals["__name__"] == __name__:
        frame = frame.f_back
    return frame.f_globals["__name__"]


def floats(*shape: int, low: float | None = None, high: float | None = None) -> np.ndarray:
    """float64 of a shape: normal, or uniform between `low` and `high`; no two are equal."""
    rng = _rng(_family())
    return np.asarray(rng.standard_normal(shape) if low is None or high is None else rng.uniform(low, high, shape))


def integers(high: int, *shape: int, low: int = 0) -> np.ndarray:
    """int64 in [low, high)."""
    return np.asarray(_rng(_family()).integers(low, high, shape))


def pointwise(op: Callable, operands: int = 1, low: float | None = None, high: float | None = None,
              **kwargs: Any) -> list[Row]:
    """Rows for an op that works element by element: plain, 0-d, size-1, empty, three axes, and broadcast operands."""
    shapes: list[tuple[tuple[int, ...], ...]] = [(s,) * operands for s in ((4, 5), (), (1,), (0, 3), (2, 3, 4))]
    if operands > 1:
        pairs = (((4, 5), (5,)), ((4, 1), (1, 3)), ((), (2, 3)), ((0, 3), (1,)))
        shapes += [(first, *[other] * (operands - 1)) for first, other in pairs]
    return [Row(op, *(floats(*s, low=low, high=high) for s in group), **kwargs) for group in shapes]


def all_rows() -> list[Row]:
    """Every row of the library."""
    return [row for family in FAMILIES for row in importlib.import_module(f"gpuprop.testing.rows.{family}").ROWS]
