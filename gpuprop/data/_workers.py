"""Workers that prefetch batches: threads, or processes that one thread each controls."""

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

EXIT_TIMEOUT = 5.0  # seconds that a process may take to finish its last batch and exit


class Pool:
    """Threads that run tasks, ``fetch(*task)``, from one queue.

    If `worker` is "process", each thread passes its tasks to a process of its own.  Each worker
    calls ``init(worker_number)`` before its first task.
    """

    def __init__(
        self, fetch: Callable, count: int, worker: str, init: Callable[[int], Any] | None
    ) -> None:
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._workers: list[tuple[Any, threading.Thread]] = []
        payload = _pickle_payload((fetch, init)) if worker == "process" else b""
        _open_pools.add(self)
        try:
            for number in range(count):
                runner: Any
                if payload:
                    runner = _ProcessRunner(payload, number)
                else:
                    runner = _LocalRunner(fetch, init, number)
                # daemon, so that a thread that hangs in a dataset does not block the program's exit
                thread = threading.Thread(target=_serve, args=(self._tasks, runner), daemon=True,
                                          name=f"gpuprop-data-{number}")
                self._workers.append((runner, thread))
                thread.start()
        except BaseException:
            self.close(kill=True)
            raise

    @property
    def closed(self) -> bool:
        return not self._workers

    def run(self, tasks: Iterable[tuple], ahead: int, timeout: float | None) -> Iterator[Any]:
        """The results of the tasks, in order; up to `ahead` tasks are queued in advance."""
        pending: deque[Future] = deque()
        try:
            for task in tasks:
                pending.append(Future())
                self._tasks.put((pending[-1], task))
                if len(pending) > ahead:
                    yield self._result(pending.popleft(), timeout)
            while pending:
                yield self._result(pending.popleft(), timeout)
        finally:
            for future in pending:
                future.cancel()

    def _result(self, future: Future, timeout: float | None) -> Any:
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():  # finished just now, or the dataset itself raised TimeoutError
                return future.result()
        finally:
            del future  # breaks a cycle: it holds the exception, whose traceback holds this frame
        count = len(self._workers)
        self.close(kill=True)
        raise TimeoutError(f"DataLoader: no batch from {count} worker(s) within timeout={timeout} "
                           f"s: reading a sample takes longer, or a worker hangs")

    def close(self, kill: bool = False) -> None:
        """Stop the workers after their current batch, or at once if `kill`.

        Processes can be killed.  Threads cannot: with `kill`, they are not waited for.
        """
        workers = self._workers
        self._workers = []
        if workers:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._tasks.get_nowait()[0].cancel()
        for _ in workers:
            self._tasks.put(None)
        for runner, thread in workers:
            # __del__ may run in any thread, also in a worker, which cannot join itself
            if thread is not threading.current_thread():
                runner.end(thread, kill)

    def __del__(self) -> None:
        self.close()


