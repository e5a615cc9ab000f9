"""Waits of one thread for another that look at a number in memory again and again.

The system takes 50 µs or more to wake a thread that sleeps.  A thread that looks is there at once,
but keeps its processor.  So it looks for 0.4 milliseconds at most, and not on a busy machine, where
the system often gives the processor of the calling thread to others.  Numba's loops look, because
they need no Python lock.  A thread that looks can also run a *part*, a compiled loop, without
Python.
"""

from __future__ import annotations

import functools
import sys
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

# indices of a helper's flags, in different lines of a cache
POSTED, DONE = 0, 8  # the numbers of jobs given and done
STATE = 16  # of these:
AWAY, LOOKING, TAKEN, GIVEN = range(4)  # TAKEN: it will be given a part; GIVEN: it runs the part
LOOP, ARGUMENT = 24, 25  # the addresses of the part's loop and of its argument
FLAGS = 32  # flags in all
SIZE = 8  # bytes of a number
CYCLES = 1_200_000  # of the processor's clock, about 0.4 ms: a wait at most
PART_CYCLES = 300_000  # likewise, for the end of a part: the others end at about the same time
NAP = 50  # µs between further looks
HANDOVER = 10_000  # until the thread that has given a job releases Python's lock
PERIOD = 0.1  # seconds in which switches are counted
BUSY_SECONDS = 1.0  # a machine counts as busy after many switches: threads that wait make few
MAX_SWITCHES = 40  # a second from a caller to other threads; there are 2 to 10 on an idle machine

_machine = {"is_busy": False}


def wait_for_job(flags: int, done: int) -> None:
    """Say that `done` jobs are done, and look for another one.  `flags` is an address."""
    if not _machine["is_busy"] and (loops := spin_loops()):
        loops.for_job(flags, done)


def wait_until_done(flags: int, jobs: int) -> None:
    """Look whether so many jobs are done."""
    if not is_machine_busy() and (loops := spin_loops()):
        loops.until_done(flags, jobs)


def is_machine_busy() -> bool:
    """Whether other programs need the processors, as far as this thread can see."""
    _switches.update()
    return _machine["is_busy"]


class _Switches(threading.local):
    """How often the system has taken this thread's processor away."""

    since = count = busy_until = 0.0

    def update(self) -> None:
        """Find out whether the machine is busy, once in a period."""
        now = time.monotonic()
        seconds = now - self.since
        if seconds > PERIOD and resource is not None:
            who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
            before, self.count = self.count, resource.getrusage(who).ru_nivcsw
            self.since = now
            if self.count - before > MAX_SWITCHES * seconds:
                self.busy_until = now + BUSY_SECONDS
            _machine["is_busy"] = now < self.busy_until


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

    load, store, exchange, call, pause, cycles, _ = _instructions()
    posted_at, done_at, state_at = POSTED * SIZE, DONE * SIZE, STATE * SIZE
    loop_at, argument_at = LOOP * SIZE, ARGUMENT * SIZE

    @decorate
    def for_job(flags: Any, done: Any) -> None:
        store(flags + done_at, done)
        store(flags + state_at, LOOKING)
        begin = cycles()
        while True:
            if load(flags + state_at) == GIVEN:
                call(load(flags + loop_at), load(flags + argument_at))
                store(flags + state_at, LOOKING)
                begin = cycles()
            is_posted = load(flags + posted_at) != done
            is_long = cycles() - begin > CYCLES
            if (is_posted or is_long) and exchange(flags + state_at, LOOKING, AWAY):
                break  # else a part was given just now
            pause()
        begin = cycles()
        while is_posted and cycles() - begin < HANDOVER:
            pause()

    @decorate
    def until_done(flags: Any, jobs: Any) -> None:
        begin = cycles()
        while load(flags + done_at) < jobs and cycles() - begin < CYCLES:
            pause()

    numbers = types.int64, types.int64
    return SpinLoops(compiled.Loop(for_job, numbers), compiled.Loop(until_done, numbers))


