"""A batch with its rows in another order: the same mathematics, other rounding, which says what rounding does."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuprop.backend import Backend
from gpuprop.ops import Spec


class Rows:
    """An order for the rows of a batch, and how to find the rows again in what a model makes of them."""

    def __init__(self, n: int) -> None:
        self.n, self.order = n, np.random.default_rng(n).permutation(n)
        self.inverse = np.argsort(self.order)

    @classmethod
    def of(cls, arrays: list[np.ndarray]) -> Rows | None:
        """An order for the first axis that all arrays of a batch share, or None if they share none."""
        lengths = {a.shape[0] for a in arrays if a.ndim}
        return cls(lengths.pop()) if len(lengths) == 1 else None

    def undone(self, a: np.ndarray) -> Iterator[np.ndarray]:
        """`a` with its rows in their first order, for all that its rows may be: each axis which they would divide."""
        yield a
        for axis in self._axes(a.shape):
            yield self.moved(np, a, self.inverse, axis)

    def _axes(self, shape: tuple) -> list[int]:
        """The axes along which the rows may lie, the likely ones first."""
        fitting = [i for i, length in enumerate(shape) if length and length % self.n == 0]
        return sorted(fitting, key=lambda i: shape[i] != self.n)

    def moved(self, xp: Any, a: Any, order: Any, axis: int | None = None) -> Any:
        """`a` with its rows, each of which may be several neighbours, in this order."""
        axes = self._axes(a.shape) if axis is None else [axis]
        if not axes:
            return a
        before, after = a.shape[:axes[0]], a.shape[axes[0] + 1:]
        blocks = a.reshape(*before, self.n, a.shape[axes[0]] // self.n, *after)
        return xp.take(blocks, order, axis=axes[0]).reshape(a.shape)

    def inspect(self, spec: Spec, backend: Backend, run: Callable) -> Callable:
        """Noise is drawn by the place of an element: an op with a ticket gets its rows in their first order."""
        names = [p.name for p in spec.arrays]
        if "ticket" not in names:
            return run
        xp, order, inverse = backend.xp, backend.asarray(self.order), backend.asarray(self.inverse)
        put, back = (functools.partial(self._all, xp, o) for o in (order, inverse))

        def reordered(xp: Any, *arrays: Any, **constants: Any) -> tuple:
            ticket = names.index("ticket")
            out, pullback = run(xp, *(a if i == ticket else back(a) for i, a in enumerate(arrays)), **constants)
            around = lambda f: f and (lambda d: put(f(back(d))))
            return put(out), tuple(map(around, pullback)) if type(pullback) is tuple else around(pullback)

        return reordered

    def _all(self, xp: Any, order: Any, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return tuple(self._all(xp, order, v) for v in value)
        return self.moved(xp, value, order) if getattr(value, "ndim", 0) else value
