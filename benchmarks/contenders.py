"""The libraries that are compared; each is imported only in the process that runs it."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpuprop._bench.library import Library, TorchLibrary
from gpuprop._bench.measure import seconds_per_step
from gpuprop._bench.workload import Sizes, Training, Workload

LABELS = {
    "gpuprop": "gpuprop",
    "numba": "gpuprop with Numba",
    "dialect": "gpuprop.torch",
    "pytorch": "PyTorch eager",
    "compile": "torch.compile",
    "jax": "JAX jit",
}
OURS = ("gpuprop", "numba", "dialect")  # the others are the peers
MODULES = {"numba": "numba", "pytorch": "torch", "compile": "torch", "jax": "jax"}  # they import

Setting = dict[str, Any]
Weights = Mapping[str, np.ndarray]

TRIAL = 0.3  # seconds, for each setting of PyTorch's optimizers
SETTINGS: list[Setting] = [{"fused": True}, {"foreach": True}, {"foreach": False}]


class Contender:
    """One library, imported."""

    def step(self, name: str, workload: Workload, s: Sizes, weights: Weights,
             setting: Setting) -> Callable[[], Any]:
        """The function that is timed: see `Workload.step`."""
        raise NotImplementedError

    def best_setting(self, workload: Workload, s: Sizes, weights: Weights) -> Setting:
        """The options of the optimizer that make this workload fastest."""
        return {}

    def matmul(self) -> tuple[Callable, Any]:
        """The library's matrix product, which waits for its result, and what makes its arrays."""
        return np.matmul, np.asarray


def contender(name: str, threads: int) -> Contender:
    """Import the library of this name and let it use this number of threads.

    Raises ImportError with the reason if the library is not installed.
    """
    module = MODULES.get(name)
    if module and importlib.util.find_spec(module) is None:
        raise ImportError(f"{module} is not installed")
    if name in ("gpuprop", "dialect"):
        sys.modules["numba"] = None  # type: ignore[assignment]  # as if it were not installed
    if name == "numba":
        import numba  # noqa: F401  # its memory does not count as that of the steps
    if name == "jax":
        from benchmarks.jax_peer import Jax

        return Jax()
    if name in ("gpuprop", "numba"):
        return Gpuprop(Library())
    if name == "dialect":
        import gpuprop.torch

        return Gpuprop(TorchLibrary(gpuprop.torch))
    return PyTorch(threads, compiled=name == "compile")


class Gpuprop(Contender):
    """gpuprop in its own words, or as gpuprop.torch."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def step(self, name: str, workload: Workload, s: Sizes, weights: Weights,
             setting: Setting) -> Callable[[], Any]:
        return workload.step(self.library, s, weights, setting)


class PyTorch(Contender):
    """PyTorch, eager or with the model and the loss compiled."""

    def __init__(self, threads: int, compiled: bool) -> None:
        import torch
        import torch._dynamo  # optimizers import it in their first step

        torch.set_num_threads(threads)
        self.torch = torch
        self.library = TorchLibrary(torch, torch.compile if compiled else None)

    def step(self, name: str, workload: Workload, s: Sizes, weights: Weights,
             setting: Setting) -> Callable[[], Any]:
        return workload.step(self.library, s, weights, setting)

    def best_setting(self, workload: Workload, s: Sizes, weights: Weights) -> Setting:
        """The setting with the fastest step of the optimizer, as the best of several turns."""
        if not isinstance(workload, Training):
            return {}
        steps = []
        for setting in SETTINGS:
            model = workload.loaded_model(self.library, s, weights)
            optimizer = workload.make_optimizer(self.library, model, setting)
            for p in model.parameters():
                p.grad = self.torch.zeros_like(p)
            steps.append(optimizer.step)
        best = [math.inf] * len(steps)
        for _ in range(3):
            for i, step in enumerate(steps):
                best[i] = min(best[i], seconds_per_step(step, TRIAL / 3))
        return SETTINGS[best.index(min(best))]

    def matmul(self) -> tuple[Callable, Any]:
        return self.torch.matmul, self.torch.from_numpy
