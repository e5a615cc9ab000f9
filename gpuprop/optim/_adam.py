"""Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop._core.tensor import Tensor
from gpuprop.optim._groups import TINY, scalars, used
from gpuprop.optim._optimizer import Optimizer, refuse_negative


@scalars
def adam_coefficients(xp, t, lr, beta1, beta2, eps, weight_decay):
    # 1 - beta**t, to the last digit
    bias1, bias2 = (-xp.expm1(t * xp.log(xp.maximum(beta, TINY))) for beta in (beta1, beta2))
    root = xp.sqrt(bias2)  # moved from below the fraction to above it: one pass over memory less
    return (1 - beta1, beta2, 1 - beta2, lr * root / bias1, xp.maximum(eps, TINY) * root,
            weight_decay, 1 - lr * weight_decay)


@pointwise
def adam_update(xp, p, g, share1, beta2, share2, lr, eps, weight_decay, kept, m, v, top=None,
                *, decay, decoupled, maximize):
    if maximize:
        g = -g
    if decay and decoupled:
        p *= kept
    elif decay:
        g = g + weight_decay * p
    m += share1 * (g - m)
    v *= beta2
    v += share2 * g * g
    if top is not None:
        top += xp.where(v <= top, 0, v - top)  # max(top, v), in place; NaN wins
        v = top
    p -= lr * m / (xp.sqrt(v) + eps)


class Adam(Optimizer):
    """``m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g²;  p -= lr m' / (sqrt(v') + eps)``.

    m' and v' are m and v without their bias towards 0: ``m / (1 - beta1^t)``.  With `amsgrad` v' is the largest so far
    (Reddi et al. 2018).  g is ``g + weight_decay p``, or, with `decoupled_weight_decay`, p shrinks by itself.
    `foreach`, `capturable` and `fused` change nothing.
    """

    live = ("lr", "betas", "eps", "weight_decay")
    coefficients, kernel = adam_coefficients, adam_update

    def __init__(self, params: Iterable, lr: Any = 1e-3, betas: tuple = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0, amsgrad: bool = False, *, foreach: bool | None = None, maximize: bool = False,
                 capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
                 decoupled_weight_decay: bool = False) -> None:
        refuse_negative(lr=lr, eps=eps, weight_decay=weight_decay)
        if len({isinstance(beta, Tensor) for beta in betas}) == 2:
            raise ValueError("betas must be either both floats or both Tensors")
        betas = tuple(float(beta) if isinstance(beta, Tensor) else beta for beta in betas)
        for i, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
            "maximize": maximize, "foreach": foreach, "capturable": capturable, "differentiable": differentiable,
            "fused": fused, "decoupled_weight_decay": decoupled_weight_decay})

    @staticmethod
    def states(group: dict) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[:3 if group["amsgrad"] else 2]

    @staticmethod
    def constants(group: dict) -> dict[str, Any]:
        return {"decay": used(group["weight_decay"]), "decoupled": group["decoupled_weight_decay"],
                "maximize": group["maximize"]}


class AdamW(Adam):
    """Adam with weight decay apart from the gradient: ``p *= 1 - lr weight_decay``."""

    def __init__(self, params: Iterable, lr: Any = 1e-3, betas: tuple = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False,
                 foreach: bool | None = None, capturable: bool = False, differentiable: bool = False,
                 fused: bool | None = None) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, fused=fused,
                         capturable=capturable, differentiable=differentiable, decoupled_weight_decay=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimizer's; the state of an Adam is taken over too, and its decay stays decoupled."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
