"""Samplers: which samples an epoch reads, and in which order."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np

from gpuprop._core.checks import as_bool, as_instance, as_integer
from gpuprop._core.registry import on_host
from gpuprop.random import Generator, default_generator


class Sampler:
    """Abstract: yields the indices of the samples of one epoch.

    A subclass defines ``epoch_indices(rng)``, or ``__iter__`` as in PyTorch.  A DataLoader calls
    `epoch_indices` with a new generator for each epoch, so that it can resume an interrupted epoch.
    ``iter(sampler)`` draws from the default generator.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__iter__" in vars(cls) and "epoch_indices" not in vars(cls):
            cls.epoch_indices = Sampler.epoch_indices  # type: ignore[method-assign]

    def epoch_indices(self, rng: Generator) -> Iterable[int]:
        """The indices of one epoch; random numbers must come from `rng` only."""
        return iter(self)

    def __iter__(self) -> Iterator[int]:
        if type(self).epoch_indices is Sampler.epoch_indices:
            raise NotImplementedError(f"{type(self).__name__} must define epoch_indices(rng) or "
                                      f"__iter__()")
        return (operator.index(i) for i in epoch_indices(self, default_generator))


def epoch_indices(sampler: Iterable, rng: Generator) -> Iterable:
    """The indices of one epoch, drawn on the host.

    An iterable that is not a Sampler is returned unchanged.
    """
    with on_host():
        return sampler.epoch_indices(rng) if isinstance(sampler, Sampler) else sampler


MANY = 2**20  # more indices than these are drawn as they are read


def _drawn(count: int, draw: Callable[[], np.ndarray]) -> np.ndarray | Iterator[int]:
    """`count` indices of ``draw()`` calls: an array, or an iterator if they are many.

    A program may ask for 10 billion, of which it reads some until it ends.
    """
    first = draw()
    if count > max(MANY, len(first)):
        return itertools.islice(itertools.chain(first.tolist(), _endless(draw)), count)
    rounds = -(-count // len(first))
    return np.concatenate([first, *(draw() for _ in range(rounds - 1))])[:count]


def _endless(draw: Callable[[], np.ndarray]) -> Iterator[int]:
    while True:
        with on_host():
            part = draw()
        yield from part.tolist()


def _sized(name: str, data_source: Any) -> Sized:
    return as_instance(f"{name}: data_source", data_source, Sized, "a dataset with a length")


class SequentialSampler(Sampler):
    """All samples, in the order of the dataset."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = _sized("SequentialSampler", data_source)

    def __len__(self) -> int:
        return len(self.data_source)

    def epoch_indices(self, rng: Generator) -> np.ndarray:
        return np.arange(len(self))


class RandomSampler(Sampler):
    """`num_samples` samples, by default all, in random order, with or without replacement.

    Without replacement, no sample is drawn again before all have been drawn.
    """

    def __init__(
        self, data_source: Sized, replacement: bool = False, num_samples: int | None = None
    ) -> None:
        self.data_source = _sized("RandomSampler", data_source)
        self.replacement = as_bool("RandomSampler: replacement", replacement)
        self._num_samples = None
        if num_samples is not None:
            self._num_samples = as_integer("RandomSampler: num_samples", num_samples, 1)
        if not len(data_source):
            raise ValueError("RandomSampler: the dataset is empty")

    def __len__(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def epoch_indices(self, rng: Generator) -> np.ndarray | Iterator[int]:
        n = len(self.data_source)
        count = len(self)
        if self.replacement:
            return _drawn(count, lambda: rng.integers(0, n, min(count, MANY)))
        return _drawn(count, lambda: rng.permutation(n))


class WeightedRandomSampler(Sampler):
    """`num_samples` samples, drawn with probabilities proportional to their weights.

    Without `replacement` each sample is drawn at most once: P. Efraimidis and P. Spirakis,
    "Weighted random sampling with a reservoir", 2006.
    """

    def __init__(
        self, weights: Sequence[float] | np.ndarray, num_samples: int, replacement: bool = True
    ) -> None:
        try:
            self.weights = w = np.asarray(weights, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"WeightedRandomSampler: weights must be numbers, got "
                            f"{weights!r}") from error
        self.num_samples = as_integer("WeightedRandomSampler: num_samples", num_samples, 1)
        self.replacement = as_bool("WeightedRandomSampler: replacement", replacement)
        if w.ndim != 1 or not np.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
            raise ValueError("WeightedRandomSampler: weights must be one-dimensional, finite, "
                             "not negative and not all 0")
        positive = np.count_nonzero(w)
        if not replacement and num_samples > positive:
            raise ValueError(f"WeightedRandomSampler: without replacement num_samples must be at "
                             f"most {positive}, the number of positive weights, got {num_samples}")

    def __len__(self) -> int:
        return self.num_samples

    def epoch_indices(self, rng: Generator) -> np.ndarray | Iterator[int]:
        w = self.weights
        if self.replacement:
            cumulative = np.cumsum(w)
            size = min(len(self), MANY)

            def draw() -> np.ndarray:
                points = rng.uniform(size, dtype="float64") * cumulative[-1]
                return np.searchsorted(cumulative, points, side="right")

            return _drawn(len(self), draw)
        # arrival times are exponential with rate w; the samples that arrive first are drawn
        exponential = -np.log1p(-rng.uniform(len(w), dtype="float64"))
        with np.errstate(divide="ignore"):
            arrival_times = exponential / w
        return np.argsort(arrival_times, kind="stable")[: len(self)]


class BatchSampler(Sampler):
    """The indices of another sampler, in batches of `batch_size`.

    `drop_last` drops the last batch if it is smaller.
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool = False) -> None:
        self.sampler = as_instance("BatchSampler: sampler", sampler, Iterable,
                                   "an iterable of indices")
        self.batch_size = as_integer("BatchSampler: batch_size", batch_size, 1)
        self.drop_last = as_bool("BatchSampler: drop_last", drop_last)

    def __len__(self) -> int:
        n = len(self.sampler)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def epoch_indices(self, rng: Generator) -> Iterator[Any]:
        batches = _slices(epoch_indices(self.sampler, rng), self.batch_size)
        if self.drop_last:
            return (batch for batch in batches if len(batch) == self.batch_size)
        return batches

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        batches = self.epoch_indices(default_generator)
        return (list(map(operator.index, batch)) for batch in batches)


def _slices(indices: Iterable[int], size: int) -> Iterator[Any]:
    """Consecutive slices of `size` indices: views of an array, or lists."""
    if isinstance(indices, np.ndarray):
        for start in range(0, len(indices), size):
            yield indices[start:start + size]
    else:
        rest = iter(indices)
        while batch := list(itertools.islice(rest, size)):
            yield batch
