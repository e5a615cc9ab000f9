"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import TINY, bias_correction, decay_switches, decayed_gradient


def adam_coefficients(xp, step, lr, beta1, beta2, eps, weight_decay):
    correction1 = bias_correction(xp, step, beta1)
    correction2 = bias_correction(xp, step, beta2)
    # lr m' / (sqrt(v') + eps) with m' = m / correction1 and v' = v / correction2, expanded by
    # sqrt(correction2), so that the kernel corrects scalars instead of the arrays m and v
    root = xp.sqrt(correction2)
    return (1 - beta1, beta2, 1 - beta2, lr * root / correction1, xp.maximum(eps, TINY) * root,
            weight_decay, 1 - lr * weight_decay)


@pointwise
def adam_update(xp, p, g, one_minus_beta1, beta2, one_minus_beta2, lr, eps, weight_decay, shrink,
                m, v, v_max=None, *, decay=False, maximize=False, decoupled=False):
    if decay or maximize:
        g = decayed_gradient(p, g, weight_decay, shrink, decay=decay, maximize=maximize,
                             decoupled=decoupled)
    m += one_minus_beta1 * (g - m)
    v *= beta2
    v += one_minus_beta2 * g * g
    if v_max is not None:
        v_max[...] = xp.maximum(v_max, v)
        v = v_max
    p -= lr * m / (xp.sqrt(v) + eps)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), with bias-corrected moments m' and v'.

        m = beta1 m + (1 - beta1) g          m' = m / (1 - beta1^t)
        v = beta2 v + (1 - beta2) g^2        v' = v / (1 - beta2^t)
        p = p - lr m' / (sqrt(v') + eps)

    t is the number of the step, from 1.  g is the gradient, negated if `maximize`, plus
    ``weight_decay * p``.  With `decoupled_weight_decay`, g is the gradient alone, and the step
    starts with ``p = p - lr weight_decay p``, as in `AdamW`.  With `amsgrad`, v' uses the maximum
    of v over all steps (Reddi et al. 2018).

    Defaults are PyTorch's.  `foreach`, `capturable` and `fused` are accepted and ignored.
    """

    scalar_options = {"lr": "[0, inf)", "betas": ("[0, 1)", "[0, 1)"), "eps": "[0, inf)",
                      "weight_decay": "[0, inf)"}
    flags = ("amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused",
             "decoupled_weight_decay")
    kernel_coefficients = staticmethod(adam_coefficients)
    kernel_constants = staticmethod(decay_switches)
    update_kernel = staticmethod(adam_update)

    def __init__(self, params: Iterable, lr: Any = 1e-3, betas: tuple = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, amsgrad: bool = False, *,
                 foreach: bool | None = None, maximize: bool = False, capturable: bool = False,
                 differentiable: bool = False, fused: bool | None = None,
                 decoupled_weight_decay: bool = False) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "amsgrad": amsgrad, "maximize": maximize, "foreach": foreach,
            "capturable": capturable, "differentiable": differentiable, "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        if group["amsgrad"]:
            return "exp_avg", "exp_avg_sq", "max_exp_avg_sq"
        return "exp_avg", "exp_avg_sq"


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

        p = p - lr weight_decay p
        p = p - lr m' / (sqrt(v') + eps)

    m' and v' are computed as in `Adam`, from the gradient without weight decay.

    Defaults are PyTorch's.  `foreach`, `capturable` and `fused` are accepted and ignored.
    """

    def __init__(self, params: Iterable, lr: Any = 1e-3, betas: tuple = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 1e-2, amsgrad: bool = False, *,
                 maximize: bool = False, foreach: bool | None = None, capturable: bool = False,
                 differentiable: bool = False, fused: bool | None = None) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach,
                         maximize=maximize, capturable=capturable, differentiable=differentiable,
                         fused=fused, decoupled_weight_decay=True)

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        write = super()._prepare_load(state_dict)

        def write_decoupled() -> None:  # the state may be that of an Adam
            write()
            for group in self.param_groups:
                group["decoupled_weight_decay"] = True

        return write_decoupled
