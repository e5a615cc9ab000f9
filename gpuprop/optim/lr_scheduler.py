"""Learning rate schedules.

Call ``scheduler.step()`` after each epoch or batch: it sets the learning rate of each parameter
group.  Below, *epoch* is the number of these calls, and `initial_lr` is the learning rate that a
group had when its first schedule was created.
"""

from __future__ import annotations

import functools
import math
import types
from bisect import bisect_right
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from gpuprop._core.checks import as_callable, as_choice, as_instance, as_integer, as_number
from gpuprop._core.graph import raw
from gpuprop._core.loading import as_entries
from gpuprop._core.tensor import Tensor
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._options import plain_scalar

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


_Step = TypeVar("_Step", bound=Callable)
Check = Callable[[str, Any], Any]  # takes what is checked, in words, and the value to check
# Attributes and arguments that, as a list, have one value per group.
PER_GROUP = {"base_lrs", "_last_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"}
# The types of attributes that a state dict must have; a function, for example, may be left out.
PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


# ---- checks of attributes ------------------------------------------------------------------------


def _integer(minimum: int) -> Check:
    return functools.partial(as_integer, minimum=minimum)


def _number(interval: str = "[0, inf)") -> Check:
    return lambda what, value: as_number(what, plain_scalar(value), interval)


def _choice(*choices: Any) -> Check:
    return functools.partial(as_choice, choices=choices)


def _list_of(check: Check) -> Check:
    def check_list(what: str, value: Any) -> list:
        items = as_instance(what, value, (list, tuple), "a list")
        return [check(f"{what}[{i}]", item) for i, item in enumerate(items)]

    return check_list


def _one_or_list_of(check: Check) -> Check:
    def check_value(what: str, value: Any) -> Any:
        return _list_of(check)(what, value) if isinstance(value, list | tuple) \
            else check(what, value)

    return check_value


def _same_kind(what: str, value: Any, own: Any) -> Any:
    """An attribute that no class declares: a value of the kind of the schedule's own, or None."""
    kinds = (bool,), (int, float, np.number), (str,), (list, tuple), (dict,)
    kind = next((kind for kind in kinds if isinstance(own, kind)), None)
    if kind is None or value is None:
        return value
    return as_instance(what, value, kind, f"a {type(own).__name__}")


# ---- groups of an optimizer ----------------------------------------------------------------------


def _lrs(optimizer: Optimizer, name: str = "lr") -> list[float]:
    """The learning rate of each group; `name` may be another option, such as "initial_lr"."""
    values = [group[name] for group in optimizer.param_groups]
    return [float(value) if isinstance(value, Tensor) else value for value in values]


def _set_lr(group: dict, lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        raw(group["lr"])[...] = lr
    else:
        group["lr"] = lr


def _per_group(what: str, value: Any, optimizer: Optimizer) -> list:
    """A list with one value per group; a single value is repeated for all groups."""
    n = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{what} has {len(value)} values, expected one for each of the "
                         f"optimizer's {n} parameter groups")
    return list(value)


