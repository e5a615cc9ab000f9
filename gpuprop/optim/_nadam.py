"""NAdam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import TINY, bias_correction, decay_switches, decayed_gradient

LOG_DECAY = -0.04082199452025517  # log(0.96)


def nadam_coefficients(xp, step, lr, beta1, beta2, eps, weight_decay, momentum_decay, mu_product):
    momentum = lambda t: beta1 * (1 - 0.5 * xp.exp(LOG_DECAY * t * momentum_decay))
    mu, mu_next = momentum(step), momentum(step + 1)
    mu_product = xp.where(step == 1, 1.0, mu_product) * mu
    # as for Adam, sqrt(1 - beta2^t) corrects scalars instead of the array v
    root = xp.sqrt(bias_correction(xp, step, beta2))
    rate = lr * root
    return (rate * (1 - mu) / (1 - mu_product), rate * mu_next / (1 - mu_product * mu_next),
            1 - beta1, beta2, 1 - beta2, xp.maximum(eps, TINY) * root, weight_decay,
            1 - lr * weight_decay, mu_product)


@pointwise
def nadam_update(xp, p, g, lr_of_gradient, lr_of_moment, one_minus_beta1, beta2, one_minus_beta2,
                 eps, weight_decay, shrink, m, v, **switches):
    g = decayed_gradient(p, g, weight_decay, shrink, **switches)
    m += one_minus_beta1 * (g - m)
    v *= beta2
    v += one_minus_beta2 * g * g
    p -= (lr_of_gradient * g + lr_of_moment * m) / (xp.sqrt(v) + eps)


class NAdam(Optimizer):
    """NAdam, Adam with Nesterov momentum (Dozat 2016).

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2            v' = v / (1 - beta2^t)
        mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)
        p = p - lr ((1 - mu_t) / (1 - mu_1 ... mu_t) g
                    + mu_(t+1) / (1 - mu_1 ... mu_(t+1)) m) / (sqrt(v') + eps)

    t is the number of the step, from 1.  g is the gradient, negated if `maximize`, plus
    ``weight_decay * p``.  With `decoupled_weight_decay`, g is the gradient alone, and the step
    starts with ``p = p - lr weight_decay p``.

    Defaults are PyTorch's.  `foreach` and `capturable` are accepted and ignored.
    """

    scalar_options = {"lr": "[0, inf)", "betas": ("[0, 1)", "[0, 1)"), "eps": "[0, inf)",
                      "weight_decay": "[0, inf)", "momentum_decay": "[0, inf)"}
    scalar_states = ("mu_product",)
    flags = ("decoupled_weight_decay", "foreach", "maximize", "capturable", "differentiable")
    kernel_coefficients = staticmethod(nadam_coefficients)
    kernel_constants = staticmethod(decay_switches)
    update_kernel = staticmethod(nadam_update)

    def __init__(self, params: Iterable, lr: Any = 2e-3, betas: tuple = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, momentum_decay: float = 4e-3,
                 decoupled_weight_decay: bool = False, *, foreach: bool | None = None,
                 maximize: bool = False, capturable: bool = False,
                 differentiable: bool = False) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize, "foreach": foreach, "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"
