"""Reductions over axes, cumulative reductions and sorting, with NumPy's names.

`axis` is an int or a tuple of ints; None means all axes.  With `keepdims` the result keeps the
reduced axes, with size 1.
"""

from __future__ import annotations

import math
from typing import Any

from gpuprop._array.indexing import diagonal
from gpuprop._array.scatter import flat_if_none, normalize_axis, put_along_axis
from gpuprop._core.composed import checks_arguments
from gpuprop._core.ops import op
from gpuprop._core.signature import Array

__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "argsort",
    "count_nonzero",
    "cumprod",
    "cumsum",
    "logsumexp",
    "max",
    "mean",
    "min",
    "norm",
    "prod",
    "sort",
    "std",
    "sum",
    "topk",
    "trace",
    "var",
]


def _with_axes(xp, y, axis, keepdims):
    """The result of a reduction, or its gradient, with the reduced axes restored as size 1."""
    return y if keepdims or axis is None else xp.expand_dims(y, axis)


# ---- sums --------------------------------------------------------------------------------------


@op(precision="full")
def sum(xp, x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False):
    """The sum over axes."""
    shape = x.shape
    has_axes = keepdims or x.ndim == 0  # NumPy accepts axis 0 for a 0-d array
    return x.sum(axis=axis, keepdims=keepdims), (
        lambda d: xp.broadcast_to(_with_axes(xp, d, axis, has_axes), shape),)


@op(precision="full")
def mean(xp, x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False):
    """The mean over axes."""
    y = x.mean(axis=axis, keepdims=keepdims)
    shape = x.shape
    n = x.size / (y.size or 1)
    return y, (lambda d: xp.broadcast_to(_with_axes(xp, d / n, axis, keepdims), shape),)


@op(precision="full")
def var(xp, x: Array, axis: int | tuple[int, ...] | None = None, ddof: float = 0,
        keepdims: bool = False):
    """The variance over axes, ``sum((x - mean) ** 2) / (n - ddof)``.

    As in NumPy `ddof` is 0 by default; the default of PyTorch is 1.
    """
    mean = x.mean(axis=axis, keepdims=True)
    c = x - mean
    n = x.size // (mean.size or 1)
    n = n - ddof if n > ddof else 0
    y = (c * c).sum(axis=axis, keepdims=keepdims) / n
    return y, (lambda d: _with_axes(xp, d, axis, keepdims) * 2 * c / n,)


@op(precision="full")
def std(xp, x: Array, axis: int | tuple[int, ...] | None = None, ddof: float = 0,
        keepdims: bool = False):
    """The standard deviation over axes, the square root of `var`; its gradient at 0 is 0."""
    variance, (var_grad,) = var.fn(xp, x, axis, ddof, keepdims)
    y = _root(xp, variance, 2)
    return y, (lambda d: var_grad(xp.where(y == 0, 0, d / (2 * xp.where(y == 0, 1, y)))),)


def _root(xp, x, p):
    """The p-th root of sums of powers; its derivatives of any order at 0 are 0."""
    zero = x == 0
    x = xp.where(zero, 1, x)
    return xp.where(zero, 0, xp.sqrt(x) if p == 2 else x ** (1 / p))


@op(precision="full", integers="float64")
def logsumexp(xp, x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False):
    """``log(exp(x).sum(axis))`` without overflow; -inf if there are no elements."""
    if x.size == 0:
        y = x.sum(axis=axis, keepdims=keepdims) - math.inf
        return y, (lambda d: xp.zeros_like(x),)
    top = x.max(axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0)
    kept = xp.log(xp.exp(x - top).sum(axis=axis, keepdims=True)) + top
    y = kept.sum(axis=axis, keepdims=keepdims)  # a sum of one element each: removes the axes
    return y, (lambda d: _with_axes(xp, d, axis, keepdims) * xp.exp(x - kept),)


