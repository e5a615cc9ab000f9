"""The overhead of recording: many additions of a few elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._bench.workload import Sizes, Training

NO_COMPILER = "a compiler removes the additions"


def model(lib: Any, s: Sizes) -> Any:
    class Additions(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.addend = lib.nn.Embedding(1, 4)

        def forward(self, x: Any) -> Any:
            for _ in range(s.additions):
                x = x + self.addend.weight
            return x

    return Additions()


def ones(rng: np.random.Generator, s: Sizes) -> list:
    return [(np.ones((1, 4), "float32"), np.zeros((1, 4), "float32"))]


WORKLOADS = {
    "tape": Training(
        what="100 additions of 4 elements, mean squared error, SGD: overhead of recording",
        model=model, data=ones, loss="mse_loss", optimizer="SGD", options={"lr": 1e-5},
        sizes={"additions": 100}, quick={"additions": 5},
        left_out={"compile": NO_COMPILER, "jax": NO_COMPILER}),
}
