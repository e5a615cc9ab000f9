"""Schedules that are a formula of the epoch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gpuprop._core.checks import as_callable, as_instance
from gpuprop._core.options import names_class
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim.lr_scheduler._base import (
    LRScheduler,
    loaded_callables,
    lrs_of,
    per_group,
    saved_callable,
)
from gpuprop.optim.lr_scheduler._checks import integer, list_of, number


class _LambdaSchedule(LRScheduler):
    """Base class of schedules by functions of the epoch, `lr_lambda`, perhaps one per group."""

    @names_class
    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.optimizer = self._checked("optimizer", optimizer)
        what = f"{type(self).__name__}: lr_lambda"
        self.lr_lambdas = per_group(what, lr_lambda, optimizer)
        for f in self.lr_lambdas:
            as_callable(what, f)
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer.

        A callable object in `lr_lambda` is saved as the dict of its attributes, a function as None.
        """
        return {**super().state_dict(), "lr_lambdas": list(map(saved_callable, self.lr_lambdas))}

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        attributes = self._loaded(state_dict)
        what = f"{type(self).__name__}: lr_lambdas"
        saved = as_instance(what, attributes.pop("lr_lambdas"), (list, tuple), "a list")
        write_functions = loaded_callables(
            what, self.lr_lambdas, per_group(what, saved, self.optimizer))

        def write() -> None:
            vars(self).update(attributes)
            write_functions()

        return write


class LambdaLR(_LambdaSchedule):
    """Scale the initial learning rate by a function of the epoch.

        lr = initial_lr * lr_lambda(epoch)

    `lr_lambda` may be a list with one function per group.
    """

    def get_lr(self) -> list[float]:
        return [lr * f(self.last_epoch)
                for lr, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]


class MultiplicativeLR(_LambdaSchedule):
    """Multiply the learning rate by a function of the epoch, in each epoch from 1 on.

        lr = initial_lr * lr_lambda(1) * ... * lr_lambda(epoch)

    `lr_lambda` may be a list with one function per group.
    """

    def get_lr(self) -> list[float]:
        lrs = lrs_of(self.optimizer)
        if self._is_initial:
            return lrs
        return [lr * f(self.last_epoch) for lr, f in zip(lrs, self.lr_lambdas, strict=True)]


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


class PolynomialLR(LRScheduler):
    """Decrease the learning rate to 0 in `total_iters` epochs, along a power of the epoch.

        lr = initial_lr * (1 - min(epoch, total_iters) / total_iters) ** power
    """

    _checks = {"total_iters": integer(0), "power": number()}

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0,
                 last_epoch: int = -1) -> None:
        self.total_iters = self._checked("total_iters", total_iters)
        self.power = self._checked("power", power)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self._is_initial or self.last_epoch > self.total_iters:
            return lrs_of(self.optimizer)
        this, previous = (1.0 - epoch / self.total_iters
                          for epoch in (self.last_epoch, self.last_epoch - 1))
        return self._scaled((this / previous) ** self.power)


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
