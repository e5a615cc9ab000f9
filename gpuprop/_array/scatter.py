"""Arrays of zeros with values written into them: the adjoints of indexing.

Bodies of other ops call them as ``put.on(xp, ...)``.
"""

from __future__ import annotations

import math
from typing import Any

from numpy.exceptions import AxisError

from gpuprop._core.checks import as_element
from gpuprop._core.graph import raw
from gpuprop._core.ops import linear_op
from gpuprop._core.signature import Array


def normalize_axis(x, axis):
    """A non-negative axis of `x`; raises AxisError if `axis` is out of bounds."""
    if not -x.ndim <= axis < x.ndim:
        raise AxisError(axis, x.ndim)
    return axis % x.ndim


def flat_if_none(x, axis):
    """`x` and a non-negative axis; flattened `x` and axis 0 if `axis` is None, as in NumPy."""
    return (x.reshape(-1), 0) if axis is None else (x, normalize_axis(x, axis))


def raw_key(key):
    """An index with arrays in place of Tensors."""
    return tuple(map(raw, key)) if isinstance(key, tuple) else raw(key)


@linear_op(lambda xp, d, _, key, shape: d[raw_key(key)])
def put(xp, values: Array, key: Any, shape: tuple[int, ...]):
    """Zeros of `shape` with `values` added at `key`: the adjoint of ``x[key]``.

    Duplicates are summed.
    """
    out = xp.zeros(shape, values.dtype)
    key = raw_key(key)
    parts = _parts_of_key(key, len(shape))
    arrays = [i for i, k in enumerate(parts) if hasattr(k, "shape") and k.dtype.kind != "b"]
    if not arrays:  # slices, numbers and masks select no element twice
        out[key] = values
    elif len(arrays) == 1 and all(i in arrays or type(k) is slice for i, k in enumerate(parts)):
        axis = arrays[0]
        rows = out[tuple(slice(None) if i == axis else k for i, k in enumerate(parts))]
        _add_slices(xp, rows, parts[axis], values, axis)
    else:
        indices = xp.arange(math.prod(shape)).reshape(shape)[key]
        xp.index_add(out.reshape(-1), indices.reshape(-1), values.reshape(-1), 0)
    return out


def _parts_of_key(key, ndim):
    """The parts of an index, with slices in place of the ellipsis and for missing axes.

    There is one part per axis, if the index has no mask and no None.
    """
    parts = key if isinstance(key, tuple) else (key,)
    position = next((i for i, k in enumerate(parts) if k is Ellipsis), len(parts))
    missing = ndim - len(parts) + (position < len(parts))
    return [*parts[:position], *[slice(None)] * missing, *parts[position + 1:]]


def _add_slices(xp, out, index, values, axis):
    """``out[:, ..., index] += values`` along `axis`, with duplicates of `index` summed."""
    before = values.shape[:axis]
    after = values.shape[axis + index.ndim:]
    xp.index_add(out, index.reshape(-1), values.reshape(*before, index.size, *after), axis)


@linear_op(lambda xp, d, _, index, axis, n: xp.take(d, index, axis=axis))
def put_rows(xp, values: Array, index: Array, axis: int, n: int):
    """Zeros with the slices of `values` added at `index` along an axis of size `n`.

    The adjoint of `take`; duplicates are summed.
    """
    shape = (*values.shape[:axis], n, *values.shape[axis + index.ndim:])
    out = xp.zeros(shape, values.dtype)
    _add_slices(xp, out, index, values, axis)
    return out


@linear_op(lambda xp, d, _, index, axis, n: xp.take_along_axis(d, index, axis=axis))
def put_along_axis(xp, values: Array, index: Array, axis: int, n: int):
    """Zeros with `values` written at `index` along an axis of size `n`.

    The adjoint of a sort or a selection; `index` has no duplicates.
    """
    axis = normalize_axis(values, axis)
    out = xp.zeros((*values.shape[:axis], n, *values.shape[axis + 1:]), values.dtype)
    xp.put_along_axis(out, index, values, axis)
    return out


def take_covered(xp, x, index, axis):
    """``x[..., index[..., i, ...], ...]`` along an axis, on the part of `x` that `index` covers."""
    covered = tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(index.shape))
    return xp.take_along_axis(x[covered], index, axis=axis)


@linear_op(lambda xp, d, _, index, axis, shape: take_covered(xp, d, index, axis))
def scatter(xp, values: Array, index: Array, axis: int, shape: tuple[int, ...]):
    """Zeros of `shape` with `values` added at `index` along an axis, duplicates summed.

    The adjoint of `gather`.
    """
    out = xp.zeros(shape, values.dtype)
    strides = [math.prod(shape[i + 1:]) for i in range(len(shape))]
    flat_index = index.astype("int64", copy=False) % shape[axis] * strides[axis]
    for i, n in enumerate(index.shape):
        if i != axis:
            along_i = xp.arange(n).reshape(-1, *[1] * (len(shape) - 1 - i))
            flat_index = flat_index + along_i * strides[i]
    xp.index_add(out.reshape(-1), flat_index.reshape(-1), values.reshape(-1), 0)
    return out


@linear_op(lambda xp, d, _, shape, offset, axis1, axis2: xp.diagonal(d, offset, axis1, axis2))
def put_diagonal(xp, values: Array, shape: tuple[int, ...], offset: int, axis1: int, axis2: int):
    """Zeros of `shape` with `values` on a diagonal of two axes: the adjoint of `diagonal`."""
    out = xp.zeros(shape, values.dtype)
    matrices = xp.moveaxis(out, (axis1, axis2), (-2, -1))
    i = xp.arange(values.shape[-1])
    matrices[..., i + max(-offset, 0), i + max(offset, 0)] = values
    return out


@linear_op(lambda xp, d, shape, widths, value: d[inner_slices(widths, shape)])
def pad_with(xp, x: Array, widths: Any, value: float = 0):
    """`x` padded with a constant; `widths` has a pair (before, after) per axis."""
    shape = [n + before + after for n, (before, after) in zip(x.shape, widths, strict=True)]
    out = xp.full(shape, value and as_element("pad: the value", value, x.dtype), x.dtype)
    out[inner_slices(widths, x.shape)] = x
    return out


def inner_slices(widths, shape):
    """The slices of a padded array that hold the original one, which had this shape."""
    return tuple(slice(before, before + n)
                 for (before, _), n in zip(widths, shape, strict=True))
