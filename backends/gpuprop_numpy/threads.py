"""Threads for work in which NumPy and BLAS release Python's global lock.

`in_threads` runs tasks whose number and sizes do not depend on the number of threads, so that the
results have the same bits on every machine.  While it runs, BLAS uses one thread per task.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_THREADS = 8  # by default: memory bandwidth seldom serves more
MANY_TASKS = 8  # so many take long enough to start threads
MIN_SECONDS = 300e-6  # for less work, starting threads costs more than they save
CGROUP = Path("/sys/fs/cgroup")
AFFIXES = ("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")  # of OpenBLAS's functions
TIMEOUT = "OPENBLAS_THREAD_TIMEOUT"  # its threads sleep if there is no work for 2**TIMEOUT cycles
SHORT_TIMEOUT = "17"  # about 50 µs
PTHREADS = 1  # a result of openblas_get_parallel


# ---- the number of threads -----------------------------------------------------------------------


def usable_cpus() -> int:
    """The number of processors that this process may use.

    Its affinity, the quota of its control group and OMP_NUM_THREADS limit it.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _cgroup_quota()
    if quota is not None:
        cpus = min(cpus, max(1, math.ceil(quota)))
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(cpus, int(first)) if first.isdecimal() and int(first) else cpus


def _cgroup_quota() -> float | None:
    """The processors that the control group may use, or None."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        folder = CGROUP / "cpu"
        used = int((folder / "cpu.cfs_quota_us").read_text())  # -1 without a limit
        return used / int((folder / "cpu.cfs_period_us").read_text()) if used > 0 else None
    return None


class _Setting:
    """The number of threads of this process, and how many tasks run with one BLAS thread each."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.threads = min(MAX_THREADS, usable_cpus())
        self.running = 0  # calls of `in_threads`
        self.blas_threads = 0  # before the first of them


_setting = _Setting()


def get_num_threads() -> int:
    """The number of threads that one operation may use."""
    return _setting.threads


def set_num_threads(n: int) -> None:
    """Let one operation use `n` threads, and BLAS too."""
    blas = _blas()
    with _setting.lock:
        _setting.threads = n
        if _setting.running:
            _setting.blas_threads = n  # set when they have ended
        elif blas is not None:
            blas[1](n)


@functools.cache
def _blas() -> Any:
    """(get, set): OpenBLAS's functions for its number of threads; None for another BLAS."""
    get = openblas("openblas_get_num_threads")
    set_ = openblas("openblas_set_num_threads")
    return (get, set_) if get and set_ else None


def openblas(name: str) -> Any:
    """A function of the OpenBLAS that NumPy is linked with, or None."""
    try:
        extension: Any = np._core  # type: ignore[attr-defined]
        library = ctypes.CDLL(extension._multiarray_umath.__file__)  # and what it is linked with
    except (AttributeError, OSError):
        return None
    for prefix, suffix in AFFIXES:
        with contextlib.suppress(AttributeError):
            return getattr(library, f"{prefix}{name}{suffix}")
    return None


@functools.cache
def let_blas_threads_sleep() -> bool:
    """Let OpenBLAS's threads wait for work for 50 µs only; return whether they do.

    By default they keep their processors busy for 2**26 cycles after each product, 20 ms or more,
    which other threads need.  OpenBLAS reads the limit from an environment variable when it starts
    its threads.  They are therefore ended here, and start again in the next product.  Another
    thread must not compute a product meanwhile, so nothing happens if there is one.  A value that
    the user has set is kept.
    """
    parallel = openblas("openblas_get_parallel")
    read_environment = openblas("openblas_read_env")
    end_threads = openblas("blas_thread_shutdown_")
    if TIMEOUT in os.environ or not (parallel and read_environment and end_threads):
        return False
    if parallel() != PTHREADS or threading.active_count() > 1:
        return False
    os.environ[TIMEOUT] = SHORT_TIMEOUT
    try:
        read_environment()
    finally:
        del os.environ[TIMEOUT]
    end_threads()
    return True


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    blas = _blas()
    if blas is None:
        yield
        return
    get, set_ = blas
    with _setting.lock:
        if not _setting.running:
            _setting.blas_threads = get()
            set_(1)
        _setting.running += 1
    try:
        yield
    finally:
        with _setting.lock:
            _setting.running -= 1
            if not _setting.running:
                set_(_setting.blas_threads)


