"""Schedules that are a formula of the epoch."""

from __future__ import annotations

import math
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gpuprop._core.checks import as_callable, as_instance
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim.lr_scheduler._base import LRScheduler, lrs_of, per_group
from gpuprop.optim.lr_scheduler._checks import integer, list_of, number


class LambdaLR(LRScheduler):
    """Scale the initial learning rate by a function of the epoch.

        lr = initial_lr * lr_lambda(epoch)

    `lr_lambda` may be a list with one function per group.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.optimizer = self._checked("optimizer", optimizer)
        self.lr_lambdas = per_group("LambdaLR: lr_lambda", lr_lambda, optimizer)
        for f in self.lr_lambdas:
            as_callable("LambdaLR: lr_lambda", f)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * f(self.last_epoch)
                for lr, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer.

        A callable object in `lr_lambda` is saved as the dict of its attributes, a function as None.
        """
        saved = [None if isinstance(f, types.FunctionType) else dict(getattr(f, "__dict__", {}))
                 for f in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": saved}

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        attributes = self._loaded(state_dict)
        own = self.state_dict()["lr_lambdas"]
        what = "LambdaLR: lr_lambdas"
        lambdas = as_instance(what, attributes.pop("lr_lambdas"), (list, tuple), "a list")
        lambdas = per_group(what, lambdas, self.optimizer)
        for i, (mine, saved) in enumerate(zip(own, lambdas, strict=True)):
            if type(mine) is not type(saved) or (saved and mine.keys() != saved.keys()):
                raise ValueError(f"{what}[{i}] must be the attributes of this "
                                 f"schedule's lr_lambda, {mine!r}, got {saved!r}")

        def write() -> None:
            vars(self).update(attributes)
            for f, saved in zip(self.lr_lambdas, lambdas, strict=True):
                if saved:
                    vars(f).update(saved)

        return write


class StepLR(LRScheduler):
    """Multiply the learning rate by `gamma` every `step_size` epochs.

        lr = initial_lr * gamma ** (epoch // step_size)
    """

    _checks = {"step_size": integer(1), "gamma": number()}

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1,
                 last_epoch: int = -1) -> None:
        self.step_size = self._checked("step_size", step_size)
        self.gamma = self._checked("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0 or self.last_epoch % self.step_size != 0:
            return lrs_of(self.optimizer)
        return self._scaled(self.gamma)


class MultiStepLR(LRScheduler):
    """Multiply the learning rate by `gamma` at each epoch in `milestones`.

        lr = initial_lr * gamma ** (number of milestones <= epoch)

    A repeated milestone counts repeatedly.
    """

    _checks = {"milestones": lambda what, value: _milestones(what, value), "gamma": number()}

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1,
                 last_epoch: int = -1) -> None:
        what = "MultiStepLR: milestones"
        epochs = list(as_instance(what, milestones, Iterable, "an iterable of epochs"))
        self.milestones = self._checked("milestones", Counter(list_of(integer(0))(what, epochs)))
        self.gamma = self._checked("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        count = self.milestones.get(self.last_epoch, 0)
        return self._scaled(self.gamma ** count) if count else lrs_of(self.optimizer)


def _milestones(what: str, value: Any) -> dict[int, int]:
    """{epoch: how often it occurs}."""
    return {integer(0)(what, epoch): integer(1)(f"{what}[{epoch}]", n)
            for epoch, n in as_instance(what, value, Mapping, "a dict").items()}


class ConstantLR(LRScheduler):
    """Multiply the learning rate by `factor` until epoch `total_iters`.

        lr = initial_lr * (factor if epoch < total_iters else 1)

    With factor 0, the learning rate in epoch `total_iters` is `initial_lr`, whatever another
    schedule of the optimizer did before.
    """

    _checks = {"factor": number("[0, 1]"), "total_iters": integer(0)}

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5,
                 last_epoch: int = -1) -> None:
        self.factor = self._checked("factor", factor)
        self.total_iters = self._checked("total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._scaled(self.factor)
        if self.last_epoch == self.total_iters:
            if self.factor == 0:  # no factor increases a learning rate of 0
                return list(self.base_lrs)
            return self._scaled(1.0 / self.factor)
        return lrs_of(self.optimizer)


class LinearLR(LRScheduler):
    """Scale the learning rate by a factor that changes linearly over `total_iters` epochs.

        fraction = min(epoch, total_iters) / total_iters
        lr = initial_lr * (start_factor + (end_factor - start_factor) * fraction)
    """

    _checks = {"start_factor": number("(0, 1]"), "end_factor": number("[0, 1]"),
               "total_iters": integer(0)}

    def __init__(self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0,
                 total_iters: int = 5, last_epoch: int = -1) -> None:
        self.start_factor = self._checked("start_factor", start_factor)
        self.end_factor = self._checked("end_factor", end_factor)
        self.total_iters = self._checked("total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._scaled(self.start_factor)
        if self._is_initial or self.last_epoch > self.total_iters:
            return lrs_of(self.optimizer)
        # The factor at an epoch is (total_iters * start_factor + epoch * change) / total_iters;
        # scale by the quotient of the factors at this epoch and at the previous one.
        change = self.end_factor - self.start_factor
        previous = self.total_iters * self.start_factor + (self.last_epoch - 1) * change
        return self._scaled(max(1.0 + change / previous, 0.0))  # rounding may give less


class ExponentialLR(LRScheduler):
    """Multiply the learning rate by `gamma` every epoch.

        lr = initial_lr * gamma ** epoch
    """

    _checks = {"gamma": number()}

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = self._checked("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return lrs_of(self.optimizer) if self._is_initial else self._scaled(self.gamma)


class CosineAnnealingLR(LRScheduler):
    """Anneal the learning rate along a cosine of period ``2 * T_max``.

        lr = eta_min + (initial_lr - eta_min) * (1 + cos(pi * epoch / T_max)) / 2

    I. Loshchilov and F. Hutter, ICLR 2017, without their restarts.
    """

    _checks = {"T_max": integer(1), "eta_min": number()}

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0,
                 last_epoch: int = -1) -> None:
        self.T_max = self._checked("T_max", T_max)
        self.eta_min = self._checked("eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        lrs = lrs_of(self.optimizer)
        if self._is_initial:
            return lrs
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:
            # The previous epoch was a minimum, lr = eta_min, from which no factor increases the lr.
            fraction = (1 - math.cos(math.pi / self.T_max)) / 2
            return [lr + (base - self.eta_min) * fraction
                    for lr, base in zip(lrs, self.base_lrs, strict=True)]
        factor = self._one_plus_cos(self.last_epoch) / self._one_plus_cos(self.last_epoch - 1)
        return [factor * (lr - self.eta_min) + self.eta_min for lr in lrs]

    def _one_plus_cos(self, epoch: int) -> float:
        return 1 + math.cos(math.pi * epoch / self.T_max)
