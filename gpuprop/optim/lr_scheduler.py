"""Schedules: a learning rate as a function of the number of epochs, or of steps; ``scheduler.step()`` follows each."""

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


def _lrs(optimizer: Optimizer, name: str = "lr") -> list[float]:
    return [float(group[name]) if isinstance(group[name], Tensor) else group[name] for group in optimizer.param_groups]


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
    """One value a group, of a list of them or of one for all."""
    n = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{name} has {len(value)} values, and the optimizer {n} parameter groups")
    return list(value)


class LRScheduler:
    """Base of all schedules: `get_lr` says the learning rate of each group in epoch ``self.last_epoch``.

    As in PyTorch most are chainable: they scale the learning rate as it is.  `last_epoch` is that to resume at, or -1.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = _checked(optimizer)
        for i, (group, lr) in enumerate(zip(optimizer.param_groups, _lrs(optimizer), strict=True)):
            if last_epoch == -1:
                group.setdefault("initial_lr", lr)
            elif "initial_lr" not in group:
                raise KeyError(f"param 'initial_lr' is not specified in param_groups[{i}] when resuming a schedule: "
                               f"load the optimizer's state first, or leave out last_epoch")
        self.base_lrs, self.last_epoch = _lrs(optimizer, "initial_lr"), last_epoch
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count, self._is_initial = 0, True
        self.step()
        self._is_initial = False

    def _restart(self) -> None:
        """Epoch 0 again, as if just made."""
        self.last_epoch = -1
        self._initial_step()

    def get_lr(self) -> list[float]:
        raise NotImplementedError

    def get_last_lr(self) -> list[float]:
        """The learning rates set last, one a group."""
        return self._last_lr

    def step(self) -> None:
        """Go on to the next epoch."""
        self._step_count += 1
        self.last_epoch += 1
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            _set_lr(group, lr)
        self._last_lr = _lrs(self.optimizer)

    def _scaled(self, factor: float) -> list[float]:
        return [lr * factor for lr in _lrs(self.optimizer)]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


class LambdaLR(LRScheduler):
    """``initial_lr * lr_lambda(epoch)``; a list has one function a group."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.lr_lambdas = _per_group("lr_lambda", lr_lambda, _checked(optimizer))
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * f(self.last_epoch) for lr, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Of the functions, the attributes of those that are objects."""
        saved = [None if isinstance(f, types.FunctionType) else dict(vars(f)) for f in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "lr_lambdas"})
        for f, saved in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if saved is not None:
                vars(f).update(saved)


class StepLR(LRScheduler):
    """Times `gamma` every `step_size` epochs."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        due = self.last_epoch != 0 and self.last_epoch % self.step_size == 0
        return self._scaled(self.gamma) if due else _lrs(self.optimizer)


class MultiStepLR(LRScheduler):
    """Times `gamma` at each of the epochs `milestones`."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1,
                 last_epoch: int = -1) -> None:
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        times = self.milestones.get(self.last_epoch, 0)
        return self._scaled(self.gamma ** times) if times else _lrs(self.optimizer)


class ConstantLR(LRScheduler):
    """Times `factor` until epoch `total_iters`."""

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5,
                 last_epoch: int = -1) -> None:
        if not 0 <= factor <= 1:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._scaled(self.factor)
        return self._scaled(1.0 / self.factor) if self.last_epoch == self.total_iters else _lrs(self.optimizer)


class LinearLR(LRScheduler):
    """Times a factor that goes from `start_factor` to `end_factor` in `total_iters` epochs."""

    def __init__(self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0,
                 total_iters: int = 5, last_epoch: int = -1) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError("Starting multiplicative factor expected to be greater than 0 and less or equal to 1.")
        if not 0 <= end_factor <= 1:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._scaled(self.start_factor)
        if self._is_initial or self.last_epoch > self.total_iters:
            return _lrs(self.optimizer)
        slope = self.end_factor - self.start_factor
        return self._scaled(1.0 + slope / (self.total_iters * self.start_factor + (self.last_epoch - 1) * slope))


class ExponentialLR(LRScheduler):
    """Times `gamma` every epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return _lrs(self.optimizer) if self._is_initial else self._scaled(self.gamma)


