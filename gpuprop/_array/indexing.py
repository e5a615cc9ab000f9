"""Indexing: reading, choosing and adding at indices, with NumPy's names, or PyTorch's where NumPy has none."""

from __future__ import annotations

from typing import Any

from gpuprop._array.scatter import (
    axis_of,
    flat_without,
    picked,
    put,
    put_diagonal,
    put_rows,
    scatter,
    unwrapped,
)
from gpuprop._core.ops import op
from gpuprop._core.signature import Array

__all__ = [
    "diag", "diagonal", "gather", "getitem", "index_add", "index_select", "masked_fill",
    "scatter_add", "take", "take_along_axis", "tril", "triu",
]


def _check(xp, index, n, what):
    xp.check((index >= -n) & (index < n), f"{what}: an index lies outside of its axis, which has size {n}")


@op(half="exact")
def getitem(xp, x: Array, key):
    """``x[key]``: slices, integers, arrays of integers, ``...`` and None; with arrays of bools the host waits."""
    shape, key = x.shape, unwrapped(key)
    return x[key], (lambda d: put.on(xp, d, key=key, shape=shape),)


@op(half="exact")
def take(xp, x: Array, indices: Array, axis=None):
    """The slices of an axis (or of the flat array) that an array of integers names, which takes the axis' place."""
    shape = x.shape
    flat, axis = flat_without(x, axis)
    index, n = indices if hasattr(indices, "shape") else xp.full((), indices), flat.shape[axis]
    _check(xp, index, n, "take")
    return xp.take(flat, index, axis=axis), (
        lambda d: put_rows.on(xp, d, index, axis=axis, n=n).reshape(shape), lambda d: None)


def index_select(x: Any, axis: int, index: Any) -> Any:
    """The slices of an axis that a 1-D array of integers names."""
    return take(x, index, axis)


@op(half="exact")
def take_along_axis(xp, x: Array, indices: Array, axis=-1):
    """``y[i, j] = x[i, indices[i, j]]`` along the axis (here 1); the other axes broadcast."""
    axis = axis_of(x, axis)
    _check(xp, indices, x.shape[axis], "take_along_axis")
    y = xp.take_along_axis(x, indices, axis=axis)
    before = (*y.shape[:axis], x.shape[axis], *y.shape[axis + 1:])  # of x, if it has the other axes of `indices`
    return y, (
        lambda d: scatter.on(xp, d, xp.broadcast_to(indices, d.shape), axis=axis, shape=before), lambda d: None)


@op(half="exact")
def gather(xp, x: Array, axis, index: Array):
    """``y[i, j] = x[i, index[i, j]]`` along the axis (here 1), as far as `index` goes."""
    axis, shape = axis_of(x, axis), x.shape
    _check(xp, index, shape[axis], "gather")
    return picked(xp, x, index, axis), (lambda d: scatter.on(xp, d, index, axis=axis, shape=shape), lambda d: None)


@op(half="exact")
def scatter_add(xp, x: Array, axis, index: Array, src: Array):
    """`x` with ``src[i, j]`` added at ``[i, index[i, j]]`` along the axis (here 1), as far as `index` goes."""
    axis, shape, given = axis_of(x, axis), x.shape, src.shape
    _check(xp, index, shape[axis], "scatter_add")
    part = tuple(map(slice, index.shape))
    return x + scatter.on(xp, src[part], index, axis=axis, shape=shape), (
        lambda d: d, lambda d: None, lambda d: put.on(xp, picked(xp, d, index, axis), key=part, shape=given))


@op(half="exact")
def index_add(xp, x: Array, axis, index: Array, source: Array):
    """`x` with the slices of `source` added at the places of an axis that the 1-D `index` names."""
    axis = axis_of(x, axis)
    n = x.shape[axis]
    _check(xp, index, n, "index_add")
    return x + put_rows.on(xp, source, index, axis=axis, n=n), (
        lambda d: d, lambda d: None, lambda d: xp.take(d, index, axis=axis))


@op(half="rounded")
def masked_fill(xp, x: Array, mask: Array, value: Array):
    """`x` with `value`, a number or 0-d array, where the mask holds."""
    return xp.where(mask, value, x), (
        lambda d: xp.where(mask, 0, d), lambda d: None, lambda d: xp.where(mask, d, 0))


# ---- triangles and diagonals of two axes ----------------------------------------------------------------------------


@op(half="exact")
def tril(xp, x: Array, k=0):
    """The lower triangle of the last two axes, up to the k-th diagonal; zeros above."""
    return xp.tril(x, k), (lambda d: xp.tril(d, k),)


@op(half="exact")
def triu(xp, x: Array, k=0):
    """The upper triangle of the last two axes, from the k-th diagonal; zeros below."""
    return xp.triu(x, k), (lambda d: xp.triu(d, k),)


@op(half="exact")
def diagonal(xp, x: Array, offset=0, axis1=0, axis2=1):
    """The elements ``x[i, i + offset]`` of two axes, as the last axis."""
    shape = x.shape
    return xp.diagonal(x, offset, axis1, axis2), (
        lambda d: put_diagonal.on(xp, d, shape=shape, offset=offset, axis1=axis1, axis2=axis2),)


def diag(v: Any, k: int = 0) -> Any:
    """The k-th diagonal of a matrix, or the matrix that has a vector there and zeros elsewhere."""
    if v.ndim == 2:
        return diagonal(v, k)
    if v.ndim != 1:
        raise ValueError(f"diag takes a vector or a matrix, not {v.ndim} axes; diagonal takes stacks of matrices")
    n = len(v) + (k if k >= 0 else -k)
    return put_diagonal(v, (n, n), k, 0, 1)
