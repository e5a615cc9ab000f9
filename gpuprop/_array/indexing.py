"""Indexing: functions that read, select or add elements at indices.

Names are NumPy's, or PyTorch's where NumPy has none.
"""

from __future__ import annotations

from typing import Any

from gpuprop._array.scatter import (
    flat_if_none,
    normalize_axis,
    put,
    put_diagonal,
    put_rows,
    raw_key,
    scatter,
    take_covered,
)
from gpuprop._core.composed import checks_arguments
from gpuprop._core.ops import op
from gpuprop._core.signature import Array

__all__ = [
    "diag",
    "diagonal",
    "gather",
    "index_add",
    "index_select",
    "masked_fill",
    "scatter_add",
    "take",
    "take_along_axis",
    "tril",
    "triu",
]


def _check_index(xp, index, n, name):
    if index.dtype.kind not in "iu":
        raise TypeError(f"{name}: indices must be integers, got {index.dtype}")
    xp.check((index >= -n) & (index < n),
             f"{name}: index out of range for an axis of size {n}", index)


def _check_ndim(x, index, name):
    if index.ndim != x.ndim:
        raise ValueError(f"{name}: x {x.shape} and index {index.shape} must have the same number "
                         f"of axes")


@op(half="exact")
def getitem(xp, x: Array, key: Any):
    """``x[key]``: slices, integers, arrays of integers or bools, ``...`` and None.

    For arrays of bools the host waits for the device.
    """
    shape = x.shape
    key = raw_key(key)
    return x[key], (lambda d: put.on(xp, d, key=key, shape=shape),)


@op(half="exact")
def take(xp, x: Array, indices: Array, axis: int | None = None):
    """The slices of `x` at `indices` along an axis; if `axis` is None, `x` is flattened first.

    In the result the axes of `indices` replace the axis.
    """
    shape = x.shape
    flat, axis = flat_if_none(x, axis)
    index = indices if hasattr(indices, "shape") else xp.full((), indices)
    n = flat.shape[axis]
    _check_index(xp, index, n, "take")
    return xp.take(flat, index, axis=axis), (
        lambda d: put_rows.on(xp, d, index, axis=axis, n=n).reshape(shape),
        lambda d: None,
    )


@checks_arguments
def index_select(x: Array, axis: int, index: Array) -> Any:
    """The slices of `x` at `index` along an axis: `take` with PyTorch's order of parameters."""
    return take(x, index, axis)


@op(half="exact")
def take_along_axis(xp, x: Array, indices: Array, axis: int = -1):
    """``y[i, j] = x[i, indices[i, j]]`` along an axis (here 1); the other axes broadcast.

    >>> import gpuprop
    >>> x = gpuprop.tensor([[3.0, 1.0], [2.0, 5.0]])
    >>> gpuprop.take_along_axis(x, gpuprop.argsort(x), axis=1).tolist()
    [[1.0, 3.0], [2.0, 5.0]]
    """
    axis = normalize_axis(x, axis)
    _check_index(xp, indices, x.shape[axis], "take_along_axis")
    y = xp.take_along_axis(x, indices, axis=axis)
    # the shape of x after broadcasting: the engine sums over the broadcast axes
    shape = (*y.shape[:axis], x.shape[axis], *y.shape[axis + 1:])

    def x_grad(d):
        return scatter.on(xp, d, xp.broadcast_to(indices, d.shape), axis=axis, shape=shape)

    return y, (x_grad, lambda d: None)


@op(half="exact")
def gather(xp, x: Array, axis: int, index: Array):
    """``y[i, j] = x[i, index[i, j]]`` along an axis (here 1), for all (i, j) of `index`.

    As in PyTorch, the other axes of `index` may be shorter than those of `x`.

    >>> import gpuprop
    >>> x = gpuprop.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    >>> gpuprop.gather(x, 1, gpuprop.tensor([[0], [2]])).tolist()
    [[1.0], [6.0]]
    """
    axis = normalize_axis(x, axis)
    shape = x.shape
    _check_ndim(x, index, "gather")
    _check_index(xp, index, shape[axis], "gather")
    return take_covered(xp, x, index, axis), (
        lambda d: scatter.on(xp, d, index, axis=axis, shape=shape),
        lambda d: None,
    )


