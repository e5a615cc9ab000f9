"""Where samples come from: by number (Dataset) or one after the other (IterableDataset)."""

from __future__ import annotations

import bisect
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of, get_backend, on_host
from gpuprop.random import Generator, default_generator


class Dataset:
    """Samples by number: a subclass defines ``__getitem__`` and ``__len__``.

    It may define ``take(indices)`` too, the batch of these samples, where that is faster than one by one.
    """

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} lacks __getitem__(index)")

    def __add__(self, other: Any) -> ConcatDataset:
        return ConcatDataset([self, other])


def taker(dataset: Any) -> Callable[[Any], Any] | None:
    """A Dataset's `take`, if it has one; that of arrays means something else."""
    return getattr(dataset, "take", None) if isinstance(dataset, Dataset) else None


class IterableDataset:
    """Samples one after the other: a subclass defines ``__iter__``."""

    def __iter__(self) -> Iterator:
        raise NotImplementedError(f"{type(self).__name__} lacks __iter__()")


class ArrayDataset(Dataset):
    """Arrays of equal length, on the host or on a device; a sample is the tuple of their rows."""

    def __init__(self, *arrays: Any) -> None:
        if not arrays:
            raise ValueError("ArrayDataset needs at least one array")
        self.arrays = tuple(_as_array(a) for a in arrays)
        shapes = [a.shape for a in self.arrays]
        if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(f"ArrayDataset: the arrays differ in their first length: {', '.join(map(str, shapes))}")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: Any) -> tuple:
        return tuple(a[index] for a in self.arrays)

    def take(self, indices: Any) -> tuple:
        """The rows of these numbers, of each array; gathered where the array is."""
        indices = np.asarray(indices, np.intp)
        return tuple(a.take(indices, 0) if type(a) is np.ndarray else _rows(a, indices) for a in self.arrays)

    def __repr__(self) -> str:
        return f"ArrayDataset({', '.join(f'{a.dtype}{list(a.shape)}' for a in self.arrays)})"


TensorDataset = ArrayDataset


def _as_array(value: Any) -> Any:
    value = raw(value)
    try:
        backend_of(value)
    except TypeError:
        return get_backend("numpy").asarray(value)
    return get_backend("numpy").asarray(value) if isinstance(value, np.ndarray) else value


def _rows(a: Any, indices: np.ndarray) -> Any:
    """Rows of an array on a device, which would wrap an index out of range."""
    backend, n = backend_of(a), len(a)
    wrong = indices[(indices < -n) | (indices >= n)]
    if wrong.size:
        raise IndexError(f"index {wrong[0]} is out of bounds for the dataset's {n} samples")
    with backend.at(a):
        return backend.xp.take(a, backend.asarray(indices), axis=0)


class Subset(Dataset):
    """The samples of a dataset that `indices` names, in this order."""

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    @property
    def take(self) -> Callable[[Any], Any]:
        """As the dataset's own; it has none where that has none."""
        inner, own = taker(self.dataset), np.asarray(self.indices, np.intp)
        if inner is None:
            raise AttributeError("take")
        return lambda indices: inner(own[indices])


class ConcatDataset(Dataset):
    """Datasets one after the other; ``a + b`` is one."""

    def __init__(self, datasets: Iterable) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one dataset")
        self.ends = list(itertools.accumulate(len(d) for d in self.datasets))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Any:
        i, n = operator.index(index), len(self)
        if not -n <= i < n:
            raise IndexError(f"there is no sample {i}: the dataset has {n}")
        i %= n
        which = bisect.bisect_right(self.ends, i)
        return self.datasets[which][i - self.ends[which] + len(self.datasets[which])]


def random_split(dataset: Any, lengths: Sequence[float], rng: Generator | None = None) -> list[Subset]:
    """Subsets of these lengths, or fractions that sum to 1, of the samples in random order; none is in two.

    What rounding fractions down leaves over goes to the first ones, one each.
    """
    n, total = len(dataset), sum(lengths)
    counts = list(lengths)
    if math.isclose(total, 1):
        counts = [math.floor(n * f) for f in lengths]
        rest = n - sum(counts)
        counts = [c + (i < rest) for i, c in enumerate(counts)]
    if sum(counts) != n or any(c < 0 or c != int(c) for c in counts):
        raise ValueError(f"random_split: {list(lengths)} are neither lengths that sum to {n}, the dataset's, nor "
                         f"fractions that sum to 1")
    with on_host():
        order = (rng or default_generator).permutation(n)
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(counts[:-1], dtype=int))]
