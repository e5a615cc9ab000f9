"""Workers that make batches ahead of use: threads, or processes for each of which a thread speaks."""

from __future__ import annotations

import atexit
import contextlib
import io
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np

from gpuprop._core.backend import BY_TYPE
from gpuprop._core.registry import set_default_backend

PATIENCE = 5.0  # seconds that a process which is not wanted any more may take to finish its batch


class Pool:
    """Threads that do tasks, ``fetch(*task)``, in turn; if `worker` is "process", each by a process of its own."""

    def __init__(self, fetch: Callable, count: int, worker: str, init: Callable[[int], Any] | None) -> None:
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._members: list[tuple[Any, threading.Thread]] = []
        work = _pickled((fetch, init)) if worker == "process" else b""
        _open.add(self)
        try:
            for number in range(count):
                member = _Process(work, number) if work else _Local((fetch, init), number)
                thread = threading.Thread(target=_serve, args=(self._tasks, member), name=f"gpuprop-data-{number}",
                                          daemon=True)  # a thread that hangs in a dataset keeps no program from its end
                self._members.append((member, thread))
                thread.start()
        except BaseException:
            self.close(kill=True)
            raise

    @property
    def closed(self) -> bool:
        return not self._members

    def run(self, tasks: Iterable[tuple], ahead: int, timeout: float | None) -> Iterator[Any]:
        """What the tasks give, in their order; `ahead` of them are under way while one is in use."""
        waiting: deque[Future] = deque()
        try:
            for task in tasks:
                waiting.append(Future())
                self._tasks.put((waiting[-1], task))
                if len(waiting) > ahead:
                    yield self._result(waiting.popleft(), timeout)
            while waiting:
                yield self._result(waiting.popleft(), timeout)
        finally:
            for future in waiting:
                future.cancel()

    def _result(self, future: Future, timeout: float | None) -> Any:
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():  # in the very moment, or with the dataset's own TimeoutError
                return future.result()
        finally:
            del future  # it holds the exception, whose traceback holds this frame
        count = len(self._members)
        self.close(kill=True)
        raise TimeoutError(f"the data loader waited timeout={timeout} s for a batch of its {count} worker(s): is a "
                           f"sample slow to read, or stuck?")

    def close(self, kill: bool = False) -> None:
        """End the workers when their batch is done, or, if `kill`, now: processes die, threads are not waited for."""
        members, self._members = self._members, []
        if members:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._tasks.get_nowait()[0].cancel()
        for _ in members:
            self._tasks.put(None)
        for member, thread in members:
            if thread is not threading.current_thread():  # the garbage collector may call from anywhere
                member.end(thread, kill)

    def __del__(self) -> None:
        self.close()


_open: weakref.WeakSet[Pool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before Python takes itself apart, after which no thread can be waited for."""
    for pool in list(_open):
        pool.close(kill=True)


def _serve(tasks: queue.SimpleQueue, member: Callable) -> None:
    """Do tasks until it is handed None; keep nothing of one when it is done."""
    while (job := tasks.get()) is not None:
        future, task = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(member(*task))
            except BaseException as e:
                future.set_exception(e)
        del job, future, task


class _Local:
    """Does tasks in the thread that calls."""

    def __init__(self, work: tuple, number: int) -> None:
        (self._fetch, self._init), self._number = work, number

    def __call__(self, *task: Any) -> Any:
        if self._init is not None:
            self._init(self._number)
            self._init = None
        return self._fetch(*task)

    def end(self, thread: threading.Thread, kill: bool) -> None:
        if not kill:
            thread.join()


class _Process:
    """Has tasks done by a process of its own, started afresh: a fork would take along locks and a broken CUDA."""

    def __init__(self, work: bytes, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._work: bytes | None = work
        self._process = context.Process(target=_work, args=(theirs, number), name=f"gpuprop-data-{number}", daemon=True)
        self._process.start()
        theirs.close()  # the process has its own, so that either end sees it when the other dies

    def __call__(self, *task: Any) -> Any:
        try:
            if self._work is not None:
                self._pipe.send_bytes(self._work)
            self._pipe.send_bytes(pickle.dumps(task))
            done, answer = _receive(self._pipe)
        except (EOFError, OSError):
            raise RuntimeError(self._obituary()) from None
        self._work = None
        if done:
            return answer
        error, text = answer
        raise error from _WorkerTraceback(text)

    def _obituary(self) -> str:
        self._process.join(PATIENCE)
        code = self._process.exitcode or 0
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = ("did memory run out, or does a sample crash it?" if code < 0 or self._work is None else
                "it imports the script, so what starts the loader must be under `if __name__ == \"__main__\":`")
        return f"data worker process {self._process.pid} {ended}: {hint}"

    def end(self, thread: threading.Thread, kill: bool) -> None:
        if not kill:
            thread.join(PATIENCE)
        if thread.is_alive():
            self._process.terminate()  # the thread finds the pipe closed
            thread.join()
        self._pipe.close()
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _work(pipe: Any, number: int) -> None:
    """What a worker process does until its pipe closes; it makes arrays in host memory only."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business, who then closes the pipe
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_default_backend("numpy")
    with contextlib.suppress(EOFError, OSError):
        work, member = pipe.recv_bytes(), None
        while True:
            task = pickle.loads(pipe.recv_bytes())
            try:
                member = member or _Local(pickle.loads(work), number)
                answer = _packed((True, member(*task)))
            except BaseException as e:
                answer = _packed((False, (_portable(e), traceback.format_exc())))
            for part in answer:
                pipe.send_bytes(part)


def _end_with_parent() -> None:
    """Leave no process behind though the parent was killed, and a sample takes for ever."""
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    os._exit(1)


class _WorkerTraceback(Exception):
    """Where an exception of a worker process came from."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _portable(e: BaseException) -> BaseException:
    """The exception itself if it survives the way, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(e))
        return e
    except Exception:
        return RuntimeError(f"{type(e).__name__}: {e}")


# ---- pickles --------------------------------------------------------------------------------------------------------


class _HostPickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        backend = BY_TYPE.get(type(obj))
        if backend is not None and backend.name != "numpy":
            raise TypeError(f"it holds an array of backend {backend.name!r}, and worker processes have no device: keep "
                            f"the data in host memory, or use num_workers=0")
        return NotImplemented


def _pickled(work: Any) -> bytes:
    file = io.BytesIO()
    try:
        _HostPickler(file, protocol=5).dump(work)
    except Exception as e:
        raise TypeError(f"worker=\"process\" sends dataset, collate_fn, transform and worker_init_fn by pickle, and "
                        f"that failed: {type(e).__name__}: {e}.  Functions and classes must be defined at the top of a "
                        f"module; worker=\"thread\" takes everything") from e
    return file.getvalue()


def _packed(answer: Any) -> list:
    """A pickle and the memory of the arrays in it, which is not copied."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    raws = [b.raw() for b in buffers]
    return [pickle.dumps([r.nbytes for r in raws]), head, *raws]


def _receive(pipe: Any) -> Any:
    sizes, head = pickle.loads(pipe.recv_bytes()), pipe.recv_bytes()
    buffers = [np.empty(size, np.uint8) for size in sizes]
    for buffer in buffers:
        pipe.recv_bytes_into(buffer)
    return pickle.loads(head, buffers=buffers)
