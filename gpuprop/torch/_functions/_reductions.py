"""Sums, extremes, orders and counts."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpuprop import _array as G
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch._functions._arguments import (
    along,
    axes_of,
    cast,
    host,
    is_integer,
    new,
    of_scalar,
)
from gpuprop.torch._functions._elementwise import clamp_min
from gpuprop.torch._functions._matrices import nuclear_norm
from gpuprop.torch._functions._shapes import cat, reshape, squeeze
from gpuprop.torch._tensor import as_torch

__all__ = [
    "all", "amax", "amin", "aminmax", "any", "argmax", "argmin", "corrcoef", "count_nonzero",
    "cov", "cummax", "cummin", "cumprod", "cumsum", "cumulative_trapezoid", "diff", "dist",
    "log_softmax", "logcumsumexp", "logsumexp", "max", "mean", "min", "nanmean", "nansum",
    "norm", "prod", "renorm", "softmax", "std", "std_mean", "sum", "trapezoid", "trapz", "var",
    "var_mean",
]


def sum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return cast(G.sum(cast(input, dtype), axes_of(dim), keepdim), dtype)


def mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if is_integer(input) and dtype is None:
        raise RuntimeError("mean(): could not infer output dtype. Input dtype must be either a "
                           "floating point or complex dtype: write x.float().mean()")
    if not input.array.ndim:
        dim = None
    return G.mean(cast(input, dtype), axes_of(dim), keepdim)


def prod(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if not input.array.ndim:
        dim = None
    return cast(G.prod(cast(input, dtype), dim, keepdim), dtype)


def _ddof(unbiased: bool | None, correction: Any) -> Any:
    if unbiased is not None:
        return int(unbiased)
    return 1 if correction is None else correction


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


def var_mean(input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
             correction: Any = 1) -> Any:
    if isinstance(dim, builtins.bool):
        dim, unbiased = None, dim
    return var(input, dim, unbiased, keepdim, correction=correction), mean(input, dim, keepdim)


def std_mean(input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
             correction: Any = 1) -> Any:
    if isinstance(dim, builtins.bool):
        dim, unbiased = None, dim
    return std(input, dim, unbiased, keepdim, correction=correction), mean(input, dim, keepdim)


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
    if not x.array.ndim:
        return of_scalar(_extreme, x, dim, True, values, places, of_two)
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
    if not input.array.ndim:
        return of_scalar(cumsum, input, dim, dtype=dtype)
    return cast(G.cumsum(cast(input, dtype), dim), dtype)


def cumprod(input: Any, dim: int, *, dtype: Any = None) -> Any:
    if not input.array.ndim:
        return of_scalar(cumprod, input, dim, dtype=dtype)
    return cast(G.cumprod(cast(input, dtype), dim), dtype)


def logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Any:
    if not input.array.ndim:
        return of_scalar(logsumexp, input, dim)
    return G.logsumexp(input, axes_of(dim), keepdim)


def softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    return G.softmax(cast(input, dtype), dim)


def log_softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    return G.log_softmax(cast(input, dtype), dim)


def norm(input: Any, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Any:
    if p == "nuc":
        return nuclear_norm(input, (-2, -1) if dim is None else dim, keepdim)
    return G.norm(input, 2 if p in ("fro", None) else p, axes_of(dim), keepdim)


def dist(input: Any, other: Any, p: float = 2) -> Any:
    return G.norm(input - other, p)


def nansum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The sum of the elements that are not NaN."""
    return sum(_cast_without_nan(input, dtype), dim, keepdim, dtype=dtype)


def _cast_without_nan(x: Any, dtype: Any) -> Any:
    x = cast(x, dtype)
    return x if is_integer(x) else G.where(G.isnan(x), 0.0, x)


