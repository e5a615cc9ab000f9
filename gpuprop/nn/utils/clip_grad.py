"""Gradients clipped, by their norm or by value."""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

from gpuprop.autograd import Tensor
from gpuprop.backend import backend_of, default_backend
from gpuprop.optim.arena import gradients, wide
from gpuprop.pointwise import pointwise


def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
                    foreach: bool | None = None) -> Tensor:
    """Scale all gradients in place by ``min(max_norm / (norm + 1e-6), 1)``; returns the norm of them all as one vector.

    `norm_type` is a power, or ``inf`` for the largest magnitude.  It waits for the device only with
    `error_if_nonfinite`, to raise RuntimeError where the norm is infinite or NaN.  `foreach` changes nothing.
    """
    found, arenas = gradients(_several(parameters), whole=norm_type > 0)
    if not found:
        return Tensor(default_backend().xp.zeros((), "float32"))
    xp = backend_of(found[0]).xp
    norm = _norm(xp, found, float(norm_type))
    if error_if_nonfinite and not math.isfinite(Tensor(norm).item()):
        raise RuntimeError(f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it "
                           f"cannot be clipped. To scale by it anyway, set `error_if_nonfinite=False`")
    share = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    for g in found:
        scale(xp, g, share if share.dtype == wide(g.dtype) else share.astype(wide(g.dtype)))
    for arena in arenas:
        arena.clear_padding()
    return Tensor(norm)


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> None:
    """Bring every gradient's elements into [-clip_value, clip_value], in place."""
    if clip_value < 0:
        raise ValueError(f"clip_value must not be negative, and is {clip_value}")
    for g in gradients(_several(parameters))[0]:
        g[...] = backend_of(g).xp.clip(g, -clip_value, clip_value)


@pointwise
def scale(xp, g, share):
    g *= share


def _several(parameters: Any) -> list[Tensor]:
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)


def _norm(xp: Any, found: list, power: float) -> Any:
    """The norm of arrays taken as one vector, a 0-d array; half types are summed in float32."""
    if not power:
        raise ValueError("norm_type 0 counts elements, which is no norm")
    found = [g.astype("float32") if g.dtype.itemsize == 2 else g for g in found]
    if power == 2:
        norm = xp.sqrt(functools.reduce(operator.add, [(g * g).sum() for g in found]))
    elif math.isinf(power):
        pick, of = (xp.maximum, "max") if power > 0 else (xp.minimum, "min")
        norm = functools.reduce(pick, [getattr(abs(g), of)() for g in found])
    else:
        norm = functools.reduce(operator.add, [(abs(g) ** power).sum() for g in found]) ** (1 / power)
    return backend_of(found[0]).own(norm)
