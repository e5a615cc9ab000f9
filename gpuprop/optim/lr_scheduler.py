"""Learning rate schedules.

Call ``scheduler.step()`` after each epoch or batch: it sets the learning rate of each parameter
group.  Below, *epoch* is the number of these calls, and `initial_lr` is the learning rate that a
group had when its first schedule was created.
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
    """The learning rate of each group; `name` may be another option, such as "initial_lr"."""
    values = [group[name] for group in optimizer.param_groups]
    return [float(value) if isinstance(value, Tensor) else value for value in values]


def _set_lr(group: dict, lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        raw(group["lr"])[...] = lr
    else:
        group["lr"] = lr


def _checked_optimizer(optimizer: Any) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer of gpuprop.optim")
    return optimizer


def _per_group(name: str, value: Any, optimizer: Optimizer) -> list:
    """A list with one value per group; a single value is repeated for all groups."""
    n = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{name} has {len(value)} values, expected one for each of the "
                         f"optimizer's {n} parameter groups")
    return list(value)


class LRScheduler:
    """Base class of learning rate schedules.

    A subclass defines ``get_lr()``, which returns the learning rate of each group in epoch
    ``self.last_epoch``.  As in PyTorch, most schedules scale the current learning rate, so that
    several can be combined.

    `last_epoch` is the epoch from which to resume, or -1 for a new schedule.

    >>> import gpuprop
    >>> optimizer = gpuprop.optim.SGD([gpuprop.Parameter([1.0])], lr=1.0)
    >>> scheduler = gpuprop.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler.step()
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = _checked_optimizer(optimizer)
        for i, (group, lr) in enumerate(zip(optimizer.param_groups, _lrs(optimizer), strict=True)):
            if last_epoch == -1:
                group.setdefault("initial_lr", lr)
            elif "initial_lr" not in group:
                raise KeyError(f"cannot resume from last_epoch={last_epoch}: param_groups[{i}] has "
                               f"no 'initial_lr'; load the optimizer's state_dict first, or omit "
                               f"last_epoch")
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
        """The current learning rates times `factor`."""
        return [lr * factor for lr in _lrs(self.optimizer)]

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the attributes from a `state_dict`."""
        vars(self).update(state_dict)


class LambdaLR(LRScheduler):
    """Scale the initial learning rate by a function of the epoch.

        lr = initial_lr * lr_lambda(epoch)

    `lr_lambda` may be a list with one function per group.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.lr_lambdas = _per_group("lr_lambda", lr_lambda, _checked_optimizer(optimizer))
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * f(self.last_epoch)
                for lr, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer.

        A callable object in `lr_lambda` is saved as the dict of its attributes, a function as None.
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
        if step_size <= 0:
            raise ValueError(f"StepLR: step_size must be positive, got {step_size}")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0 or self.last_epoch % self.step_size != 0:
            return _lrs(self.optimizer)
        return self._scaled(self.gamma)


class MultiStepLR(LRScheduler):
    """Multiply the learning rate by `gamma` at each epoch in `milestones`.

        lr = initial_lr * gamma ** (number of milestones <= epoch)

    A repeated milestone counts repeatedly.
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

    With factor 0, the learning rate in epoch `total_iters` is `initial_lr`, whatever another
    schedule of the optimizer did before.
    """

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5,
                 last_epoch: int = -1) -> None:
        if not 0 <= factor <= 1:
            raise ValueError(f"ConstantLR: factor must be between 0 and 1, got {factor}")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._scaled(self.factor)
        if self.last_epoch == self.total_iters:
            if self.factor == 0:  # no factor increases a learning rate of 0
                return list(self.base_lrs)
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
            raise ValueError(f"LinearLR: start_factor must be greater than 0 and at most 1, "
                             f"got {start_factor}")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"LinearLR: end_factor must be between 0 and 1, got {end_factor}")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._scaled(self.start_factor)
        if self._is_initial or self.last_epoch > self.total_iters:
            return _lrs(self.optimizer)
        # The factor at an epoch is (total_iters * start_factor + epoch * change) / total_iters;
        # scale by the quotient of the factors at this epoch and at the previous one.
        change = self.end_factor - self.start_factor
        previous = self.total_iters * self.start_factor + (self.last_epoch - 1) * change
        return self._scaled(1.0 + change / previous)


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

    I. Loshchilov and F. Hutter, ICLR 2017, without their restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0,
                 last_epoch: int = -1) -> None:
        if T_max <= 0:
            raise ValueError(f"CosineAnnealingLR: T_max must be positive, got {T_max}")
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        lrs = _lrs(self.optimizer)
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


