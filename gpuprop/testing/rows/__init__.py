"""The table of calls with which every op is checked, on every backend.

A row calls one op with float64 and integer arrays.  The checks test its first- and second-order
gradients, and repeat it with other dtypes, other memory layouts and on other backends.  There is
one module for each family of ops.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop._core.signature import public_module
from gpuprop._core.tree import tree_leaves, tree_map

__all__ = ["FAMILIES", "Row", "all_rows", "floats", "integers", "pointwise"]

FAMILIES = (
    "arithmetic",
    "shape",
    "indexing",
    "reduction",
    "products",
    "linear",
    "activation",
    "dropout",
    "normalization",
    "padding",
    "resampling",
    "loss",
    "further_loss",
    "boxes",
    "windows",
    "convolution",
    "pooling",
    "recurrent",
    "embedding",
    "attention",
    "sequences",
    "distributions",
)
CHECKS = {"gradient", "second", "hidden", "capture", "parity", "layouts", "half", "large",
          "integers", "waits"}


class Row:
    """One call of an op: ``Row(F.linear, floats(2, 4), floats(3, 4))``.

    Calling the row calls the op.
    """

    def __init__(self, op: Callable, *args: Any, **kwargs: Any) -> None:
        self.op = op
        self.args = args
        self.kwargs = kwargs
        self.skipped: dict[str, str] = {}  # check -> reason

    def __call__(self) -> Any:
        return self.op(*self.args, **self.kwargs)

    def skip(self, **reasons: str) -> Row:
        """Skip checks, each with a reason: ``row.skip(gradient="the output is random")``.

        The checks are `gradient`, `second`, `hidden`, `capture`, `parity`, `layouts`, `half`,
        `integers`, `large`, the part of `half` with large numbers, and `waits`, the part of
        `parity` that the host waits for no device.
        """
        unknown = reasons.keys() - CHECKS
        if unknown:
            raise TypeError(f"unknown checks {', '.join(sorted(unknown))}: expected one of "
                            f"{', '.join(sorted(CHECKS))}")
        self.skipped = self.skipped | reasons
        return self

    @property
    def name(self) -> str:
        """The qualified name of the op, such as "gpuprop.functional:relu"."""
        if hasattr(self.op, "spec"):
            return self.op.spec.name
        return f"{public_module(self.op.__module__)}:{self.op.__name__}"

    def arrays(self) -> list[np.ndarray]:
        """The arrays among the arguments, in order, including those in lists."""
        leaves = tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, np.ndarray)]

    def map_arrays(self, f: Callable[[np.ndarray], Any]) -> Row:
        """The same call with ``f(array)`` in place of each array."""
        args, kwargs = tree_map(lambda leaf: f(leaf) if isinstance(leaf, np.ndarray) else leaf,
                                (self.args, self.kwargs))
        row = Row(self.op, *args, **kwargs)
        row.skipped = self.skipped
        return row

    def __repr__(self) -> str:
        arguments = [_text(value) for value in self.args]
        arguments += [f"{name}={_text(value)}" for name, value in self.kwargs.items()]
        return f"{self.name.partition(':')[2]}({', '.join(arguments)})"


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name}{list(value.shape)}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return repr(value)


@functools.cache
def _rng(module: str) -> np.random.Generator:
    """The generator of a module: new rows in one module do not change the numbers of another."""
    return np.random.default_rng(list(module.encode()))


def _calling_module() -> str:
    """The module that called `floats` or `integers`, perhaps through `pointwise`."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals["__name__"] == __name__:
        frame = frame.f_back
    return frame.f_globals["__name__"].replace("._", ".")


def floats(*shape: int, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Random float64: uniform in [low, high) if both are given, otherwise standard normal."""
    rng = _rng(_calling_module())
    if low is None or high is None:
        return np.asarray(rng.standard_normal(shape))
    return np.asarray(rng.uniform(low, high, shape))


def integers(high: int, *shape: int, low: int = 0) -> np.ndarray:
    """Random int64 in [low, high)."""
    return np.asarray(_rng(_calling_module()).integers(low, high, shape))


def pointwise(op: Callable, operands: int = 1, low: float | None = None,
              high: float | None = None, **kwargs: Any) -> list[Row]:
    """Rows for an elementwise op: 2-d, 0-d, size-1, empty, 3-d and broadcast operands."""
    same = [(4, 5), (), (1,), (0, 3), (2, 3, 4)]
    shapes: list[tuple[tuple[int, ...], ...]] = [(shape,) * operands for shape in same]
    if operands > 1:
        broadcast = [((4, 5), (5,)), ((4, 1), (1, 3)), ((), (2, 3)), ((0, 3), (1,))]
        shapes += [(first, *[other] * (operands - 1)) for first, other in broadcast]
    return [Row(op, *(floats(*shape, low=low, high=high) for shape in group), **kwargs)
            for group in shapes]


def all_rows() -> list[Row]:
    """The rows of all families."""
    rows = []
    for family in FAMILIES:
        rows += importlib.import_module(f"gpuprop.testing.rows._{family}").ROWS
    return rows
