"""In which order samples are taken: each epoch's from a generator that the loader hands over."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np

from gpuprop._core.registry import on_host
from gpuprop.random import Generator, default_generator


class Sampler:
    """Numbers of samples in the order of one epoch: a subclass defines ``order(rng)``, or ``__iter__`` as in PyTorch.

    A DataLoader asks for ``order`` with a generator of that epoch alone, so that an interrupted epoch can be gone on
    with; iterating draws from the default generator.
    """

    def order(self, rng: Generator) -> Iterable[int]:
        return iter(self)

    def __iter__(self) -> Iterator[int]:
        if type(self).order is Sampler.order:
            raise NotImplementedError(f"{type(self).__name__} defines neither order(rng) nor __iter__()")
        return (operator.index(i) for i in order_of(self, default_generator))


def order_of(sampler: Iterable, rng: Generator) -> Iterable:
    """The order of one epoch, drawn on the host; of a foreign sampler, that in which it iterates."""
    with on_host():
        return sampler.order(rng) if isinstance(sampler, Sampler) else sampler


class SequentialSampler(Sampler):
    """All samples, in order."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __len__(self) -> int:
        return len(self.data_source)

    def order(self, rng: Generator) -> np.ndarray:
        return np.arange(len(self))


class RandomSampler(Sampler):
    """`num_samples` samples (all, if None) in random order; each anew among all, if `replacement`."""

    def __init__(self, data_source: Sized, replacement: bool = False, num_samples: int | None = None) -> None:
        self.data_source, self.replacement, self._num_samples = data_source, replacement, num_samples
        if num_samples is not None and num_samples <= 0:
            raise ValueError(f"RandomSampler: num_samples is at least 1, not {num_samples}")
        if not len(data_source):
            raise ValueError("there is nothing to shuffle: the dataset is empty")

    def __len__(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def order(self, rng: Generator) -> np.ndarray:
        n, count = len(self.data_source), len(self)
        if self.replacement:
            return rng.integers(0, n, count)
        return np.concatenate([rng.permutation(n) for _ in range(-(-count // n))])[:count]


class WeightedRandomSampler(Sampler):
    """`num_samples` samples, each with a probability proportional to its weight; at most once unless `replacement`."""

    def __init__(self, weights: Sequence[float] | np.ndarray, num_samples: int, replacement: bool = True) -> None:
        self.weights, self.num_samples, self.replacement = np.asarray(weights, np.float64), num_samples, replacement
        w = self.weights
        if w.ndim != 1 or not np.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
            raise ValueError("WeightedRandomSampler: weights are a list of finite numbers, none negative, not all 0")
        if num_samples <= 0 or (not replacement and num_samples > np.count_nonzero(w)):
            raise ValueError(f"WeightedRandomSampler: num_samples is at least 1 and, without replacement, at most the "
                             f"{np.count_nonzero(w)} samples whose weight is not 0; it is {num_samples}")

    def __len__(self) -> int:
        return self.num_samples

    def order(self, rng: Generator) -> np.ndarray:
        w = self.weights
        if self.replacement:
            ends = np.cumsum(w)
            return np.searchsorted(ends, rng.uniform(len(self), dtype="float64") * ends[-1], side="right")
        # P. Efraimidis and P. Spirakis, "Weighted random sampling with a reservoir", 2006: the first of a race
        with np.errstate(divide="ignore"):
            times = -np.log1p(-rng.uniform(len(w), dtype="float64")) / w
        return np.argsort(times, kind="stable")[: len(self)]


class BatchSampler(Sampler):
    """The numbers of another sampler, `batch_size` at a time; `drop_last` leaves out a last batch that is smaller."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool = False) -> None:
        if not isinstance(batch_size, int | np.integer) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(f"batch_size is a positive integer, not {batch_size!r}")
        self.sampler, self.batch_size, self.drop_last = sampler, int(batch_size), drop_last

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def order(self, rng: Generator) -> Iterator[Any]:
        return self._batches(order_of(self.sampler, rng))

    def _batches(self, order: Iterable[int]) -> Iterator[Any]:
        if isinstance(order, np.ndarray):
            batches: Iterable = (order[i:i + self.batch_size] for i in range(0, len(order), self.batch_size))
        else:
            numbers = iter(order)
            batches = iter(lambda: list(itertools.islice(numbers, self.batch_size)), [])
        return (b for b in batches if not self.drop_last or len(b) == self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        return (list(map(operator.index, batch)) for batch in self.order(default_generator))
