"""Reductions over axes, running sums and order, with NumPy's names.

`axis` is None for all elements, a number or a tuple; `keepdims` leaves the axes there, with size 1.
"""

from __future__ import annotations

import math
from typing import Any

from gpuprop._array.indexing import diagonal
from gpuprop._array.scatter import axis_of, flat_without, put_along_axis
from gpuprop._core.ops import op
from gpuprop._core.signature import Array

__all__ = [
    "all", "any", "argmax", "argmin", "argsort", "count_nonzero", "cumprod", "cumsum", "logsumexp",
    "max", "mean", "min", "norm", "prod", "sort", "std", "sum", "topk", "trace", "var",
]


def _kept(xp, d, axis, keepdims):
    """A reduction's gradient with the reduced axes back, of size 1."""
    return d if keepdims or axis is None else xp.expand_dims(d, axis)


# ---- sums -----------------------------------------------------------------------------------------------------------


@op(precision="full")
def sum(xp, x: Array, axis=None, keepdims=False):
    """The sum over axes."""
    shape, kept = x.shape, keepdims or x.ndim == 0  # to NumPy a number has an axis 0 after all
    return x.sum(axis=axis, keepdims=keepdims), (lambda d: xp.broadcast_to(_kept(xp, d, axis, kept), shape),)


@op(precision="full")
def mean(xp, x: Array, axis=None, keepdims=False):
    """The mean over axes."""
    y = x.mean(axis=axis, keepdims=keepdims)
    shape, n = x.shape, x.size / (y.size or 1)
    return y, (lambda d: xp.broadcast_to(_kept(xp, d / n, axis, keepdims), shape),)


@op(precision="full")
def var(xp, x: Array, axis=None, ddof=0, keepdims=False):
    """The variance over axes: the sum of squared distances from the mean, over their number less `ddof`."""
    mean = x.mean(axis=axis, keepdims=True)
    c, n = x - mean, x.size // (mean.size or 1) - ddof
    y = (c * c).sum(axis=axis, keepdims=keepdims) / n
    return y, (lambda d: _kept(xp, d, axis, keepdims) * 2 * c / n,)


@op(precision="full")
def std(xp, x: Array, axis=None, ddof=0, keepdims=False):
    """The square root of the variance; its slope at 0 is 0."""
    squared, (back,) = var.fn(xp, x, axis, ddof, keepdims)
    y = _root(xp, squared, 2)
    return y, (lambda d: back(xp.where(y == 0, 0, d / (2 * xp.where(y == 0, 1, y)))),)


def _root(xp, x, p):
    """The p-th root of sums of powers, whose slope at 0 is 0 in every order."""
    zero = x == 0
    x = xp.where(zero, 1, x)
    return xp.where(zero, 0, xp.sqrt(x) if p == 2 else x ** (1 / p))


@op(precision="full")
def logsumexp(xp, x: Array, axis=None, keepdims=False):
    """``log(exp(x).sum(axis))`` without overflow, -inf for the sum of nothing."""
    if x.size == 0:
        return x.sum(axis=axis, keepdims=keepdims) - math.inf, (lambda d: xp.zeros_like(x),)
    top = x.max(axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0)
    whole = xp.log(xp.exp(x - top).sum(axis=axis, keepdims=True)) + top
    y = whole.sum(axis=axis, keepdims=keepdims)  # of one element each: without the axes
    return y, (lambda d: _kept(xp, d, axis, keepdims) * xp.exp(x - whole),)


@op(precision="full")
def norm(xp, x: Array, p=2, axis=None, keepdims=False):
    """``(abs(x) ** p).sum(axis) ** (1 / p)``, the p-norm of vectors; its slope at 0 is 0.

    For inf it is the largest size, for -inf the smallest, for 0 the number of those that are not 0; "fro" is 2.
    """
    p = 2 if p == "fro" else p
    if p == 0:
        return (x != 0).astype(x.dtype).sum(axis=axis, keepdims=keepdims), (lambda d: xp.zeros_like(x),)
    if p in OF_SIZES:
        y, (by_size,) = OF_SIZES[p].fn(xp, xp.abs(x), axis, keepdims)
        return y, (lambda d: xp.sign(x) * by_size(d),)
    whole = _root(xp, (x * x if p == 2 else xp.abs(x) ** p).sum(axis=axis, keepdims=True), p)

    def slope():
        divisor = xp.where(whole == 0, 1, whole)
        if p == 2:
            return x / divisor
        flat = (whole == 0) | (x == 0)
        return xp.where(flat, 0, xp.sign(x) * (xp.where(flat, 1, xp.abs(x)) / divisor) ** (p - 1))

    y = whole.sum(axis=axis, keepdims=keepdims)  # of one element each: without the axes
    return y, (lambda d: _kept(xp, d, axis, keepdims) * slope(),)


def trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """The sum along a diagonal of two axes."""
    return sum(diagonal(a, offset, axis1, axis2), -1)


# ---- extremes -------------------------------------------------------------------------------------------------------


def _shared(xp, x, y, axis, keepdims):
    """How the gradient of an extreme `y` goes to the elements that equal it: in equal shares."""
    def back(d):
        at = (x == _kept(xp, y, axis, keepdims)).astype(x.dtype)
        return _kept(xp, d, axis, keepdims) * (at / at.sum(axis=axis, keepdims=True))
    return back


@op
def max(xp, x: Array, axis=None, keepdims=False):
    """The largest element over axes, values only; NaN wins, ties share the gradient."""
    y = x.max(axis=axis, keepdims=keepdims)
    return y, (_shared(xp, x, y, axis, keepdims),)


