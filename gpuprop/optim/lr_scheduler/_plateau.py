"""A schedule that follows a metric."""

from __future__ import annotations

import math
from typing import Any

from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim.lr_scheduler._base import LRScheduler, lrs_of, per_group, set_lr
from gpuprop.optim.lr_scheduler._checks import choice, integer, number, one_or_list_of


class ReduceLROnPlateau(LRScheduler):
    """Multiply the learning rate by `factor` when a metric stops improving.

    Call ``scheduler.step(metric)`` after each epoch.  The learning rate is reduced after more than
    `patience` consecutive epochs without an improvement.  The next `cooldown` epochs then do not
    count.

    A metric improves if it is below ``best * (1 - threshold)``, or below ``best - threshold`` with
    ``threshold_mode="abs"``.  With ``mode="max"`` it improves if it is above
    ``best * (1 + threshold)``, or above ``best + threshold``.

    `min_lr` is the lower bound, a number or a list with one per group.  A reduction by at most
    `eps` is skipped.
    """

    _checks = {
        "mode": choice("min", "max"), "factor": number("[0, 1)"), "patience": integer(0),
        "threshold": number(), "threshold_mode": choice("rel", "abs"), "cooldown": integer(0),
        "min_lr": one_or_list_of(number()), "eps": number(), "best": number("[-inf, inf]"),
        "cooldown_counter": integer(0), "num_bad_epochs": integer(0)}
    _names_in_pytorch = {"min_lrs": "min_lr"}
    _only_in_pytorch = {"verbose", "default_min_lr", "mode_worse"}

    def __init__(self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1,
                 patience: int = 10, threshold: float = 1e-4, threshold_mode: str = "rel",
                 cooldown: int = 0, min_lr: Any = 0, eps: float = 1e-8) -> None:
        self.optimizer = self._checked("optimizer", optimizer)
        self.mode = self._checked("mode", mode)
        self.factor = self._checked("factor", factor)
        self.patience = self._checked("patience", patience)
        self.cooldown = self._checked("cooldown", cooldown)
        self.min_lr = self._checked("min_lr", min_lr)
        self.eps = self._checked("eps", eps)
        self.threshold = self._checked("threshold", threshold)
        self.threshold_mode = self._checked("threshold_mode", threshold_mode)
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = 0
        self.num_bad_epochs = 0
        self.last_epoch = 0
        self._last_lr = lrs_of(optimizer)

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        """Advance to the next epoch, and reduce the learning rates if `metrics` stopped improving.

        `metrics` is a number or a Tensor with one element; reading a Tensor waits for its device.
        """
        current = metrics.item() if hasattr(metrics, "item") else metrics
        if isinstance(current, bool) or not isinstance(current, int | float):
            raise TypeError(f"ReduceLROnPlateau: metrics must be a number, got {metrics!r}")
        self.last_epoch += 1
        if self._is_better(current):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
            self._reduce()
        self._last_lr = lrs_of(self.optimizer)

    def _reduce(self) -> None:
        min_lrs = per_group("min_lr", self.min_lr, self.optimizer)
        lrs = lrs_of(self.optimizer)
        for group, lr, min_lr in zip(self.optimizer.param_groups, lrs, min_lrs, strict=True):
            reduced = max(lr * self.factor, min_lr)
            if lr - reduced > self.eps:
                set_lr(group, reduced)

    def _is_better(self, metric: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        margin = sign * self.threshold
        bound = self.best * (1 + margin) if self.threshold_mode == "rel" else self.best + margin
        return sign * metric > sign * bound
