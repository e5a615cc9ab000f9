"""Learning rate schedules.

``scheduler.step()``, called once per epoch or per batch, sets each group's learning rate.  An
*epoch* below is one call.  `initial_lr` is a group's learning rate when the first schedule was
made.
"""

from __future__ import annotations

import math
import types
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from gpuprop._core.graph import raw
from gpuprop._core.tensor import Tensor
from gpuprop.optim._optimizer import Optimizer

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]


def _lrs(optimizer: Optimizer, name: str = "lr") -> list[float]:
    """The learning rate of each group, or another option of that name."""
    values = [group[name] for group in optimizer.param_groups]
    return [float(value) if isinstance(value, Tensor) else value for value in values]


def _set_lr(group: dict, lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        raw(group["lr"])[...] = lr
    else:
        group["lr"] = lr


def _checked(optimizer: Any) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
    return optimizer


def _per_group(name: str, value: Any, optimizer: Optimizer) -> list:
    """One value per group, from a list of them or from one for all groups."""
    n = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{name} has {len(value)} values, but the optimizer has {n} parameter "
                         f"groups")
    return list(value)


class LRScheduler:
    """Base class of learning rate schedules.

    A subclass defines ``get_lr()``, which returns the learning rate of each group in epoch
    ``self.last_epoch``.  As in PyTorch, most schedules scale the current learning rate, so several
    can be combined.

    `last_epoch` is the epoch to resume at; -1 starts a new schedule.

    >>> import gpuprop
    >>> optimizer = gpuprop.optim.SGD([gpuprop.Parameter([1.0])], lr=1.0)
    >>> scheduler = gpuprop.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler.step()
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = _checked(optimizer)
        for i, (group, lr) in enumerate(zip(optimizer.param_groups, _lrs(optimizer), strict=True)):
            if last_epoch == -1:
                group.setdefault("initial_lr", lr)
            elif "initial_lr" not in group:
                raise KeyError(f"param 'initial_lr' is not specified in param_groups[{i}] when "
                               f"resuming a schedule: load the optimizer's state first, or leave "
                               f"out last_epoch")
        self.base_lrs = _lrs(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def _restart(self) -> None:
        """Return to epoch 0."""
        self.last_epoch = -1
        self._initial_step()

    def get_lr(self) -> list[float]:
        """The learning rate of each group in epoch ``self.last_epoch``."""
        raise NotImplementedError

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group, as set by the last step."""
        return self._last_lr

    def step(self) -> None:
        """Advance to the next epoch and set the learning rates."""
        self._step_count += 1
        self.last_epoch += 1
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            _set_lr(group, lr)
        self._last_lr = _lrs(self.optimizer)

    def _scaled(self, factor: float) -> list[float]:
        return [lr * factor for lr in _lrs(self.optimizer)]

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a `state_dict`."""
        vars(self).update(state_dict)


class LambdaLR(LRScheduler):
    """Scale the initial learning rate by a function of the epoch.

        lr = initial_lr * lr_lambda(epoch)

    `lr_lambda` may be a list with one function per group.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.lr_lambdas = _per_group("lr_lambda", lr_lambda, _checked(optimizer))
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * f(self.last_epoch)
                for lr, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer.

        For an `lr_lambda` that is a callable object it has its attributes, for a function None.
        """
        saved = [None if isinstance(f, types.FunctionType) else dict(vars(f))
                 for f in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "lr_lambdas"})
        for f, saved in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if saved is not None:
                vars(f).update(saved)


class StepLR(LRScheduler):
    """Multiply the learning rate by `gamma` every `step_size` epochs.

        lr = initial_lr * gamma ** (epoch // step_size)
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1,
                 last_epoch: int = -1) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0 or self.last_epoch % self.step_size != 0:
            return _lrs(self.optimizer)
        return self._scaled(self.gamma)


class MultiStepLR(LRScheduler):
    """Multiply the learning rate by `gamma` at each of the epochs `milestones`.

    A milestone that is given twice counts twice.
    """

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1,
                 last_epoch: int = -1) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        count = self.milestones.get(self.last_epoch, 0)
        return self._scaled(self.gamma ** count) if count else _lrs(self.optimizer)


