"""One model and training step for gpuprop and PyTorch: same weights, batches and optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# makes a model that returns (N, C) logits from a library's `nn` and `functional`
Build = Callable[[Any, Any], Any]
Batches = Callable[[], Sequence[tuple[np.ndarray, np.ndarray]]]


def contenders(build: Build, batches: Batches) -> dict[str, Callable[[], Callable[[], float]]]:
    """gpuprop, and PyTorch with one or two threads, with and without its fused optimizer."""
    return {
        "gpuprop": lambda: _gpuprop(build, batches),
        "PyTorch, 1 thread": lambda: _torch(build, batches, 1, None),
        "PyTorch, 1 thread, fused": lambda: _torch(build, batches, 1, True),
        "PyTorch, 2 threads, fused": lambda: _torch(build, batches, 2, True),
    }


def _gpuprop(build: Build, batches: Batches) -> Callable[[], float]:
    import gpuprop
    from gpuprop import functional, optim

    model = _initial_model(build)
    pairs = [(gpuprop.tensor(x), gpuprop.tensor(y)) for x, y in batches()]
    return _step(model, functional, optim.Adam(model.parameters(), lr=1e-3), pairs)


def _torch(build: Build, batches: Batches, threads: int, fused: bool | None) -> Callable[[], float]:
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    model = build(torch.nn, functional)
    state = _initial_model(build).state_dict()
    model.load_state_dict({name: torch.tensor(w) for name, w in state.items()})
    pairs = [(torch.tensor(x), torch.tensor(y)) for x, y in batches()]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    return _step(model, functional, optimizer, pairs)


def _initial_model(build: Build) -> Any:
    """The model in gpuprop with the initial weights of both libraries, from seed 0."""
    import gpuprop
    from gpuprop import functional, nn

    gpuprop.manual_seed(0)
    return build(nn, functional)


def _step(
    model: Any, functional: Any, optimizer: Any, pairs: Sequence[tuple[Any, Any]],
) -> Callable[[], float]:
    source = itertools.cycle(pairs)

    def step() -> float:
        x, y = next(source)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
