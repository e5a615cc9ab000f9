"""Gradients clipped, by their norm or by value."""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

from gpuprop._core.arena import gradients
from gpuprop._core.dtypes import compute_dtype, widened
from gpuprop._core.graph import raw
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import backend_of, default_backend
from gpuprop._core.tensor import Tensor


def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
                    foreach: bool | None = None) -> Tensor:
    """Scale all gradients in place by ``min(max_norm / (norm + 1e-6), 1)``; returns the norm of them all as one vector.

    `norm_type` is a power, or ``inf`` for the largest magnitude.  It waits for the device only with
    `error_if_nonfinite`, to raise RuntimeError where the norm is infinite or NaN.  `foreach` changes nothing.
    """
    found, arenas = gradients(_several(parameters), whole=norm_type > 0)
    norm = get_total_norm(found, norm_type, error_if_nonfinite)
    _scale(found, arenas, max_norm, norm.data)
    return norm


def get_total_norm(tensors: Any, norm_type: float = 2.0, error_if_nonfinite: bool = False,
                   foreach: bool | None = None) -> Tensor:
    """The norm of all tensors or arrays as one vector; what the words mean `clip_grad_norm_` says."""
    found = [raw(t) for t in _several(tensors)]
    if not found:
        return Tensor(default_backend().xp.zeros((), "float32"))
    norm = Tensor(_norm(backend_of(found[0]), found, float(norm_type)))
    if error_if_nonfinite and not math.isfinite(norm.item()):
        raise RuntimeError(f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it "
                           f"cannot be clipped. To scale by it anyway, set `error_if_nonfinite=False`")
    return norm


def clip_grads_with_norm_(parameters: Any, max_norm: float, total_norm: Any, foreach: bool | None = None) -> None:
    """Scale all gradients in place by ``min(max_norm / (total_norm + 1e-6), 1)``."""
    _scale(*gradients(_several(parameters)), max_norm, raw(total_norm))


def _scale(found: list, arenas: list, max_norm: float, norm: Any) -> None:
    for g in found:
        backend = backend_of(g)
        with backend.at(g):
            share = backend.xp.minimum(max_norm / (backend.asarray(norm) + 1e-6), 1.0)
            scale(backend.xp, g, share.astype(compute_dtype(g.dtype), copy=False))
    for arena in arenas:
        arena.clear_padding()


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> None:
    """Bring every gradient's elements into [-clip_value, clip_value], in place."""
    if clip_value < 0:
        raise ValueError(f"clip_value must not be negative, and is {clip_value}")
    for g in gradients(_several(parameters))[0]:
        with backend_of(g).at(g):
            g[...] = backend_of(g).xp.clip(g, -clip_value, clip_value)


@pointwise
def scale(xp, g, share):
    g *= share


def _several(parameters: Any) -> list[Tensor]:
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)


def _norm(backend: Any, found: list, power: float) -> Any:
    """The norm of arrays taken as one vector, a 0-d array on the device of the first; half types by way of float32."""
    if not power:
        raise ValueError("norm_type 0 counts elements, which is no norm")
    xp = backend.xp
    if power == 2:
        part, joined, root = (lambda g: (g * g).sum()), operator.add, xp.sqrt
    elif math.isinf(power):
        part, joined, root = (lambda g: abs(g).max()), xp.maximum, lambda total: total
        if power < 0:
            part, joined = (lambda g: abs(g).min()), xp.minimum
    else:
        part, joined, root = (lambda g: (abs(g) ** power).sum()), operator.add, lambda total: total ** (1 / power)
    parts = []
    for g in found:
        with backend.at(g):
            parts.append(part(widened(g)))
    with backend.at(found[0]):
        return backend.own(root(functools.reduce(joined, map(backend.asarray, parts))))
