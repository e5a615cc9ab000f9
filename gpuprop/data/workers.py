"""Workers that make batches ahead of use: threads, or processes that a thread each speaks for."""

from __future__ import annotations

import contextlib
import io
import itertools
import multiprocessing
import pickle
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from gpuprop.backend import BY_TYPE, set_default_backend

PATIENCE = 5.0  # seconds a worker process may take to finish its batch, once it is not wanted any more


class Pool:
    """Threads that do tasks in turn; with `worker` "process", each has it done by a process of its own."""

    def __init__(self, fetch: Callable, count: int, worker: str, init: Callable[[int], Any] | None) -> None:
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        payload = _pickled((fetch, init)) if worker == "process" else b""
        self._workers: list[Any] = []
        try:
            for number in range(count):
                self._workers.append(Process(payload, number) if payload else Thread(fetch, init, number))
        except BaseException:
            self.close()
            raise
        self._threads = [threading.Thread(target=_serve, args=(self._tasks, w), name=f"gpuprop-data-{i}", daemon=True)
                         for i, w in enumerate(self._workers)]
        for thread in self._threads:
            thread.start()

    def run(self, tasks: Iterable[tuple], ahead: int, timeout: float | None) -> Iterator[Any]:
        """What the tasks give, in order; as many as `ahead` are under way while one is in use."""
        waiting: deque[Future] = deque()
        try:
            for task in tasks:
                waiting.append(Future())
                self._tasks.put((waiting[-1], task))
                if len(waiting) > ahead:
                    yield self._result(waiting, timeout)
            while waiting:
                yield self._result(waiting, timeout)
        finally:
            for future in waiting:
                future.cancel()

    def _result(self, waiting: deque[Future], timeout: float | None) -> Any:
        try:
            return waiting[0].result(timeout)
        except FutureTimeout:
            if waiting[0].done():  # the dataset's own
                raise
            self.close(kill=True)
            raise TimeoutError(f"no batch came from {len(self._workers)} data workers within timeout={timeout} s: is a "
                               f"sample slow to read, or stuck?") from None
        finally:
            waiting.popleft()

    def close(self, kill: bool = False) -> None:
        """End the workers once their batch is done, or, to `kill`, at once: a process dies, a thread is not waited for."""
        for worker in self._workers:
            worker.close(kill)
            self._tasks.put(None)
        for thread in self._threads:
            if not kill or worker.killable:
                thread.join()