class CosineAnnealingLR(LRScheduler):
    """``eta_min + (initial_lr - eta_min) (1 + cos(pi epoch / T_max)) / 2`` (Loshchilov and Hutter 2017, once)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        lrs, low, height = _lrs(self.optimizer), self.eta_min, lambda t: 1 + math.cos(math.pi * t / self.T_max)
        if self._is_initial:
            return lrs
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # from the lowest point no factor leads up
            return [lr + (base - low) * (1 - math.cos(math.pi / self.T_max)) / 2
                    for lr, base in zip(lrs, self.base_lrs, strict=True)]
        return [height(self.last_epoch) / height(self.last_epoch - 1) * (lr - low) + low for lr in lrs]


class OneCycleLR(LRScheduler):
    """Up to `max_lr` and down to nearly nothing, once in `total_steps` batches (Smith and Topin 2018).

    The momentum, or the first beta, goes the other way.  With `three_phase` it goes down as long as up, then to nearly
    nothing.
    """

    def __init__(self, optimizer: Optimizer, max_lr: Any, total_steps: int | None = None, epochs: int | None = None,
                 steps_per_epoch: int | None = None, pct_start: float = 0.3, anneal_strategy: str = "cos",
                 cycle_momentum: bool = True, base_momentum: Any = 0.85, max_momentum: Any = 0.95,
                 div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False,
                 last_epoch: int = -1) -> None:
        _checked(optimizer)
        if total_steps is None and (epochs is None or steps_per_epoch is None):
            raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
        counts = {"total_steps": total_steps}
        if total_steps is None:
            counts = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
        for name, count in counts.items():
            if not isinstance(count, int) or count <= 0:
                raise ValueError(f"Expected positive integer {name}, but got {count}")
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        names = optimizer.defaults.keys() & {"momentum", "betas"}
        if cycle_momentum and not names:
            raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
        self.total_steps = n = math.prod(counts.values())  # type: ignore[arg-type]
        self.anneal_strategy, self.cycle_momentum, self.use_beta1 = anneal_strategy, cycle_momentum, "betas" in names
        turns = ["initial_lr", "max_lr", *["initial_lr"] * three_phase, "min_lr"]
        ends = [pct_start * n - 1, *[2 * pct_start * n - 2] * three_phase, n - 1]
        self.phases = list(zip(ends, turns, turns[1:], strict=False))
        if last_epoch == -1:
            rates, highs, lows = (_per_group(name, value, optimizer) for name, value in (
                ("max_lr", max_lr), ("max_momentum", max_momentum), ("base_momentum", base_momentum)))
            for group, rate, high, low in zip(optimizer.param_groups, rates, highs, lows, strict=True):
                group.update(initial_lr=rate / div_factor, max_lr=rate, min_lr=rate / div_factor / final_div_factor)
                if cycle_momentum:
                    group.update(max_momentum=high, base_momentum=low)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The learning rates; the momentum is set on the way."""
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"Tried to step {t} times. The specified number of total steps is {self.total_steps}")
        i = next((i for i, (end, *_) in enumerate(self.phases) if t <= end), len(self.phases) - 1)
        end, source, target = self.phases[i]
        start = self.phases[i - 1][0] if i else 0
        done = (t - start) / (end - start)
        if self.cycle_momentum:
            from_, to = ("base_momentum" if turn == "max_lr" else "max_momentum" for turn in (source, target))
            for group in self.optimizer.param_groups:
                momentum = self._between(group[from_], group[to], done)
                if self.use_beta1:
                    group["betas"] = momentum, *group["betas"][1:]
                else:
                    group["momentum"] = momentum
        return [self._between(group[source], group[target], done) for group in self.optimizer.param_groups]

    def _between(self, a: float, b: float, done: float) -> float:
        if self.anneal_strategy == "linear":
            return (b - a) * done + a
        return b + (a - b) / 2 * (math.cos(math.pi * done) + 1)


