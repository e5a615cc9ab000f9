"""RMSprop (Tieleman and Hinton 2012), centered as in Graves 2013."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._groups import TINY, scalars, used
from gpuprop.optim._optimizer import Optimizer, refuse_negative


@scalars
def rmsprop_coefficients(xp, t, lr, alpha, eps, weight_decay, momentum):
    return lr, alpha, 1 - alpha, xp.maximum(eps, TINY), weight_decay, momentum


@pointwise
def rmsprop_update(xp, p, g, lr, alpha, share, eps, weight_decay, momentum, square, *others,
                   centered, cycling, decay, maximize):
    if maximize:
        g = -g
    if decay:
        g = g + weight_decay * p
    square *= alpha
    square += share * g * g
    spread = square
    if centered:
        mean = others[0]
        mean += share * (g - mean)
        spread = xp.maximum(square - mean * mean, 0)  # rounding can take it below
    step = g / (xp.sqrt(spread) + eps)
    if cycling:
        velocity = others[-1]
        velocity *= momentum
        velocity += step
        step = velocity
    p -= lr * step


class RMSprop(Optimizer):
    """``s = alpha s + (1 - alpha) g²;  p -= lr g / (sqrt(s) + eps)`` with ``g + weight_decay p`` for g.

    With `centered` the squared mean of g is taken off s; with momentum ``v = momentum v + g / (sqrt(s) + eps)`` and
    ``p -= lr v``.
    `foreach` and `capturable` change nothing.
    """

    live = ("lr", "alpha", "eps", "weight_decay", "momentum")
    coefficients, kernel = rmsprop_coefficients, rmsprop_update

    def __init__(self, params: Iterable, lr: Any = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
                 weight_decay: float = 0, momentum: float = 0, centered: bool = False, capturable: bool = False,
                 foreach: bool | None = None, maximize: bool = False, differentiable: bool = False) -> None:
        refuse_negative(lr=lr, eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha)
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered,
            "weight_decay": weight_decay, "capturable": capturable, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable})

    @staticmethod
    def states(group: dict) -> tuple[str, ...]:
        return "square_avg", *["grad_avg"] * group["centered"], *["momentum_buffer"] * (group["momentum"] > 0)

    @staticmethod
    def constants(group: dict) -> dict[str, Any]:
        return {"centered": group["centered"], "cycling": group["momentum"] > 0, "decay": used(group["weight_decay"]),
                "maximize": group["maximize"]}