@op
def min(xp, x: Array, axis=None, keepdims=False):
    """The smallest element over axes, values only; NaN wins, ties share the gradient."""
    y = xp.min(x, axis=axis, keepdims=keepdims)
    return y, (_shared(xp, x, y, axis, keepdims),)


OF_SIZES = {1: sum, math.inf: max, -math.inf: min}  # the norms of which this is one of the absolute values


@op
def argmax(xp, x: Array, axis=None, keepdims=False):
    """Where the largest element lies along an axis (or in the flat array), the first of several."""
    return xp.argmax(x, axis=axis, keepdims=keepdims), None


@op
def argmin(xp, x: Array, axis=None, keepdims=False):
    """Where the smallest element lies along an axis (or in the flat array), the first of several."""
    return xp.argmin(x, axis=axis, keepdims=keepdims), None


@op
def any(xp, x: Array, axis=None, keepdims=False):
    """Is any element true (not zero)?"""
    return xp.any(x, axis=axis, keepdims=keepdims), None


@op
def all(xp, x: Array, axis=None, keepdims=False):
    """Are all elements true (not zero)?"""
    return xp.all(x, axis=axis, keepdims=keepdims), None


@op
def count_nonzero(xp, x: Array, axis=None, keepdims=False):
    """How many elements are not zero."""
    return (x != 0).sum(axis=axis, keepdims=keepdims), None


# ---- products and running reductions: exact where elements are 0 ----------------------------------------------------


@op(precision="full")
def cumsum(xp, x: Array, axis=None):
    """The running sum along an axis, or of the flat array."""
    shape = x.shape
    flat, axis = flat_without(x, axis)
    return xp.cumsum(flat, axis=axis), (
        lambda d: xp.flip(xp.cumsum(xp.flip(d, axis), axis=axis), axis).reshape(shape),)


@op(precision="full")
def cumprod(xp, x: Array, axis=None):
    """The running product along an axis, or of the flat array."""
    shape = x.shape
    flat, axis = flat_without(x, axis)
    y = xp.cumprod(flat, axis=axis)

    def back(d):
        x, before = flat.swapaxes(axis, -1), _late(xp, y.swapaxes(axis, -1))
        following = xp.concatenate([x[..., 1:], xp.zeros_like(x[..., :1])], axis=-1)
        return (before * _recurrence(xp, following, d.swapaxes(axis, -1))).swapaxes(axis, -1).reshape(shape)

    return y, (back,)


def _late(xp, y):
    """A running product without its last factor: one place later, 1 to start with."""
    return xp.concatenate([xp.ones_like(y[..., :1]), y[..., :-1]], axis=-1)


def _recurrence(xp, a, b):
    """``s[i] = b[i] + a[i] * s[i + 1]`` along the last axis, in log2(n) steps that double what is summed."""
    n, step = a.shape[-1], 1
    ahead = lambda v: xp.concatenate([v[..., step:], xp.zeros_like(v[..., :step])], axis=-1)
    while step < n:
        b, a, step = b + a * ahead(b), a * ahead(a), 2 * step
    return b


@op(precision="full")
def prod(xp, x: Array, axis=None, keepdims=False):
    """The product over axes."""
    y = xp.prod(x, axis=axis, keepdims=keepdims)
    return y, (lambda d: _kept(xp, d, axis, keepdims) * _others(xp, x, axis),)


def _others(xp, x, axis):
    """For each element the product of the others that are reduced with it: of those before it and those behind."""
    axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    last = tuple(range(-len(axes), 0))
    moved = xp.moveaxis(x, axes, last)
    shape = moved.shape
    rows = moved.reshape(*shape[:x.ndim - len(axes)], math.prod(shape[x.ndim - len(axes):]))
    before = _late(xp, xp.cumprod(rows, axis=-1))
    behind = xp.flip(_late(xp, xp.cumprod(xp.flip(rows, -1), axis=-1)), -1)
    return xp.moveaxis((before * behind).reshape(shape), last, axes)


# ---- order ----------------------------------------------------------------------------------------------------------


@op
def argsort(xp, x: Array, axis=-1, kind=None):
    """The places of the elements in ascending order along an axis, NaN last; stable, unless `kind` is another one."""
    return xp.argsort(x, axis=axis, kind=kind or "stable"), None


@op
def sort(xp, x: Array, axis=-1):
    """The elements in ascending order along an axis, NaN last."""
    shape = x.shape
    flat, axis = flat_without(x, axis)
    order, n = xp.argsort(flat, axis=axis, kind="stable"), flat.shape[axis]
    return xp.take_along_axis(flat, order, axis=axis), (
        lambda d: put_along_axis.on(xp, d, order, axis=axis, n=n).reshape(shape),)


@op
def topk(xp, x: Array, k, axis=-1, largest=True, sorted=True):
    """The `k` largest (or smallest) elements along an axis and their places, in order always; stable, NaN largest."""
    axis, n = axis_of(x, axis), x.shape[axis]
    if not 0 <= k <= n:
        raise ValueError(f"topk: an axis of size {n} has no {k} elements to choose")
    if largest:  # from behind, so that of equal ones the first comes first
        order = n - 1 - xp.flip(xp.argsort(xp.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        order = xp.argsort(x, axis=axis, kind="stable")
    places = order[(*[slice(None)] * axis, slice(k))]
    return (xp.take_along_axis(x, places, axis=axis), places), (
        lambda d: put_along_axis.on(xp, d[0], places, axis=axis, n=n),)
