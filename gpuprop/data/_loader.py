"""The loader: batches of a dataset, made ahead by workers and sent to the backend in use."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpuprop._core.dtypes import is_float
from gpuprop._core.registry import backend_of, default_backend, on_host
from gpuprop._core.tensor import Tensor
from gpuprop._core.tree import tree_map
from gpuprop.data._dataset import ArrayDataset, Subset
from gpuprop.data._fetch import End, Fetch, FetchNext, generator
from gpuprop.data._sampler import BatchSampler, RandomSampler, SequentialSampler, order_of
from gpuprop.data._workers import Pool
from gpuprop.random import DATA, Generator, default_generator


class DataLoader:
    """Batches of a dataset as tuples, lists or dicts of Tensors on the backend in use, an epoch at each iteration.

    The words are PyTorch's.  Beside them: `rng`, from which each epoch draws one seed (None is the default generator);
    `dtype`, in which floating point comes, whatever the dataset has (None leaves it); `transform`, a function that the
    workers call with each batch, still in host memory: ``transform(images, labels) -> (images, labels)``; and `worker`,
    "thread" or "process".  Order and contents depend on the seed only, not on backend or workers.

    Workers that are processes are spawned, pickle the dataset and have no device.  An IterableDataset is read by one
    worker, however many there are, so that no sample comes twice.  `pin_memory` changes nothing: what goes to a device
    goes through pinned memory anyway.  Arrays that are on a device stay there.
    """

    def __init__(self, dataset: Any, batch_size: int | None = 1, shuffle: bool = False, sampler: Iterable | None = None,
                 batch_sampler: Iterable | None = None, num_workers: int = 0, collate_fn: Callable | None = None,
                 pin_memory: bool = False, drop_last: bool = False, timeout: float = 0,
                 worker_init_fn: Callable[[int], Any] | None = None, *, prefetch_factor: int | None = None,
                 persistent_workers: bool = False, rng: Generator | None = None, dtype: Any = "float32",
                 transform: Callable | None = None, worker: str = "thread") -> None:
        self.dataset, self.batch_size, self.drop_last, self.rng = dataset, batch_size, drop_last, rng
        self.num_workers, self.worker, self.worker_init_fn = num_workers, worker, worker_init_fn
        self.timeout, self.prefetch_factor = timeout, 2 if prefetch_factor is None else prefetch_factor
        self.persistent_workers, self.collate_fn, self.transform = persistent_workers, collate_fn, transform
        self.dtype = None if dtype is None else np.dtype(dtype)
        self.streams = hasattr(dataset, "__iter__") and not all(hasattr(dataset, n) for n in ("__getitem__", "__len__"))
        self._check(shuffle, sampler, batch_sampler, prefetch_factor)
        self.sampler: Any = sampler
        self.batch_sampler: Any = batch_sampler
        if not self.streams and batch_sampler is None:
            if sampler is None:
                self.sampler = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
            if batch_size is not None:
                self.batch_sampler = BatchSampler(self.sampler, batch_size, drop_last)
        self._epoch: int | None = None  # the seed of the epoch that is under way
        self._batch = 0  # how many of its batches were handed out
        self._resumes = False
        self._pool: Pool | None = None

    def __iter__(self) -> Iterator[Any]:
        if not self._resumes:
            with on_host():
                self._epoch, self._batch = int(self._generator().integers(0, 2**63)), 0
        self._resumes = False
        return self._run(self._epoch, self._batch)  # type: ignore[arg-type]

    def _run(self, seed: int, first: int) -> Iterator[Any]:
        """The batches of an epoch, from number `first` on."""
        made = self._made(self._tasks(seed, first))
        try:
            batches: Iterator = itertools.takewhile(lambda batch: batch is not End, made)
            if self.streams:
                batches = itertools.islice(batches, first, None)
            for number, batch in enumerate(self._sent(batches), first):
                if self._epoch == seed:
                    self._batch = number + 1
                yield batch
            if self._epoch == seed:
                self._epoch, self._batch = None, 0
        finally:
            made.close()

    def _made(self, tasks: Iterator[tuple]) -> Any:
        """The batches in host memory, made here or by workers."""
        fetch = (FetchNext if self.streams else Fetch)(self.dataset, self.collate_fn, self.transform, self.dtype)
        if not self.num_workers:
            yield from (fetch(*task) for task in tasks)
        else:
            with self._workers(fetch) as pool:
                yield from pool.run(tasks, self.num_workers * self.prefetch_factor, self.timeout or None)

    @contextlib.contextmanager
    def _workers(self, fetch: Fetch) -> Iterator[Pool]:
        """Workers for one epoch, or, if they persist, those that the last one left."""
        pool, self._pool = self._pool, None
        if pool is None or pool.closed:
            pool = Pool(fetch, 1 if self.streams else self.num_workers, self.worker, self.worker_init_fn)
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
        """What `Fetch` is called with for each batch; of samples that only come in order, those before `first` too."""
        if self.streams:
            wanted = None if self.batch_size is None else (self.batch_size, not self.drop_last)
            return ((seed, number, wanted) for number in itertools.count())
        order = order_of(self.sampler if self.batch_sampler is None else self.batch_sampler, generator(seed))
        numbered = enumerate(order.tolist() if isinstance(order, np.ndarray) else order)
        return ((seed, number, wanted) for number, wanted in itertools.islice(numbered, first, None))

    def _sent(self, batches: Iterable) -> Iterator[Any]:
        """The same batches with Tensors for arrays, those of the host on the backend in use."""
        trees: deque = deque()

        def arrays_of(batch: Any) -> list[np.ndarray]:
            arrays: list[np.ndarray] = []
            trees.append(batch)
            tree_map(lambda leaf: arrays.append(leaf) if _to_send(leaf) else None, batch)
            return arrays

        for arrays in default_backend().prefetch(map(arrays_of, batches)):
            yield tree_map(functools.partial(_tensor, iter(arrays)), trees.popleft())

    def __len__(self) -> int:
        """The number of batches, where the dataset or its sampler knows its length."""
        if not self.streams:
            return len(self.sampler if self.batch_sampler is None else self.batch_sampler)
        if self.batch_size is None:
            return len(self.dataset)
        return len(BatchSampler(self.dataset, self.batch_size, self.drop_last))

    def _check(self, shuffle: bool, sampler: Any, batch_sampler: Any, prefetch_factor: int | None) -> None:
        refuse = [
            (not self.streams and not hasattr(self.dataset, "__getitem__"),
             f"a dataset has __getitem__ and __len__, or __iter__, and {type(self.dataset).__name__} has neither"),
            (self.streams and (shuffle or sampler is not None or batch_sampler is not None),
             "an IterableDataset has its own order: leave out shuffle, sampler and batch_sampler"),
            (shuffle and sampler is not None, "sampler gives the order: leave out shuffle"),
            (batch_sampler is not None and (self.batch_size != 1 or shuffle or sampler is not None or self.drop_last),
             "batch_sampler gives the batches: leave out batch_size, shuffle, sampler and drop_last"),
            (self.batch_size is None and self.drop_last, "batch_size=None gives single samples: leave out drop_last"),
            (self.num_workers < 0 or self.timeout < 0, "num_workers and timeout are not negative"),
            (self.worker not in ("thread", "process"),
             f"worker is \"thread\" or \"process\" (spawned: a forked one would break CUDA), not {self.worker!r}"),
            (self.prefetch_factor < 1, "prefetch_factor is at least 1"),
            (not self.num_workers and (prefetch_factor is not None or self.timeout or self.persistent_workers),
             "prefetch_factor, timeout and persistent_workers need num_workers > 0"),
            (self.num_workers and _on_device(self.dataset), "the data is on a device already: use num_workers=0"),
            (self.dtype is not None and not is_float(self.dtype), f"dtype is a floating point type, not {self.dtype}"),
        ]
        for wrong, why in refuse:
            if wrong:
                raise ValueError(f"DataLoader: {why}")

    def _generator(self) -> Generator:
        return default_generator if self.rng is None else self.rng

    # ---- going on later ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, int | None]:
        """Where the loader is: the epoch's seed, how many of its batches it gave, and the generator's position."""
        state = self._generator().get_state()
        return {"epoch": self._epoch, "batch": self._batch, "seed": state["seed"], "draws": state["draws"][DATA]}

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        """Go on there: the next iteration gives the rest of that epoch, the ones after it what they would have been.

        The generator gets its seed and its draws of data back.  A sampler that is not gpuprop's must give the same
        order again; an IterableDataset is read again from its beginning up to there.
        """
        rng = self._generator()
        draws = rng.get_state()["draws"]
        draws[DATA] = state["draws"]
        rng.set_state({"seed": state["seed"], "draws": draws})
        self._epoch, self._batch = state["epoch"], state["batch"] or 0
        self._resumes = self._epoch is not None


def _to_send(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "OSTUMm"  # no device has objects, texts or dates


def _tensor(sent: Iterator, leaf: Any) -> Any:
    """A Tensor for an array: of the next one sent, if this one was."""
    if _to_send(leaf):
        return Tensor(next(sent))
    return leaf if isinstance(leaf, np.ndarray) or not hasattr(leaf, "shape") else Tensor(leaf)


def _on_device(dataset: Any) -> bool:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return isinstance(dataset, ArrayDataset) and any(backend_of(a).name != "numpy" for a in dataset.arrays)
