"""The same training step added up in another order: other rounding and nothing else, which says what rounding does.

The rows of the batch come in another order, which reorders all sums over the batch, and so do the inner axes of matrix
products, which reorders the sums within a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuprop._core.backend import Backend
from gpuprop._core.ops import Spec


class Order:
    """Another order for the rows of a batch, none for 0 rows, and for whatever products add up."""

    def __init__(self, rows: int, number: int) -> None:
        self.n, self.rng = rows, np.random.default_rng([rows, number])
        self.order = self.rng.permutation(rows)
        self.inverse = np.argsort(self.order)

    @staticmethod
    def rows(arrays: list[np.ndarray]) -> int:
        """The length of the first axis, if all arrays of a batch agree on it, else 0."""
        lengths = {a.shape[0] for a in arrays if a.ndim}
        return lengths.pop() if len(lengths) == 1 else 0

    def moved(self, a: np.ndarray) -> np.ndarray:
        """An array of the batch with its rows in this order."""
        return a[self.order] if self.n and a.ndim else a

    def undone(self, a: np.ndarray) -> Iterator[np.ndarray]:
        """What a model made, with the rows in their first order, along each axis on which they may be, or on none."""
        yield a
        for axis in self._axes(a.shape):
            yield self._taken(np, a, self.inverse, axis)

    def _axes(self, shape: tuple) -> list[int]:
        """The axes along which the rows may lie, the likely ones first; a row may be several neighbours."""
        fitting = [i for i, length in enumerate(shape) if self.n and length and length % self.n == 0]
        return sorted(fitting, key=lambda i: shape[i] != self.n)

    def _taken(self, xp: Any, a: Any, order: Any, axis: int) -> Any:
        blocks = a.reshape(*a.shape[:axis], self.n, a.shape[axis] // self.n, *a.shape[axis + 1:])
        return xp.take(blocks, order, axis=axis).reshape(a.shape)

    # ---- in ops

    def inspect(self, spec: Spec, backend: Backend, run: Callable) -> Callable:
        """An op with its products in another order.

        Noise is drawn by the place of an element: an op with a rng_key has the rows in their first order.
        """
        names, products = [p.name for p in spec.arrays], Products(backend, self.rng)
        reordered = lambda xp, *arrays, **constants: run(products, *arrays, **constants)
        if "rng_key" not in names or not self.n:
            return reordered
        order, inverse = backend.asarray(self.order), backend.asarray(self.inverse)
        put, back = (functools.partial(self._all, backend.xp, o) for o in (order, inverse))

        def in_place(xp: Any, *arrays: Any, **constants: Any) -> tuple:
            given = (a if name == "rng_key" else back(a) for name, a in zip(names, arrays, strict=True))
            out, pullback = reordered(xp, *given, **constants)
            around = lambda f: f and (lambda d: put(f(back(d))))
            return put(out), tuple(map(around, pullback)) if type(pullback) is tuple else around(pullback)

        return in_place

    def _all(self, xp: Any, order: Any, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return tuple(self._all(xp, order, v) for v in value)
        axes = self._axes(getattr(value, "shape", ()))
        return self._taken(xp, value, order, axes[0]) if axes else value


class Products:
    """A backend's ``xp`` whose matrix products add in another order."""

    def __init__(self, backend: Backend, rng: np.random.Generator) -> None:
        self._backend, self._xp, self._rng = backend, backend.xp, rng

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def matmul(self, a: Any, b: Any, **options: Any) -> Any:
        order = self._backend.asarray(self._rng.permutation(a.shape[-1]))
        axis = -1 if b.ndim == 1 else -2
        return self._xp.matmul(self._xp.take(a, order, axis=-1), self._xp.take(b, order, axis=axis), **options)