# ---- running -------------------------------------------------------------------------------------


class _Worker(threading.local):
    is_busy = False  # True inside of a task: tasks of tasks run one after the other


_worker = _Worker()


@functools.cache
def _pool() -> Any:
    """The threads; None if the main thread has ended, since Python then makes no pool."""
    try:
        from concurrent.futures import ThreadPoolExecutor  # imports logging: few programs need it
    except RuntimeError:
        return None
    return ThreadPoolExecutor(os.cpu_count(), "gpuprop")


def _begin(run: Callable[[], None], n: int, jobs: list) -> None:
    """Run a function in up to n threads, each in a copy of this context, and append the jobs.

    Some of them never run if the system starts no more threads, and all if the main thread has
    ended: the other threads of a program may go on, and then do their work alone.
    """
    pool = _pool()
    if pool is None:
        return
    from concurrent.futures import Future

    def go(job: Future, context: contextvars.Context) -> None:
        if job.set_running_or_notify_cancel():
            try:
                job.set_result(context.run(run))
            except BaseException as error:
                job.set_exception(error)

    with contextlib.suppress(RuntimeError):
        for _ in range(n):
            # The pool's own job is lost if it cannot start a thread; a busy one may still run it.
            jobs.append(Future())
            pool.submit(go, jobs[-1], contextvars.copy_context())


def _errors(jobs: list) -> list:
    """The exceptions of the jobs that have begun, when they have ended; the others never begin."""
    try:
        return [job.exception() for job in jobs if not job.cancel()]
    except BaseException:  # KeyboardInterrupt: a job that goes on would write into arrays
        _errors(jobs)
        raise


def _after_fork() -> None:
    """A child has no threads but this one."""
    _pool.cache_clear()
    _setting.lock = threading.Lock()
    if _setting.running and not _worker.is_busy:  # other threads were running tasks
        _blas()[1](_setting.blas_threads)
    _setting.running = int(_setting.running > 0 and _worker.is_busy)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def in_threads(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """``[work(task) for task in tasks]``, in threads.

    The calling thread takes part.  The tasks see its context, such as np.errstate.  If one raises,
    no others are begun, and its exception is raised.
    """
    n = min(_setting.threads, len(tasks))
    if n <= 1 or _worker.is_busy:
        return [work(task) for task in tasks]
    results: list[Any] = [None] * len(tasks)
    remaining = list(reversed(range(len(tasks))))

    def run() -> None:
        _worker.is_busy = True
        try:
            while remaining:
                try:
                    i = remaining.pop()
                except IndexError:  # another thread was faster
                    break
                results[i] = work(tasks[i])
        except BaseException:
            remaining.clear()
            raise
        finally:
            _worker.is_busy = False

    with _one_blas_thread():
        jobs: list[Any] = []
        try:
            _begin(run, n - 1, jobs)
            run()
        finally:
            errors = _errors(jobs)
    for error in errors:
        if error is not None:
            raise error
    return results


def in_threads_if_long(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """`in_threads` for tasks of equal size that may be too short for threads.

    The first of a few tasks runs in this thread, and its time decides on the others.
    """
    if len(tasks) >= MANY_TASKS:
        return in_threads(work, tasks)
    if len(tasks) < 3 or _setting.threads == 1:
        return [work(task) for task in tasks]
    start = time.perf_counter()
    first = work(tasks[0])
    seconds = time.perf_counter() - start
    others = tasks[1:]
    if seconds * len(others) < MIN_SECONDS:
        return [first, *map(work, others)]
    return [first, *in_threads(work, others)]
