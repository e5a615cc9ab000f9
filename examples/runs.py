"""The training of an example, as `gpuprop verify` takes it and by epochs, and the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import gpuprop
from gpuprop import nn, optim


def training_run(model: nn.Module, loss_of: Callable, optimizer: optim.Optimizer,
                 batches: Iterable, scheduler: Any = None) -> tuple:
    """(model, step, batches); a step minimizes ``loss_of(model, *batch)``."""

    def step(*batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, *batch)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        return loss

    return model, step, batches


def train_best(run: tuple, epochs: int, measure: Callable[[], tuple[float, str]]) -> nn.Module:
    """Train, and return the model with the weights of the epoch with the highest measure.

    `run` is (model, step, batches); `measure` returns a number and the words that are printed.
    """
    model, step, batches = run
    best, best_state = -np.inf, model.state_dict()
    for epoch in range(1, epochs + 1):
        model.train()
        mean = np.mean([step(*batch).item() for batch in batches])
        value, words = measure()
        if value > best:
            best, best_state = value, model.state_dict()
        print(f"epoch {epoch:2d}/{epochs}: loss {mean:.4f}, {words}", flush=True)
    model.load_state_dict(best_state)
    return model


def accuracy(model: nn.Module, batches: Iterable) -> float:
    """The share of images whose class has the highest score, in percent."""
    with gpuprop.no_grad():
        right = [(model(x).argmax(axis=1) == labels).numpy() for x, labels in batches]
    return 100 * np.concatenate(right).mean()
