"""Gradient clipping by norm and by value."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gpuprop._core.arena import gradient_arrays
from gpuprop._core.backend import BY_TYPE
from gpuprop._core.checks import as_bool, as_instance, as_number
from gpuprop._core.dialects import spoken
from gpuprop._core.dtypes import compute_dtype, widened
from gpuprop._core.graph import raw
from gpuprop._core.instruments import as_one_call
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import backend_of, default_backend
from gpuprop._core.tensor import Tensor


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float,
                    norm_type: float = 2.0, error_if_nonfinite: bool = False,
                    foreach: bool | None = None) -> Tensor:
    """Scale all gradients in place by ``min(max_norm / (norm + 1e-6), 1)``.

    Returns ``norm``, the norm before scaling of all gradients, concatenated to one vector.
    `norm_type` is the order of the norm; ``inf`` is the maximum norm.  `foreach` is accepted and
    ignored.

    With `error_if_nonfinite`, a norm that is infinite or NaN raises RuntimeError, and the call
    waits for the device.
    """
    as_number("clip_grad_norm_: max_norm", max_norm, "[0, inf]")
    norm_type = _as_order("clip_grad_norm_", norm_type)
    error_if_nonfinite = as_bool("clip_grad_norm_: error_if_nonfinite", error_if_nonfinite)
    tensors = _as_list("clip_grad_norm_: parameters", parameters)
    norm = _clip_norm(tensors, max_norm, norm_type, error_if_nonfinite)
    return spoken(Tensor(norm), tensors)


@as_one_call(lambda *args: ())
def _clip_norm(tensors: list, max_norm: float, norm_type: float, error_if_nonfinite: bool) -> Any:
    # The zeros of an arena's padding do not change norms of positive order.
    grads, arenas = gradient_arrays(tensors, flat=norm_type > 0)
    norm = get_total_norm(grads, norm_type, error_if_nonfinite).array
    _scale_gradients(grads, arenas, max_norm, norm)
    return norm


def get_total_norm(tensors: Any, norm_type: float = 2.0, error_if_nonfinite: bool = False,
                   foreach: bool | None = None) -> Tensor:
    """The norm of all Tensors or arrays, concatenated to one vector.

    For the options see `clip_grad_norm_`.
    """
    norm_type = _as_order("get_total_norm", norm_type)
    error_if_nonfinite = as_bool("get_total_norm: error_if_nonfinite", error_if_nonfinite)
    tensors = _as_list("get_total_norm: tensors", tensors)
    arrays = list(map(raw, tensors))
    if not arrays:
        return Tensor(default_backend().xp.zeros((), "float32"))
    norm = Tensor(_total_norm(backend_of(arrays[0]), arrays, float(norm_type)))
    if error_if_nonfinite and not math.isfinite(norm.item()):
        raise RuntimeError(
            f"the total norm of order {norm_type} is non-finite, so the gradients cannot be "
            f"clipped: set error_if_nonfinite=False to scale them anyway")
    return spoken(norm, tensors)


def clip_grads_with_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float,
                          total_norm: Any, foreach: bool | None = None) -> None:
    """Scale all gradients in place by ``min(max_norm / (total_norm + 1e-6), 1)``.

    `foreach` is accepted and ignored.
    """
    as_number("clip_grads_with_norm_: max_norm", max_norm, "[0, inf]")
    grads, arenas = gradient_arrays(_as_list("clip_grads_with_norm_: parameters", parameters))
    _scale_gradients(grads, arenas, max_norm, raw(total_norm))


def _scale_gradients(grads: list, arenas: list, max_norm: float, norm: Any) -> None:
    for g in grads:
        backend = backend_of(g)
        with backend.at(g):
            factor = backend.xp.minimum(max_norm / (backend.asarray(norm) + 1e-6), 1.0)
            scale(backend.xp, g, factor.astype(compute_dtype(g.dtype), copy=False))
    for arena in arenas:
        arena.clear_padding()


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float,
                     foreach: bool | None = None) -> None:
    """Clip every element of the gradients to [-clip_value, clip_value], in place.

    `foreach` is accepted and ignored.
    """
    as_number("clip_grad_value_: clip_value", clip_value, "[0, inf]")
    _clip_values(_as_list("clip_grad_value_: parameters", parameters), clip_value)


@as_one_call(lambda *args: ())
def _clip_values(tensors: list, clip_value: float) -> None:
    grads, _ = gradient_arrays(tensors)
    for g in grads:
        backend = backend_of(g)
        with backend.at(g):
            g[...] = backend.xp.clip(g, -clip_value, clip_value)


@pointwise
def scale(xp, g, factor):
    g *= factor


def _as_list(what: str, tensors: Any) -> list:
    """One Tensor, or an iterable of Tensors or arrays, as a list."""
    if isinstance(tensors, Tensor):
        return [tensors]
    if hasattr(tensors, "parameters"):
        raise TypeError(f"{what} must be Tensors, got a {type(tensors).__name__}: write "
                        f"model.parameters()")
    items = list(as_instance(what, tensors, Iterable, "a Tensor or an iterable of Tensors"))
    for kind in set(map(type, items)):
        if not issubclass(kind, Tensor | np.ndarray) and kind not in BY_TYPE:
            raise TypeError(f"{what} must be Tensors, got {kind.__name__} among them")
    return items


def _as_order(caller: str, norm_type: Any) -> float:
    """The order of a norm; PyTorch takes "inf" too."""
    order = math.inf if isinstance(norm_type, str) and norm_type == "inf" else norm_type
    return as_number(f"{caller}: norm_type", order, "[-inf, inf]")


def _norm_steps(xp: Any, p: float) -> tuple[Callable, Callable, Callable]:
    """The p-norm as three functions: reduce an array, combine two results, finish the total."""
    if p == 2:
        return lambda g: (g * g).sum(), operator.add, xp.sqrt
    if p == math.inf:
        return lambda g: abs(g).max(), xp.maximum, lambda total: total
    if p == -math.inf:
        return lambda g: abs(g).min(), xp.minimum, lambda total: total
    return lambda g: (abs(g) ** p).sum(), operator.add, lambda total: total ** (1 / p)


def _total_norm(backend: Any, arrays: list, p: float) -> Any:
    """The p-norm of all arrays as one vector: a 0-d array on the device of the first array.

    Half types are computed in float32.
    """
    if not p:
        raise ValueError("norm_type 0 is not supported: expected a nonzero number, or inf or -inf")
    reduce_array, combine, finish = _norm_steps(backend.xp, p)
    parts = []
    for array in arrays:
        with backend.at(array):
            parts.append(reduce_array(widened(array)))
    with backend.at(arrays[0]):
        total = functools.reduce(combine, map(backend.asarray, parts))
        return backend.own(finish(total))
