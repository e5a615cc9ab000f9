"""Sums, extremes, orders and counts."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import gpuprop.functional as F
from gpuprop import _array as G
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch._functions._arguments import axes_of, cast, host, new
from gpuprop.torch._functions._shapes import narrow, reshape, squeeze

__all__ = [
    "all", "amax", "amin", "any", "argmax", "argmin", "argsort", "bincount", "count_nonzero",
    "cumprod", "cumsum", "dist", "kthvalue", "log_softmax", "logsumexp", "max", "mean",
    "median", "min", "norm", "prod", "quantile", "softmax", "sort", "std", "std_mean", "sum",
    "topk", "unique", "var", "var_mean",
]


def sum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return G.sum(cast(input, dtype), axes_of(dim), keepdim)


def mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if input.array.dtype.kind in "iub" and dtype is None:
        raise RuntimeError("mean(): could not infer output dtype. Input dtype must be either a "
                           "floating point or complex dtype: write x.float().mean()")
    return G.mean(cast(input, dtype), axes_of(dim), keepdim)


def prod(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return G.prod(cast(input, dtype), dim, keepdim)


def _ddof(unbiased: bool | None, correction: Any) -> Any:
    return correction if unbiased is None else int(unbiased)


def var(input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
        correction: Any = 1) -> Any:
    if isinstance(dim, builtins.bool):
        dim, unbiased = None, dim
    return G.var(input, axes_of(dim), _ddof(unbiased, correction), keepdim)


def std(input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
        correction: Any = 1) -> Any:
    if isinstance(dim, builtins.bool):
        dim, unbiased = None, dim
    return G.std(input, axes_of(dim), _ddof(unbiased, correction), keepdim)


def var_mean(input: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    return var(input, dim, correction=correction, keepdim=keepdim), mean(input, dim, keepdim)


def std_mean(input: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    return std(input, dim, correction=correction, keepdim=keepdim), mean(input, dim, keepdim)


def amax(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.max(input, axes_of(dim), keepdim)


def amin(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.min(input, axes_of(dim), keepdim)


class ValuesAndIndices(NamedTuple):
    """The result of `max(dim)`, `sort`, `topk` and the like."""

    values: Any
    indices: Any


def max(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """``max(x)``; ``max(x, dim)``, values and indices; ``max(x, y)``, elementwise."""
    return _extreme(input, dim if other is None else other, keepdim, G.max, G.argmax, G.maximum)


def min(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """``min(x)``; ``min(x, dim)``, values and indices; ``min(x, y)``, elementwise."""
    return _extreme(input, dim if other is None else other, keepdim, G.min, G.argmin, G.minimum)


def _extreme(x: Any, dim: Any, keepdim: bool, values: Callable, places: Callable,
             of_two: Callable) -> Any:
    if isinstance(dim, Plain):
        return of_two(x, dim)
    if dim is None:
        return values(x)
    indices = places(x, dim, True)
    found = G.take_along_axis(x, indices, dim)  # one element takes the gradient, as in PyTorch
    if keepdim:
        return ValuesAndIndices(found, indices)
    return ValuesAndIndices(squeeze(found, dim), squeeze(indices, dim))


def argmax(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.argmax(input, dim, keepdim)


def argmin(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.argmin(input, dim, keepdim)


def any(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.any(input, axes_of(dim), keepdim)


def all(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.all(input, axes_of(dim), keepdim)


def count_nonzero(input: Any, dim: Any = None) -> Any:
    return G.count_nonzero(input, axes_of(dim))


def cumsum(input: Any, dim: int, *, dtype: Any = None) -> Any:
    return G.cumsum(cast(input, dtype), dim)


def cumprod(input: Any, dim: int, *, dtype: Any = None) -> Any:
    return G.cumprod(cast(input, dtype), dim)


def logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Any:
    return G.logsumexp(input, axes_of(dim), keepdim)


def softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    return F.softmax(cast(input, dtype), dim)


def log_softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    return F.log_softmax(cast(input, dtype), dim)


def norm(input: Any, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Any:
    return G.norm(input, 2 if p in ("fro", None) else p, axes_of(dim), keepdim)


def dist(input: Any, other: Any, p: float = 2) -> Any:
    return G.norm(input - other, p)


def sort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    indices = argsort(input, dim, descending)
    return ValuesAndIndices(G.take_along_axis(input, indices, dim), indices)


def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    return Plain.argsort(input, dim, descending)


def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    return ValuesAndIndices(*G.topk(input, k, dim, largest, sorted))


def kthvalue(input: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    values, indices = sort(input, dim)
    found = ValuesAndIndices(narrow(values, dim, k - 1, 1), narrow(indices, dim, k - 1, 1))
    return found if keepdim else ValuesAndIndices(*(squeeze(t, dim) for t in found))


def median(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The lower median; with `dim`, values and indices."""
    if dim is None:
        return kthvalue(reshape(input, (-1,)), (input.array.size + 1) // 2)[0]
    return kthvalue(input, (input.shape[dim] + 1) // 2, dim, keepdim)


def quantile(input: Any, q: Any, dim: Any = None, keepdim: bool = False, *,
             interpolation: str = "linear") -> Any:
    array = np.quantile(  # type: ignore[call-overload]
        host(input), host(q), dim, keepdims=keepdim, method=interpolation)
    return new(array.astype(input.array.dtype))


def bincount(input: Any, weights: Any = None, minlength: int = 0) -> Any:
    counts = np.bincount(host(input), None if weights is None else host(weights), minlength)
    return new(counts if weights is None else counts.astype(weights.array.dtype))


def unique(input: Any, sorted: bool = True, return_inverse: bool = False,
           return_counts: bool = False, dim: int | None = None) -> Any:
    found: Any = np.unique(  # type: ignore[call-overload]
        host(input), False, return_inverse, return_counts, dim)
    return tuple(map(new, found)) if isinstance(found, tuple) else new(found)
