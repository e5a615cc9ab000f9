"""Adafactor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import decay_switches


def adafactor_coefficients(xp, step, lr, beta2_decay, eps1, eps2, d, weight_decay):
    return (step ** beta2_decay, xp.minimum(lr, 1 / xp.sqrt(step)), 1 - lr * weight_decay, eps1,
            eps2, d)


def adafactor_update(xp, p, g, one_minus_beta2, lr, shrink, eps1, eps2, d, row, column, variance,
                     **switches):
    squares = square(xp, g)
    if variance is None:
        average(xp, row, squares.mean(axis=-1, keepdims=True), one_minus_beta2)
        average(xp, column, squares.mean(axis=-2, keepdims=True), one_minus_beta2)
        update = factored(xp, g, row, column, row.mean(axis=-2, keepdims=True), eps1)
    else:
        average(xp, variance, squares, one_minus_beta2)
        update = scaled(xp, g, variance, eps1)
    move(xp, p, update, square(xp, p).mean(), square(xp, update).mean(), lr, eps2, d, shrink,
         **switches)


@pointwise
def square(xp, a):
    return a * a


@pointwise
def average(xp, variance, squares, rate):
    variance += rate * (squares - variance)


@pointwise
def factored(xp, g, row, column, mean, eps):
    return scaled.fn(xp, g, row * column / xp.maximum(mean, eps), eps)


@pointwise
def scaled(xp, g, variance, eps):
    return g / xp.sqrt(xp.maximum(variance, eps * eps))


@pointwise
def move(xp, p, update, mean_p, mean_update, lr, eps, d, shrink, *, decay=False,
         maximize=False):
    lr = lr * xp.maximum(eps, xp.sqrt(mean_p)) / xp.maximum(1.0, xp.sqrt(mean_update) / d)
    if decay:
        p *= shrink
    p -= (-lr if maximize else lr) * update


class Adafactor(Optimizer):
    """Adafactor (Shazeer and Stern 2018), in PyTorch's variant.

        a = max(eps2, RMS(p)) min(lr, 1 / sqrt(t))         b = 1 - t^beta2_decay
        p = p - lr weight_decay p
        R = b R + (1 - b) mean(g^2, over columns)
        C = b C + (1 - b) mean(g^2, over rows)             V = R C / max(mean(R), eps1)
        U = g / max(sqrt(V), eps1)
        p = p - a U / max(1, RMS(U) / d)

    t is the number of the step, from 1.  A parameter with less than two axes has one running mean
    V of g^2 instead of R and C, and one with more is a stack of matrices.  ``eps`` is
    ``(eps1, eps2)``; eps1 = None is the machine epsilon of the parameter's dtype.  g is the
    gradient, negated if `maximize`.

    Defaults are PyTorch's.  `foreach` is accepted and ignored.
    """

    scalar_options = {"lr": "[0, inf)", "beta2_decay": "(-inf, 0]",
                      "eps": ("None or [0, inf)", "[0, inf)"), "d": "[1, inf)",
                      "weight_decay": "[0, inf)"}
    flags = ("foreach", "maximize")
    per_parameter = True
    kernel_coefficients = staticmethod(adafactor_coefficients)
    kernel_constants = staticmethod(decay_switches)
    update_kernel = staticmethod(adafactor_update)

    def __init__(self, params: Iterable, lr: Any = 1e-2, beta2_decay: float = -0.8,
                 eps: tuple = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0, *,
                 foreach: bool | None = None, maximize: bool = False) -> None:
        defaults = {
            "lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d,
            "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize,
        }
        super().__init__(params, defaults)

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return "row_var", "col_var", "variance"

    @staticmethod
    def state_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        is_factored = len(shape) > 1
        if is_factored == (name == "variance"):
            return None
        if name == "row_var":
            return *shape[:-1], 1
        return (*shape[:-2], 1, shape[-1]) if is_factored else shape
