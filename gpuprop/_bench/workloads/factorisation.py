"""Matrix factorisation: ratings as products of the factors of a user and of a film."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._bench.workload import Sizes, Training


def model(lib: Any, s: Sizes) -> Any:
    nn = lib.nn

    class Factorisation(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users = nn.Embedding(s.users, s.factors)
            self.items = nn.Embedding(s.items, s.factors)
            self.user_bias = nn.Embedding(s.users, 1)
            self.item_bias = nn.Embedding(s.items, 1)

        def forward(self, x: Any) -> Any:
            user, item = x[:, 0], x[:, 1]
            product = (self.users(user) * self.items(item)).sum(-1)
            return product + self.user_bias(user)[:, 0] + self.item_bias(item)[:, 0]

    return Factorisation()


def ratings(rng: np.random.Generator, s: Sizes) -> list:
    found = []
    for _ in range(8):
        pairs = np.stack([rng.integers(0, s.users, s.batch), rng.integers(0, s.items, s.batch)], 1)
        found.append((pairs, rng.normal(0, 1, s.batch).astype("float32")))
    return found


WORKLOADS = {
    "factorisation": Training(
        what="matrix factorisation 610 x 9724, 32 factors, batch 1024, Adagrad",
        model=model, data=ratings, loss="mse_loss", optimizer="Adagrad", options={"lr": 0.05},
        sizes={"users": 610, "items": 9724, "factors": 32, "batch": 1024},
        quick={"users": 7, "items": 9, "factors": 4, "batch": 8}),
}
