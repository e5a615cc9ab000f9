"""How a worker makes a batch on the host: a function of the data, the epoch's seed and the batch's number alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.placement import on_device_of
from gpuprop._core.registry import on_host
from gpuprop._core.tree import tree_map
from gpuprop.data._collate import default_collate
from gpuprop.data._dataset import taker
from gpuprop.random import Generator, default_generator

_rng: ContextVar[Callable[[], Generator] | None] = ContextVar("gpuprop_batch_rng", default=None)


def batch_rng() -> Generator:
    """The generator of the batch that is being made, for draws of DATA; outside of a DataLoader the default one.

    It depends on the epoch and the batch's number only, so a dataset that draws from it gives the same samples however
    many workers there are, and in a resumed epoch.
    """
    make = _rng.get()
    return make() if make else default_generator


def generator(seed: int, batch: int = -1) -> Generator:
    """The epoch's own generator, for its order, or that of one batch: each begins 2**32 draws after the one before."""
    rng = Generator()
    rng.set_state({"seed": seed, "draws": [0, (batch + 1) << 32, 0]})
    return rng


def applied(transform: Callable, batch: Any) -> Any:
    """A transform of a batch, whose fields are its arguments."""
    return transform(*batch) if isinstance(batch, tuple) else transform(batch)


class End:
    """What comes instead of a batch where an IterableDataset has ended; the class itself, so that it pickles."""


class Fetch:
    """Makes batches of what a loader was given; workers that are processes get it pickled."""

    def __init__(self, dataset: Any, collate: Callable | None, transform: Callable | None, dtype: Any) -> None:
        self.dataset, self.collate, self.transform, self.dtype = dataset, collate, transform, dtype

    def __call__(self, seed: int, number: int, wanted: Any) -> Any:
        """Batch `number` of the epoch with this seed: of the samples `wanted`, as host or device arrays."""
        token = _rng.set(functools.cache(lambda: generator(seed, number)))
        try:
            with on_host():
                batch = self.read(seed, wanted)
                if self.transform is not None and batch is not End:
                    batch = applied(self.transform, batch)
                return tree_map(self._cast, batch)
        except Exception as e:
            e.add_note(f"while making batch {number} of {type(self.dataset).__name__}")
            raise
        finally:
            _rng.reset(token)

    def read(self, seed: int, wanted: Any) -> Any:
        """A batch of the samples of these numbers, or one sample, by its number."""
        if not isinstance(wanted, list | tuple | np.ndarray):
            return self._sample(wanted)
        take = taker(self.dataset)
        if take is not None and self.collate is None:
            return take(wanted)
        numbers = wanted.tolist() if isinstance(wanted, np.ndarray) else wanted
        return (self.collate or default_collate)([self._sample(i) for i in numbers])

    def _sample(self, number: Any) -> Any:
        try:
            return self.dataset[number]
        except Exception as e:
            e.add_note(f"while reading sample {number!r}")
            raise

    def _cast(self, leaf: Any) -> Any:
        leaf = raw(leaf)
        dtype = getattr(leaf, "dtype", None)
        if dtype is self.dtype or self.dtype is None or dtype is None or not is_float(dtype):
            return leaf
        with on_device_of((leaf,)):
            return leaf.astype(self.dtype)


class FetchNext(Fetch):
    """The same of an IterableDataset, whose samples come in order: for one worker."""

    _epoch: int | None = None
    _samples: Iterator = iter(())

    def read(self, seed: int, wanted: Any) -> Any:
        """A batch of the next samples, of which `wanted` = (how many, is a smaller batch good), or one, for None."""
        if self._epoch != seed:
            self._epoch, self._samples = seed, iter(self.dataset)
        if wanted is None:
            return next(self._samples, End)
        size, or_fewer = wanted
        samples = [sample for _, sample in zip(range(size), self._samples, strict=False)]
        if len(samples) < size and not (samples and or_fewer):
            return End
        return (self.collate or default_collate)(samples)