_open_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close all pools before the interpreter shuts down; threads cannot be joined after that."""
    for pool in list(_open_pools):
        pool.close(kill=True)


def _abandon_all() -> None:
    """Forget the workers in a forked process: threads do not survive a fork."""
    for pool in list(_open_pools):
        pool._workers = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


def _serve(tasks: queue.SimpleQueue, runner: Callable) -> None:
    """Run tasks until the queue returns None."""
    while (job := tasks.get()) is not None:
        future, task = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(runner(*task))
            except BaseException as e:
                future.set_exception(e)
        del job, future, task  # so that waiting for the next task keeps no batch alive


class _LocalRunner:
    """Runs tasks in the calling thread."""

    def __init__(self, fetch: Callable, init: Callable[[int], Any] | None, number: int) -> None:
        self._fetch = fetch
        self._init = init
        self._number = number

    def __call__(self, *task: Any) -> Any:
        if self._init is not None:
            self._init(self._number)
            self._init = None
        return self._fetch(*task)

    def end(self, thread: threading.Thread, kill: bool) -> None:
        if not kill:
            thread.join()


class _ProcessRunner:
    """Runs tasks in a process of its own.

    The process is spawned: a forked one would inherit locks, and CUDA does not work in it.
    """

    def __init__(self, payload: bytes, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._payload: bytes | None = payload  # None once the process has received it
        self._process = context.Process(target=_process_main, args=(child_pipe, number),
                                        name=f"gpuprop-data-{number}", daemon=True)
        self._process.start()
        # the process has its own copy; without this one, each end notices when the other dies
        child_pipe.close()

    def __call__(self, *task: Any) -> Any:
        try:
            if self._payload is not None:
                self._pipe.send_bytes(self._payload)
            self._pipe.send_bytes(pickle.dumps(task))
            succeeded, result = _receive(self._pipe)
        except (EOFError, OSError):
            raise RuntimeError(self._exit_message()) from None
        self._payload = None
        if succeeded:
            return result
        error, traceback_text = result
        raise error from _WorkerTraceback(traceback_text)

    def _exit_message(self) -> str:
        self._process.join(EXIT_TIMEOUT)
        code = self._process.exitcode or 0
        ending = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if code < 0 or self._payload is None:
            hint = "it may have run out of memory, or a sample crashes it"
        else:
            hint = ("it imports the main script, so the code that starts the loader must be under "
                    "`if __name__ == \"__main__\":`")
        return f"data worker process {self._process.pid} {ending}: {hint}"

    def end(self, thread: threading.Thread, kill: bool) -> None:
        if not kill:
            thread.join(EXIT_TIMEOUT)
        if thread.is_alive():
            self._process.terminate()  # closes the pipe, which ends the thread
            thread.join()
        self._pipe.close()
        self._process.join(EXIT_TIMEOUT)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _process_main(pipe: Any, number: int) -> None:
    """The main function of a worker process: run tasks on the host until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and closes the pipe
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    set_default_backend("numpy")
    with contextlib.suppress(EOFError, OSError):
        payload = pipe.recv_bytes()
        runner = None
        while True:
            task = pickle.loads(pipe.recv_bytes())
            try:
                if runner is None:
                    fetch, init = pickle.loads(payload)
                    runner = _LocalRunner(fetch, init, number)
                parts = _pickle_parts((True, runner(*task)))
            except BaseException as e:
                parts = _pickle_parts((False, (_picklable(e), traceback.format_exc())))
            for part in parts:
                pipe.send_bytes(part)


def _exit_with_parent() -> None:
    """End this process if the parent dies, even in the middle of a sample."""
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    os._exit(1)


class _WorkerTraceback(Exception):
    """The cause of an exception from a worker process: shows the traceback in that process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _picklable(e: BaseException) -> BaseException:
    """`e` if it can be pickled, else a RuntimeError with its message."""
    try:
        pickle.loads(pickle.dumps(e))
        return e
    except Exception:
        return RuntimeError(f"{type(e).__name__}: {e}")


# ---- pickling ------------------------------------------------------------------------------------


class _HostPickler(pickle.Pickler):
    """A pickler that raises TypeError for arrays on a device."""

    def reducer_override(self, obj: Any) -> Any:
        backend = BY_TYPE.get(type(obj))
        if backend is not None and backend.name != "numpy":
            raise TypeError(f"an array is on backend {backend.name!r}, but worker processes "
                            f"have no device: keep the data in host memory, or use num_workers=0")
        return NotImplemented


def _pickle_payload(payload: Any) -> bytes:
    file = io.BytesIO()
    try:
        _HostPickler(file, protocol=5).dump(payload)
    except Exception as e:
        raise TypeError(f"worker='process' must pickle dataset, collate_fn, transform and "
                        f"worker_init_fn, which failed with {type(e).__name__}: {e}; define "
                        f"functions and classes at the top level of a module, or use "
                        f"worker='thread'") from e
    return file.getvalue()


def _pickle_parts(result: Any) -> list:
    """A result as messages: the sizes of the buffers, the pickle, and each buffer.

    The buffers are the memory of the arrays, which is not copied.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
    memory = [b.raw() for b in buffers]
    sizes = [m.nbytes for m in memory]
    return [pickle.dumps(sizes), head, *memory]


def _receive(pipe: Any) -> Any:
    """Receive the messages of `_pickle_parts` and return the result."""
    sizes = pickle.loads(pipe.recv_bytes())
    head = pipe.recv_bytes()
    buffers = [np.empty(size, np.uint8) for size in sizes]
    for buffer in buffers:
        pipe.recv_bytes_into(buffer)
    return pickle.loads(head, buffers=buffers)