@op(precision="full", integers="float64")
def norm(xp, x: Array, p: float | str = 2, axis: int | tuple[int, ...] | None = None,
         keepdims: bool = False):
    """The vector norm ``sum(abs(x) ** p) ** (1 / p)`` over axes; its gradient at 0 is 0.

    `p` may be inf (the largest absolute value), -inf (the smallest), 0 (the number of nonzero
    elements) or "fro", which is 2.

    >>> import gpuprop
    >>> gpuprop.norm(gpuprop.tensor([[3.0, 4.0], [0.0, 1.0]]), axis=1).tolist()
    [5.0, 1.0]
    """
    p = 2 if p == "fro" else p
    if p == 0:
        count = (x != 0).astype(x.dtype).sum(axis=axis, keepdims=keepdims)
        return count, (lambda d: xp.zeros_like(x),)
    if p in OF_ABSOLUTE_VALUES:
        y, (abs_grad,) = OF_ABSOLUTE_VALUES[p].fn(xp, xp.abs(x), axis, keepdims)
        return y, (lambda d: xp.where(x == 0, 0, xp.sign(x) * abs_grad(d)),)
    powers = x * x if p == 2 else xp.abs(x) ** p
    kept = _root(xp, powers.sum(axis=axis, keepdims=True), p)

    def x_grad(d):
        d = xp.where(kept == 0, 0, _with_axes(xp, d, axis, keepdims))
        divisor = xp.where(kept == 0, 1, kept)
        if p == 2:
            return d * (x / divisor)
        zero = (kept == 0) | (x == 0)
        ratio = xp.where(zero, 1, xp.abs(x)) / divisor
        return xp.where(zero, 0, d * xp.sign(x) * ratio ** (p - 1))

    y = kept.sum(axis=axis, keepdims=keepdims)  # a sum of one element each: removes the axes
    return y, (x_grad,)


