"""Averaged stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import decay_switches, decayed_gradient


def asgd_coefficients(xp, step, lr, lambd, alpha, t0, weight_decay, eta, mu):
    eta = xp.where(step == 1, lr, eta)
    mu = xp.where(step == 1, 1.0, mu)
    next_eta = lr / (1 + lambd * lr * step) ** alpha
    next_mu = 1 / xp.maximum(step - t0, 1.0)
    return eta, 1 - lambd * eta, mu, weight_decay, next_eta, next_mu


@pointwise
def asgd_update(xp, p, g, eta, shrink, mu, weight_decay, average, **switches):
    g = decayed_gradient(p, g, weight_decay, **switches)
    p *= shrink
    p -= eta * g
    average[...] = xp.where(mu == 1, p, average + mu * (p - average))


class ASGD(Optimizer):
    """Averaged stochastic gradient descent (Polyak and Juditsky 1992).

        p = p - lambd eta p - eta g            eta = lr / (1 + lambd lr (t - 1))^alpha
        a = a + mu (p - a)                     mu = 1 / max(1, t - 1 - t0)

    t is the number of the step, from 1; a change of `lr` counts from the step after the next one.
    g is the gradient, negated if `maximize`, plus ``weight_decay * p``.  The average a is
    ``optimizer.state[p]["ax"]``.

    Defaults are PyTorch's.  `foreach` and `capturable` are accepted and ignored.
    """

    scalar_options = dict.fromkeys(("lr", "lambd", "alpha", "t0", "weight_decay"), "[0, inf)")
    scalar_states = ("eta", "mu")
    flags = ("foreach", "maximize", "differentiable", "capturable")
    kernel_coefficients = staticmethod(asgd_coefficients)
    kernel_constants = staticmethod(decay_switches)
    update_kernel = staticmethod(asgd_update)

    def __init__(self, params: Iterable, lr: Any = 1e-2, lambd: float = 1e-4, alpha: float = 0.75,
                 t0: float = 1e6, weight_decay: float = 0, foreach: bool | None = None,
                 maximize: bool = False, differentiable: bool = False,
                 capturable: bool = False) -> None:
        defaults = {
            "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay,
            "foreach": foreach, "maximize": maximize, "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return ("ax",)
