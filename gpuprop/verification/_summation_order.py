"""Run a training step with its sums in another order, to measure the effect of rounding.

Permuting the samples of a batch reorders all sums over the batch.  Permuting the inner axis of each
matrix product reorders the sums within a sample.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuprop._core.backend import Backend
from gpuprop._core.ops import Spec


def batch_size(arrays: list[np.ndarray]) -> int:
    """The length of the first axis if it is the same in all arrays of a batch, otherwise 0."""
    lengths = {a.shape[0] for a in arrays if a.ndim}
    return lengths.pop() if len(lengths) == 1 else 0


class SummationOrder:
    """A permutation of the samples of a batch, and permutations of matmul's inner axes.

    If `samples` is 0, the batch is not permuted.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples = samples
        self.rng = np.random.default_rng([samples, seed])
        self.permutation = self.rng.permutation(samples)
        self.inverse = np.argsort(self.permutation)

    def permute_batch(self, a: np.ndarray) -> np.ndarray:
        """An array of the batch with its samples permuted."""
        return a[self.permutation] if self.samples and a.ndim else a

    def possible_originals(self, a: np.ndarray) -> Iterator[np.ndarray]:
        """`a` as it is, then with the permutation undone along each axis that may hold samples."""
        yield a
        for axis in self._sample_axes(a.shape):
            yield self._take_samples(np, a, self.inverse, axis)

    def _sample_axes(self, shape: tuple) -> list[int]:
        """The axes that may hold the samples, the likely ones first.

        One sample may be several neighbouring rows: the axis is then a multiple of the batch size.
        """
        if not self.samples:
            return []
        axes = [i for i, length in enumerate(shape) if length and length % self.samples == 0]
        return sorted(axes, key=lambda i: shape[i] != self.samples)

    def _take_samples(self, xp: Any, a: Any, indices: Any, axis: int) -> Any:
        """The samples `indices` along `axis`, each with all its rows."""
        rows_per_sample = a.shape[axis] // self.samples
        blocked = (*a.shape[:axis], self.samples, rows_per_sample, *a.shape[axis + 1:])
        return xp.take(a.reshape(blocked), indices, axis=axis).reshape(a.shape)

    # ---- in ops

    def inspect(self, spec: Spec, backend: Backend, run: Callable) -> Callable:
        """An inspector of ops: the op with its matrix products in another order.

        Random numbers depend on the position of an element in its array.  An op with an `rng_key`
        therefore runs on the samples in their original order, and its results are permuted again.
        """
        names = [p.name for p in spec.arrays]
        products = ReorderedMatmul(backend, self.rng)

        def reordered(xp: Any, *arrays: Any, **constants: Any) -> tuple:
            return run(products, *arrays, **constants)

        if "rng_key" not in names or not self.samples:
            return reordered
        permute = functools.partial(self._take_all, backend.xp, backend.asarray(self.permutation))
        restore = functools.partial(self._take_all, backend.xp, backend.asarray(self.inverse))

        def in_original_order(xp: Any, *arrays: Any, **constants: Any) -> tuple:
            pairs = zip(names, arrays, strict=True)
            original = [a if name == "rng_key" else restore(a) for name, a in pairs]
            out, pullback = reordered(xp, *original, **constants)

            def permuted(f: Callable | None) -> Callable | None:
                return f and (lambda d: permute(f(restore(d))))

            if type(pullback) is tuple:
                return permute(out), tuple(permuted(f) for f in pullback)
            return permute(out), permuted(pullback)

        return in_original_order

    def _take_all(self, xp: Any, indices: Any, value: Any) -> Any:
        """Take samples from every array in `value` that has a sample axis."""
        if isinstance(value, tuple | list):
            return tuple(self._take_all(xp, indices, v) for v in value)
        axes = self._sample_axes(getattr(value, "shape", ()))
        return self._take_samples(xp, value, indices, axes[0]) if axes else value


class ReorderedMatmul:
    """A backend's ``xp`` whose `matmul` adds the products in a random order."""

    def __init__(self, backend: Backend, rng: np.random.Generator) -> None:
        self._backend = backend
        self._xp = backend.xp
        self._rng = rng

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def matmul(self, a: Any, b: Any, **options: Any) -> Any:
        order = self._backend.asarray(self._rng.permutation(a.shape[-1]))
        inner = -1 if b.ndim == 1 else -2
        a = self._xp.take(a, order, axis=-1)
        b = self._xp.take(b, order, axis=inner)
        return self._xp.matmul(a, b, **options)