@checks_arguments
def trace(a: Array, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """The sum along a diagonal of two axes."""
    return sum(diagonal(a, offset, axis1, axis2), -1)


# ---- extremes ----------------------------------------------------------------------------------


def _extreme_grad(xp, x, y, axis, keepdims):
    """The pullback of a maximum or minimum `y`: elements equal to it share the gradient equally.

    If `y` is NaN, these are the elements that are NaN.
    """

    def pullback(d):
        is_extreme = (x == _with_axes(xp, y, axis, keepdims)) | (x != x)
        count = is_extreme.astype(x.dtype).sum(axis=axis, keepdims=True)
        return xp.where(is_extreme, _with_axes(xp, d, axis, keepdims) / count, 0)

    return pullback


@op
def max(xp, x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False):
    """The largest element over axes, without its index; see `argmax` and `topk`.

    NaN is larger than any number.  Equal maxima divide the gradient equally.
    """
    y = x.max(axis=axis, keepdims=keepdims)
    return y, (_extreme_grad(xp, x, y, axis, keepdims),)


@op
def min(xp, x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False):
    """The smallest element over axes, without its index; see `argmin` and `topk`.

    The result is NaN if any element is.  Equal minima divide the gradient equally.
    """
    y = xp.min(x, axis=axis, keepdims=keepdims)
    return y, (_extreme_grad(xp, x, y, axis, keepdims),)


OF_ABSOLUTE_VALUES = {1: sum, math.inf: max, -math.inf: min}  # p -> the reduction of abs(x)


@op
def argmax(xp, x: Array, axis: int | None = None, keepdims: bool = False):
    """The index of the largest element along an axis, or of flattened `x` if `axis` is None.

    Of equal elements it is the first.

    >>> import gpuprop
    >>> gpuprop.argmax(gpuprop.tensor([[1, 7, 7], [9, 2, 3]]), axis=1).tolist()
    [1, 0]
    """
    return xp.argmax(x, axis=axis, keepdims=keepdims), None


@op
def argmin(xp, x: Array, axis: int | None = None, keepdims: bool = False):
    """The index of the smallest element along an axis, or of flattened `x` if `axis` is None.

    Of equal elements it is the first.
    """
    return xp.argmin(x, axis=axis, keepdims=keepdims), None


@op
def any(xp, x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False):
    """True if any element over axes is nonzero."""
    return xp.any(x, axis=axis, keepdims=keepdims), None


@op
def all(xp, x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False):
    """True if all elements over axes are nonzero."""
    return xp.all(x, axis=axis, keepdims=keepdims), None


@op
def count_nonzero(xp, x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False):
    """The number of nonzero elements over axes."""
    return (x != 0).sum(axis=axis, keepdims=keepdims), None


# ---- products and cumulative reductions: the gradients are exact where elements are 0 ----------


@op(precision="full")
def cumsum(xp, x: Array, axis: int | None = None):
    """The cumulative sum along an axis, or of flattened `x` if `axis` is None."""
    shape = x.shape
    flat, axis = flat_if_none(x, axis)

    def x_grad(d):
        from_the_end = xp.flip(xp.cumsum(xp.flip(d, axis), axis=axis), axis)
        return from_the_end.reshape(shape)

    return xp.cumsum(flat, axis=axis), (x_grad,)


@op(precision="full")
def cumprod(xp, x: Array, axis: int | None = None):
    """The cumulative product along an axis, or of flattened `x` if `axis` is None."""
    shape = x.shape
    flat, axis = flat_if_none(x, axis)
    y = xp.cumprod(flat, axis=axis)

    def x_grad(d):
        rows = flat.swapaxes(axis, -1)
        before = _exclusive(xp, y.swapaxes(axis, -1))
        following = xp.concatenate([rows[..., 1:], xp.zeros_like(rows[..., :1])], axis=-1)
        dx = _scaled(xp, _linear_recurrence(xp, following, d.swapaxes(axis, -1)), before)
        return dx.swapaxes(axis, -1).reshape(shape)

    return y, (x_grad,)


def _scaled(xp, d, a):
    """``d * a``, but 0 where a is 0 although d is infinite or NaN: what a hides has no gradient.

    For finite d it is the product, which has derivatives where a is 0.
    """
    return xp.where(xp.isfinite(d) | (a != 0), d, 0) * a


def _exclusive(xp, y):
    """A cumulative product without the factor at each position: shifted by one, starting with 1."""
    return xp.concatenate([xp.ones_like(y[..., :1]), y[..., :-1]], axis=-1)


def _linear_recurrence(xp, a, b):
    """``s[i] = b[i] + a[i] * s[i + 1]`` along the last axis, in log2(n) doubling steps."""
    n = a.shape[-1]
    step = 1

    def ahead(v):
        return xp.concatenate([v[..., step:], xp.zeros_like(v[..., :step])], axis=-1)

    while step < n:
        b = b + _scaled(xp, ahead(b), a)
        a = a * ahead(a)
        step *= 2
    return b


@op(precision="full")
def prod(xp, x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False):
    """The product over axes."""
    y = xp.prod(x, axis=axis, keepdims=keepdims)

    def x_grad(d):
        return _scaled(xp, _with_axes(xp, d, axis, keepdims), _product_of_others(xp, x, axis))

    return y, (x_grad,)


def _product_of_others(xp, x, axis):
    """For each element the product of all other elements that are reduced with it.

    It is the product of those before it times the product of those after it, which avoids a
    division by 0.
    """
    axes = axis if isinstance(axis, tuple) else (axis,)
    if axis is None:
        axes = tuple(range(x.ndim))
    last = tuple(range(-len(axes), 0))
    moved = xp.moveaxis(x, axes, last)
    shape = moved.shape
    kept = x.ndim - len(axes)
    rows = moved.reshape(*shape[:kept], math.prod(shape[kept:]))
    before = _exclusive(xp, xp.cumprod(rows, axis=-1))
    after = xp.flip(_exclusive(xp, xp.cumprod(xp.flip(rows, -1), axis=-1)), -1)
    return xp.moveaxis((before * after).reshape(shape), last, axes)


# ---- sorting -----------------------------------------------------------------------------------


@op
def argsort(xp, x: Array, axis: int | None = -1, kind: str | None = None):
    """The indices that sort `x` in ascending order along an axis, NaN last.

    The sort is stable, unless `kind` is another of NumPy's kinds.
    """
    return xp.argsort(x, axis=axis, kind=kind or "stable"), None


@op
def sort(xp, x: Array, axis: int | None = -1):
    """`x` sorted in ascending order along an axis, NaN last; `axis` None flattens it first.

    >>> import gpuprop
    >>> gpuprop.sort(gpuprop.tensor([[3, 1, 2], [0, 9, 4]])).tolist()
    [[1, 2, 3], [0, 4, 9]]
    """
    shape = x.shape
    flat, axis = flat_if_none(x, axis)
    order = xp.argsort(flat, axis=axis, kind="stable")
    n = flat.shape[axis]
    return xp.take_along_axis(flat, order, axis=axis), (
        lambda d: put_along_axis.on(xp, d, order, axis=axis, n=n).reshape(shape),)


@op
def topk(xp, x: Array, k: int, axis: int = -1, largest: bool = True, sorted: bool = True):
    """The `k` largest (or smallest) elements along an axis and their indices: a pair.

    The result is sorted whatever `sorted` is.  Of equal elements the first comes first; NaN is
    larger than any number.

    >>> import gpuprop
    >>> values, indices = gpuprop.topk(gpuprop.tensor([1.0, 5.0, 2.0, 5.0]), 3)
    >>> values.tolist(), indices.tolist()
    ([5.0, 5.0, 2.0], [1, 3, 2])
    """
    axis = normalize_axis(x, axis)
    n = x.shape[axis]
    if not 0 <= k <= n:
        raise ValueError(f"topk: k must satisfy 0 <= k <= {n}, the size of the axis, got {k}")
    if largest:  # sort the flipped array, so that of equal elements the first comes first
        order = n - 1 - xp.flip(xp.argsort(xp.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        order = xp.argsort(x, axis=axis, kind="stable")
    indices = order[(*[slice(None)] * axis, slice(k))]
    values = xp.take_along_axis(x, indices, axis=axis)
    return (values, indices), (
        lambda d: put_along_axis.on(xp, d[0], indices, axis=axis, n=n),)
