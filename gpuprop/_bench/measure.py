"""Measurements: the time of a step, peak memory, matrix products, copies."""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def seconds_per_step(step: Callable[[], Any], seconds: float) -> float:
    """The mean time of a step in a time slice of about `seconds`.

    The first step fills the caches and is left out, unless it takes the whole slice.
    """
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    if first >= seconds:
        return first
    n = 0
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        step()
        n += 1
    return spent / n


def summary(times: Sequence[float]) -> dict[str, float]:
    """The best and the median time; the spread is ``(largest - least) / median``."""
    median = statistics.median(times)
    return {"best": min(times), "median": median, "spread": (max(times) - min(times)) / median}


def value_of(result: Any) -> float:
    """A number that stands for the result of a step: a loss, or the mean size of outputs."""
    return result if isinstance(result, float) else float(np.abs(result).mean())


def worst_difference(expected: Sequence[float], got: Sequence[float]) -> float:
    """The largest relative difference; infinite if a value is NaN or infinite."""
    if not np.isfinite([*expected, *got]).all():
        return math.inf
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(expected, got, strict=True))


def duration(seconds: float) -> str:
    """Three digits in the unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds * 1e6)} µs"


def digits(x: float) -> str:
    """A number for people: three digits, or all of a larger integer."""
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


# ---- the rates of the machine --------------------------------------------------------------------


def floats_per_second(matmul: Callable[[Any, Any], Any], a: Any, tries: int = 7) -> float:
    """The best rate, in FLOPs per second, of ``matmul(a, a)`` with a square matrix."""
    best = min(_seconds(lambda: matmul(a, a)) for _ in range(tries))
    return 2 * len(a) ** 3 / best


def square_matrix(quick: bool) -> np.ndarray:
    """Large enough for the full rate of a CPU: 9 MB."""
    n = 128 if quick else 1536
    return np.random.default_rng(0).standard_normal((n, n), "float32")


def copy_seconds(count: int, copy: Callable[[Any, Any], Any] = np.copyto, xp: Any = np,
                 threads: int = 1, tries: int = 5) -> float:
    """The best time of ``copy(target, source)`` that reads and writes `count` bytes together.

    Threads copy a part each, unless the array is so small that starting them would take longer.
    """
    source, target = (xp.ones(max(1, count // 2), "uint8") for _ in range(2))
    if threads == 1 or count < 1 << 22:
        return min(_seconds(lambda: copy(target, source)) for _ in range(tries))
    ends = [len(source) * i // threads for i in range(threads + 1)]
    barrier = threading.Barrier(threads + 1)

    def copy_part(i: int) -> None:
        part = slice(ends[i], ends[i + 1])
        for _ in range(tries):
            barrier.wait()
            copy(target[part], source[part])
            barrier.wait()

    workers = [threading.Thread(target=copy_part, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()

    def start_and_wait() -> None:
        barrier.wait()
        barrier.wait()

    best = min(_seconds(start_and_wait) for _ in range(tries))
    for worker in workers:
        worker.join()
    return best


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# ---- memory: only where there is Linux's /proc ---------------------------------------------------


def memory() -> int | None:
    """The bytes of this process that are in memory."""
    return _status("VmRSS")


def peak_memory() -> int | None:
    """The largest value of `memory` until now, or since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let `peak_memory` start again, where the system permits it."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")]
    return found[0] if found else None
