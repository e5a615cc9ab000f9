"""Adamax."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import TINY, bias_correction, decay_switches, decayed_gradient


def adamax_coefficients(xp, step, lr, beta1, beta2, eps, weight_decay):
    return (lr / bias_correction(xp, step, beta1), 1 - beta1, beta2, xp.maximum(eps, TINY),
            weight_decay)


@pointwise
def adamax_update(xp, p, g, lr, one_minus_beta1, beta2, eps, weight_decay, m, largest,
                  **switches):
    g = decayed_gradient(p, g, weight_decay, **switches)
    m += one_minus_beta1 * (g - m)
    largest[...] = xp.maximum(beta2 * largest, abs(g) + eps)
    p -= lr * m / largest


class Adamax(Optimizer):
    """Adamax, Adam with the infinity norm (Kingma and Ba 2015, section 7.1).

        m = beta1 m + (1 - beta1) g
        u = max(beta2 u, |g| + eps)
        p = p - lr / (1 - beta1^t) m / u

    t is the number of the step, from 1.  g is the gradient, negated if `maximize`, plus
    ``weight_decay * p``.

    Defaults are PyTorch's.  `foreach` and `capturable` are accepted and ignored.
    """

    scalar_options = {"lr": "[0, inf)", "betas": ("[0, 1)", "[0, 1)"), "eps": "[0, inf)",
                      "weight_decay": "[0, inf)"}
    flags = ("foreach", "maximize", "differentiable", "capturable")
    kernel_coefficients = staticmethod(adamax_coefficients)
    kernel_constants = staticmethod(decay_switches)
    update_kernel = staticmethod(adamax_update)

    def __init__(self, params: Iterable, lr: Any = 2e-3, betas: tuple = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, foreach: bool | None = None, *,
                 maximize: bool = False, differentiable: bool = False,
                 capturable: bool = False) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "foreach": foreach, "maximize": maximize, "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return "exp_avg", "exp_inf"
