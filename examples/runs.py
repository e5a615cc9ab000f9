"""The training of an example, as `gpuprop verify` takes it, and the accuracy of a classifier."""

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


def accuracy(model: nn.Module, batches: Iterable) -> float:
    """The share of images whose class has the highest score, in percent."""
    with gpuprop.no_grad():
        right = [(model(x).argmax(axis=1) == labels).numpy() for x, labels in batches]
    return 100 * np.concatenate(right).mean()