class OneCycleLR(LRScheduler):
    """Increase the learning rate to `max_lr`, then decrease it to almost zero.

    Call ``scheduler.step()`` after every batch.  There are `total_steps` steps, by default
    ``epochs * steps_per_epoch``.

    The learning rate starts at ``max_lr / div_factor``, reaches `max_lr` after the fraction
    `pct_start` of the steps, and ends at ``max_lr / div_factor / final_div_factor``.  With
    `three_phase`, it first returns to its initial value, in as many steps as it increased, and then
    decreases to its final value.  `anneal_strategy` is "cos" or "linear".

    With `cycle_momentum`, the momentum, or the first of Adam's betas, decreases from `max_momentum`
    to `base_momentum` while the learning rate increases, and vice versa.

    L. N. Smith and N. Topin, 2018.
    """

    def __init__(self, optimizer: Optimizer, max_lr: Any, total_steps: int | None = None,
                 epochs: int | None = None, steps_per_epoch: int | None = None,
                 pct_start: float = 0.3, anneal_strategy: str = "cos", cycle_momentum: bool = True,
                 base_momentum: Any = 0.85, max_momentum: Any = 0.95, div_factor: float = 25.0,
                 final_div_factor: float = 1e4, three_phase: bool = False,
                 last_epoch: int = -1) -> None:
        _checked_optimizer(optimizer)
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start must be a float between 0 and 1, "
                             f"got {pct_start!r}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', "
                             f"got {anneal_strategy!r}")
        if cycle_momentum and not optimizer.defaults.keys() & {"momentum", "betas"}:
            raise ValueError(f"OneCycleLR: {type(optimizer).__name__} has no option momentum or "
                             f"betas: set cycle_momentum=False")
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self.use_beta1 = "betas" in optimizer.defaults
        # (last step of the phase, name of the initial lr, name of the final lr)
        last = self.total_steps - 1
        self.phases = [(pct_start * self.total_steps - 1, "initial_lr", "max_lr")]
        if three_phase:
            self.phases.append((2 * pct_start * self.total_steps - 2, "max_lr", "initial_lr"))
            self.phases.append((last, "initial_lr", "min_lr"))
        else:
            self.phases.append((last, "max_lr", "min_lr"))
        if last_epoch == -1:
            max_lrs = _per_group("max_lr", max_lr, optimizer)
            for group, maximum in zip(optimizer.param_groups, max_lrs, strict=True):
                initial = maximum / div_factor
                group.update(initial_lr=initial, max_lr=maximum, min_lr=initial / final_div_factor)
            if cycle_momentum:
                highs = _per_group("max_momentum", max_momentum, optimizer)
                lows = _per_group("base_momentum", base_momentum, optimizer)
                for group, high, low in zip(optimizer.param_groups, highs, lows, strict=True):
                    group.update(max_momentum=high, base_momentum=low)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The learning rate of each group in this step; also sets the momentum."""
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"Tried to step {t} times, but OneCycleLR was created with "
                             f"total_steps={self.total_steps}")
        i = 0
        while i < len(self.phases) - 1 and t > self.phases[i][0]:
            i += 1
        end, source, target = self.phases[i]
        start = self.phases[i - 1][0] if i else 0
        fraction = (t - start) / (end - start) if end != start else 1.0
        if self.cycle_momentum:
            self._set_momentum(source, target, fraction)
        return [self._between(group[source], group[target], fraction)
                for group in self.optimizer.param_groups]

    def _set_momentum(self, source: str, target: str, fraction: float) -> None:
        """Set the momentum in a phase whose lr changes from group[source] to group[target]."""
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
        raise ValueError(f"OneCycleLR: pass total_steps, or both epochs and steps_per_epoch, got "
                         f"epochs={epochs}, steps_per_epoch={steps_per_epoch}")
    _check_positive("epochs", epochs)
    _check_positive("steps_per_epoch", steps_per_epoch)
    return epochs * steps_per_epoch


def _check_positive(name: str, count: Any) -> None:
    if not isinstance(count, int) or count <= 0:
        raise ValueError(f"OneCycleLR: {name} must be a positive int, got {count!r}")


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

    def __init__(self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1,
                 patience: int = 10, threshold: float = 1e-4, threshold_mode: str = "rel",
                 cooldown: int = 0, min_lr: Any = 0, eps: float = 1e-8) -> None:
        if factor >= 1:
            raise ValueError(f"ReduceLROnPlateau: factor must be less than 1, got {factor}")
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: mode must be 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"ReduceLROnPlateau: threshold_mode must be 'rel' or 'abs', "
                             f"got {threshold_mode!r}")
        self.optimizer = _checked_optimizer(optimizer)
        _per_group("min_lr", min_lr, optimizer)  # checks the length of a list
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
        """Advance to the next epoch, and reduce the learning rates if `metrics` stopped improving.

        `metrics` is a number or a Tensor with one element; reading a Tensor waits for its device.
        """
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
    """Base class of schedules that combine several schedules of one optimizer."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler]) -> None:
        for i, scheduler in enumerate(schedulers):
            self._check(scheduler, i, optimizer)
        self.optimizer = _checked_optimizer(optimizer)
        self._schedulers = list(schedulers)

    def _check(self, scheduler: Any, i: int, optimizer: Optimizer) -> None:
        owner = type(self).__name__
        name = type(scheduler).__name__
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(f"{owner}: the item at index {i} must be an LRScheduler, got {name}")
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(f"{owner} does not support `ReduceLROnPlateau`, whose step requires a "
                             f"metric: remove the one at index {i}")
        if scheduler.optimizer is not optimizer:
            raise ValueError(f"{owner}: all schedulers must have the same optimizer, but {name} at "
                             f"index {i} has another one")

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer; the combined schedules as their state dicts."""
        states = [scheduler.state_dict() for scheduler in self._schedulers]
        return {**super().state_dict(), "_schedulers": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for scheduler, saved in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(saved)


class ChainedScheduler(_Composed):
    """Step all schedules in each epoch: each scales the learning rate that the previous one set."""

    def __init__(self, schedulers: Sequence[LRScheduler],
                 optimizer: Optimizer | None = None) -> None:
        if not schedulers:
            raise ValueError("ChainedScheduler: expected at least one scheduler, got none")
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
    """Run several schedules one after the other.

    At epoch ``milestones[i]``, schedule i + 1 starts at its own epoch 0, from `initial_lr`.
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler],
                 milestones: Sequence[int], last_epoch: int = -1) -> None:
        if not schedulers:
            raise ValueError("SequentialLR: expected at least one scheduler, got none")
        super().__init__(optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: the number of schedulers must be one more than the number of "
                f"milestones, but got {len(schedulers)} and {len(milestones)}")
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

        This undoes the previous schedule and the initial step of every schedule at its creation.
        """
        initial_lrs = _lrs(self.optimizer, "initial_lr")
        for group, lr in zip(self.optimizer.param_groups, initial_lrs, strict=True):
            _set_lr(group, lr)
        self._schedulers[i]._restart()
        self._last_lr = _lrs(self.optimizer)