def nanmean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The mean of the elements that are not NaN."""
    count = sum(~G.isnan(input), dim, keepdim)
    return nansum(input, dim, keepdim, dtype=dtype) / count


class MinAndMax(NamedTuple):
    """The result of `aminmax`."""

    min: Any
    max: Any


def aminmax(input: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    return MinAndMax(amin(input, dim, keepdim), amax(input, dim, keepdim))


def cummax(input: Any, dim: int) -> Any:
    """The largest element so far along an axis, and its index; of equal ones the last."""
    return _running(input, dim, np.maximum)


def cummin(input: Any, dim: int) -> Any:
    """The smallest element so far along an axis, and its index; of equal ones the last."""
    return _running(input, dim, np.minimum)


def _running(x: Any, dim: int, extreme: np.ufunc) -> Any:
    a = host(x)
    if not a.ndim:
        return ValuesAndIndices(G.copy(x), as_torch(G.zeros_like(x.detach(), "int64")))
    with np.errstate(invalid="ignore"):  # bfloat16 reports NaN
        reached = extreme.accumulate(a, dim)
    is_new = a == reached if is_integer(x) else (a == reached) | np.isnan(a)
    shape = [-1 if i == dim % a.ndim else 1 for i in range(a.ndim)]
    places = np.where(is_new, np.arange(a.shape[dim]).reshape(shape), 0)
    indices = new(np.maximum.accumulate(places, dim), x)
    return ValuesAndIndices(G.take_along_axis(x, indices, dim), indices)


def logcumsumexp(input: Any, dim: int) -> Any:
    """``log(cumsum(exp(input)))`` without overflow."""
    if not input.array.ndim:
        return G.copy(input)
    x = G.moveaxis(input, dim, -1)
    n = x.shape[-1]
    is_later = np.triu(np.ones((n, n), "bool"), 1)
    terms = G.where(new(is_later).to(x.device), -math.inf, G.expand_dims(x, -2))
    return G.moveaxis(G.logsumexp(terms, -1), -1, dim) if n else G.copy(input)


def diff(input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """The n-th difference along an axis."""
    if n == 0:
        return G.copy(input)
    parts = [t for t in (prepend, input, append) if t is not None]
    x = cat(parts, dim) if len(parts) > 1 else input
    for _ in range(n):
        after, before = (x[along(x, dim, key)] for key in (slice(1, None), slice(0, -1)))
        x = after != before if x.array.dtype == "bool" else after - before
    return x


def trapezoid(y: Any, x: Any = None, *, dx: float = 1.0, dim: int = -1) -> Any:
    """The integral along an axis by the trapezoidal rule."""
    return G.sum(_trapezoids(y, x, dx, dim), dim)


trapz = trapezoid


def cumulative_trapezoid(y: Any, x: Any = None, *, dx: float = 1.0, dim: int = -1) -> Any:
    return G.cumsum(_trapezoids(y, x, dx, dim), dim)


def _trapezoids(y: Any, x: Any, dx: float, dim: int) -> Any:
    sums = y[along(y, dim, slice(1, None))] + y[along(y, dim, slice(0, -1))]
    if x is None:
        return sums * (dx / 2)
    widths = diff(x, dim=-1 if x.array.ndim == 1 else dim)
    if x.array.ndim == 1:
        widths = reshape(widths, (-1, *(1,) * (y.array.ndim - 1 - dim % y.array.ndim)))
    return sums * widths / 2


def cov(input: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """The covariance matrix of variables, which are rows; columns are observations."""
    x = input if input.array.ndim == 2 else reshape(input, (1, -1))
    weights: Any = 1
    for w in (fweights, aweights):
        weights = weights if w is None else weights * w
    n = x.shape[1]
    total = n if isinstance(weights, int) else G.sum(weights)
    centered = x - G.sum(x * weights, 1, True) / total
    scale: Any = total - correction
    if aweights is not None and correction:
        scale = total - correction * G.sum(weights * aweights) / total
    scale = clamp_min(scale, 0) if isinstance(scale, Plain) else builtins.max(scale, 0)
    product = G.matmul(centered * weights, G.transpose(centered)) / scale
    return reshape(product, ()) if x.shape[0] == 1 else product


def corrcoef(input: Any) -> Any:
    """The matrix of correlation coefficients of rows."""
    c = cov(input)
    if not c.array.ndim:
        return c / c
    d = G.sqrt(G.diagonal(c))
    return G.clip(c / G.expand_dims(d, 0) / G.expand_dims(d, 1), -1.0, 1.0)


def renorm(input: Any, p: float, dim: int, maxnorm: float) -> Any:
    """`input` with slices along an axis scaled down to a norm of at most `maxnorm`."""
    others = tuple(i for i in range(input.array.ndim) if i != dim % input.array.ndim)
    norms = G.norm(input, p, others, True)
    return input * G.where(norms > maxnorm, maxnorm / (norms + 1e-7), 1.0)
