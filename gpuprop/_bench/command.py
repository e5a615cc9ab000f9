"""``gpuprop bench``: the workloads on one backend, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import gpuprop.torch as torch
from gpuprop._bench import floor, measure
from gpuprop._bench.library import Library, TorchLibrary
from gpuprop._bench.workload import Workload
from gpuprop._bench.workloads import WORKLOADS
from gpuprop._core.registry import default_backend
from gpuprop._environment import blas

FULL, QUICK = 0.2, 0.005  # seconds of a time slice


class UnknownWorkloadError(ValueError):
    """There is no such workload."""


def find_workloads(names: Iterable[str]) -> dict[str, Workload]:
    """The workloads of these names, or all."""
    found = {}
    for name in names or WORKLOADS:
        if name not in WORKLOADS:
            raise UnknownWorkloadError(f"unknown workload {name!r}: it must be one of "
                                       f"{', '.join(WORKLOADS)}")
        found[name] = WORKLOADS[name]
    return found


def run(workloads: Mapping[str, Workload], rounds: int, quick: bool) -> dict[str, Any]:
    """Times, floors and first losses of each workload on the default backend."""
    backend = default_backend()
    on_host = backend.name == "numpy"
    threads = max(1, blas().threads) if on_host else 1

    def matmul(a: Any, b: Any) -> None:
        backend.xp.matmul(a, b)
        backend.synchronize()

    def copy(target: Any, source: Any) -> None:
        target[...] = source
        backend.synchronize()

    matrix = backend.asarray(measure.square_matrix(quick))
    rate = measure.floats_per_second(matmul, matrix)
    found = []
    for name, workload in workloads.items():
        s = workload.sizes_of(quick, workers=threads if threads > 1 else 0)
        weights = workload.initial_weights(s)
        row = _timed(workload, s, weights, rounds, QUICK if quick else FULL)
        work = floor.work(workload, s, weights)
        traffic = measure.copy_seconds(work.bytes, copy, backend.xp, threads)
        least = {**work._asdict(), "arithmetic": work.flops / rate, "traffic": traffic,
                 "seconds": max(work.flops / rate, traffic)}
        found.append({"workload": name, "what": workload.what, **row, "floor": least})
    return {"backend": backend.name, "threads": threads, "quick": quick, "rounds": rounds,
            "flops_per_second": rate, "workloads": found}


def _timed(workload: Workload, s: Any, weights: Mapping[str, np.ndarray], rounds: int,
           seconds: float) -> dict[str, Any]:
    """The times of gpuprop and gpuprop.torch, which take turns."""
    libraries = {"gpuprop": Library(), "gpuprop.torch": TorchLibrary(torch)}
    steps = {n: workload.step(library, s, weights, {}) for n, library in libraries.items()}
    count = min(3, workload.steps)
    losses = {n: [measure.value_of(step()) for _ in range(count)] for n, step in steps.items()}
    expected, others = losses["gpuprop"], losses["gpuprop.torch"]
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(measure.seconds_per_step(step, seconds))
    return {"losses": losses,
            "same": measure.worst_difference(expected, others) <= workload.tolerance,
            "times": {name: measure.summary(t) for name, t in times.items()}}


def report(results: Mapping[str, Any]) -> str:
    """The results as a table."""
    sizes = ", small sizes" if results["quick"] else ""
    lines = [f"{results['backend']}, threads: {results['threads']}{sizes}; matrix products: "
             f"{results['flops_per_second'] / 1e9:.1f} GFLOP/s",
             f"{'workload':14}{'library':14}{'best':>10}{'median':>10}{'spread':>8}{'floor':>10}"]
    for row in results["workloads"]:
        for name, times in row["times"].items():
            lines.append(f"{row['workload']:14}{name:14}{measure.duration(times['best']):>10}"
                         f"{measure.duration(times['median']):>10}{times['spread']:>8.0%}"
                         f"{measure.duration(row['floor']['seconds']):>10}")
        if not row["same"]:
            lines.append(f"FAILED: the losses differ: {row['losses']}")
    return "\n".join(lines)
