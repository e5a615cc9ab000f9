"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop._core.tensor import Parameter
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import decay_switches, decayed_gradient, may_be_nonzero, turned_on


def sgd_coefficients(xp, step, lr, momentum, dampening, weight_decay):
    scale = xp.where(step == 1, 1.0, 1 - dampening)  # the first gradient is not dampened
    return lr, momentum, scale, weight_decay


@pointwise
def sgd_update(xp, p, g, lr, momentum, scale, weight_decay, velocity=None, *, nesterov=False,
               decay=False, maximize=False):
    if decay or maximize:
        g = decayed_gradient(p, g, weight_decay, decay=decay, maximize=maximize)
    if velocity is not None:
        velocity *= momentum
        velocity += scale * g
        g = g + momentum * velocity if nesterov else velocity
    p -= lr * g


class SGD(Optimizer):
    """Stochastic gradient descent, optionally with momentum.

        p = p - lr g

        with momentum:   v = momentum v + (1 - dampening) g       (the first v is g)
                         p = p - lr v
        with nesterov:   p = p - lr (g + momentum v)

    g is the gradient, negated if `maximize`, plus ``weight_decay * p``.

    Momentum: Polyak 1964; Sutskever et al. 2013.  Defaults are PyTorch's.  `foreach` and `fused`
    are accepted and ignored.
    """

    scalar_options = {"lr": "[0, inf)", "momentum": "[0, inf)", "dampening": "(-inf, inf)",
                      "weight_decay": "[0, inf)"}
    flags = ("nesterov", "maximize", "foreach", "differentiable", "fused")
    saves_step = False
    kernel_coefficients = staticmethod(sgd_coefficients)
    update_kernel = staticmethod(sgd_update)

    def __init__(self, params: Iterable, lr: Any = 1e-3, momentum: float = 0, dampening: float = 0,
                 weight_decay: Any = 0, nesterov: bool = False, *, maximize: bool = False,
                 foreach: bool | None = None, differentiable: bool = False,
                 fused: bool | None = None) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
            "nesterov": nesterov, "maximize": maximize, "foreach": foreach,
            "differentiable": differentiable, "fused": fused,
        }
        super().__init__(params, defaults)

    @staticmethod
    def _check_new_group(options: dict[str, Any], params: list[Parameter]) -> None:
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            raise ValueError(
                f"SGD: Nesterov momentum requires a momentum and zero dampening, got momentum="
                f"{options['momentum']} and dampening={options['dampening']}")

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return ("momentum_buffer",) if may_be_nonzero(group["momentum"]) else ()

    @staticmethod
    def kernel_constants(group: dict) -> dict[str, Any]:
        return {**decay_switches(group), **turned_on(nesterov=group["nesterov"])}
