"""The override of `linear` for the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop.backend import Into, definition
from gpuprop_numpy.memory import is_place
from gpuprop_numpy.products import SMALL, add_product, as_matrix, can_be_added, matmul, product


def linear(xp: Any, input: Any, weight: Any, bias: Any = None) -> tuple:
    """``input @ weight.T + bias`` in one pass; the gradient of `weight` needs no copy.

    The definition computes small products, and those of an `xp` with another `matmul`, by which
    verification adds in another order.
    """
    is_large = xp.matmul is matmul and not is_small(input, weight)
    x = as_matrix(input) if is_large and _fit(input, weight, bias) else None
    if x is None or not can_be_added(x, weight.T):
        return definition("gpuprop.functional:linear")(xp, input, weight, bias)
    shape, rows, features = input.shape, len(x), len(weight)
    y = np.empty((rows, features), x.dtype)
    start = np.zeros(features, x.dtype) if bias is None else np.ascontiguousarray(bias)
    add_product(start, x, weight.T, y)

    def weight_grad(dy: Any, out: Any) -> Any:
        d = as_matrix(dy).T
        if not is_place(out, (features, x.shape[1]), x.dtype, d, x) or not can_be_added(d, x):
            return product(d, x)
        add_product(np.zeros(x.shape[1], x.dtype), d, x, out)
        return out

    return y.reshape(*shape[:-1], features), (
        lambda dy: product(as_matrix(dy), weight).reshape(shape),
        Into(weight_grad),
        lambda dy: product(np.ones(rows, dy.dtype), as_matrix(dy)))  # faster than np.sum


def is_small(input: Any, weight: Any, bias: Any = None) -> bool:
    """True if the definition computes a product of these arrays."""
    return weight.ndim != 2 or input.size * len(weight) <= SMALL


def _fit(input: Any, weight: Any, bias: Any) -> bool:
    """True if the shapes of input, weight and bias fit, and bias and weight have one dtype."""
    if input.ndim < 2 or input.shape[-1] != weight.shape[1]:
        return False
    return bias is None or (bias.dtype is weight.dtype and bias.shape == weight.shape[:1])
