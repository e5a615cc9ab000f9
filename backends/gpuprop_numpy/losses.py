"""The override of `cross_entropy` for the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop.backend import portable


def cross_entropy(xp: Any, input: Any, target: Any, weight: Any = None, ignore_index: int = -100,
                  reduction: str = "mean", label_smoothing: float = 0.0) -> tuple:
    """The portable version without masks, for logits (N, C) and labels that all count.

    Whether they do is seen at once on the CPU.  A small network spends much of its time in masks.
    """
    is_plain = (input.ndim == 2 and input.size and weight is None and not label_smoothing
                and reduction in ("none", "mean", "sum"))
    if not is_plain or not all_count(target, input.shape[1], ignore_index):
        return portable("gpuprop.functional:cross_entropy_from_indices")(
            xp, input, target, weight, ignore_index, reduction, label_smoothing)
    z = input - np.maximum.reduce(input, axis=1, keepdims=True)
    at_labels = np.arange(len(target)), target
    picked = z[at_labels]
    p = np.exp(z, out=z)
    total = np.add.reduce(p, axis=1)
    losses = np.log(total)
    losses -= picked
    is_mean = reduction == "mean"

    def pullback(d: Any) -> tuple:
        d = d / len(target) if is_mean else d
        dx = p * (d / total)[:, None]
        dx[at_labels] -= d
        return dx, None, None

    if reduction == "none":
        return losses, pullback
    loss = np.add.reduce(losses)
    return np.asarray(loss / len(target) if is_mean else loss), pullback


def all_count(target: np.ndarray, classes: int, ignore_index: int) -> bool:
    """Whether all labels are in range, and none is `ignore_index`."""
    last = np.maximum.reduce(target)
    return (last < classes and np.minimum.reduce(target) >= 0
            and not 0 <= ignore_index <= last)