class ReduceLROnPlateau(LRScheduler):
    """Times `factor` when a metric has not become better for more than `patience` epochs: ``step(metric)``.

    Better is below ``best * (1 - threshold)``, or ``best - threshold`` with ``threshold_mode="abs"``; with mode "max"
    it is above the same with a plus.  After a reduction `cooldown` epochs do not count.
    """

    def __init__(self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10,
                 threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0, min_lr: Any = 0,
                 eps: float = 1e-8) -> None:
        if factor >= 1:
            raise ValueError("Factor should be < 1.0.")
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        self.optimizer = _checked(optimizer)
        _per_group("min_lr", min_lr, optimizer)
        self.min_lr = min_lr
        self.mode, self.factor, self.patience, self.cooldown, self.eps = mode, factor, patience, cooldown, eps
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = self.num_bad_epochs = self.last_epoch = 0
        self._last_lr = _lrs(optimizer)

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        """Tell this epoch's metric: a number or a Tensor of one, which is read."""
        current = float(metrics)
        self.last_epoch += 1
        if self._is_better(current):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
            least_lrs = _per_group("min_lr", self.min_lr, self.optimizer)
            for group, lr, least in zip(self.optimizer.param_groups, _lrs(self.optimizer), least_lrs, strict=True):
                reduced = max(lr * self.factor, least)
                if lr - reduced > self.eps:
                    _set_lr(group, reduced)
        self._last_lr = _lrs(self.optimizer)

    def _is_better(self, metric: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        margin = sign * self.threshold
        bound = self.best * (1 + margin) if self.threshold_mode == "rel" else self.best + margin
        return sign * metric > sign * bound


# ---- schedules of schedules ------------------------------------------------------------------------------------------


class _Composed(LRScheduler):
    """Base of what is made of other schedules of one optimizer."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler]) -> None:
        for i, scheduler in enumerate(schedulers):
            name = type(scheduler).__name__
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"{type(self).__name__} at index {i} should have `optimizer` as its attribute, and it "
                                f"is no schedule but of type {name}")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(f"{type(self).__name__} does not support `ReduceLROnPlateau`, whose step takes a "
                                 f"metric, but got one at index {i}")
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"{type(self).__name__} expects all schedulers to belong to the same optimizer, and "
                                 f"{name} at index {i} has another one")
        self.optimizer, self._schedulers = _checked(optimizer), list(schedulers)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer; of the schedules their states."""
        return {**super().state_dict(), "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "_schedulers"})
        for scheduler, saved in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(saved)


class ChainedScheduler(_Composed):
    """Several schedules at once: each scales the learning rate that the one before it leaves."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        if not schedulers:
            raise ValueError("ChainedScheduler expects at least one scheduler to be chained, but got no scheduler.")
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
    """One schedule after the other: at each of the epochs `milestones` the next one begins, from ``initial_lr``."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int],
                 last_epoch: int = -1) -> None:
        if not schedulers:
            raise ValueError("SequentialLR expects at least one scheduler, but got no scheduler.")
        super().__init__(optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(f"SequentialLR expects number of schedulers provided to be one more than the number of "
                             f"milestone points, but got {len(schedulers)} and {len(milestones)}")
        self._milestones, self.last_epoch = list(milestones), last_epoch + 1
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
        """Undo what the schedule before did, and the steps that all others made as they were made."""
        for group, lr in zip(self.optimizer.param_groups, _lrs(self.optimizer, "initial_lr"), strict=True):
            _set_lr(group, lr)
        self._schedulers[i]._restart()
        self._last_lr = _lrs(self.optimizer)
