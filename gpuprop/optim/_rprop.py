"""Rprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import turned_on


def rprop_coefficients(xp, step, lr, eta_minus, eta_plus, smallest, largest):
    return eta_minus, eta_plus, smallest, largest, xp.where(step == 1, lr, 0.0)


@pointwise
def rprop_update(xp, p, g, eta_minus, eta_plus, smallest, largest, start, previous, size, *,
                 maximize=False):
    if maximize:
        g = -g
    product = g * previous
    factor = xp.where(product > 0, eta_plus, xp.where(product < 0, eta_minus, 1))
    size[...] = xp.minimum(xp.maximum((size + start) * factor, smallest), largest)
    previous[...] = xp.where(product < 0, 0, g)
    p -= xp.sign(previous) * size


class Rprop(Optimizer):
    """Resilient backpropagation (Riedmiller and Braun 1993).

    Each element has a step size, which starts as `lr`.  If the gradient has the sign of the
    previous one, the step size is multiplied by ``etas[1]``; if it has the other sign, by
    ``etas[0]``, and the gradient counts as 0.  The step sizes stay between the two `step_sizes`.

        p = p - sign(g) size

    g is the gradient, negated if `maximize`.

    Defaults are PyTorch's.  `foreach` and `capturable` are accepted and ignored.
    """

    scalar_options = {"lr": "[0, inf)", "etas": ("(0, 1)", "(1, inf)"),
                      "step_sizes": ("[0, inf)", "[0, inf)")}
    flags = ("capturable", "foreach", "maximize", "differentiable")
    kernel_coefficients = staticmethod(rprop_coefficients)
    update_kernel = staticmethod(rprop_update)

    def __init__(self, params: Iterable, lr: Any = 1e-2, etas: tuple = (0.5, 1.2),
                 step_sizes: tuple = (1e-6, 50), *, capturable: bool = False,
                 foreach: bool | None = None, maximize: bool = False,
                 differentiable: bool = False) -> None:
        defaults = {
            "lr": lr, "etas": etas, "step_sizes": step_sizes, "foreach": foreach,
            "maximize": maximize, "differentiable": differentiable, "capturable": capturable,
        }
        super().__init__(params, defaults)

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return "prev", "step_size"

    @staticmethod
    def kernel_constants(group: dict) -> dict[str, Any]:
        return turned_on(maximize=group["maximize"])