class PartLoops(NamedTuple):
    """For loops that divide their work among helpers.

    A part is a loop of one integer.  `loop` is its address (`Loop.address`); a call gives it the
    integer `argument`, such as the address of numbers.  An error in a part is not reported: its
    loop says in these numbers that it is done.
    """

    take: Callable[[int], bool]  # (flags): whether the helper looks, and now waits for a part
    release: Callable[[int], None]  # (flags): it is given none
    give: Callable[[int, int, int], None]  # (flags, loop, argument)
    run: Callable[[int, int], None]  # (loop, argument): here
    wait: Callable[[int], None]  # (flags): for the end of the part, which is near
    load: Callable[[int, int], int]  # (address, index): a number of an argument
    store: Callable[[int, int, int], None]  # (address, index, number)


@functools.cache
def part_loops() -> PartLoops:
    """The loops; only where `spin_loops` returns some."""
    load, store, exchange, call, pause, cycles, sleep = _instructions()
    state_at, loop_at, argument_at = STATE * SIZE, LOOP * SIZE, ARGUMENT * SIZE
    decorate = compiled.njit()
    assert decorate is not None  # see `spin_loops`

    @decorate
    def take(flags: Any) -> Any:
        return exchange(flags + state_at, LOOKING, TAKEN)

    @decorate
    def release(flags: Any) -> None:
        store(flags + state_at, LOOKING)

    @decorate
    def give(flags: Any, loop: Any, argument: Any) -> None:
        store(flags + loop_at, loop)
        store(flags + argument_at, argument)
        store(flags + state_at, GIVEN)

    @decorate
    def run(loop: Any, argument: Any) -> None:
        call(loop, argument)

    @decorate
    def wait(flags: Any) -> None:
        begin = cycles()
        while load(flags + state_at) == GIVEN:
            if cycles() - begin < PART_CYCLES:
                pause()
            else:  # the system may have given the helper's processor to another program
                sleep()

    @decorate
    def load_number(address: Any, index: Any) -> Any:
        return load(address + index * SIZE)

    @decorate
    def store_number(address: Any, index: Any, number: Any) -> None:
        store(address + index * SIZE, number)

    return PartLoops(take, release, give, run, wait, load_number, store_number)


@functools.cache
def _instructions() -> tuple[Callable, ...]:
    """For loops: ``load(address)``, ``store(address, number)``, ``exchange(address, old, new)``,
    ``call(loop, argument)``, ``pause()``, ``cycles()`` and ``sleep()``, a pause on Windows.

    The first three read and write numbers that other threads use; `exchange` writes if it finds the
    old number, and returns whether it did.
    """
    from llvmlite import ir
    from numba import types
    from numba.core.cgutils import alloca_once, get_or_insert_function
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

    def write_exchange(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, old, new = args
        pair = builder.cmpxchg(of_address(builder, place), old, new, "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    def write_call(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # as Numba compiles it: with places for a result and an error
        result, error = (alloca_once(builder, ir.IntType(8).as_pointer()) for _ in range(2))
        kind = ir.FunctionType(ir.IntType(32), [result.type, error.type, ir.IntType(64)])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [result, error, args[1]])
        return context.get_dummy_value()

    def write_pause(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        call(builder, "llvm.x86.sse2.pause", ir.VoidType())
        return context.get_dummy_value()

    def write_sleep(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = ir.IntType(32)
        kind = ir.FunctionType(number, [number])
        function = get_or_insert_function(builder.module, kind, "usleep")
        builder.call(function, [ir.Constant(number, NAP)])
        return context.get_dummy_value()

    write_nap = write_pause if sys.platform == "win32" else write_sleep

    def write_cycles(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call(builder, "llvm.readcyclecounter", ir.IntType(64))

    return (
        intrinsic(lambda context, address: (types.int64(types.int64), write_load)),
        intrinsic(lambda context, address, value: (
            types.void(types.int64, types.int64), write_store)),
        intrinsic(lambda context, address, old, new: (
            types.boolean(types.int64, types.int64, types.int64), write_exchange)),
        intrinsic(lambda context, loop, argument: (
            types.void(types.int64, types.int64), write_call)),
        intrinsic(lambda context: (types.void(), write_pause)),
        intrinsic(lambda context: (types.int64(), write_cycles)),
        intrinsic(lambda context: (types.void(), write_nap)))
