"""Cycles of the learning rate and the momentum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gpuprop._core.checks import as_bool, as_callable
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim.lr_scheduler._base import (
    LRScheduler,
    check_has_momentum,
    loaded_callables,
    per_group,
    saved_callable,
    set_lr,
    set_momentum,
)
from gpuprop.optim.lr_scheduler._checks import choice, list_of, number, one_or_list_of

SCALE_FUNCTIONS: dict[str, Callable[[float, float], float]] = {  # of gamma and x
    "triangular": lambda gamma, x: 1.0,
    "triangular2": lambda gamma, x: 1 / 2.0 ** (x - 1),
    "exp_range": lambda gamma, x: gamma**x,
}


class CyclicLR(LRScheduler):
    """Increase the learning rate from `base_lr` to `max_lr`, and decrease it again, in cycles.

    Call ``scheduler.step()`` after every batch.  The learning rate increases linearly in
    `step_size_up` steps and decreases in `step_size_down`, by default as many:

        lr = base_lr + (max_lr - base_lr) * height * scale

    The height goes from 0 to 1 and back.  The scale is 1 (mode "triangular"), is halved with each
    cycle ("triangular2"), or is ``gamma ** step`` ("exp_range").  `scale_fn` replaces it by a
    function of the number of the cycle, from 1, or with ``scale_mode="iterations"`` of that of the
    step.

    With `cycle_momentum`, the momentum, or the first of Adam's betas, moves between `max_momentum`
    and `base_momentum` in the opposite direction.

    L. N. Smith, WACV 2017.
    """

    _checks = {
        "base_lr": one_or_list_of(number()), "max_lr": one_or_list_of(number()),
        "max_lrs": list_of(number()), "step_size_up": number("(0, inf)"),
        "step_size_down": number("(0, inf)"), "total_size": number("(0, inf)"),
        "step_ratio": number("(0, 1)"), "mode": choice(*SCALE_FUNCTIONS), "gamma": number(),
        "scale_mode": choice("cycle", "iterations"), "cycle_momentum": as_bool,
        "base_momentum": one_or_list_of(number("[0, 1)")),
        "max_momentum": one_or_list_of(number("[0, 1)")),
        "base_momentums": list_of(number("[0, 1)")), "max_momentums": list_of(number("[0, 1)"))}
    _only_in_pytorch = {"verbose", "_get_lr_called_within_step", "use_beta1"}

    def __init__(self, optimizer: Optimizer, base_lr: Any, max_lr: Any, step_size_up: float = 2000,
                 step_size_down: float | None = None, mode: str = "triangular", gamma: float = 1.0,
                 scale_fn: Callable[[float], float] | None = None, scale_mode: str = "cycle",
                 cycle_momentum: bool = True, base_momentum: Any = 0.8, max_momentum: Any = 0.9,
                 last_epoch: int = -1) -> None:
        self.optimizer = self._checked("optimizer", optimizer)
        last_epoch = self._checked("last_epoch", last_epoch)
        base_lrs, max_lrs, lows, highs = (
            per_group(f"CyclicLR: {name}", self._checked(name, value), optimizer)
            for name, value in {"base_lr": base_lr, "max_lr": max_lr,
                                "base_momentum": base_momentum,
                                "max_momentum": max_momentum}.items())
        up = float(self._checked("step_size_up", step_size_up))
        down = up if step_size_down is None else \
            float(self._checked("step_size_down", step_size_down))
        self.max_lrs = max_lrs
        self.total_size = up + down
        self.step_ratio = up / self.total_size
        self.mode = self._checked("mode", mode)
        self.gamma = self._checked("gamma", gamma)
        self.scale_mode = self._checked("scale_mode", scale_mode)
        if scale_fn is not None:
            as_callable("CyclicLR: scale_fn", scale_fn)
        else:
            self.scale_mode = "iterations" if mode == "exp_range" else "cycle"
        self._scale_fn_custom = scale_fn
        self.cycle_momentum = self._checked("cycle_momentum", cycle_momentum)
        if cycle_momentum:
            check_has_momentum("CyclicLR", optimizer)
            self.base_momentums, self.max_momentums = lows, highs
        if last_epoch == -1:
            for group, lr, low, high in zip(optimizer.param_groups, base_lrs, lows, highs,
                                            strict=True):
                set_lr(group, lr)
                if cycle_momentum:
                    set_momentum(group, high)
                    group.update(max_momentum=high, base_momentum=low)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def get_lr(self) -> list[float]:
        """The learning rate of each group in this step; also sets the momentum."""
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        at = cycle if self.scale_mode == "cycle" else self.last_epoch
        scale = self.scale_fn(at)
        if self.cycle_momentum:
            for group, low, high in zip(self.optimizer.param_groups, self.base_momentums,
                                        self.max_momentums, strict=True):
                set_momentum(group, high - (high - low) * height * scale)
        return [low + (high - low) * height * scale
                for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]

    def scale_fn(self, x: float) -> float:
        """The scale in a cycle or step."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        return SCALE_FUNCTIONS[self.mode](self.gamma, x)

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer.

        A callable object in `scale_fn` is saved as the dict of its attributes, a function as None.
        """
        return {**super().state_dict(), "_scale_fn_custom": saved_callable(self._scale_fn_custom)}

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        attributes = self._loaded(state_dict)
        write_function = loaded_callables("CyclicLR: _scale_fn_custom", [self._scale_fn_custom],
                                          [attributes.pop("_scale_fn_custom")])

        def write() -> None:
            vars(self).update(attributes)
            write_function()

        return write
