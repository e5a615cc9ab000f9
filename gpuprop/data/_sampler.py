"""Samplers: the order of the samples of an epoch, drawn from a generator of that epoch."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np

from gpuprop._core.registry import on_host
from gpuprop.random import Generator, default_generator


class Sampler:
    """The indices of samples in the order of one epoch.

    A subclass defines ``epoch_indices(rng)``, or ``__iter__`` as in PyTorch.  A DataLoader calls
    `epoch_indices` with a generator of that epoch alone, so that an interrupted epoch can be
    resumed.  Iteration draws from the default generator.
    """

    def epoch_indices(self, rng: Generator) -> Iterable[int]:
        """The indices of one epoch, with random numbers from `rng` only."""
        return iter(self)

    def __iter__(self) -> Iterator[int]:
        if type(self).epoch_indices is Sampler.epoch_indices:
            raise NotImplementedError(f"{type(self).__name__} must define epoch_indices(rng) or "
                                      f"__iter__()")
        return (operator.index(i) for i in epoch_indices(self, default_generator))


def epoch_indices(sampler: Iterable, rng: Generator) -> Iterable:
    """The indices of one epoch, drawn on the host; an iterable that is no Sampler is iterated."""
    with on_host():
        return sampler.epoch_indices(rng) if isinstance(sampler, Sampler) else sampler


class SequentialSampler(Sampler):
    """All samples in their order."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __len__(self) -> int:
        return len(self.data_source)

    def epoch_indices(self, rng: Generator) -> np.ndarray:
        return np.arange(len(self))


class RandomSampler(Sampler):
    """`num_samples` samples (by default all) in random order, with or without replacement.

    Without replacement no sample is repeated before all were drawn.
    """

    def __init__(
        self, data_source: Sized, replacement: bool = False, num_samples: int | None = None
    ) -> None:
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        if num_samples is not None and num_samples <= 0:
            raise ValueError(f"RandomSampler: num_samples must be at least 1, not {num_samples}")
        if not len(data_source):
            raise ValueError("RandomSampler: cannot shuffle: the dataset is empty")

    def __len__(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def epoch_indices(self, rng: Generator) -> np.ndarray:
        n = len(self.data_source)
        count = len(self)
        if self.replacement:
            return rng.integers(0, n, count)
        permutations = [rng.permutation(n) for _ in range(-(-count // n))]
        return np.concatenate(permutations)[:count]


class WeightedRandomSampler(Sampler):
    """`num_samples` samples with probabilities proportional to their weights.

    Without `replacement` each is drawn at most once: P. Efraimidis and P. Spirakis, "Weighted
    random sampling with a reservoir", 2006.
    """

    def __init__(
        self, weights: Sequence[float] | np.ndarray, num_samples: int, replacement: bool = True
    ) -> None:
        self.weights = np.asarray(weights, np.float64)
        self.num_samples = num_samples
        self.replacement = replacement
        w = self.weights
        if w.ndim != 1 or not np.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
            raise ValueError("WeightedRandomSampler: weights must be one-dimensional, finite and "
                             "not negative, and not all 0")
        positive = np.count_nonzero(w)
        if num_samples <= 0:
            raise ValueError(f"WeightedRandomSampler: num_samples must be at least 1, not "
                             f"{num_samples}")
        if not replacement and num_samples > positive:
            raise ValueError(f"WeightedRandomSampler: without replacement num_samples must be at "
                             f"most {positive}, the number of positive weights, not {num_samples}")

    def __len__(self) -> int:
        return self.num_samples

    def epoch_indices(self, rng: Generator) -> np.ndarray:
        w = self.weights
        if self.replacement:
            ends = np.cumsum(w)
            points = rng.uniform(len(self), dtype="float64") * ends[-1]
            return np.searchsorted(ends, points, side="right")
        # the samples with the smallest exponential times of rate w, in order
        with np.errstate(divide="ignore"):
            times = -np.log1p(-rng.uniform(len(w), dtype="float64")) / w
        return np.argsort(times, kind="stable")[: len(self)]


class BatchSampler(Sampler):
    """The indices of another sampler in batches of `batch_size`.

    With `drop_last` a last batch that is smaller is left out.
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool = False) -> None:
        is_integer = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
        if not is_integer or batch_size <= 0:
            raise ValueError(f"batch_size must be a positive integer, not {batch_size!r}")
        self.sampler = sampler
        self.batch_size = int(batch_size)
        self.drop_last = drop_last

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def epoch_indices(self, rng: Generator) -> Iterator[Any]:
        return self._batches(epoch_indices(self.sampler, rng))

    def _batches(self, indices: Iterable[int]) -> Iterator[Any]:
        size = self.batch_size
        if isinstance(indices, np.ndarray):
            batches: Iterable = (indices[i:i + size] for i in range(0, len(indices), size))
        else:
            rest = iter(indices)
            batches = iter(lambda: list(itertools.islice(rest, size)), [])
        return (batch for batch in batches if not self.drop_last or len(batch) == size)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        batches = self.epoch_indices(default_generator)
        return (list(map(operator.index, batch)) for batch in batches)