def _whole(step: _Step) -> _Step:
    """A step that, if it raises, leaves the schedule and the optimizer's options as they were."""

    @functools.wraps(step)
    def whole_step(self: Any) -> None:
        groups = self.optimizer.param_groups
        options = [{n: v for n, v in group.items() if n != "params"} for group in groups]
        lrs = _lrs(self.optimizer)
        attributes = [(part, dict(vars(part))) for part in self._parts()]
        try:
            step(self)
        except BaseException:
            for part, own in attributes:
                vars(part).clear()
                vars(part).update(own)
            for group, own, lr in zip(groups, options, lrs, strict=True):
                group.update(own)
                _set_lr(group, lr)
            raise

    return cast(_Step, whole_step)


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

    # The checks of attributes, in the constructor and in a state dict.
    _checks: dict[str, Check] = {
        "last_epoch": _integer(-1), "_step_count": _integer(0), "_is_initial": _choice(True, False),
        "base_lrs": _list_of(_number()), "_last_lr": _list_of(_number())}
    # Attributes in PyTorch's state dicts: their names here, and those that have no meaning here.
    _names_in_pytorch: dict[str, str] = {}
    _only_in_pytorch = {"verbose", "_get_lr_called_within_step"}

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = self._checked("optimizer", optimizer)
        last_epoch = self._checked("last_epoch", last_epoch)
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

    def _checked(self, name: str, value: Any) -> Any:
        what = f"{type(self).__name__}: {name}"
        if name == "optimizer":
            return as_instance(what, value, Optimizer, "an Optimizer of gpuprop.optim")
        checks = ChainMap(*[vars(cls).get("_checks", {}) for cls in type(self).__mro__])
        if name not in checks:
            return _same_kind(what, value, getattr(self, name, None))
        value = checks[name](what, value)
        if name in PER_GROUP and isinstance(value, list):
            return _per_group(what, value, self.optimizer)
        return value

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def _restart(self) -> None:
        """Return to epoch 0."""
        self.last_epoch = -1
        self._initial_step()

    def _parts(self) -> Iterator[LRScheduler]:
        """This schedule and those that it combines."""
        yield self

    def get_lr(self) -> list[float]:
        """The learning rate of each group in epoch ``self.last_epoch``."""
        raise NotImplementedError

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group, as set by the last step."""
        return self._last_lr

    @_whole
    def step(self) -> None:
        """Advance to the next epoch and set the learning rates."""
        self._step_count += 1
        self.last_epoch += 1
        lrs = self._checked("_last_lr", list(self.get_lr()))
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            _set_lr(group, lr)
        self._last_lr = _lrs(self.optimizer)

    def _scaled(self, factor: float) -> list[float]:
        """The current learning rates times `factor`."""
        return [lr * factor for lr in _lrs(self.optimizer)]

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the attributes from a `state_dict`, of this library or of PyTorch's schedule.

        Raises ValueError or TypeError, before anything is changed, for attributes that are missing,
        unknown, or that the constructor would refuse.
        """
        self._prepare_load(state_dict)()

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        """Check a whole state dict, and return a function that writes it."""
        attributes = self._loaded(state_dict)
        return lambda: vars(self).update(attributes)

    def _loaded(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The checked attributes of a state dict."""
        what = f"{type(self).__name__}: the state dict"
        given = as_instance(what, state_dict, Mapping, "a dict, as state_dict() returns it")
        renamed = {self._names_in_pytorch.get(name, name): value for name, value in given.items()
                   if name not in self._only_in_pytorch}
        own = self.state_dict()
        required = [name for name, value in own.items()
                    if isinstance(value, PLAIN) and name != "_is_initial"]  # new in PyTorch 2.7
        saved = as_entries(what, renamed, required, own)
        return {name: self._checked(name, value) for name, value in saved.items()}


class LambdaLR(LRScheduler):
    """Scale the initial learning rate by a function of the epoch.

        lr = initial_lr * lr_lambda(epoch)

    `lr_lambda` may be a list with one function per group.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.optimizer = self._checked("optimizer", optimizer)
        self.lr_lambdas = _per_group("LambdaLR: lr_lambda", lr_lambda, optimizer)
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
        lambdas = _per_group(what, lambdas, self.optimizer)
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

    _checks = {"step_size": _integer(1), "gamma": _number()}

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1,
                 last_epoch: int = -1) -> None:
        self.step_size = self._checked("step_size", step_size)
        self.gamma = self._checked("gamma", gamma)
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

    _checks = {"milestones": lambda what, value: _milestones(what, value), "gamma": _number()}

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1,
                 last_epoch: int = -1) -> None:
        what = "MultiStepLR: milestones"
        epochs = list(as_instance(what, milestones, Iterable, "an iterable of epochs"))
        self.milestones = self._checked("milestones", Counter(_list_of(_integer(0))(what, epochs)))
        self.gamma = self._checked("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        count = self.milestones.get(self.last_epoch, 0)
        return self._scaled(self.gamma ** count) if count else _lrs(self.optimizer)


def _milestones(what: str, value: Any) -> dict[int, int]:
    """{epoch: how often it occurs}."""
    return {as_integer(what, epoch, 0): as_integer(f"{what}[{epoch}]", n, 1)
            for epoch, n in as_instance(what, value, Mapping, "a dict").items()}


class ConstantLR(LRScheduler):
    """Multiply the learning rate by `factor` until epoch `total_iters`.

        lr = initial_lr * (factor if epoch < total_iters else 1)

    With factor 0, the learning rate in epoch `total_iters` is `initial_lr`, whatever another
    schedule of the optimizer did before.
    """

    _checks = {"factor": _number("[0, 1]"), "total_iters": _integer(0)}

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
        return _lrs(self.optimizer)


class LinearLR(LRScheduler):
    """Scale the learning rate by a factor that changes linearly over `total_iters` epochs.

        fraction = min(epoch, total_iters) / total_iters
        lr = initial_lr * (start_factor + (end_factor - start_factor) * fraction)
    """

    _checks = {"start_factor": _number("(0, 1]"), "end_factor": _number("[0, 1]"),
               "total_iters": _integer(0)}

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

    _checks = {"gamma": _number()}

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = self._checked("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return _lrs(self.optimizer) if self._is_initial else self._scaled(self.gamma)


class CosineAnnealingLR(LRScheduler):
    """Anneal the learning rate along a cosine of period ``2 * T_max``.

        lr = eta_min + (initial_lr - eta_min) * (1 + cos(pi * epoch / T_max)) / 2

    I. Loshchilov and F. Hutter, ICLR 2017, without their restarts.
    """

    _checks = {"T_max": _integer(1), "eta_min": _number()}

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0,
                 last_epoch: int = -1) -> None:
        self.T_max = self._checked("T_max", T_max)
        self.eta_min = self._checked("eta_min", eta_min)
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

    _checks = {
        "total_steps": _integer(1), "epochs": _integer(1), "steps_per_epoch": _integer(1),
        "anneal_strategy": _choice("cos", "linear"), "pct_start": _number("[0, 1]"),
        "cycle_momentum": _choice(True, False), "three_phase": _choice(True, False),
        "phases": lambda what, value: _phases(what, value),
        "max_lr": _one_or_list_of(_number()), "div_factor": _number("(0, inf)"),
        "final_div_factor": _number("(0, inf)"),
        "base_momentum": _one_or_list_of(_number("[0, 1)")),
        "max_momentum": _one_or_list_of(_number("[0, 1)"))}
    _names_in_pytorch = {"_schedule_phases": "phases", "_anneal_func_type": "anneal_strategy"}
    _only_in_pytorch = {"verbose", "_get_lr_called_within_step", "use_beta1"}

    def __init__(self, optimizer: Optimizer, max_lr: Any, total_steps: int | None = None,
                 epochs: int | None = None, steps_per_epoch: int | None = None,
                 pct_start: float = 0.3, anneal_strategy: str = "cos", cycle_momentum: bool = True,
                 base_momentum: Any = 0.85, max_momentum: Any = 0.95, div_factor: float = 25.0,
                 final_div_factor: float = 1e4, three_phase: bool = False,
                 last_epoch: int = -1) -> None:
        self.optimizer = self._checked("optimizer", optimizer)
        last_epoch = self._checked("last_epoch", last_epoch)
        for name, value in {"pct_start": pct_start, "three_phase": three_phase,
                            "div_factor": div_factor, "final_div_factor": final_div_factor}.items():
            self._checked(name, value)
        max_lrs, highs, lows = (
            _per_group(f"OneCycleLR: {name}", self._checked(name, value), optimizer)
            for name, value in {"max_lr": max_lr, "max_momentum": max_momentum,
                                "base_momentum": base_momentum}.items())
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(f"OneCycleLR: pass total_steps, or both epochs and "
                                 f"steps_per_epoch, got epochs={epochs}, "
                                 f"steps_per_epoch={steps_per_epoch}")
            total_steps = (self._checked("epochs", epochs)
                           * self._checked("steps_per_epoch", steps_per_epoch))
        self.total_steps = self._checked("total_steps", total_steps)
        self.anneal_strategy = self._checked("anneal_strategy", anneal_strategy)
        self.cycle_momentum = self._checked("cycle_momentum", cycle_momentum)
        if cycle_momentum and not optimizer.defaults.keys() & {"momentum", "betas"}:
            raise ValueError(f"OneCycleLR: {type(optimizer).__name__} has no option momentum or "
                             f"betas: set cycle_momentum=False")
        # (last step of the phase, name of the initial lr, name of the final lr)
        last = self.total_steps - 1
        self.phases = [(pct_start * self.total_steps - 1, "initial_lr", "max_lr")]
        if three_phase:
            self.phases.append((2 * pct_start * self.total_steps - 2, "max_lr", "initial_lr"))
            self.phases.append((last, "initial_lr", "min_lr"))
        else:
            self.phases.append((last, "max_lr", "min_lr"))
        if last_epoch == -1:
            for group, maximum in zip(optimizer.param_groups, max_lrs, strict=True):
                initial = maximum / div_factor
                group.update(initial_lr=initial, max_lr=maximum, min_lr=initial / final_div_factor)
            if cycle_momentum:
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
        # a last call, after `total_steps` steps, changes nothing
        fraction = min((t - start) / (end - start), 1.0) if end != start else 1.0
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
            if "betas" in group:
                group["betas"] = momentum, *group["betas"][1:]
            else:
                group["momentum"] = momentum

    def _between(self, a: float, b: float, fraction: float) -> float:
        if self.anneal_strategy == "linear":
            return (b - a) * fraction + a
        return b + (a - b) / 2 * (math.cos(math.pi * fraction) + 1)


def _phases(what: str, value: Any) -> list[tuple]:
    """The phases of a OneCycleLR; PyTorch's are dicts."""
    phases = []
    names = ("initial_lr", "max_lr", "min_lr")
    for i, phase in enumerate(as_instance(what, value, (list, tuple), "a list of phases")):
        if isinstance(phase, Mapping):
            phase = [phase.get(key) for key in ("end_step", "start_lr", "end_lr")]
        end, first, last = as_instance(f"{what}[{i}]", phase, (list, tuple), "(end, lr, lr)")
        phases.append((as_number(f"{what}[{i}]: the end", end),
                       as_choice(f"{what}[{i}]: the first lr", first, names),
                       as_choice(f"{what}[{i}]: the last lr", last, names)))
    return phases


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
        "mode": _choice("min", "max"), "factor": _number("[0, 1)"), "patience": _integer(0),
        "threshold": _number(), "threshold_mode": _choice("rel", "abs"), "cooldown": _integer(0),
        "min_lr": _one_or_list_of(_number()), "eps": _number(), "best": _number("[-inf, inf]"),
        "cooldown_counter": _integer(0), "num_bad_epochs": _integer(0)}
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
        self._last_lr = _lrs(optimizer)

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

    _only_in_pytorch = {"_step_count", "_is_initial"}

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler]) -> None:
        self.optimizer = self._checked("optimizer", optimizer)
        for i, scheduler in enumerate(schedulers):
            self._check_part(scheduler, i, optimizer)
        self._schedulers = list(schedulers)

    def _parts(self) -> Iterator[LRScheduler]:
        yield self
        for scheduler in self._schedulers:
            yield from scheduler._parts()

    def _check_part(self, scheduler: Any, i: int, optimizer: Optimizer) -> None:
        owner = type(self).__name__
        name = type(scheduler).__name__
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

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        attributes = self._loaded(state_dict)
        states = attributes.pop("_schedulers")
        if len(states) != len(self._schedulers):
            raise ValueError(f"{type(self).__name__}: the state dict has {len(states)} schedulers, "
                             f"expected {len(self._schedulers)}")
        parts = [scheduler._prepare_load(state)
                 for scheduler, state in zip(self._schedulers, states, strict=True)]

        def write() -> None:
            vars(self).update(attributes)
            for part in parts:
                part()

        return write


