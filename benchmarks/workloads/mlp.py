"""A training step of a 64-64-64-10 ReLU network, batch 32, Adam: what is left when arithmetic costs next to nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

TOLERANCE = 1e-3
SIZES = (64, 64, 64, 10)


def data() -> tuple[list[tuple[np.ndarray, np.ndarray]], dict[str, np.ndarray]]:
    """32 batches of random points with labels that a random network gave them, and initial weights by name."""
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((64, 10)).astype("float32")
    weights = {}
    for i, (n, m) in enumerate(itertools.pairwise(SIZES)):
        weights[f"{2 * i}.weight"] = rng.uniform(-1, 1, (m, n)).astype("float32") / np.float32(n) ** 0.5
        weights[f"{2 * i}.bias"] = np.zeros(m, "float32")
    points = [rng.standard_normal((32, 64)).astype("float32") for _ in range(32)]
    return [(x, (x @ teacher).argmax(-1)) for x in points], weights


def gpuprop_step() -> Callable[[], float]:
    import gpuprop
    import gpuprop.functional as F
    from gpuprop import nn, optim

    batches, weights = data()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model.load_state_dict(weights)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    source = itertools.cycle([(gpuprop.tensor(x), gpuprop.tensor(y)) for x, y in batches])

    def step() -> float:
        x, y = next(source)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_step(threads: int, fused: bool | None) -> Callable[[], float]:
    import torch
    import torch.nn.functional as F
    from torch import nn, optim

    torch.set_num_threads(threads)
    batches, weights = data()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model.load_state_dict({n: torch.tensor(w) for n, w in weights.items()})
    optimizer = optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    source = itertools.cycle([(torch.tensor(x), torch.tensor(y)) for x, y in batches])

    def step() -> float:
        x, y = next(source)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


CONTENDERS: dict[str, Callable[[], Any]] = {
    "gpuprop": gpuprop_step,
    "PyTorch, 1 thread": lambda: torch_step(1, None),
    "PyTorch, 1 thread, fused": lambda: torch_step(1, True),
    "PyTorch, 2 threads, fused": lambda: torch_step(2, True),
}
