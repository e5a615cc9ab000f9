"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import TINY, decay_switches, decayed_gradient, may_be_nonzero, turned_on


def adagrad_coefficients(xp, step, lr, lr_decay, weight_decay, initial_accumulator_value, eps):
    start = xp.where(step == 1, initial_accumulator_value, 0.0)
    return lr / (1 + (step - 1) * lr_decay), xp.maximum(eps, TINY), weight_decay, start


@pointwise
def adagrad_update(xp, p, g, lr, eps, weight_decay, start, total, *, starts=False, **switches):
    g = decayed_gradient(p, g, weight_decay, **switches)
    if starts:
        total += start
    total += g * g
    p -= lr * g / (xp.sqrt(total) + eps)


def adagrad_switches(group: dict) -> dict[str, bool]:
    starts = turned_on(starts=may_be_nonzero(group["initial_accumulator_value"]))
    return starts | decay_switches(group)


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011).

        s = s + g^2                        (s starts as `initial_accumulator_value`)
        p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)

    t is the number of the step, from 1.  g is the gradient, negated if `maximize`, plus
    ``weight_decay * p``.

    Defaults are PyTorch's.  `foreach` and `fused` are accepted and ignored.
    """

    scalar_options = dict.fromkeys(
        ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"), "[0, inf)")
    flags = ("foreach", "maximize", "differentiable", "fused")
    kernel_coefficients = staticmethod(adagrad_coefficients)
    kernel_constants = staticmethod(adagrad_switches)
    update_kernel = staticmethod(adagrad_update)

    def __init__(self, params: Iterable, lr: Any = 1e-2, lr_decay: float = 0,
                 weight_decay: float = 0, initial_accumulator_value: float = 0,
                 eps: float = 1e-10, foreach: bool | None = None, *, maximize: bool = False,
                 differentiable: bool = False, fused: bool | None = None) -> None:
        defaults = {
            "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "foreach": foreach,
            "maximize": maximize, "differentiable": differentiable, "fused": fused,
        }
        super().__init__(params, defaults)

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return ("sum",)
