"""Timing of several libraries on a noisy machine: one process each, which take turns.

The values of the first steps must agree between contenders.  Then, in each round, every contender
runs steps for a time slice while the others wait.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import LABELS, MODULES, OURS, contender
from gpuprop._bench import floor, measure
from gpuprop._bench.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
PAUSE = 0.05  # seconds between turns, in which the threads of the last contender fall asleep
# The processor is chosen before any library is imported: all of them count the processors then.
START = """
import os
if {cores} and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-{cores}:])
from benchmarks.frame import serve
serve()
"""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
           "VECLIB_MAXIMUM_THREADS")


class DifferentValues(AssertionError):
    """A contender computes other values than gpuprop: it does not do the same work."""


class Absent(RuntimeError):
    """A contender cannot run; the message has the reason."""


def cores() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def workload_name(name: str) -> str:
    if name not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"unknown workload {name!r}: {', '.join(WORKLOADS)}")
    return name


class Process:
    """One contender in its own process, which is idle between requests.

    It may use as many processors as threads, or with `everywhere` all of them.
    """

    def __init__(self, name: str, threads: int, everywhere: bool = False) -> None:
        self.name = name
        limit = threads if threads < cores() and not everywhere else 0
        self.setting: dict[str, Any] = {}
        self.times: list[float] = []
        environment = dict.fromkeys(THREADS, str(threads)) | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "GPUPROP_BACKEND": "numpy", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", START.format(cores=limit)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment)

    def request(self, **request: Any) -> Any:
        """What the process answers: see `serve`."""
        self.send(**request)
        return self.answer()

    def send(self, **request: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise Absent(f"the process of {self.name} ended: see its error above")
        answer = json.loads(line)
        if "absent" in answer:
            raise Absent(answer["absent"])
        return answer["answer"]

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(60)


def serve() -> None:
    """The loop of a contender's process: reads requests from stdin, writes answers to stdout."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not mix with the answers
    server: Server | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if server is None:
                server = Server(**request)
                answer: dict[str, Any] = {"answer": None}
            else:
                (method, argument), = request.items()
                answer = {"answer": getattr(server, method)(argument)}
        except Exception as error:
            traceback.print_exc()
            answer = {"absent": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
        print(json.dumps(answer), file=answers, flush=True)


class Server:
    """What a contender's process does.  It imports the library; each method answers a request."""

    step: Callable[[], Any]

    def __init__(self, name: str, workload: str, threads: int, quick: bool, weights: str) -> None:
        self.name, self.workload, self.threads = workload, WORKLOADS[workload], threads
        self.s = self.workload.sizes_of(quick, workers=threads if threads > 1 else 0)
        with np.load(weights) as file:
            self.weights = dict(file)
        self.contender = contender(name, threads)
        measure.forget_peak()
        self.level = measure.memory()

    def best_setting(self, _: None) -> dict[str, Any]:
        """The options of the optimizer that are fastest."""
        return self.contender.best_setting(self.workload, self.s, self.weights)

    def start(self, setting: dict[str, Any]) -> None:
        """Make the step, with these options of the optimizer."""
        self.step = self.contender.step(
            self.name, self.workload, self.s, self.weights, setting)

    def values(self, count: int) -> list[float]:
        """The values of the first `count` steps."""
        return [measure.value_of(self.step()) for _ in range(count)]

    def time(self, seconds: float) -> float:
        """Seconds per step."""
        return measure.seconds_per_step(self.step, seconds)

    def memory(self, _: None) -> int | None:
        """The growth of the peak of memory since the library was imported."""
        peak = measure.peak_memory()
        return None if peak is None or self.level is None else max(0, peak - self.level)

    def floats_per_second(self, quick: bool) -> float:
        """The rate of the library's matrix product."""
        matmul, as_array = self.contender.matmul()
        return measure.floats_per_second(matmul, as_array(measure.square_matrix(quick)))

    def work(self, _: None) -> list[int]:
        """The FLOPs and bytes of a step."""
        return list(floor.work(self.workload, self.s, self.weights))

    def copy_seconds(self, count: int) -> float:
        return measure.copy_seconds(count, threads=self.threads)


def compare(name: str, names: Sequence[str], threads: int, rounds: int, seconds: float,
            quick: bool) -> dict[str, Any]:
    """The times and the memory of the contenders `names` with this number of threads.

    The first one is gpuprop.  Raises DifferentValues if the values of two contenders differ.
    """
    workload = WORKLOADS[name]
    absent = {n: why for n, why in workload.left_out.items() if n in names}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        weights = os.path.join(folder, "weights.npz")
        np.savez(weights, **workload.initial_weights(workload.sizes_of(quick)))  # type: ignore

        def process(n: str) -> Process:
            started = Process(n, threads)
            stack.callback(started.close)
            started.request(name=n, workload=name, threads=threads, quick=quick, weights=weights)
            return started

        settings: dict[str, dict[str, Any]] = {}  # the best one by the module of a peer
        running: dict[Process, list[float]] = {}  # with the values of the first steps
        for n in names:
            if n in absent:
                continue
            try:
                module = MODULES.get(n)
                if module and n not in OURS and module not in settings:
                    trial = process(n)  # which allocates more than the step itself
                    settings[module] = trial.request(best_setting=None)
                    trial.close()
                contender = process(n)
                contender.setting = settings.get(module, {}) if module else {}
                contender.request(start=contender.setting)
                running[contender] = contender.request(values=workload.steps)
            except Absent as reason:
                if n in OURS:
                    raise
                absent[n] = str(reason)
        _check_values(name, running)
        for _ in range(rounds):
            for contender in running:
                time.sleep(PAUSE)
                contender.times.append(contender.request(time=seconds))
        found = {p.name: measure.summary(p.times) | {"memory": p.request(memory=None),
                                                     "setting": p.setting} for p in running}
        least = _floor(list(running), quick)
    peers = {n: row for n, row in found.items() if n not in OURS}
    best = min(peers, key=lambda n: peers[n]["best"], default=None)
    ours = found[names[0]]
    return {
        "contenders": found,
        "absent": absent,
        "best_peer": best,
        "ratio_to_best_peer": best and ours["best"] / peers[best]["best"],
        "ratio_of_medians": best and ours["median"] / min(r["median"] for r in peers.values()),
        "floor": least,
    }


def beside_others(workload: str, name: str, threads: int, rounds: int, seconds: float,
                  quick: bool) -> float:
    """The time of a step if as many processes as processors compute the same at the same time.

    It is the median of the rounds; in each one it is the mean of the processes.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        weights = os.path.join(folder, "weights.npz")
        sizes = WORKLOADS[workload].sizes_of(quick)
        np.savez(weights, **WORKLOADS[workload].initial_weights(sizes))  # type: ignore[arg-type]
        processes: list[Process] = []
        setting: dict[str, Any] = {}
        for _ in range(cores()):
            process = Process(name, threads, everywhere=True)
            stack.callback(process.close)
            process.request(
                name=name, workload=workload, threads=threads, quick=quick, weights=weights)
            setting = process.request(best_setting=None) if not processes else setting
            process.request(start=setting)
            process.request(values=WORKLOADS[workload].steps)  # the first one compiles
            processes.append(process)
        times = []
        for _ in range(rounds):
            for process in processes:
                process.send(time=seconds)
            times.append(statistics.mean(process.answer() for process in processes))
        return statistics.median(times)


def _check_values(name: str, values: Mapping[Process, Sequence[float]]) -> None:
    (first, expected), *_ = values.items()
    for process, got in values.items():
        worst = measure.worst_difference(expected, got)
        if worst > WORKLOADS[name].tolerance:
            raise DifferentValues(f"{name}: the losses of {LABELS[process.name]} and "
                                  f"{LABELS[first.name]} differ by {worst:.1e}: {got} and "
                                  f"{expected}")


def _floor(running: Sequence[Process], quick: bool) -> dict[str, float]:
    """The work of a step, and how long it takes at the rates of this machine.

    The rate is that of the fastest library: NumPy's matrix products may be slower than others.
    """
    flops, count = running[0].request(work=None)
    rates = [p.request(floats_per_second=quick) for p in running]
    arithmetic, traffic = flops / max(rates), running[0].request(copy_seconds=count)
    return {"flops": flops, "bytes": count, "flops_per_second": max(rates),
            "arithmetic": arithmetic, "traffic": traffic, "seconds": max(arithmetic, traffic)}


def machine() -> dict[str, Any]:
    """The machine and the versions that the times were measured with."""
    versions = {}
    for name in ("gpuprop", "numpy", "numba", "torch", "jax"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "packages": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """The name of the processor; on Linux with the vector instructions, which a name may hide."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    parts = [line.partition(":") for line in lines]
    fields = {key.strip(): value.strip() for key, _, value in parts}
    name = fields.get("model name", platform.processor())
    flags = fields.get("flags", "").split()
    vectors = [word for word, flag in {"AVX-512": "avx512f", "AVX2": "avx2"}.items()
               if flag in flags]
    return f"{name} with {vectors[0]}" if vectors else name
