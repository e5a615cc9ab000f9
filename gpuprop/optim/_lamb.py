"""LAMB."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import TINY, bias_correction, decay_switches


def lamb_coefficients(xp, step, lr, beta1, beta2, eps, weight_decay):
    root = xp.sqrt(bias_correction(xp, step, beta2))
    return (lr, 1 - beta1, beta2, 1 - beta2, root / bias_correction(xp, step, beta1),
            xp.maximum(eps, TINY) * root, weight_decay)


def lamb_update(xp, p, g, lr, one_minus_beta1, beta2, one_minus_beta2, scale, eps, weight_decay,
                m, v, **switches):
    update = direction(xp, p, g, one_minus_beta1, beta2, one_minus_beta2, scale, eps, weight_decay,
                       m, v, **switches)
    move(xp, p, update, (p * p).sum(), (update * update).sum(), lr)


@pointwise
def direction(xp, p, g, one_minus_beta1, beta2, one_minus_beta2, scale, eps, weight_decay, m, v,
              *, decay=False, maximize=False):
    if maximize:
        g = -g
    m += one_minus_beta1 * (g - m)
    v *= beta2
    v += one_minus_beta2 * g * g
    update = scale * m / (xp.sqrt(v) + eps)
    return update + weight_decay * p if decay else update


@pointwise
def move(xp, p, update, p_squared, update_squared, lr):
    ratio = xp.sqrt(p_squared) / xp.maximum(xp.sqrt(update_squared), TINY)
    p -= lr * xp.where((p_squared > 0) & (update_squared > 0), ratio, 1.0) * update


class LAMB(Optimizer):
    """LAMB, Adam for large batches (You et al. 2020, algorithm 2).

        u = m' / (sqrt(v') + eps) + weight_decay p
        p = p - lr |p| / |u| u

    m' and v' are the moments of `Adam`.  The norms are those of each parameter; their quotient is 1
    if one of them is 0.  The gradient is negated if `maximize`.
    """

    scalar_options = {"lr": "[0, inf)", "betas": ("[0, 1)", "[0, 1)"), "eps": "[0, inf)",
                      "weight_decay": "[0, inf)"}
    flags = ("maximize",)
    per_parameter = True
    kernel_coefficients = staticmethod(lamb_coefficients)
    kernel_constants = staticmethod(decay_switches)
    update_kernel = staticmethod(lamb_update)

    def __init__(self, params: Iterable, lr: Any = 1e-3, betas: tuple = (0.9, 0.999),
                 eps: float = 1e-6, weight_decay: float = 0, *, maximize: bool = False) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps,
                                  "weight_decay": weight_decay, "maximize": maximize})

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"
