"""A training step of a usual CNN for MNIST: 3x3, 32 and 64 channels, pool 2, 128, 10; batch 128.

The optimizer is Adam; there is no dropout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.training import contenders

TOLERANCE = 1e-2


def build(nn: Any, F: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Linear(128, 10))


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """4 batches of noisy images with one square; the label is its position."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4):
        labels = rng.integers(0, 10, 128)
        x = rng.normal(0, 0.3, (128, 1, 28, 28)).astype("float32")
        for image, label in zip(x, labels, strict=True):
            row, column = 2 + 9 * (label // 4), 2 + 6 * (label % 4)
            image[0, row:row + 5, column:column + 5] += 1
        found.append((x, labels))
    return found


CONTENDERS = contenders(build, batches)
