"""Datasets: map-style (Dataset), read by index, and iterable (IterableDataset)."""

from __future__ import annotations

import bisect
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpuprop._core.checks import as_instance, as_number
from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of, get_backend, on_host
from gpuprop._core.tensor import asnumpy
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
            raise ValueError("ArrayDataset: arrays must be at least one array")
        self.arrays = tuple(_as_array(f"ArrayDataset: array {i}", a) for i, a in enumerate(arrays))
        shapes = [a.shape for a in self.arrays]
        if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(f"ArrayDataset: the arrays must have the same length, got the shapes "
                             f"{', '.join(map(str, shapes))}")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: Any) -> tuple:
        return tuple(a[index] for a in self.arrays)

    def take_batch(self, indices: Any) -> tuple:
        """The rows of each array at `indices`, gathered on the array's device.

        `indices` may also be a mask, bools for all rows.
        """
        if type(indices) is not np.ndarray or indices.dtype != np.intp:
            indices = as_indices("take_batch: indices", indices, len(self))
        return tuple(
            a.take(indices, 0) if type(a) is np.ndarray else _take_rows(a, indices)
            for a in self.arrays)

    def __repr__(self) -> str:
        arrays = ", ".join(f"{a.dtype}{list(a.shape)}" for a in self.arrays)
        return f"{type(self).__name__}({arrays})"


TensorDataset = ArrayDataset  # PyTorch's name


def _as_array(what: str, value: Any) -> Any:
    """A device array unchanged, anything else as a NumPy array."""
    value = raw(value)
    try:
        is_on_device = backend_of(value).name != "numpy"
    except TypeError:  # a list, for example
        is_on_device = False
    if is_on_device:
        return value
    try:
        array = get_backend("numpy").asarray(value)
    except ValueError as e:
        raise ValueError(f"{what} is not converted to an array: {e}") from e
    if array.dtype.hasobject:
        raise TypeError(f"{what} must be an array or nested lists of numbers, got "
                        f"{type(value).__name__} of Python objects")
    return array


def _take_rows(a: Any, indices: np.ndarray) -> Any:
    """The rows of a device array at `indices`.

    The host checks the indices, because a device wraps those that are out of bounds.
    """
    backend = backend_of(a)
    check_bounds("take_batch: indices", indices, len(a))
    with backend.at(a):
        return backend.xp.take(a, backend.asarray(indices), axis=0)


def as_indices(what: str, indices: Any, n: int) -> np.ndarray:
    """Indices into `n` samples, or a mask of `n` bools, as an array of indices from 0 to n - 1.

    Raises IndexError for an index out of bounds, and TypeError for what are no integers.
    """
    try:
        array = asnumpy(indices)
    except ValueError as e:  # of nested lists
        raise TypeError(f"{what} must be a sequence of integers: {e}") from e
    if array.shape == (0,):
        return array.astype(np.intp)  # of an empty list, NumPy makes floats
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise TypeError(f"{what} must be a sequence of integers, or a mask of {n} bools, got "
                        f"{array.dtype} of shape {array.shape}")
    if array.dtype.kind == "b":
        if len(array) != n:
            raise IndexError(f"{what}: a mask must have one bool for each of {n} samples, got "
                             f"{len(array)}")
        return np.flatnonzero(array)
    check_bounds(what, array, n)
    array = array.astype(np.intp)
    return np.where(array < 0, array + n, array)


def check_bounds(what: str, indices: np.ndarray, n: int) -> None:
    """Raise IndexError for an index outside of `n` samples."""
    is_outside = (indices < -n) | (indices >= n)
    if is_outside.any():
        raise IndexError(f"{what}: index {indices[is_outside][0]} is out of bounds for a dataset "
                         f"of {n} samples")


def _length(what: str, dataset: Any) -> int:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(f"{what} must be a map-style dataset, which has a length and is read by "
                        f"index, got {type(dataset).__name__}")
    return len(dataset)


class Subset(Dataset):
    """The samples of a dataset at `indices`, in the order of `indices`.

    As in NumPy, an index may be negative, and `indices` may be a mask: one bool for each sample.

    >>> from gpuprop.data import Subset
    >>> list(Subset([5, 6, 7], [True, False, True])), list(Subset([5, 6, 7], [-1, 0]))
    ([5, 7], [7, 5])
    """

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray) -> None:
        n = _length("Subset: dataset", dataset)
        self.dataset = dataset
        self.indices = as_indices("Subset: indices", indices, n)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        i = self.indices[index]
        return self.dataset[i.item() if i.ndim == 0 else i]


class ConcatDataset(Dataset):
    """Several datasets, one after the other; ``a + b`` concatenates two."""

    def __init__(self, datasets: Iterable) -> None:
        if isinstance(datasets, Dataset | Mapping | str | bytes) or hasattr(datasets, "shape"):
            raise TypeError(f"ConcatDataset: datasets must be a list of datasets, got {datasets!r}")
        as_instance("ConcatDataset: datasets", datasets, Iterable, "a list of datasets")
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: datasets must hold at least one dataset")
        lengths = [_length(f"ConcatDataset: dataset {i}", d) for i, d in enumerate(self.datasets)]
        self.ends = list(itertools.accumulate(lengths))

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
    return lambda indices: take(subset.indices[indices])


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
    n = _length("random_split: dataset", dataset)
    as_instance("random_split: lengths", lengths, Iterable, "a list of numbers")
    lengths = [as_number("random_split: each of lengths", c, "[0, inf)") for c in lengths]
    if rng is not None:
        as_instance("random_split: rng", rng, Generator, "a gpuprop.random.Generator")
    counts = lengths
    if math.isclose(sum(lengths), 1):
        counts = [math.floor(n * fraction) for fraction in lengths]
        remaining = n - sum(counts)
        counts = [count + 1 if i < remaining else count for i, count in enumerate(counts)]
    if not counts or sum(counts) != n or any(c != int(c) for c in counts):
        raise ValueError(f"random_split: expected lengths that sum to {n}, the length of the "
                         f"dataset, or fractions that sum to 1, got {lengths}")
    with on_host():
        permutation = (rng or default_generator).permutation(n)
    ends = np.cumsum(counts[:-1], dtype=int)
    return [Subset(dataset, indices) for indices in np.split(permutation, ends)]
