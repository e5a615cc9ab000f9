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
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gpuprop_numpy.spinning import (
    FLAGS,
    POSTED,
    is_machine_busy,
    spin_loops,
    wait_for_job,
    wait_until_done,
)

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_THREADS = 8  # by default: memory bandwidth seldom serves more
SPINS = 20  # looks at a job that may end soon, before the thread sleeps
MIN_SECONDS = 300e-6  # for less work, starting threads costs more than they save
SOON = 500e-6  # seconds between calls, one of which may find the helper that the other woke
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
    """The number of threads of this process, and the calls during which BLAS uses one thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # the handler of a signal may compute while it is held
        self.threads = min(MAX_THREADS, usable_cpus())
        self.calls: dict[object, int] = {}  # those that run, and their threads
        self.blas_threads: int | None = None  # to be given back after them

    def begin(self, call: object) -> None:
        """Let BLAS use one thread for each product, if it is OpenBLAS."""
        blas = _blas()
        if blas is None:
            return
        with self.lock:
            self.calls[call] = threading.get_ident()
            before = blas[0]()
            if self.blas_threads is None:
                self.blas_threads = before
                blas[1](1)

    def end(self, call: object) -> None:
        """Give BLAS its threads back after the last call."""
        with self.lock:
            self.calls.pop(call, None)
            n = self.blas_threads
            if n is not None and not self.calls:
                _blas()[1](n)
                self.blas_threads = None


_setting = _Setting()


def get_num_threads() -> int:
    """The number of threads that one operation may use."""
    return _setting.threads


def set_num_threads(n: int) -> None:
    """Let one operation use `n` threads, and BLAS too."""
    blas = _blas()
    with _setting.lock:
        _setting.threads = n
        if _setting.blas_threads is not None:
            _setting.blas_threads = n
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


def has_known_blas() -> bool:
    """Whether BLAS is known, so that it uses no threads of its own in tasks."""
    return _blas() is not None


def product_threads() -> int:
    """How many threads a matrix product may use here: no more than BLAS itself would.

    It is 1 inside of a task, and 0 if the BLAS is unknown, which may have threads of its own.
    """
    blas = _blas()
    if blas is None:
        return 0
    if _setting.threads == 1 or _state.is_busy:
        return 1
    before = _setting.blas_threads
    return min(_setting.threads, blas[0]() if before is None else before)


def with_one_blas_thread(function: Callable[..., Result], *args: Any) -> Result:
    """``function(*args)``; BLAS uses one thread for each product in it, if it is OpenBLAS."""
    call = object()
    try:
        _setting.begin(call)
        return function(*args)
    finally:
        try:
            _setting.end(call)
        except BaseException:  # an interrupt before it was done
            _setting.end(call)
            raise


# ---- running -------------------------------------------------------------------------------------


class _State(threading.local):
    is_busy = False  # True inside of a task: tasks of tasks run one after the other


_state = _State()


class _Job:
    """A function for a helper, run in a copy of this context."""

    def __init__(self, function: Callable[[], None], helper: _Helper) -> None:
        self.function = function
        self.context = contextvars.copy_context()
        self.helper = helper
        self.number = 0  # of the helper's jobs: set when it is handed over
        self.owner: dict[str, str] = {}
        self.has_ended = False
        self.end = threading.Lock()
        self.end.acquire()

    def belongs_to(self, side: str) -> bool:
        """Whether the job is that of its "helper" or its "caller": the first one who asks."""
        return self.owner.setdefault("owner", side) == side

    def run(self) -> None:
        """Run the job in the helper."""
        try:
            self.context.run(self.function)
        finally:
            _team.idle.append(self.helper)  # now, so that the caller's next call finds it
            self.has_ended = True
            self.end.release()

    def wait(self) -> None:
        """Return when the job has ended; one that has not begun never does."""
        if self.belongs_to("caller"):
            if not self.has_ended:
                self.has_ended = True
                _team.idle.append(self.helper)
            return
        wait_until_done(self.helper.address, self.number)
        for _ in range(SPINS):
            if self.has_ended:
                return
            time.sleep(0)
        while not self.has_ended:
            self.end.acquire()


class _Helper:
    """A thread that does one job after another, and ends with this object.

    Handing a job over by locks takes a third of the time of a queue and a Future.
    """

    def __init__(self) -> None:
        spin_loops()
        self.jobs: list[_Job | None] = []  # the next one, and those that its caller has taken back
        self.has_jobs = threading.Lock()
        self.has_jobs.acquire()
        self.flags = np.zeros(FLAGS, np.int64)
        self.address = self.flags.ctypes.data
        shared = self.jobs, self.has_jobs, self.flags
        weakref.finalize(self, _hand_over, None, *shared).atexit = False
        threading.Thread(target=_serve, args=shared, name="gpuprop", daemon=True).start()

    def start(self, job: _Job) -> None:
        job.number = int(self.flags[POSTED]) + 1
        _hand_over(job, self.jobs, self.has_jobs, self.flags)


def _hand_over(job: _Job | None, jobs: list[_Job | None], has_jobs: Any,
               flags: np.ndarray) -> None:
    jobs.append(job)
    if has_jobs.locked():  # else the helper has not looked at the job before
        has_jobs.release()
    flags[POSTED] += 1


def _serve(jobs: list[_Job | None], has_jobs: Any, flags: np.ndarray) -> None:
    """Do jobs until one is None."""
    address = flags.ctypes.data
    while True:
        number = int(flags[POSTED])
        if not jobs:
            wait_for_job(address, number)
        has_jobs.acquire()
        while jobs:
            job = jobs.pop(0)
            if job is None:
                return
            if job.belongs_to("helper"):
                job.run()
            del job  # and the arrays that it refers to


class _Team:
    """The helpers of this process: about as many as it has processors.

    If an interrupt loses a helper, its object is freed, and there is room for another one.
    """

    def __init__(self) -> None:
        self.idle: list[_Helper] = []  # the last one has just been at work
        self.helpers: weakref.WeakSet[_Helper] = weakref.WeakSet()
        self.last_missed = 0.0  # when work was too short to wake a helper
        self.memory: list[np.ndarray] = []  # of the flags of all helpers that there were
        self.flags = np.zeros(0, np.int64)  # their addresses

    def helper(self) -> _Helper | None:
        """An idle helper, or a new one; None if there is none and the system starts no thread."""
        with contextlib.suppress(IndexError):
            return self.idle.pop()
        if len(self.helpers) >= (os.cpu_count() or 1):
            return None
        with contextlib.suppress(RuntimeError):
            helper = _Helper()
            self.helpers.add(helper)
            self.memory.append(helper.flags)  # kept: other threads may look there at any time
            self.flags = np.array([flags.ctypes.data for flags in self.memory])
            return helper
        return None


_team = _Team()


def _after_fork() -> None:
    """A child has no threads but this one."""
    global _team
    _team = _Team()
    _setting.lock = threading.RLock()
    this = threading.get_ident()
    _setting.calls = {call: thread for call, thread in _setting.calls.items() if thread == this}
    _setting.end(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Call:
    """A call of `in_threads`."""

    def __init__(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> None:
        self.work = work
        self.tasks = tasks
        self.results: list[Any] = [None] * len(tasks)
        self.remaining = list(reversed(range(len(tasks))))
        self.errors: list[BaseException] = []
        self.jobs: list[_Job] = []

    def begin(self, helpers: int) -> None:
        """Let at most so many helpers run tasks."""
        _setting.begin(self)
        while len(self.jobs) < helpers and (helper := _team.helper()) is not None:
            job = _Job(self.run, helper)
            self.jobs.append(job)
            helper.start(job)

    def run(self) -> None:
        """Run tasks while there are any."""
        _state.is_busy = True
        try:
            while self.remaining:
                try:
                    i = self.remaining.pop()
                except IndexError:  # another thread was faster
                    break
                self.results[i] = self.work(self.tasks[i])
        except BaseException as error:
            self.errors.append(error)
            self.remaining.clear()
        finally:
            _state.is_busy = False

    def end(self) -> None:
        """Wait for the helpers, even if this is interrupted: they write into arrays."""
        try:
            self.remaining.clear()
            while self.jobs:  # they refer to this object
                self.jobs[-1].wait()
                self.jobs.pop()
            _setting.end(self)
        except BaseException:
            self.end()
            raise


def in_threads(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """``[work(task) for task in tasks]``, in threads.

    The calling thread takes part.  The tasks see its context, such as np.errstate.  If one raises,
    no others are begun, and its exception is raised.
    """
    n = min(_setting.threads, len(tasks))
    if n == 0 or _setting.threads == 1 or _state.is_busy:
        return [work(task) for task in tasks]
    if n == 1:
        return [with_one_blas_thread(work, tasks[0])]
    call = _Call(work, tasks)
    try:
        call.begin(n - 1)
        call.run()
    finally:
        try:
            call.end()
        except BaseException:  # an interrupt before the first line of `end`
            call.end()
            raise
    if call.errors:
        raise call.errors.pop(0)
    return call.results


def flags_of_helpers() -> np.ndarray | None:
    """The addresses of the flags of all helpers (`spinning`), some of which may look for work.

    None on a busy machine.
    """
    return None if is_machine_busy() else _team.flags


def wake_helper_if_missed_again() -> None:
    """Let a helper look for work, if it was missed twice in a short time.

    Work that is too short to wake a helper for it may find one that looks.
    """
    now = time.perf_counter()
    is_soon = now - _team.last_missed < SOON
    _team.last_missed = now
    if is_soon and (_team.idle or not _team.helpers) and (helper := _team.helper()) is not None:
        helper.start(_Job(lambda: None, helper))


def even_slices(n: int, size: int) -> list[slice]:
    """Slices of `n` items, each of at most `size` of them.

    There is one for up to half of `size`, else an even number of equal ones, for two threads.
    """
    count = 1 if n <= size // 2 else 2 * math.ceil(n / (2 * size))
    step = max(1, math.ceil(n / count))
    return [slice(i, i + step) for i in range(0, n, step)]


def in_threads_if_long(work: Callable[[Task], Result], tasks: Sequence[Task], share: float,
                       rest: Task | None = None) -> list[Result]:
    """`in_threads` for tasks that may be too short for threads.

    The first task, which is this share of the work, runs in this thread, and its time decides on
    the others.  Without threads they are one task, `rest`, if it is given.
    """
    if len(tasks) < 3:
        return [work(task) for task in tasks]
    start = time.perf_counter()
    first = work(tasks[0])
    seconds = time.perf_counter() - start
    is_short = seconds * (1 - share) < MIN_SECONDS * share
    if _setting.threads > 1 and not is_short:
        return [first, *in_threads(work, tasks[1:])]
    return [first, *map(work, tasks[1:] if rest is None else [rest])]
