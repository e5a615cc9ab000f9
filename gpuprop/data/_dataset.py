"""Datasets: map-style (Dataset), read by index, and iterable (IterableDataset)."""

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
    """A map-style dataset: a subclass defines ``__getitem__(index)`` and ``__len__()``.

    A subclass may also define ``take_batch(indices)``, which returns a whole batch, where that is
    faster than collating single samples.  A DataLoader without `collate_fn` calls it.
    """

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(index)")

    def __add__(self, other: Any) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset:
    """A dataset that is read in its own order: a subclass defines ``__iter__()``."""

    def __iter__(self) -> Iterator:
        raise NotImplementedError(f"{type(self).__name__} must define __iter__()")


class ArrayDataset(Dataset):
    """Arrays of equal length, on the host or on a device; a sample has one row of each array.

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
            raise ValueError(f"ArrayDataset: the arrays must have the same length, got the shapes "
                             f"{', '.join(map(str, shapes))}")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: Any) -> tuple:
        return tuple(a[index] for a in self.arrays)

    def take_batch(self, indices: Any) -> tuple:
        """The rows of each array at `indices`, gathered on the array's device."""
        indices = np.asarray(indices, np.intp)
        return tuple(
            a.take(indices, 0) if type(a) is np.ndarray else _take_rows(a, indices)
            for a in self.arrays)

    def __repr__(self) -> str:
        arrays = ", ".join(f"{a.dtype}{list(a.shape)}" for a in self.arrays)
        return f"{type(self).__name__}({arrays})"


TensorDataset = ArrayDataset  # PyTorch's name


def _as_array(value: Any) -> Any:
    """A device array unchanged, anything else as a NumPy array."""
    value = raw(value)
    try:
        is_on_device = backend_of(value).name != "numpy"
    except TypeError:  # a list, for example
        is_on_device = False
    return value if is_on_device else get_backend("numpy").asarray(value)


def _take_rows(a: Any, indices: np.ndarray) -> Any:
    """The rows of a device array at `indices`.

    The host checks the indices, because a device wraps those that are out of bounds.
    """
    backend = backend_of(a)
    n = len(a)
    out_of_bounds = indices[(indices < -n) | (indices >= n)]
    if out_of_bounds.size:
        raise IndexError(f"index {out_of_bounds[0]} is out of bounds for a dataset of {n} samples")
    with backend.at(a):
        return backend.xp.take(a, backend.asarray(indices), axis=0)


class Subset(Dataset):
    """The samples of a dataset at `indices`, in the order of `indices`."""

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]


class ConcatDataset(Dataset):
    """Several datasets, one after the other; ``a + b`` concatenates two."""

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
    subset_indices = np.asarray(subset.indices, np.intp)
    return lambda indices: take(subset_indices[indices])


def random_split(
    dataset: Any, lengths: Sequence[float], rng: Generator | None = None
) -> list[Subset]:
    """Split a dataset at random into disjoint subsets.

    `lengths` are numbers of samples, or fractions that sum to 1.  A fraction gives a length rounded
    down; the samples that remain go to the first subsets, one each.

    >>> from gpuprop.data import random_split
    >>> [len(part) for part in random_split(range(10), [0.75, 0.25])]
    [8, 2]
    """
    n = len(dataset)
    counts = list(lengths)
    if math.isclose(sum(lengths), 1):
        counts = [math.floor(n * fraction) for fraction in lengths]
        remaining = n - sum(counts)
        counts = [count + 1 if i < remaining else count for i, count in enumerate(counts)]
    if sum(counts) != n or any(c < 0 or c != int(c) for c in counts):
        raise ValueError(f"random_split: expected lengths that sum to {n}, the length of the "
                         f"dataset, or fractions that sum to 1, got {list(lengths)}")
    with on_host():
        permutation = (rng or default_generator).permutation(n)
    ends = np.cumsum(counts[:-1], dtype=int)
    return [Subset(dataset, indices) for indices in np.split(permutation, ends)]