@op(promote="x src", half="exact")
def scatter_add(xp, x: Array, axis: int, index: Array, src: Array):
    """`x` with ``src[i, j]`` added at ``[i, index[i, j]]`` along an axis (here 1).

    As in PyTorch, (i, j) runs over all positions of `index`; duplicates are summed.
    """
    axis = normalize_axis(x, axis)
    shape = x.shape
    src_shape = src.shape
    _check_ndim(x, index, "scatter_add")
    _check_index(xp, index, shape[axis], "scatter_add")
    covered = tuple(map(slice, index.shape))
    added = scatter.on(xp, src[covered], index, axis=axis, shape=shape)

    def src_grad(d):
        return put.on(xp, take_covered(xp, d, index, axis), key=covered, shape=src_shape)

    return x + added, (lambda d: d, lambda d: None, src_grad)


@op(promote="x source", half="exact")
def index_add(xp, x: Array, axis: int, index: Array, source: Array):
    """`x` with the slices of `source` added at `index` (1-D) along an axis; duplicates are summed.

    >>> import gpuprop
    >>> index = gpuprop.tensor([0, 2, 0])
    >>> gpuprop.index_add(gpuprop.zeros(3), 0, index, gpuprop.tensor([1.0, 2.0, 4.0])).tolist()
    [5.0, 0.0, 2.0]
    """
    axis = normalize_axis(x, axis)
    n = x.shape[axis]
    _check_index(xp, index, n, "index_add")
    return x + put_rows.on(xp, source, index, axis=axis, n=n), (
        lambda d: d,
        lambda d: None,
        lambda d: xp.take(d, index, axis=axis),
    )


@op(promote="x value", half="rounded")
def masked_fill(xp, x: Array, mask: Array, value: Array):
    """`x` with `value`, a number or 0-d array, where `mask` is True."""
    return xp.where(mask, value, x), (
        lambda d: xp.where(mask, 0, d),
        lambda d: None,
        lambda d: xp.where(mask, d, 0),
    )


# ---- triangles and diagonals -------------------------------------------------------------------


def _check_matrix(name, x):
    if x.ndim == 0:
        raise ValueError(f"{name}: x must be a matrix or a stack of matrices, got shape ()")


@op(half="exact")
def tril(xp, x: Array, k: int = 0):
    """The lower triangle of the last two axes; zeros above the k-th diagonal."""
    _check_matrix("tril", x)
    return xp.tril(x, k), (lambda d: xp.tril(d, k),)


@op(half="exact")
def triu(xp, x: Array, k: int = 0):
    """The upper triangle of the last two axes; zeros below the k-th diagonal."""
    _check_matrix("triu", x)
    return xp.triu(x, k), (lambda d: xp.triu(d, k),)


@op(half="exact")
def diagonal(xp, x: Array, offset: int = 0, axis1: int = 0, axis2: int = 1):
    """The elements ``x[i, i + offset]`` of two axes, as a new last axis."""
    shape = x.shape

    def x_grad(d):
        return put_diagonal.on(xp, d, shape=shape, offset=offset, axis1=axis1, axis2=axis2)

    return xp.diagonal(x, offset, axis1, axis2), (x_grad,)


@checks_arguments
def diag(v: Array, k: int = 0) -> Any:
    """The k-th diagonal of a matrix, or a matrix with a vector as its k-th diagonal."""
    if v.ndim == 2:
        return diagonal(v, k)
    if v.ndim != 1:
        raise ValueError(f"diag: expected a vector or a matrix, got {v.ndim} axes; "
                         f"diagonal accepts stacks of matrices")
    n = len(v) + (k if k >= 0 else -k)
    return put_diagonal(v, (n, n), k, 0, 1)
