"""Datasets: samples by index (Dataset) or one after the other (IterableDataset)."""

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
    """Samples by index: a subclass defines ``__getitem__(index)`` and ``__len__()``.

    It may also define ``take_batch(indices)``, which returns a whole batch, if that is faster than
    collating single samples.  A loader without `collate_fn` uses it.
    """

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} lacks __getitem__(index)")

    def __add__(self, other: Any) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset:
    """Samples one after the other: a subclass defines ``__iter__()``."""

    def __iter__(self) -> Iterator:
        raise NotImplementedError(f"{type(self).__name__} lacks __iter__()")


class ArrayDataset(Dataset):
    """Arrays of equal length, on the host or on a device; a sample is the tuple of their rows.

    >>> import numpy as np
    >>> from gpuprop.data import ArrayDataset
    >>> dataset = ArrayDataset(np.arange(6.0).reshape(3, 2), np.array([7, 8, 9]))
    >>> dataset
    ArrayDataset(float64[3, 2], int64[3])
    >>> dataset.take_batch([2, 0])[1]
    array([9, 7])
    """

    def __init__(self, *arrays: Any) -> None:
        if not arrays:
            raise ValueError("ArrayDataset needs at least one array")
        self.arrays = tuple(_as_array(a) for a in arrays)
        shapes = [a.shape for a in self.arrays]
        if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(f"ArrayDataset: the arrays must have the same length, but their "
                             f"shapes are {', '.join(map(str, shapes))}")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: Any) -> tuple:
        return tuple(a[index] for a in self.arrays)

    def take_batch(self, indices: Any) -> tuple:
        """The rows at these indices of each array, gathered on the array's device."""
        indices = np.asarray(indices, np.intp)
        return tuple(
            a.take(indices, 0) if type(a) is np.ndarray else _take_rows(a, indices)
            for a in self.arrays)

    def __repr__(self) -> str:
        arrays = ", ".join(f"{a.dtype}{list(a.shape)}" for a in self.arrays)
        return f"{type(self).__name__}({arrays})"


TensorDataset = ArrayDataset


def _as_array(value: Any) -> Any:
    value = raw(value)
    try:
        backend_of(value)
    except TypeError:
        return get_backend("numpy").asarray(value)
    return get_backend("numpy").asarray(value) if isinstance(value, np.ndarray) else value


def _take_rows(a: Any, indices: np.ndarray) -> Any:
    """Rows of an array on a device, which would wrap indices that are out of bounds."""
    backend = backend_of(a)
    n = len(a)
    wrong = indices[(indices < -n) | (indices >= n)]
    if wrong.size:
        raise IndexError(f"index {wrong[0]} is out of bounds for a dataset of {n} samples")
    with backend.at(a):
        return backend.xp.take(a, backend.asarray(indices), axis=0)


class Subset(Dataset):
    """The samples of a dataset at `indices`, in this order."""

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]


class ConcatDataset(Dataset):
    """Several datasets, one after the other; ``a + b`` makes one."""

    def __init__(self, datasets: Iterable) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one dataset")
        self.ends = list(itertools.accumulate(len(d) for d in self.datasets))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Any:
        i = operator.index(index)
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"index {i} is out of bounds for a dataset of {n} samples")
        i %= n
        k = bisect.bisect_right(self.ends, i)
        start = self.ends[k] - len(self.datasets[k])
        return self.datasets[k][i - start]


def batch_taker(dataset: Any) -> Callable[[Any], Any] | None:
    """The `take_batch` method of a dataset, or None if single samples must be collated.

    A subclass that overrides ``__getitem__`` but not `take_batch` is read sample by sample.
    """
    if not isinstance(dataset, Dataset):
        return None
    for cls in type(dataset).__mro__:
        if "take_batch" in vars(cls):
            return dataset.take_batch  # type: ignore[attr-defined]
        if cls is Subset:
            return _subset_batch_taker(dataset)  # type: ignore[arg-type]
        if "__getitem__" in vars(cls):
            return None
    return None


def _subset_batch_taker(subset: Subset) -> Callable[[Any], Any] | None:
    take = batch_taker(subset.dataset)
    if take is None:
        return None
    own = np.asarray(subset.indices, np.intp)
    return lambda indices: take(own[indices])


def random_split(
    dataset: Any, lengths: Sequence[float], rng: Generator | None = None
) -> list[Subset]:
    """Split a dataset at random into disjoint subsets of these lengths.

    Fractions that sum to 1 are rounded down; the first subsets get one more sample each until none
    are left.

    >>> from gpuprop.data import random_split
    >>> [len(part) for part in random_split(range(10), [0.75, 0.25])]
    [8, 2]
    """
    n = len(dataset)
    counts = list(lengths)
    if math.isclose(sum(lengths), 1):
        counts = [math.floor(n * fraction) for fraction in lengths]
        rest = n - sum(counts)
        counts = [count + (i < rest) for i, count in enumerate(counts)]
    if sum(counts) != n or any(c < 0 or c != int(c) for c in counts):
        raise ValueError(f"random_split: {list(lengths)} must be lengths that sum to {n}, the "
                         f"length of the dataset, or fractions that sum to 1")
    with on_host():
        order = (rng or default_generator).permutation(n)
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(counts[:-1], dtype=int))]
