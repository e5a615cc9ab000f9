"""The DataLoader: batches of a dataset, prefetched by workers, copied to the default backend."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpuprop._core.checks import (
    as_bool,
    as_callable,
    as_choice,
    as_instance,
    as_integer,
    as_number,
)
from gpuprop._core.dtypes import as_dtype, is_float
from gpuprop._core.loading import as_entries
from gpuprop._core.registry import backend_of, default_backend, on_host
from gpuprop._core.tensor import Tensor
from gpuprop._core.tree import tree_leaves, tree_map
from gpuprop.data._dataset import ArrayDataset, Subset
from gpuprop.data._fetch import EndOfData, Fetcher, StreamFetcher, generator
from gpuprop.data._generators import (
    generator_states,
    named_generators,
    prepare_generators,
)
from gpuprop.data._sampler import BatchSampler, RandomSampler, SequentialSampler, epoch_indices
from gpuprop.data._workers import Pool
from gpuprop.random import DATA, Generator, default_generator


class DataLoader:
    """Batches of a dataset as tuples, lists or dicts of Tensors on the default backend.

    Each ``iter(loader)`` starts an epoch.  The arguments are PyTorch's, and in addition:

    - `rng`: the generator from which each epoch draws its seed; None for the default generator.
    - `dtype`: floating-point arrays are cast to it; None keeps their dtypes.
    - `transform`: applied to each batch by the workers, in host memory:
      ``transform(images, labels) -> (images, labels)``.
    - `worker`: the kind of the workers, "thread" or "process".

    The order and the contents of the batches depend only on the seed, not on the backend or the
    number and kind of workers.  This includes what the dataset, the transform and `collate_fn` draw
    from `batch_rng`, from `gpuprop.random` and from any Generator: while a batch is made, each is
    replaced by a generator of that batch.  Numbers from other sources, such as NumPy's generators,
    depend on which worker draws first: use them only without workers.

    Worker processes are spawned, receive a pickle of the dataset, and use no device.  A single
    worker reads an IterableDataset, so that no sample is repeated.  `pin_memory` has no effect:
    copies to a device always use pinned memory.  Arrays that are already on a device stay there.

    >>> import numpy as np
    >>> from gpuprop.data import ArrayDataset, DataLoader
    >>> loader = DataLoader(ArrayDataset(np.zeros((5, 3)), np.arange(5)), batch_size=2)
    >>> for x, y in loader:
    ...     print(x.shape, y.tolist())
    (2, 3) [0, 1]
    (2, 3) [2, 3]
    (1, 3) [4]
    """

    def __init__(
        self, dataset: Any, batch_size: int | None = 1, shuffle: bool = False,
        sampler: Iterable | None = None, batch_sampler: Iterable | None = None,
        num_workers: int = 0, collate_fn: Callable | None = None, pin_memory: bool = False,
        drop_last: bool = False, timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None, *,
        prefetch_factor: int | None = None, persistent_workers: bool = False,
        rng: Generator | None = None, dtype: Any = "float32", transform: Callable | None = None,
        worker: str = "thread",
    ) -> None:
        indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        self.dataset = dataset
        self.streams = hasattr(dataset, "__iter__") and not indexed
        _check_dataset(dataset, self.streams, sampler is not None or batch_sampler is not None)
        as_bool("DataLoader: shuffle", shuffle)
        as_bool("DataLoader: pin_memory", pin_memory)
        if batch_size is not None:
            batch_size = as_integer("DataLoader: batch_size", batch_size, 1)
        self.batch_size = batch_size
        self.drop_last = as_bool("DataLoader: drop_last", drop_last)
        self.rng = _or_none("rng", rng, Generator, "a Generator or None")
        self.num_workers = as_integer("DataLoader: num_workers", num_workers, 0)
        self.worker = as_choice("DataLoader: worker", worker, ("thread", "process"))
        for name, function in {"worker_init_fn": worker_init_fn, "collate_fn": collate_fn,
                               "transform": transform}.items():
            if function is not None:
                as_callable(f"DataLoader: {name}", function)
        self.worker_init_fn = worker_init_fn
        self.timeout = as_number("DataLoader: timeout", timeout, "[0, inf)")
        self.prefetch_factor = 2 if prefetch_factor is None else as_integer(
            "DataLoader: prefetch_factor", prefetch_factor, 1)
        self.persistent_workers = as_bool("DataLoader: persistent_workers", persistent_workers)
        self.collate_fn = collate_fn
        self.transform = transform
        self.dtype = _floating(dtype)
        self.sampler: Any = _or_none("sampler", sampler, Iterable, "an iterable of indices")
        self.batch_sampler: Any = _or_none(
            "batch_sampler", batch_sampler, Iterable, "an iterable of lists of indices")
        self._check_combination(shuffle, prefetch_factor)
        if not self.streams and batch_sampler is None:
            if sampler is None:
                self.sampler = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
            if batch_size is not None:
                self.batch_sampler = BatchSampler(self.sampler, batch_size, drop_last)
        self._epoch_seed: int | None = None  # the seed of the current epoch, None between epochs
        self._batches_done = 0  # how many batches of that epoch have been returned
        self._is_resuming = False  # True if the next iteration continues that epoch
        self._pool: Pool | None = None
        # other generators, and their states at the start of the epoch, on which its batches depend
        self._generators = named_generators({
            "dataset": dataset, "transform": transform, "collate_fn": collate_fn,
            "sampler": self.sampler, "batch_sampler": self.batch_sampler})
        self._generator_states: dict[str, dict] = {}

    def __iter__(self) -> Iterator[Any]:
        if not self._is_resuming:
            with on_host():
                self._epoch_seed = int(self._generator().integers(0, 2**63))
                self._batches_done = 0
                self._generator_states = generator_states(self._generators)
        self._is_resuming = False
        return self._run(self._epoch_seed, self._batches_done)  # type: ignore[arg-type]

    def _run(self, seed: int, first: int) -> Iterator[Any]:
        """The batches of the epoch with this seed, from number `first` on."""
        host_batches = self._host_batches(self._tasks(seed, first))
        try:
            batches: Iterator = itertools.takewhile(lambda b: b is not EndOfData, host_batches)
            if self.streams:
                self._skip(batches, first)
            for number, batch in enumerate(self._to_tensors(batches), first):
                if self._epoch_seed == seed:
                    self._batches_done = number + 1
                yield batch
            if self._epoch_seed == seed:
                self._epoch_seed = None
                self._batches_done = 0
        finally:
            host_batches.close()

    def _skip(self, batches: Iterator, count: int) -> None:
        """Read and discard the batches before the position from which the epoch continues."""
        found = sum(1 for _ in itertools.islice(batches, count))
        if found < count:
            raise ValueError(f"DataLoader: the epoch is to continue after batch {count}, but the "
                             f"{type(self.dataset).__name__} has only {found} batches now")

    def _host_batches(self, tasks: Iterator[tuple]) -> Any:
        """The batches before the copy to the device, made in this thread or by workers."""
        make_fetcher = StreamFetcher if self.streams else Fetcher
        fetcher = make_fetcher(self.dataset, self.collate_fn, self.transform, self.dtype)
        if not self.num_workers:
            for task in tasks:
                yield fetcher(*task)
        else:
            ahead = self.num_workers * self.prefetch_factor
            with self._workers(fetcher) as pool:
                yield from pool.run(tasks, ahead, self.timeout or None)

    @contextlib.contextmanager
    def _workers(self, fetcher: Fetcher) -> Iterator[Pool]:
        """The workers for one epoch: new ones, or the persistent ones of the last epoch."""
        pool = self._pool
        self._pool = None
        if pool is None or pool.closed:
            count = 1 if self.streams else self.num_workers
            pool = Pool(fetcher, count, self.worker, self.worker_init_fn)
        try:
            yield pool
        except (Exception, KeyboardInterrupt) as e:
            pool.close(kill=isinstance(e, KeyboardInterrupt))
            raise
        finally:
            if self.persistent_workers and self._pool is None:
                self._pool = pool
            else:
                pool.close()

    def _tasks(self, seed: int, first: int) -> Iterator[tuple]:
        """The arguments of the Fetcher, (seed, batch number, indices or size), for each batch.

        An IterableDataset is read from its start, so its tasks include the batches before `first`.
        """
        if self.streams:
            size = None if self.batch_size is None else (self.batch_size, not self.drop_last)
            return ((seed, number, size) for number in itertools.count())
        sampler = self.sampler if self.batch_sampler is None else self.batch_sampler
        order = epoch_indices(sampler, generator(seed))
        numbered = enumerate(order.tolist() if isinstance(order, np.ndarray) else order)
        remaining = itertools.islice(numbered, first, None)
        return ((seed, number, indices) for number, indices in remaining)

    def _to_tensors(self, batches: Iterable) -> Iterator[Any]:
        """The batches with Tensors for arrays; host arrays are copied to the default backend."""
        pending: deque = deque()  # batches whose arrays are being copied

        def host_arrays(batch: Any) -> list[np.ndarray]:
            pending.append(batch)
            return [leaf for leaf in tree_leaves(batch) if _is_copied(leaf)]

        for copies in default_backend().prefetch(map(host_arrays, batches)):
            yield tree_map(functools.partial(_as_tensor, iter(copies)), pending.popleft())

    def __len__(self) -> int:
        """The number of batches.  Raises TypeError if the dataset or sampler has no length."""
        if not self.streams:
            return len(self.sampler if self.batch_sampler is None else self.batch_sampler)
        if self.batch_size is None:
            return len(self.dataset)
        return len(BatchSampler(self.dataset, self.batch_size, self.drop_last))

    def _check_combination(self, shuffle: bool, prefetch_factor: int | None) -> None:
        has_sampler = self.sampler is not None
        has_batch_sampler = self.batch_sampler is not None
        errors = [
            (self.streams and (shuffle or has_sampler or has_batch_sampler),
             "an IterableDataset has its own order: leave out shuffle, sampler and batch_sampler"),
            (shuffle and has_sampler, "sampler determines the order: leave out shuffle"),
            (has_batch_sampler
             and (self.batch_size != 1 or shuffle or has_sampler or self.drop_last),
             "batch_sampler determines the batches: leave out batch_size, shuffle, sampler and "
             "drop_last"),
            (self.batch_size is None and self.drop_last,
             "batch_size=None returns single samples: leave out drop_last"),
            (not self.num_workers
             and (prefetch_factor is not None or self.timeout or self.persistent_workers),
             "prefetch_factor, timeout and persistent_workers need num_workers > 0"),
            (self.num_workers and _is_on_device(self.dataset),
             "the dataset is already on a device: use num_workers=0"),
        ]
        for wrong, message in errors:
            if wrong:
                raise ValueError(f"DataLoader: {message}")

    def _generator(self) -> Generator:
        return default_generator if self.rng is None else self.rng

    # ---- resuming --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position of the loader, for `load_state_dict`.

        The entries are the epoch's seed, or None between epochs; the number of batches returned;
        the seed of the generator, its number of draws, and whether it is the loader's `rng`; the
        batch size and the number of batches of an epoch, with which the position agrees; and the
        states, at the start of the epoch, of other generators that the sampler, the dataset, the
        transform and `collate_fn` hold.  Batches that workers made in advance are not counted.
        """
        states = self._generator_states
        if self._epoch_seed is None:
            states = generator_states(self._generators)
        return {"epoch": self._epoch_seed, "batch": self._batches_done, **self._rng_state(),
                "batch_size": self.batch_size, "batches": self._length(),
                "generators": states}

    def _rng_state(self) -> dict[str, Any]:
        rng = self._generator()  # its `get_state` would wait for the device
        return {"seed": rng.seed, "draws": rng._draws[DATA], "own_rng": self.rng is not None}

    def _length(self) -> int | None:
        try:
            return len(self)
        except TypeError:
            return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a saved position.

        The next iteration returns the remaining batches of that epoch; later epochs are the same as
        without the interruption.  The generator's seed and its number of data draws are restored.
        A sampler without `epoch_indices` must yield the same order again.  An IterableDataset is
        read again from its start up to the position.

        Raises, before anything changes, if an entry is missing or wrong, or if it is the state of a
        loader with another number of batches, another batch size or other generators.
        """
        self._prepare_load(state)()

    def _prepare_load(self, state: Any) -> Callable[[], None]:
        """Check a state; returns the function that writes it."""
        what = "DataLoader.load_state_dict"
        own = self.state_dict()
        state = as_entries(f"{what}: the state", state, own, ())
        seed = state["epoch"]
        if seed is not None:
            seed = as_integer(f"{what}: epoch", seed, 0, 2**63 - 1)
        batch = as_integer(f"{what}: batch", state["batch"], 0, self._length())
        if seed is None and batch:
            raise ValueError(f"{what}: batch must be 0 if epoch is None, got {batch}")
        for name in "batch_size", "batches":
            if type(state[name]) is not type(own[name]) or state[name] != own[name]:
                raise ValueError(f"{what}: {name} is {state[name]!r} in the state, but {own[name]} "
                                 f"in this loader: construct the loader as before")
        if as_bool(f"{what}: own_rng", state["own_rng"]) and self.rng is None:
            raise ValueError(f"{what}: own_rng is True, since the state is that of a loader with a "
                             f"generator of its own: pass rng=Generator(...) to the DataLoader")
        rng = self._generator()
        draws = rng.get_state()["draws"]
        draws[DATA] = as_integer(f"{what}: draws", state["draws"], 0)
        rng_state = {"seed": as_integer(f"{what}: seed", state["seed"], 0, 2**64 - 1),
                     "draws": draws}
        saved = prepare_generators(f"{what}: generators", self._generators, state["generators"])

        def write() -> None:
            rng.set_state(rng_state)
            saved()
            self._generator_states = state["generators"]
            self._epoch_seed = seed
            self._batches_done = batch
            self._is_resuming = seed is not None

        return write


def _check_dataset(dataset: Any, streams: bool, has_order: bool) -> None:
    """Raise TypeError unless a loader can read `dataset`."""
    name = type(dataset).__name__
    if isinstance(dataset, type):
        raise TypeError(f"DataLoader: dataset is a class: construct it, as in "
                        f"{dataset.__name__}(...)")
    if isinstance(dataset, str | bytes):
        raise TypeError(f"DataLoader: dataset must hold samples, got the {name} {dataset!r}")
    if not streams and not hasattr(dataset, "__getitem__"):
        raise TypeError(f"DataLoader: a dataset must define __getitem__ and __len__, or __iter__, "
                        f"but {name} has neither")
    if not streams and not has_order and not hasattr(dataset, "__len__"):
        raise TypeError(f"DataLoader: {name} has no length: define __len__, or pass sampler=")


def _or_none(name: str, value: Any, kind: Any, described: str) -> Any:
    return None if value is None else as_instance(f"DataLoader: {name}", value, kind, described)


def _floating(dtype: Any) -> np.dtype | None:
    if dtype is None:
        return None
    try:
        found = as_dtype(dtype)
    except TypeError as error:
        raise TypeError(f"DataLoader: dtype must be a floating-point dtype or None, got "
                        f"{dtype!r}") from error
    if not is_float(found):
        raise ValueError(f"DataLoader: dtype must be floating-point, got {found}")
    return found


def _is_copied(leaf: Any) -> bool:
    """True for host arrays, except for dtypes that devices lack: objects, strings and dates."""
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "OSTUMm"


def _as_tensor(copies: Iterator, leaf: Any) -> Any:
    """A Tensor of the next copy for a host array, or of a device array; else the leaf itself."""
    if _is_copied(leaf):
        return Tensor(next(copies))
    if isinstance(leaf, np.ndarray) or not hasattr(leaf, "shape"):
        return leaf
    return Tensor(leaf)


def _is_on_device(dataset: Any) -> bool:
    """True for an ArrayDataset with device arrays, and for a Subset of one."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return (isinstance(dataset, ArrayDataset)
            and any(backend_of(a).name != "numpy" for a in dataset.arrays))
