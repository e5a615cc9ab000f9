"""Make one batch on the host, from the dataset, the epoch's seed and the batch number only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuprop._core import philox
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.placement import on_device_of
from gpuprop._core.registry import get_backend, on_host
from gpuprop._core.tree import tree_map
from gpuprop.data._collate import default_collate
from gpuprop.data._dataset import batch_taker
from gpuprop.random import INIT, Generator, default_generator, stand_in


def batch_rng() -> Generator:
    """The random generator of the batch that a DataLoader is making.

    Its numbers depend only on the epoch's seed and the batch number.  A dataset or transform that
    draws from it therefore returns the same samples with any number of workers, and in a resumed
    epoch.  Outside of a DataLoader it is the default generator.
    """
    return default_generator._here()


def generator(seed: int, batch: int = -1) -> Generator:
    """The generator for the order of an epoch (batch -1), or for one batch (0, 1, ...).

    Each of them starts 2**32 draws after the previous one.
    """
    rng = Generator()
    rng.set_state({"seed": seed, "draws": [(batch + 1) << 32] * 3})
    return rng


class BatchGenerators:
    """The generators that stand in for all others while one batch is made.

    Workers make the batches of an epoch in any order and at the same time, and a resumed epoch
    makes only some: draws from generators that batches share would depend on it.
    """

    def __init__(self, seed: int, number: int) -> None:
        self._seed = seed
        self._number = number
        self._made: dict[Generator, Generator] = {}

    def __call__(self, owner: Generator) -> Generator:
        """The generator of this batch for `owner`; that for the default one is `batch_rng()`."""
        if owner not in self._made:
            seed = self._seed
            if owner is not default_generator:
                seeds = np.array([self._seed, owner.seed], "uint64")
                seed = int(philox.words(get_backend("numpy").xp, seeds, INIT, 0, 1)[0])
            self._made[owner] = generator(seed, self._number)
        return self._made[owner]


def apply_transform(transform: Callable, batch: Any) -> Any:
    """``transform(batch)``; the fields of a tuple are passed as separate arguments."""
    return transform(*batch) if isinstance(batch, tuple) else transform(batch)


class EndOfData:
    """Returned instead of a batch at the end of an IterableDataset.

    The class itself is returned, not an instance: its identity survives pickling.
    """


class Fetcher:
    """Makes the batches of a DataLoader.  It is pickled for worker processes."""

    def __init__(
        self, dataset: Any, collate: Callable | None, transform: Callable | None, dtype: Any
    ) -> None:
        self.dataset = dataset
        self.collate = collate
        self.transform = transform
        self.dtype = dtype

    def __call__(self, seed: int, number: int, indices: Any) -> Any:
        """The samples at `indices`: batch `number` of the epoch with this seed."""
        token = stand_in.set(BatchGenerators(seed, number))
        try:
            with on_host():
                batch = self.read(number, indices)
                if self.transform is not None and batch is not EndOfData:
                    batch = apply_transform(self.transform, batch)
                return tree_map(self._cast, batch)
        except Exception as e:
            e.add_note(f"while making batch {number} of {type(self.dataset).__name__}")
            raise
        finally:
            stand_in.reset(token)

    def read(self, number: int, indices: Any) -> Any:
        """A batch of the samples at `indices`, or one sample if `indices` is a single index."""
        if not isinstance(indices, list | tuple | np.ndarray):
            return self._sample(indices)
        if self.collate is None:
            take = batch_taker(self.dataset)
            if take is not None:
                return take(indices)
        if isinstance(indices, np.ndarray):
            indices = indices.tolist()
        return (self.collate or default_collate)([self._sample(i) for i in indices])

    def _sample(self, index: Any) -> Any:
        try:
            return self.dataset[index]
        except Exception as e:
            e.add_note(f"while reading sample {index!r}")
            raise

    def _cast(self, leaf: Any) -> Any:
        """Cast floating-point arrays to `self.dtype`; unwrap Tensors."""
        leaf = raw(leaf)
        dtype = getattr(leaf, "dtype", None)
        if self.dtype is None or dtype is None or dtype is self.dtype or not is_float(dtype):
            return leaf
        with on_device_of((leaf,)):
            return leaf.astype(self.dtype)


class StreamFetcher(Fetcher):
    """Makes the batches of an IterableDataset, in order, in a single worker.

    Batch 0 starts an epoch: the dataset is read from its start.
    """

    _samples: Iterator = iter(())

    def read(self, number: int, size: Any) -> Any:
        """A batch of the next samples, or the next sample if `size` is None.

        `size` is (number of samples, whether the last batch may be smaller).
        """
        if number == 0:
            self._samples = iter(self.dataset)
        if size is None:
            return next(self._samples, EndOfData)
        count, may_be_smaller = size
        samples = list(itertools.islice(self._samples, count))
        if not samples or (len(samples) < count and not may_be_smaller):
            return EndOfData
        return (self.collate or default_collate)(samples)
