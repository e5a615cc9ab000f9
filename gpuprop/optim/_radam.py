"""RAdam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import TINY, bias_correction, decay_switches, decayed_gradient


def radam_coefficients(xp, step, lr, beta1, beta2, eps, weight_decay):
    correction2 = bias_correction(xp, step, beta2)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * (1 - correction2) / correction2
    is_adaptive = length > 5
    # where it is not used, the root is taken of 0, and nothing is divided by 0
    used = xp.where(is_adaptive, length, 5.0)
    end = xp.where(is_adaptive, longest, 5.0)
    rectified = xp.sqrt(correction2 * (used - 4) * (used - 2) * end
                        / ((end - 4) * (end - 2) * used))
    return (lr / bias_correction(xp, step, beta1), xp.where(is_adaptive, rectified, 0.0),
            1 - beta1, beta2, 1 - beta2, xp.maximum(eps, TINY), weight_decay,
            1 - lr * weight_decay)


@pointwise
def radam_update(xp, p, g, lr, rectified, one_minus_beta1, beta2, one_minus_beta2, eps,
                 weight_decay, shrink, m, v, **switches):
    g = decayed_gradient(p, g, weight_decay, shrink, **switches)
    m += one_minus_beta1 * (g - m)
    v *= beta2
    v += one_minus_beta2 * g * g
    p -= lr * m * xp.where(rectified > 0, rectified / (xp.sqrt(v) + eps), 1)


class RAdam(Optimizer):
    """RAdam, Adam with a rectified variance of the first steps (Liu et al. 2020).

        m = beta1 m + (1 - beta1) g               m' = m / (1 - beta1^t)
        v = beta2 v + (1 - beta2) g^2             l = sqrt(1 - beta2^t) / (sqrt(v) + eps)
        n = 2 / (1 - beta2) - 1                   n_t = n - 2 t beta2^t / (1 - beta2^t)
        r = sqrt((n_t - 4) (n_t - 2) n / ((n - 4) (n - 2) n_t))
        p = p - lr m' r l    if n_t > 5
        p = p - lr m'        otherwise

    t is the number of the step, from 1.  g is the gradient, negated if `maximize`, plus
    ``weight_decay * p``.  With `decoupled_weight_decay`, g is the gradient alone, and the step
    starts with ``p = p - lr weight_decay p``.

    Defaults are PyTorch's.  `foreach` and `capturable` are accepted and ignored.
    """

    scalar_options = {"lr": "[0, inf)", "betas": ("[0, 1)", "[0, 1)"), "eps": "[0, inf)",
                      "weight_decay": "[0, inf)"}
    flags = ("decoupled_weight_decay", "foreach", "maximize", "capturable", "differentiable")
    kernel_coefficients = staticmethod(radam_coefficients)
    kernel_constants = staticmethod(decay_switches)
    update_kernel = staticmethod(radam_update)

    def __init__(self, params: Iterable, lr: Any = 1e-3, betas: tuple = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, decoupled_weight_decay: bool = False,
                 *, foreach: bool | None = None, maximize: bool = False, capturable: bool = False,
                 differentiable: bool = False) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "maximize": maximize, "foreach": foreach, "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay, "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"
