"""Fair timing on noisy machines: every contender in a process of its own, in turns, doing the same work.

A workload is a module of `benchmarks.workloads` with a table ``CONTENDERS: name -> build``; ``build()`` returns a
function that takes one step and returns the loss.  The losses of the first steps must agree between contenders, or
there is nothing to compare.  Then rounds go round: each contender runs a slice of steps while the others wait.  A
figure is the best of its slices, the median stands beside it, and a comparison is a ratio within one run.
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
    """One library in a process of its own, which does nothing unless told."""

    def __init__(self, workload: str, name: str) -> None:
        self.name = name
        code = f"from benchmarks.frame import serve; serve({workload!r}, {name!r})"
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=os.environ | {"PYTHONPATH": path, "GPUPROP_BACKEND": "numpy"})

    def ask(self, what: str, *arguments: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended without an answer (see above)")
        return json.loads(line)

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(30)


def serve(workload: str, name: str) -> None:
    """What a contender's process does: answer on its standard output what is asked on its standard input."""
    answers, sys.stdout = sys.stdout, sys.stderr
    step = importlib.import_module(f"benchmarks.workloads.{workload}").CONTENDERS[name]()
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        result = [step() for _ in range(*arguments)] if what == "losses" else _timed(step, *arguments)
        print(json.dumps(result), file=answers, flush=True)


def _timed(step: Any, seconds: float) -> float:
    """Seconds a step, over a slice of about `seconds`."""
    n, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        step()
        n += 1
    return spent / n


def compare(workload: str, rounds: int = 15, slice_seconds: float = 0.2, losses: int = 20,
            only: str | None = None) -> dict[str, Any]:
    """Run a workload's contenders in turns: their times in microseconds a step, and ratios to the first contender."""
    module = importlib.import_module(f"benchmarks.workloads.{workload}")
    names = [n for n in module.CONTENDERS if only is None or n.startswith(only)]
    contenders: list[tuple[Contender, list[float], list[float]]] = []
    absent = {}
    for name in names:
        contender = Contender(workload, name)
        try:
            first = contender.ask("losses", losses)
        except RuntimeError as e:
            absent[name] = str(e)
            continue
        contenders.append((contender, first, []))
    want = contenders[0][1]
    for contender, got, _ in contenders:
        worst = max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(want, got, strict=True))
        if worst > module.TOLERANCE:
            first = contenders[0][0].name
            raise AssertionError(f"{workload}: the losses of {contender.name} and {first} differ by {worst:.1e}")
    for _ in range(rounds):
        for contender, _, times in contenders:
            times.append(contender.ask("time", slice_seconds))
    for contender, _, _ in contenders:
        contender.close()
    figures = lambda times: {"best_us": min(times) * 1e6, "median_us": statistics.median(times) * 1e6}
    row = {contender.name: figures(times) for contender, _, times in contenders}
    ours = next(iter(row.values()))
    peers = {n: r for n, r in row.items() if n != contenders[0][0].name}
    best = min(peers.values(), key=lambda r: r["best_us"], default=None)
    return {
        "workload": workload, "what": (module.__doc__ or "").strip().splitlines()[0], "machine": machine(),
        "contenders": row, "absent": absent,
        "ratio_to_best_peer": best and ours["best_us"] / best["best_us"],
        "ratio_of_medians": best and ours["median_us"] / best["median_us"],
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    names = (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    found = {}
    for name in ("gpuprop", "numpy", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"processor": next(names, platform.processor()), "cores": os.cpu_count(),
            "python": platform.python_version(), "packages": found, "date": time.strftime("%Y-%m-%d")}


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
