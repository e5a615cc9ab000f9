"""Fully connected networks: two classifiers and an auto-encoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._bench.workload import Sizes, Training


def model(lib: Any, s: Sizes) -> Any:
    """Linear layers of these widths with ReLU between them."""
    nn = lib.nn
    layers: list[Any] = []
    for n, m in zip(s.widths, s.widths[1:], strict=False):
        layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def labelled_points(rng: np.random.Generator, s: Sizes) -> list:
    """Random points, labelled by a random linear map."""
    first, last = s.widths[0], s.widths[-1]
    teacher = rng.standard_normal((first, last)).astype("float32")
    points = [rng.standard_normal((s.batch, first)).astype("float32") for _ in range(8)]
    return [(x, (x @ teacher).argmax(-1)) for x in points]


def points_to_copy(rng: np.random.Generator, s: Sizes) -> list:
    """Points of a random subspace, which are their own targets."""
    n = s.widths[0]
    base = rng.standard_normal((8, n)).astype("float32")
    found = []
    for _ in range(4):
        x = np.tanh(rng.standard_normal((s.batch, 8)).astype("float32") @ base)
        found.append((x, x))
    return found


WORKLOADS = {
    "mlp_small": Training(
        what="MLP 64-64-64-10, batch 32, Adam: mostly overhead",
        model=model, data=labelled_points,
        sizes={"widths": (64, 64, 64, 10), "batch": 32},
        quick={"widths": (8, 8, 8, 4), "batch": 4}, tolerance=1e-3),
    "mlp": Training(
        what="MLP 784-512-512-10, batch 128, Adam",
        model=model, data=labelled_points,
        sizes={"widths": (784, 512, 512, 10), "batch": 128},
        quick={"widths": (20, 16, 16, 4), "batch": 4}),
    "autoencoder": Training(
        what="auto-encoder 784-256-32-256-784, batch 256, mean squared error, Adam",
        model=model, data=points_to_copy, loss="mse_loss",
        sizes={"widths": (784, 256, 32, 256, 784), "batch": 256},
        quick={"widths": (20, 8, 4, 8, 20), "batch": 4}),
}