class ConstantLR(LRScheduler):
    """Multiply the learning rate by `factor` until epoch `total_iters`.

        lr = initial_lr * (factor if epoch < total_iters else 1)
    """

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5,
                 last_epoch: int = -1) -> None:
        if not 0 <= factor <= 1:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._scaled(self.factor)
        if self.last_epoch == self.total_iters:
            return self._scaled(1.0 / self.factor)
        return _lrs(self.optimizer)


class LinearLR(LRScheduler):
    """Scale the learning rate by a factor that changes linearly over `total_iters` epochs.

        fraction = min(epoch, total_iters) / total_iters
        lr = initial_lr * (start_factor + (end_factor - start_factor) * fraction)
    """

    def __init__(self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0,
                 total_iters: int = 5, last_epoch: int = -1) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError("Starting multiplicative factor expected to be greater than 0 and "
                             "less or equal to 1.")
        if not 0 <= end_factor <= 1:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._scaled(self.start_factor)
        if self._is_initial or self.last_epoch > self.total_iters:
            return _lrs(self.optimizer)
        slope = self.end_factor - self.start_factor
        previous = self.total_iters * self.start_factor + (self.last_epoch - 1) * slope
        return self._scaled(1.0 + slope / previous)


class ExponentialLR(LRScheduler):
    """Multiply the learning rate by `gamma` every epoch.

        lr = initial_lr * gamma ** epoch
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return _lrs(self.optimizer) if self._is_initial else self._scaled(self.gamma)


class CosineAnnealingLR(LRScheduler):
    """Anneal the learning rate along a cosine of period ``2 * T_max``.

        lr = eta_min + (initial_lr - eta_min) * (1 + cos(pi * epoch / T_max)) / 2

    Loshchilov and Hutter 2017, without their restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0,
                 last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        lrs = _lrs(self.optimizer)
        if self._is_initial:
            return lrs
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:
            # At the minimum the previous height is 0: no factor increases it.
            height = (1 - math.cos(math.pi / self.T_max)) / 2
            return [lr + (base - self.eta_min) * height
                    for lr, base in zip(lrs, self.base_lrs, strict=True)]
        factor = self._height(self.last_epoch) / self._height(self.last_epoch - 1)
        return [factor * (lr - self.eta_min) + self.eta_min for lr in lrs]

    def _height(self, epoch: int) -> float:
        return 1 + math.cos(math.pi * epoch / self.T_max)


