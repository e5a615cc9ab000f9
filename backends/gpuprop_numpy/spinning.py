"""Waits of one thread for another that look at a number in memory again and again.

The system takes 50 µs or more to wake a thread that sleeps.  A thread that looks is there at once,
but keeps its processor.  So it looks for a fifth of a millisecond at most, and not on a busy
machine, where the system often gives the processor of the calling thread to others.  Numba's loops
look, because they need no Python lock.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from gpuprop_numpy import compiled
from gpuprop_numpy.microkernels import has_avx

try:
    import resource
except ImportError:  # Windows: threads always look
    resource = None  # type: ignore[assignment]

POSTED, DONE = 0, 8  # indices of the numbers of jobs given and done, in different lines of a cache
SIZE = 8  # bytes of a number
CYCLES = 600_000  # of the processor's clock: a wait at most
HANDOVER = 10_000  # until the thread that has given a job releases Python's lock
PERIOD = 0.1  # seconds in which switches are counted
MAX_SWITCHES = 40  # a second from a caller to other threads; there are 2 to 10 on an idle machine

_machine = {"is_busy": False}


def wait_for_job(flags: int, done: int) -> None:
    """Say that `done` jobs are done, and look for another one.  `flags` is an address."""
    if not _machine["is_busy"] and (loops := spin_loops()):
        loops.for_job(flags, done)


def wait_until_done(flags: int, jobs: int) -> None:
    """Look whether so many jobs are done."""
    _switches.update()
    if not _machine["is_busy"] and (loops := spin_loops()):
        loops.until_done(flags, jobs)


class _Switches(threading.local):
    """How often the system has taken this thread's processor away."""

    since = count = 0.0

    def update(self) -> None:
        """Find out whether the machine is busy, once in a period."""
        now = time.monotonic()
        seconds = now - self.since
        if seconds > PERIOD and resource is not None:
            who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
            before, self.count = self.count, resource.getrusage(who).ru_nivcsw
            self.since = now
            _machine["is_busy"] = self.count - before > MAX_SWITCHES * seconds


_switches = _Switches()


class SpinLoops(NamedTuple):
    for_job: Callable[[int, int], None]
    until_done: Callable[[int, int], None]


@functools.cache
def spin_loops() -> SpinLoops | None:
    """The loops; None without Numba, or on processors without AVX, where nothing was measured.

    A caller asks for them before it starts a helper: if a helper imported Numba, the child of a
    fork meanwhile would wait for that import for ever.
    """
    decorate = compiled.njit() if has_avx() else None
    if decorate is None:
        return None
    from numba import types

    load, store, pause, cycles = _instructions()
    posted_at, done_at = POSTED * SIZE, DONE * SIZE

    @decorate
    def for_job(flags: Any, done: Any) -> None:
        store(flags + done_at, done)
        begin = cycles()
        while load(flags + posted_at) == done:
            pause()
            if cycles() - begin > CYCLES:
                return
        begin = cycles()
        while cycles() - begin < HANDOVER:
            pause()

    @decorate
    def until_done(flags: Any, jobs: Any) -> None:
        begin = cycles()
        while load(flags + done_at) < jobs and cycles() - begin < CYCLES:
            pause()

    numbers = types.int64, types.int64
    return SpinLoops(compiled.Loop(for_job, numbers), compiled.Loop(until_done, numbers))


def _instructions() -> tuple[Callable, Callable, Callable, Callable]:
    """``load(address)``, ``store(address, number)``, ``pause()`` and ``cycles()``, for loops.

    The first two read and write numbers that other threads use.
    """
    from llvmlite import ir
    from numba import types
    from numba.core.cgutils import get_or_insert_function
    from numba.extending import intrinsic

    def of_address(builder: Any, address: Any) -> Any:
        return builder.inttoptr(address, address.type.as_pointer())

    def call(builder: Any, name: str, result: Any) -> Any:
        kind = ir.FunctionType(result, [])
        return builder.call(get_or_insert_function(builder.module, kind, name), [])

    def write_load(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(of_address(builder, args[0]), "acquire", SIZE)

    def write_store(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], of_address(builder, args[0]), "release", SIZE)
        return context.get_dummy_value()

    def write_pause(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        call(builder, "llvm.x86.sse2.pause", ir.VoidType())
        return context.get_dummy_value()

    def write_cycles(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call(builder, "llvm.readcyclecounter", ir.IntType(64))

    return (
        intrinsic(lambda context, address: (types.int64(types.int64), write_load)),
        intrinsic(lambda context, address, value: (
            types.void(types.int64, types.int64), write_store)),
        intrinsic(lambda context: (types.void(), write_pause)),
        intrinsic(lambda context: (types.int64(), write_cycles)))
