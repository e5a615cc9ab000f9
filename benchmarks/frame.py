"""Timing of several libraries on a noisy machine: one process each, which take turns.

A workload is a module of `benchmarks.workloads` with a dict ``CONTENDERS``, from names to functions
``build``.  ``build()`` returns a function that runs one training step and returns the loss.  The
losses of the first steps must agree between contenders.  Then, in each round, every contender runs
steps for a time slice while the others wait.  The results are the best and the median over the
slices, and ratios of gpuprop's times to those of its fastest peer.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Contender:
    """One library in its own process, which is idle between requests."""

    def __init__(self, workload: str, name: str) -> None:
        self.name = name
        code = f"from benchmarks.frame import serve; serve({workload!r}, {name!r})"
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": path, "GPUPROP_BACKEND": "numpy"})

    def request(self, method: str, *arguments: Any) -> Any:
        """The process's result for ``"losses", count`` or ``"time", seconds``."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended: see its error above")
        return json.loads(line)

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(30)


def serve(workload: str, name: str) -> None:
    """The loop of a contender's process: reads requests from stdin, writes results to stdout."""
    results = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not mix with the results
    step = importlib.import_module(f"benchmarks.workloads.{workload}").CONTENDERS[name]()
    for line in sys.stdin:
        method, argument = json.loads(line)
        if method == "losses":
            result: Any = [step() for _ in range(argument)]
        else:
            result = _time_per_step(step, argument)
        print(json.dumps(result), file=results, flush=True)


def _time_per_step(step: Any, seconds: float) -> float:
    """Seconds per step, averaged over a time slice of about `seconds`."""
    n = 0
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        step()
        n += 1
    return spent / n


def compare(workload: str, rounds: int = 15, slice_seconds: float = 0.2, losses: int = 20,
            only: str | None = None) -> dict[str, Any]:
    """Each contender's microseconds per step, and the first one's ratios to its fastest peer."""
    module = importlib.import_module(f"benchmarks.workloads.{workload}")
    names = [n for n in module.CONTENDERS if only is None or n.startswith(only)]
    if not names:
        known = ", ".join(module.CONTENDERS)
        raise SystemExit(f"no contender of {workload} starts with {only!r}: known are {known}")
    contenders: list[tuple[Contender, list[float], list[float]]] = []
    absent = {}
    for name in names:
        contender = Contender(workload, name)
        try:
            first_losses = contender.request("losses", losses)
        except RuntimeError as e:
            if name == names[0]:  # the others are compared with it
                raise
            absent[name] = str(e)
            continue
        contenders.append((contender, first_losses, []))
    first, expected, _ = contenders[0]
    for contender, got, _ in contenders:
        worst = max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(expected, got, strict=True))
        if worst > module.TOLERANCE:
            raise AssertionError(f"{workload}: the losses of {contender.name} and {first.name} "
                                 f"differ by {worst:.1e}")
    for _ in range(rounds):
        for contender, _, times in contenders:
            times.append(contender.request("time", slice_seconds))
    for contender, _, _ in contenders:
        contender.close()
    row = {contender.name: _summary(times) for contender, _, times in contenders}
    ours = row[first.name]
    peers = [summary for name, summary in row.items() if name != first.name]
    best = min(peers, key=lambda summary: summary["best_us"], default=None)
    return {
        "workload": workload,
        "what": (module.__doc__ or "").strip().splitlines()[0],
        "machine": machine(),
        "contenders": row,
        "absent": absent,
        "ratio_to_best_peer": best and ours["best_us"] / best["best_us"],
        "ratio_of_medians": best and ours["median_us"] / best["median_us"],
    }


def _summary(times: list[float]) -> dict[str, float]:
    return {"best_us": min(times) * 1e6, "median_us": statistics.median(times) * 1e6}


def machine() -> dict[str, Any]:
    """The machine and the versions that the times were measured with."""
    versions = {}
    for name in ("gpuprop", "numpy", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