def _some_schedulers(owner: str, schedulers: Any) -> list:
    found = list(as_instance(f"{owner}: schedulers", schedulers, Iterable, "a list"))
    if not found:
        raise ValueError(f"{owner}: expected at least one scheduler, got none")
    for i, scheduler in enumerate(found):
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(f"{owner}: the item at index {i} must be an LRScheduler, got a "
                            f"{type(scheduler).__name__}")
    return found


def _increasing(what: str, value: Any) -> list[int]:
    epochs = _list_of(_integer(0))(what, value)
    if epochs != sorted(set(epochs)):
        raise ValueError(f"{what} must increase, got {value!r}")
    return epochs


class ChainedScheduler(_Composed):
    """Step all schedules in each epoch: each scales the learning rate that the previous one set."""

    def __init__(self, schedulers: Sequence[LRScheduler],
                 optimizer: Optimizer | None = None) -> None:
        parts = _some_schedulers("ChainedScheduler", schedulers)
        super().__init__(parts[0].optimizer if optimizer is None else optimizer, parts)
        self._last_lr = _lrs(self.optimizer)

    @_whole
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

    _checks = {"_milestones": lambda what, value: _increasing(what, value)}

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler],
                 milestones: Sequence[int], last_epoch: int = -1) -> None:
        super().__init__(optimizer, _some_schedulers("SequentialLR", schedulers))
        self._milestones = self._checked("_milestones", milestones)
        self.last_epoch = self._checked("last_epoch", last_epoch)
        if len(self._milestones) != len(self._schedulers) - 1:
            raise ValueError(
                f"SequentialLR: the number of schedulers must be one more than the number of "
                f"milestones, but got {len(schedulers)} and {len(milestones)}")
        self.last_epoch += 1
        self._begin(bisect_right(self._milestones, 0))

    @_whole
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
