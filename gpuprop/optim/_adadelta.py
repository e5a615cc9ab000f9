"""Adadelta."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import TINY, decay_switches, decayed_gradient


def adadelta_coefficients(xp, step, lr, rho, eps, weight_decay):
    return lr, rho, 1 - rho, xp.maximum(eps, TINY), weight_decay


@pointwise
def adadelta_update(xp, p, g, lr, rho, one_minus_rho, eps, weight_decay, square, acc_delta,
                    **switches):
    g = decayed_gradient(p, g, weight_decay, **switches)
    square *= rho
    square += one_minus_rho * g * g
    delta = xp.sqrt(acc_delta + eps) / xp.sqrt(square + eps) * g
    acc_delta *= rho
    acc_delta += one_minus_rho * delta * delta
    p -= lr * delta


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012).

        s = rho s + (1 - rho) g^2
        d = sqrt(u + eps) / sqrt(s + eps) g
        u = rho u + (1 - rho) d^2
        p = p - lr d

    g is the gradient, negated if `maximize`, plus ``weight_decay * p``.

    Defaults are PyTorch's.  `foreach` and `capturable` are accepted and ignored.
    """

    scalar_options = {"lr": "[0, inf)", "rho": "[0, 1]", "eps": "[0, inf)",
                      "weight_decay": "[0, inf)"}
    flags = ("foreach", "capturable", "maximize", "differentiable")
    kernel_coefficients = staticmethod(adadelta_coefficients)
    kernel_constants = staticmethod(decay_switches)
    update_kernel = staticmethod(adadelta_update)

    def __init__(self, params: Iterable, lr: Any = 1.0, rho: float = 0.9, eps: float = 1e-6,
                 weight_decay: float = 0, foreach: bool | None = None, *, capturable: bool = False,
                 maximize: bool = False, differentiable: bool = False) -> None:
        defaults = {
            "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
            "capturable": capturable, "foreach": foreach, "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return "square_avg", "acc_delta"
