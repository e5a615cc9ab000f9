"""Muon."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gpuprop._core.pointwise import pointwise
from gpuprop._core.tensor import Parameter
from gpuprop.optim._optimizer import Optimizer


def muon_coefficients(xp, step, lr, weight_decay, momentum, a, b, c, eps):
    return lr, 1 - lr * weight_decay, momentum, 1 - momentum, a, b, c, eps


def muon_update(xp, p, g, lr, shrink, momentum, one_minus_momentum, a, b, c, eps, buffer, *,
                nesterov, ns_steps, adjust_lr_fn):
    direction = averaged(xp, g, buffer, momentum, one_minus_momentum, nesterov=nesterov)
    update = orthogonalized(xp, direction, a, b, c, eps, ns_steps)
    rows, columns = p.shape
    ratio = math.sqrt(max(1, rows / columns))
    if adjust_lr_fn == "match_rms_adamw":
        ratio = 0.2 * math.sqrt(max(rows, columns))
    move(xp, p, update, lr, shrink, ratio=ratio)


def orthogonalized(xp, g, a, b, c, eps, steps):
    """Approximately U V^T of the singular value decomposition g = U S V^T.

    Newton-Schulz iteration: ``X = a X + (b A + c A A) X`` with ``A = X X^T``.
    """
    is_tall = g.shape[0] > g.shape[1]
    x = g.T if is_tall else g
    x = x / xp.maximum(xp.sqrt((x * x).sum()), eps)
    for _ in range(steps):
        gram = xp.matmul(x, x.T)
        polynomial = combined(xp, gram, xp.matmul(gram, gram), b, c)
        x = combined(xp, x, xp.matmul(polynomial, x), a, 1.0)
    return x.T if is_tall else x


@pointwise
def averaged(xp, g, buffer, momentum, one_minus_momentum, *, nesterov):
    buffer += one_minus_momentum * (g - buffer)
    return g + momentum * (buffer - g) if nesterov else buffer + 0


@pointwise
def combined(xp, x, y, a, b):
    return a * x + b * y


@pointwise
def move(xp, p, update, lr, shrink, *, ratio):
    p *= shrink
    p -= lr * ratio * update


class Muon(Optimizer):
    """Muon, momentum orthogonalized by a Newton-Schulz iteration (Jordan et al. 2024).

        B = momentum B + (1 - momentum) g
        O = NS(momentum B + (1 - momentum) g)      (NS(B) without `nesterov`)
        p = p - lr weight_decay p - lr r O

    It is for the matrices of hidden layers, parameters with two axes; give the others to AdamW.
    `ns_coefficients` are a, b, c of the iteration, which makes `ns_steps` steps, and `eps` is the
    smallest norm that divides.  r is ``sqrt(max(1, rows / columns))``, or with
    ``adjust_lr_fn="match_rms_adamw"`` ``0.2 sqrt(max(rows, columns))`` (Liu et al. 2025), which
    suits learning rates of AdamW.

    Defaults are PyTorch's, which computes the iteration in bfloat16; here it has the parameters'
    dtype, or float32 for half types.
    """

    scalar_options = {"lr": "[0, inf)", "weight_decay": "[0, inf)", "momentum": "[0, inf)",
                      "ns_coefficients": ("(-inf, inf)",) * 3, "eps": "(0, inf)"}
    flags = ("nesterov",)
    choices = {"ns_steps": range(100), "adjust_lr_fn": (None, "original", "match_rms_adamw")}
    per_parameter = True
    saves_step = False
    kernel_coefficients = staticmethod(muon_coefficients)
    update_kernel = staticmethod(muon_update)

    def __init__(self, params: Iterable, lr: Any = 1e-3, weight_decay: float = 0.1,
                 momentum: float = 0.95, nesterov: bool = True,
                 ns_coefficients: tuple = (3.4445, -4.775, 2.0315), eps: float = 1e-7,
                 ns_steps: int = 5, adjust_lr_fn: str | None = None) -> None:
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
            "ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, defaults)

    @staticmethod
    def _check_new_group(options: dict[str, Any], params: list[Parameter]) -> None:
        for i, p in enumerate(params):
            if p.ndim != 2:
                raise ValueError(f"Muon: params[{i}] has shape {p.shape}, but must be a matrix: "
                                 f"give other parameters to AdamW")

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return ("momentum_buffer",)

    @staticmethod
    def kernel_constants(group: dict) -> dict[str, Any]:
        return {name: group[name] for name in ("nesterov", "ns_steps", "adjust_lr_fn")}
