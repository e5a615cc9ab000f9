"""Datasets and loaders, as `torch.utils.data`: batches are Tensors of this dialect."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

import gpuprop.data as _data
from gpuprop._core.graph import raw
from gpuprop._core.tensor import Tensor as Plain
from gpuprop._core.tree import tree_map
from gpuprop.data import BatchSampler, ConcatDataset, SequentialSampler, Subset
from gpuprop.random import Generator
from gpuprop.torch import distributed as _distributed
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._paths import also_at
from gpuprop.torch._tensor import as_torch, wrap

__all__ = [
    "BatchSampler", "ChainDataset", "ConcatDataset", "DataLoader", "Dataset",
    "DistributedSampler", "IterableDataset", "RandomSampler", "Sampler", "SequentialSampler",
    "StackDataset", "Subset",
    "SubsetRandomSampler", "TensorDataset", "WeightedRandomSampler", "default_collate",
    "default_convert", "get_worker_info", "random_split",
]


def _tensors(batch: Any) -> Any:
    """The arrays and Tensors of a batch as Tensors of this dialect."""

    def convert(a: Any) -> Any:
        if isinstance(a, Plain):
            return as_torch(a)
        return wrap(a) if hasattr(a, "shape") else a

    return tree_map(convert, batch)


def default_collate(batch: Any) -> Any:
    """Samples of one structure as one batch of Tensors."""
    return _tensors(_data.default_collate(batch))


class _Generic:
    """A class that may be written with the type of its items: ``Dataset[int]``."""

    def __class_getitem__(cls, item: Any) -> type:
        return cls


class Dataset(_Generic, _data.Dataset):
    """A map-style dataset: a subclass defines ``__getitem__(index)`` and ``__len__()``."""


class IterableDataset(_Generic, _data.IterableDataset):
    """A dataset that is read in its own order: a subclass defines ``__iter__()``."""


class Sampler(_Generic, _data.Sampler):
    """The indices of the samples of an epoch: a subclass defines ``__iter__()``."""

    def __init__(self, data_source: Any = None) -> None:
        pass


class _Drawing:
    """A sampler that draws from its own `generator`, if it has one."""

    generator: Any = None

    def epoch_indices(self, rng: Any) -> Any:
        source = rng if self.generator is None else self.generator
        return super().epoch_indices(source)  # type: ignore[misc]


class RandomSampler(_Drawing, _data.RandomSampler):
    """`num_samples` samples, by default all, in random order, with or without replacement."""

    def __init__(self, data_source: Any, replacement: bool = False, num_samples: int | None = None,
                 generator: Any = None) -> None:
        super().__init__(data_source, replacement, num_samples)
        self.generator = generator


class SubsetRandomSampler(RandomSampler):
    """The given indices in random order."""

    def __init__(self, indices: Any, generator: Any = None) -> None:
        super().__init__(indices, generator=generator)
        self.indices = indices

    def epoch_indices(self, rng: Any) -> Any:
        return [self.indices[i] for i in super().epoch_indices(rng)]


class WeightedRandomSampler(_Drawing, _data.WeightedRandomSampler):
    """`num_samples` samples, drawn with probabilities proportional to their weights."""

    def __init__(self, weights: Any, num_samples: int, replacement: bool = True,
                 generator: Any = None) -> None:
        super().__init__(raw(weights), num_samples, replacement)
        self.generator = generator


class DistributedSampler(Sampler):
    """The samples for one of several processes: each `num_replicas`-th, from the `rank`-th on.

    All processes get equally many: the last ones get samples again, or with `drop_last` the rest is
    left out.  The order is a function of `seed` and the epoch, which `set_epoch` sets.
    """

    def __init__(self, dataset: Any, num_replicas: int | None = None, rank: int | None = None,
                 shuffle: bool = True, seed: int = 0, drop_last: bool = False) -> None:
        self.num_replicas = _distributed.get_world_size() if num_replicas is None else num_replicas
        self.rank = _distributed.get_rank() if rank is None else rank
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"DistributedSampler: rank must be in 0..{self.num_replicas - 1}, the "
                             f"processes, got {rank}")
        self.dataset, self.shuffle, self.seed, self.epoch = dataset, shuffle, seed, 0
        self.drop_last = drop_last
        count = len(dataset) / self.num_replicas
        self.num_samples = math.floor(count) if drop_last else math.ceil(count)
        self.total_size = self.num_samples * self.num_replicas

    def set_epoch(self, epoch: int) -> None:
        """Give the epoch its own order: without a call, every epoch has that of epoch 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        n = len(self.dataset)
        rng = Generator(self.seed + self.epoch)
        order = rng.permutation(n).tolist() if self.shuffle else range(n)
        return itertools.islice(itertools.cycle(order), self.rank, self.total_size,
                                self.num_replicas)


def random_split(dataset: Any, lengths: Any, generator: Any = None) -> list:
    """Split a dataset at random into disjoint subsets of these lengths or fractions."""
    return _data.random_split(dataset, lengths, generator)


class TensorDataset(_data.TensorDataset):
    """Tensors of equal length; a sample has one row of each."""

    def __init__(self, *tensors: Any) -> None:
        self.tensors = tensors
        super().__init__(*map(raw, tensors))

    def __getitem__(self, index: Any) -> tuple:
        return tuple(t[index] for t in self.tensors)

    def take_batch(self, indices: Any) -> tuple:
        """The rows of each Tensor at `indices`."""
        return _data.TensorDataset(*self.tensors).take_batch(indices)


class ChainDataset(IterableDataset):
    """The samples of several iterable datasets, one dataset after the other."""

    def __init__(self, datasets: Any) -> None:
        self.datasets = datasets

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.datasets)


class StackDataset(Dataset):
    """Samples with one part of each dataset: a tuple, or a dict for datasets given by name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.datasets: Any = args or kwargs

    def __len__(self) -> int:
        first = self.datasets[0] if isinstance(self.datasets, tuple) else next(
            iter(self.datasets.values()))
        return len(first)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, tuple):
            return tuple(d[index] for d in self.datasets)
        return {name: d[index] for name, d in self.datasets.items()}


def default_convert(data: Any) -> Any:
    """The arrays in a sample as Tensors."""
    return _tensors(data)


def get_worker_info() -> None:
    """None: an IterableDataset is read by one worker, as a whole."""


class DataLoader(_data.DataLoader):
    """Batches of a dataset: see `gpuprop.data.DataLoader`.  Arrays keep their dtype.

    `generator` is the source of each epoch's order; `pin_memory` has no effect.
    """

    def __init__(self, *args: Any, generator: Any = None, pin_memory_device: str = "",
                 multiprocessing_context: Any = None, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", None)
        super().__init__(*args, rng=generator, **kwargs)

    def __iter__(self) -> Iterator[Any]:
        return map(_tensors, super().__iter__())


also_at(__name__, "dataloader dataset distributed sampler _utils")

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
