"""What update rules share: their constants, and the gradient with weight decay."""

from __future__ import annotations

from typing import Any

from gpuprop._core.tensor import Tensor

# Replaces eps = 0, with which elements that never had a gradient, such as padding, would become
# 0 / 0.
TINY = 1e-36


def may_be_nonzero(option: Any) -> bool:
    """False for the number 0: the kernel then omits the option.  A Tensor may change later."""
    return isinstance(option, Tensor) or option != 0


def decay_switches(group: dict) -> dict[str, bool]:
    """The switches of `decayed_gradient` that the options of a group turn on."""
    return turned_on(decay=may_be_nonzero(group["weight_decay"]), maximize=group["maximize"],
                     decoupled=group.get("decoupled_weight_decay"))


def turned_on(**switches: Any) -> dict[str, bool]:
    """Those that are true: a kernel without keyword arguments is called faster."""
    return {name: True for name, value in switches.items() if value}


def decayed_gradient(p, g, weight_decay, shrink=None, *, decay=False, maximize=False,
                     decoupled=False):
    """The gradient, negated if `maximize`, plus ``weight_decay * p``.

    With `decoupled`, p shrinks instead.  A part of pointwise bodies.
    """
    if maximize:
        g = -g
    if decay and decoupled:
        p *= shrink
    elif decay:
        g = g + weight_decay * p
    return g


def bias_correction(xp, step, beta):
    """``1 - beta**step``, without cancellation."""
    return -xp.expm1(step * xp.log(xp.maximum(beta, TINY)))
