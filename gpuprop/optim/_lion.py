"""Lion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import decay_switches, decayed_gradient


def lion_coefficients(xp, step, lr, beta1, beta2, weight_decay):
    return lr, 1 - beta1, 1 - beta2, 1 - lr * weight_decay


@pointwise
def lion_update(xp, p, g, lr, one_minus_beta1, one_minus_beta2, shrink, m, **switches):
    g = decayed_gradient(p, g, None, shrink, decoupled=True, **switches)
    p -= lr * xp.sign(m + one_minus_beta1 * (g - m))
    m += one_minus_beta2 * (g - m)


class Lion(Optimizer):
    """Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2).

        p = p - lr weight_decay p
        p = p - lr sign(beta1 m + (1 - beta1) g)
        m = beta2 m + (1 - beta2) g

    g is the gradient, negated if `maximize`.  Defaults are the paper's; its learning rates are 3 to
    10 times smaller than those of AdamW, and its weight decay is larger by the same factor.
    """

    scalar_options = {"lr": "[0, inf)", "betas": ("[0, 1)", "[0, 1)"), "weight_decay": "[0, inf)"}
    flags = ("maximize",)
    saves_step = False
    kernel_coefficients = staticmethod(lion_coefficients)
    kernel_constants = staticmethod(decay_switches)
    update_kernel = staticmethod(lion_update)

    def __init__(self, params: Iterable, lr: Any = 1e-4, betas: tuple = (0.9, 0.99),
                 weight_decay: float = 0, *, maximize: bool = False) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay,
                                  "maximize": maximize})

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return ("exp_avg",)
