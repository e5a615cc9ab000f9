"""A cosine with warm restarts."""

from __future__ import annotations

import math
from typing import Any

from gpuprop._core.checks import as_number
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim.lr_scheduler._base import LRScheduler, whole
from gpuprop.optim.lr_scheduler._checks import integer, number


class CosineAnnealingWarmRestarts(LRScheduler):
    """Anneal the learning rate along half a cosine, and start again.

        lr = eta_min + (initial_lr - eta_min) * (1 + cos(pi * T_cur / T_i)) / 2

    T_cur is the number of epochs since the last restart, and T_i that between two restarts: it
    starts as `T_0`, and each restart multiplies it by `T_mult`.

    ``scheduler.step(epoch)`` goes to an epoch, which may be a fraction, for steps within an epoch.

    I. Loshchilov and F. Hutter, ICLR 2017.
    """

    _checks = {"T_0": integer(1), "T_mult": integer(1), "eta_min": number(), "T_i": integer(1),
               "T_cur": number("[-1, inf)")}

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0,
                 last_epoch: int = -1) -> None:
        self.T_0 = self.T_i = self._checked("T_0", T_0)
        self.T_mult = self._checked("T_mult", T_mult)
        self.eta_min = self._checked("eta_min", eta_min)
        self.T_cur = self._checked("last_epoch", last_epoch)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        factor = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (lr - self.eta_min) * factor for lr in self.base_lrs]

    @whole
    def step(self, epoch: Any = None) -> None:
        """Advance to the next epoch, or to `epoch`, and set the learning rates."""
        if epoch is None and self.last_epoch >= 0:
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
            self._advance(self.last_epoch + 1)
            return
        name = "CosineAnnealingWarmRestarts.step: epoch"
        epoch = 0 if epoch is None else as_number(name, epoch, "[0, inf)")
        if self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            n = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            self.T_cur = epoch - self.T_0 * (self.T_mult**n - 1) // (self.T_mult - 1)
            self.T_i = self.T_0 * self.T_mult**n
        self._advance(math.floor(epoch))
