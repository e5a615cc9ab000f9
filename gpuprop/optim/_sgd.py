"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._groups import scalars, used
from gpuprop.optim._optimizer import Optimizer, refuse_negative


@scalars
def sgd_coefficients(xp, t, lr, momentum, dampening, weight_decay):
    return lr, momentum, xp.where(t == 1, 1.0, 1 - dampening), weight_decay  # the first gradient is taken whole


@pointwise
def sgd_update(xp, p, g, lr, momentum, share, weight_decay, velocity=None, *, decay, nesterov, maximize):
    if maximize:
        g = -g
    if decay:
        g = g + weight_decay * p
    if velocity is not None:
        velocity *= momentum
        velocity += share * g
        g = g + momentum * velocity if nesterov else velocity
    p -= lr * g


class SGD(Optimizer):
    """``v = momentum v + (1 - dampening) g;  p -= lr v`` with ``g + weight_decay p`` for g; the first v is g.

    With nesterov ``p -= lr (g + momentum v)``; without momentum no v is kept.  `foreach` and `fused` change nothing.
    """

    live = ("lr", "momentum", "dampening", "weight_decay")
    reports_step = False
    coefficients, kernel = sgd_coefficients, sgd_update

    def __init__(self, params: Iterable, lr: Any = 1e-3, momentum: float = 0, dampening: float = 0,
                 weight_decay: Any = 0, nesterov: bool = False, *, maximize: bool = False, foreach: bool | None = None,
                 differentiable: bool = False, fused: bool | None = None) -> None:
        refuse_negative(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "maximize": maximize, "foreach": foreach, "differentiable": differentiable, "fused": fused})

    @staticmethod
    def states(group: dict) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    @staticmethod
    def constants(group: dict) -> dict[str, Any]:
        return {"decay": used(group["weight_decay"]), "nesterov": group["nesterov"], "maximize": group["maximize"]}
