"""SparseAdam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import bias_correction, turned_on


def sparse_adam_coefficients(xp, step, lr, beta1, beta2, eps):
    correction1, correction2 = (bias_correction(xp, step, beta) for beta in (beta1, beta2))
    return lr * xp.sqrt(correction2) / correction1, 1 - beta1, 1 - beta2, eps


def sparse_adam_update(xp, p, g, lr, one_minus_beta1, one_minus_beta2, eps, m, v, **switches):
    has_gradient = g != 0
    if g.ndim > 1:
        has_gradient = xp.any(has_gradient, axis=tuple(range(1, g.ndim)), keepdims=True)
    update_rows(xp, p, g, has_gradient, lr, one_minus_beta1, one_minus_beta2, eps, m, v,
                **switches)


@pointwise
def update_rows(xp, p, g, has_gradient, lr, one_minus_beta1, one_minus_beta2, eps, m, v, *,
                maximize=False):
    if maximize:
        g = -g
    m += xp.where(has_gradient, one_minus_beta1 * (g - m), 0)
    v += xp.where(has_gradient, one_minus_beta2 * (g * g - v), 0)
    p -= xp.where(has_gradient, lr * m / (xp.sqrt(v) + eps), 0)


class SparseAdam(Optimizer):
    """Adam that leaves rows without gradient, and their moments, as they are.

    A row is an index of a parameter's first axis, such as a token of an `Embedding`; it has no
    gradient if all of the elements of its gradient are 0.  In PyTorch these are the rows that a
    sparse gradient does not list.

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = p - lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)

    t is the number of the parameter's step, from 1, for all rows.  g is the gradient, negated if
    `maximize`.  Defaults are PyTorch's.
    """

    scalar_options = {"lr": "[0, inf)", "betas": ("[0, 1)", "[0, 1)"), "eps": "(0, inf)"}
    flags = ("maximize",)
    per_parameter = True
    kernel_coefficients = staticmethod(sparse_adam_coefficients)
    update_kernel = staticmethod(sparse_adam_update)

    def __init__(self, params: Iterable, lr: Any = 1e-3, betas: tuple = (0.9, 0.999),
                 eps: float = 1e-8, maximize: bool = False) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize})

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"

    @staticmethod
    def kernel_constants(group: dict) -> dict[str, Any]:
        return turned_on(maximize=group["maximize"])
