"""One cycle of the learning rate and the momentum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gpuprop._core.checks import as_bool, as_instance, as_number
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim.lr_scheduler._base import (
    LRScheduler,
    check_has_momentum,
    per_group,
    set_momentum,
)
from gpuprop.optim.lr_scheduler._checks import choice, integer, number, one_or_list_of


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
        "total_steps": integer(1), "epochs": integer(1), "steps_per_epoch": integer(1),
        "anneal_strategy": choice("cos", "linear"), "pct_start": number("[0, 1]"),
        "cycle_momentum": as_bool, "three_phase": as_bool,
        "phases": lambda what, value: _saved_phases(what, value),
        "max_lr": one_or_list_of(number()), "div_factor": number("(0, inf)"),
        "final_div_factor": number("(0, inf)"),
        "base_momentum": one_or_list_of(number("[0, 1)")),
        "max_momentum": one_or_list_of(number("[0, 1)"))}
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
            per_group(f"OneCycleLR: {name}", self._checked(name, value), optimizer)
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
        if cycle_momentum:
            check_has_momentum("OneCycleLR", optimizer)
        self.phases = _phases(pct_start * self.total_steps - 1, self.total_steps, three_phase)
        if last_epoch == -1:
            for group, maximum in zip(optimizer.param_groups, max_lrs, strict=True):
                initial = maximum / div_factor
                group.update(initial_lr=initial, max_lr=maximum, min_lr=initial / final_div_factor)
            if cycle_momentum:
                for group, high, low in zip(optimizer.param_groups, highs, lows, strict=True):
                    group.update(max_momentum=high, base_momentum=low)
        super().__init__(optimizer, last_epoch)

    def _check_together(self, attributes: dict[str, Any]) -> None:
        phases, total = attributes["phases"], attributes["total_steps"]
        end = phases[0][0] if phases else 0.0
        if phases != _phases(end, total, len(phases) == 3) or not -1 <= end < total:
            raise ValueError(f"OneCycleLR: phases must be those of a schedule with "
                             f"total_steps={total}, got {phases!r}")
        if attributes["last_epoch"] > total:
            raise ValueError(f"OneCycleLR: last_epoch must be at most total_steps={total}, got "
                             f"{attributes['last_epoch']}")

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
            set_momentum(group, self._between(group[first], group[last], fraction))

    def _between(self, a: float, b: float, fraction: float) -> float:
        if self.anneal_strategy == "linear":
            return (b - a) * fraction + a
        return b + (a - b) / 2 * (math.cos(math.pi * fraction) + 1)


def _phases(first_end: float, total_steps: int, three_phase: bool) -> list[tuple]:
    """The phases: (last step of the phase, name of the initial lr, name of the final lr)."""
    if three_phase:
        return [(first_end, "initial_lr", "max_lr"), (2 * first_end, "max_lr", "initial_lr"),
                (total_steps - 1, "initial_lr", "min_lr")]
    return [(first_end, "initial_lr", "max_lr"), (total_steps - 1, "max_lr", "min_lr")]


def _saved_phases(what: str, value: Any) -> list[tuple]:
    """The phases in a state dict; PyTorch's are dicts."""
    phases = []
    name = choice("initial_lr", "max_lr", "min_lr")
    for i, phase in enumerate(as_instance(what, value, (list, tuple), "a list of phases")):
        if isinstance(phase, Mapping):
            phase = [phase.get(key) for key in ("end_step", "start_lr", "end_lr")]
        if not isinstance(phase, list | tuple) or len(phase) != 3:
            raise ValueError(f"{what}[{i}] must be (end, lr, lr), got {phase!r}")
        end, first, last = phase
        phases.append((as_number(f"{what}[{i}]: the end", end),
                       name(f"{what}[{i}]: the first lr", first),
                       name(f"{what}[{i}]: the last lr", last)))
    return phases
