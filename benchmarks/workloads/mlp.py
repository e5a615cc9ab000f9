"""A training step of a 64-64-64-10 ReLU network, batch 32, Adam: mostly overhead."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.training import contenders

TOLERANCE = 1e-3


def build(nn: Any, F: Any) -> Any:
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """32 batches of random points, labelled by a random linear map."""
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((64, 10)).astype("float32")
    points = [rng.standard_normal((32, 64)).astype("float32") for _ in range(32)]
    return [(x, (x @ teacher).argmax(-1)) for x in points]


CONTENDERS = contenders(build, batches)