class OneCycleLR(LRScheduler):
    """Increase the learning rate to `max_lr`, then decrease it (Smith and Topin 2018).

    Call ``scheduler.step()`` after every batch.

    The learning rate starts at ``max_lr / div_factor``, reaches `max_lr` after the fraction
    `pct_start` of `total_steps` (or ``epochs * steps_per_epoch``) and ends at ``max_lr / div_factor
    / final_div_factor``.  With `three_phase` it decreases as long as it increased, to its start,
    and then to its end.  `anneal_strategy` is "cos" or "linear".

    With `cycle_momentum` the momentum, or Adam's first beta, decreases from `max_momentum` to
    `base_momentum` while the learning rate increases, and vice versa.
    """

    def __init__(self, optimizer: Optimizer, max_lr: Any, total_steps: int | None = None,
                 epochs: int | None = None, steps_per_epoch: int | None = None,
                 pct_start: float = 0.3, anneal_strategy: str = "cos", cycle_momentum: bool = True,
                 base_momentum: Any = 0.85, max_momentum: Any = 0.95, div_factor: float = 25.0,
                 final_div_factor: float = 1e4, three_phase: bool = False,
                 last_epoch: int = -1) -> None:
        _checked(optimizer)
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got "
                             f"{anneal_strategy}")
        if cycle_momentum and not optimizer.defaults.keys() & {"momentum", "betas"}:
            raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` "
                             "option enabled")
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self.use_beta1 = "betas" in optimizer.defaults
        # (last step of the phase, option with the lr at its start, option with the lr at its end)
        last = self.total_steps - 1
        self.phases = [(pct_start * self.total_steps - 1, "initial_lr", "max_lr")]
        if three_phase:
            self.phases.append((2 * pct_start * self.total_steps - 2, "max_lr", "initial_lr"))
            self.phases.append((last, "initial_lr", "min_lr"))
        else:
            self.phases.append((last, "max_lr", "min_lr"))
        if last_epoch == -1:
            max_lrs = _per_group("max_lr", max_lr, optimizer)
            for group, rate in zip(optimizer.param_groups, max_lrs, strict=True):
                start = rate / div_factor
                group.update(initial_lr=start, max_lr=rate, min_lr=start / final_div_factor)
            if cycle_momentum:
                highs = _per_group("max_momentum", max_momentum, optimizer)
                lows = _per_group("base_momentum", base_momentum, optimizer)
                for group, high, low in zip(optimizer.param_groups, highs, lows, strict=True):
                    group.update(max_momentum=high, base_momentum=low)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The learning rates; also sets the momentum."""
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"Tried to step {t} times. The specified number of total steps is "
                             f"{self.total_steps}")
        i = 0
        while i < len(self.phases) - 1 and t > self.phases[i][0]:
            i += 1
        end, source, target = self.phases[i]
        start = self.phases[i - 1][0] if i else 0
        fraction = (t - start) / (end - start)
        if self.cycle_momentum:
            self._set_momentum(source, target, fraction)
        return [self._between(group[source], group[target], fraction)
                for group in self.optimizer.param_groups]

    def _set_momentum(self, source: str, target: str, fraction: float) -> None:
        """Set the momentum of a phase in which the lr goes from group[source] to group[target]."""
        first = "base_momentum" if source == "max_lr" else "max_momentum"
        last = "base_momentum" if target == "max_lr" else "max_momentum"
        for group in self.optimizer.param_groups:
            momentum = self._between(group[first], group[last], fraction)
            if self.use_beta1:
                group["betas"] = momentum, *group["betas"][1:]
            else:
                group["momentum"] = momentum

    def _between(self, a: float, b: float, fraction: float) -> float:
        if self.anneal_strategy == "linear":
            return (b - a) * fraction + a
        return b + (a - b) / 2 * (math.cos(math.pi * fraction) + 1)


def _total_steps(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    """The number of steps of OneCycleLR."""
    if total_steps is not None:
        _check_positive("total_steps", total_steps)
        return total_steps
    if epochs is None or steps_per_epoch is None:
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    _check_positive("epochs", epochs)
    _check_positive("steps_per_epoch", steps_per_epoch)
    return epochs * steps_per_epoch


def _check_positive(name: str, count: Any) -> None:
    if not isinstance(count, int) or count <= 0:
        raise ValueError(f"Expected positive integer {name}, but got {count}")


class ReduceLROnPlateau(LRScheduler):
    """Multiply the learning rate by `factor` when a metric stops improving: ``step(metric)``.

    This happens after more than `patience` epochs without an improvement.  Then `cooldown` epochs
    are not counted.

    An improvement is a metric below ``best * (1 - threshold)``, or below ``best - threshold`` with
    ``threshold_mode="abs"``.  With ``mode="max"`` it is a metric above ``best * (1 + threshold)``,
    or ``best + threshold``.  `min_lr` is a lower bound, for all groups or per group; a change of
    at most `eps` is not made.
    """

    def __init__(self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1,
                 patience: int = 10, threshold: float = 1e-4, threshold_mode: str = "rel",
                 cooldown: int = 0, min_lr: Any = 0, eps: float = 1e-8) -> None:
        if factor >= 1:
            raise ValueError("Factor should be < 1.0.")
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        self.optimizer = _checked(optimizer)
        _per_group("min_lr", min_lr, optimizer)  # checks its length
        self.min_lr = min_lr
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = 0
        self.num_bad_epochs = 0
        self.last_epoch = 0
        self._last_lr = _lrs(optimizer)

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        """Advance by an epoch with this metric, a number or a Tensor, whose value is read."""
        current = float(metrics)
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
        self._last_lr = _lrs(self.optimizer)

    def _reduce(self) -> None:
        min_lrs = _per_group("min_lr", self.min_lr, self.optimizer)
        lrs = _lrs(self.optimizer)
        for group, lr, min_lr in zip(self.optimizer.param_groups, lrs, min_lrs, strict=True):
            reduced = max(lr * self.factor, min_lr)
            if lr - reduced > self.eps:
                _set_lr(group, reduced)

    def _is_better(self, metric: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        margin = sign * self.threshold
        bound = self.best * (1 + margin) if self.threshold_mode == "rel" else self.best + margin
        return sign * metric > sign * bound


# ---- combinations of schedules -------------------------------------------------------------------


class _Composed(LRScheduler):
    """Base class of schedules made of other schedules of one optimizer."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler]) -> None:
        for i, scheduler in enumerate(schedulers):
            self._check(scheduler, i, optimizer)
        self.optimizer = _checked(optimizer)
        self._schedulers = list(schedulers)

    def _check(self, scheduler: Any, i: int, optimizer: Optimizer) -> None:
        owner = type(self).__name__
        name = type(scheduler).__name__
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(f"{owner} at index {i} should have `optimizer` as its attribute: "
                            f"expected an LRScheduler, got {name}")
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(f"{owner} does not support `ReduceLROnPlateau`, whose step takes a "
                             f"metric, but got one at index {i}")
        if scheduler.optimizer is not optimizer:
            raise ValueError(f"{owner} expects all schedulers to belong to the same optimizer, but "
                             f"{name} at index {i} has a different one")

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer; of the schedules their state dicts."""
        states = [scheduler.state_dict() for scheduler in self._schedulers]
        return {**super().state_dict(), "_schedulers": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for scheduler, saved in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(saved)


class ChainedScheduler(_Composed):
    """Step several schedules at once: each scales the learning rate that the previous one set."""

    def __init__(self, schedulers: Sequence[LRScheduler],
                 optimizer: Optimizer | None = None) -> None:
        if not schedulers:
            raise ValueError("ChainedScheduler expects at least one scheduler to be chained, but "
                             "got no scheduler.")
        super().__init__(optimizer or schedulers[0].optimizer, schedulers)
        self._last_lr = _lrs(self.optimizer)

    def step(self) -> None:
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = _lrs(self.optimizer)

    def _restart(self) -> None:
        for scheduler in self._schedulers:
            scheduler._restart()
        self._last_lr = _lrs(self.optimizer)


class SequentialLR(_Composed):
    """Run one schedule after the other.

    At each of the epochs `milestones` the next schedule starts at its epoch 0, from ``initial_lr``.
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler],
                 milestones: Sequence[int], last_epoch: int = -1) -> None:
        if not schedulers:
            raise ValueError("SequentialLR expects at least one scheduler, but got no scheduler.")
        super().__init__(optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR expects number of schedulers provided to be one more than the "
                f"number of milestone points, but got {len(schedulers)} and {len(milestones)}")
        self._milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        self._begin(bisect_right(self._milestones, 0))

    def step(self) -> None:
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        if self.last_epoch in self._milestones:
            self._begin(i)
        else:
            self._schedulers[i].step()
            self._last_lr = _lrs(self.optimizer)

    def _restart(self) -> None:
        self.last_epoch = 0
        self._begin(bisect_right(self._milestones, 0))

    def _begin(self, i: int) -> None:
        """Start schedule `i` from the initial learning rates.

        This undoes the previous schedule, and the first step that every schedule made when it was
        created.
        """
        initial_lrs = _lrs(self.optimizer, "initial_lr")
        for group, lr in zip(self.optimizer.param_groups, initial_lrs, strict=True):
            _set_lr(group, lr)
        self._schedulers[i]._restart()
        self._last_lr = _lrs(self.optimizer)
