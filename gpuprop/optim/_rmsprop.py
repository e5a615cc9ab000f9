"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import (
    TINY,
    decay_switches,
    decayed_gradient,
    may_be_nonzero,
    turned_on,
)


def rmsprop_coefficients(xp, step, lr, alpha, eps, weight_decay, momentum):
    return lr, alpha, 1 - alpha, xp.maximum(eps, TINY), weight_decay, momentum


@pointwise
def rmsprop_update(xp, p, g, lr, alpha, one_minus_alpha, eps, weight_decay, momentum, square,
                   *others, centered=False, has_momentum=False, **switches):
    g = decayed_gradient(p, g, weight_decay, **switches)
    square *= alpha
    square += one_minus_alpha * g * g
    variance = square
    if centered:
        mean = others[0]
        mean += one_minus_alpha * (g - mean)
        variance = xp.maximum(square - mean * mean, 0)  # rounding can make it negative
    step = g / (xp.sqrt(variance) + eps)
    if has_momentum:
        velocity = others[-1]
        velocity *= momentum
        velocity += step
        step = velocity
    p -= lr * step


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012), centered as in Graves 2013.

        s = alpha s + (1 - alpha) g^2
        p = p - lr g / (sqrt(s) + eps)

        with momentum:   v = momentum v + g / (sqrt(s) + eps)
                         p = p - lr v

    g is the gradient, negated if `maximize`, plus ``weight_decay * p``.  With `centered`,
    ``sqrt(s - a^2)`` replaces ``sqrt(s)``, with the running mean ``a = alpha a + (1 - alpha) g``.

    Defaults are PyTorch's.  `foreach` and `capturable` are accepted and ignored.
    """

    scalar_options = dict.fromkeys(("lr", "alpha", "eps", "weight_decay", "momentum"), "[0, inf)")
    flags = ("centered", "capturable", "foreach", "maximize", "differentiable")
    kernel_coefficients = staticmethod(rmsprop_coefficients)
    update_kernel = staticmethod(rmsprop_update)

    def __init__(self, params: Iterable, lr: Any = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
                 weight_decay: float = 0, momentum: float = 0, centered: bool = False,
                 capturable: bool = False, foreach: bool | None = None, maximize: bool = False,
                 differentiable: bool = False) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered,
            "weight_decay": weight_decay, "capturable": capturable, "foreach": foreach,
            "maximize": maximize, "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        names = ["square_avg"]
        if group["centered"]:
            names.append("grad_avg")
        if may_be_nonzero(group["momentum"]):
            names.append("momentum_buffer")
        return tuple(names)

    @staticmethod
    def kernel_constants(group: dict) -> dict[str, Any]:
        return {**decay_switches(group), **turned_on(
            centered=group["centered"], has_momentum=may_be_nonzero(group["momentum"]))}
