"""Arrays of zeros with values written into them: the adjoints of indexing.  Op bodies call ``put.on(xp, ...)``."""

from __future__ import annotations

import math

from numpy.exceptions import AxisError

from gpuprop._core.graph import raw
from gpuprop._core.ops import linear_op
from gpuprop._core.signature import Array


def axis_of(x, axis):
    """`axis` of an array, counted from the front; AxisError for one that is not there."""
    if not -x.ndim <= axis < x.ndim:
        raise AxisError(axis, x.ndim)
    return axis % x.ndim


def flat_without(x, axis):
    """`x` and an axis of it: without one NumPy goes through the flat array."""
    return (x.reshape(-1), 0) if axis is None else (x, axis_of(x, axis))


def unwrapped(key):
    """An index with arrays in place of Tensors."""
    return tuple(map(raw, key)) if isinstance(key, tuple) else raw(key)


@linear_op(lambda xp, d, _, key, shape: d[unwrapped(key)])
def put(xp, values: Array, key, shape):
    """Zeros of `shape` with `values` added at `key`, duplicates summed: the adjoint of ``x[key]``."""
    out, key = xp.zeros(shape, values.dtype), unwrapped(key)
    parts = _per_axis(key, len(shape))
    arrays = [i for i, k in enumerate(parts) if hasattr(k, "shape") and k.dtype.kind != "b"]
    if not arrays:  # slices, numbers and masks name no element twice
        out[key] = values
    elif len(arrays) == 1 and all(i in arrays or type(k) is slice for i, k in enumerate(parts)):
        axis = arrays[0]
        rows = out[tuple(slice(None) if i == axis else k for i, k in enumerate(parts))]
        _add_rows(xp, rows, parts[axis], values, axis)
    else:
        places = xp.arange(math.prod(shape)).reshape(shape)[key]
        xp.index_add(out.reshape(-1), places.reshape(-1), values.reshape(-1), 0)
    return out


def _per_axis(key, ndim):
    """The parts of an index, with slices for its ellipsis: one an axis, if no mask and no None is among them."""
    parts = key if isinstance(key, tuple) else (key,)
    at = next((i for i, k in enumerate(parts) if k is Ellipsis), len(parts))
    return [*parts[:at], *[slice(None)] * (ndim - len(parts) + (at < len(parts))), *parts[at + 1:]]


def _add_rows(xp, out, index, values, axis):
    """Add to `out`, at the places `index` of an axis, the slices of `values`, whose axes of `index` lie there."""
    before, after = values.shape[:axis], values.shape[axis + index.ndim:]
    xp.index_add(out, index.reshape(-1), values.reshape(*before, index.size, *after), axis)


@linear_op(lambda xp, d, _, index, axis, n: xp.take(d, index, axis=axis))
def put_rows(xp, values: Array, index: Array, axis, n):
    """Zeros with the slices of `values` added at the places `index` of an axis of size `n`: the adjoint of `take`."""
    out = xp.zeros((*values.shape[:axis], n, *values.shape[axis + index.ndim:]), values.dtype)
    _add_rows(xp, out, index, values, axis)
    return out


@linear_op(lambda xp, d, _, index, axis, n: xp.take_along_axis(d, index, axis=axis))
def put_along_axis(xp, values: Array, index: Array, axis, n):
    """Zeros with `values` written along an axis of size `n`, no place twice: the adjoint of a choice, a sort."""
    axis = axis_of(values, axis)
    out = xp.zeros((*values.shape[:axis], n, *values.shape[axis + 1:]), values.dtype)
    xp.put_along_axis(out, index, values, axis)
    return out


def picked(xp, x, index, axis):
    """``x[..., index[..., i, ...], ...]`` along an axis, on the part of `x` that `index` covers."""
    covered = tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(index.shape))
    return xp.take_along_axis(x[covered], index, axis=axis)


@linear_op(lambda xp, d, _, index, axis, shape: picked(xp, d, index, axis))
def scatter(xp, values: Array, index: Array, axis, shape):
    """Zeros of `shape` with `values` added at `index` along an axis, duplicates summed: the adjoint of `gather`."""
    out, strides = xp.zeros(shape, values.dtype), [math.prod(shape[i + 1:]) for i in range(len(shape))]
    places = index.astype("int64", copy=False) % shape[axis] * strides[axis]
    for i, n in enumerate(index.shape):
        if i != axis:
            places = places + xp.arange(n).reshape(-1, *[1] * (len(shape) - 1 - i)) * strides[i]
    xp.index_add(out.reshape(-1), places.reshape(-1), values.reshape(-1), 0)
    return out


@linear_op(lambda xp, d, _, shape, offset, axis1, axis2: xp.diagonal(d, offset, axis1, axis2))
def put_diagonal(xp, values: Array, shape, offset, axis1, axis2):
    """Zeros of `shape` with `values` on a diagonal of two axes: the adjoint of `diagonal`."""
    out = xp.zeros(shape, values.dtype)
    i = xp.arange(values.shape[-1])
    xp.moveaxis(out, (axis1, axis2), (-2, -1))[..., i + max(-offset, 0), i + max(offset, 0)] = values
    return out


@linear_op(lambda xp, d, shape, widths, value: d[inner(widths, shape)])
def pad_with(xp, x: Array, widths, value=0):
    """The array in a larger one full of `value`; `widths` is a pair (before, after) an axis."""
    out = xp.full([n + before + after for n, (before, after) in zip(x.shape, widths, strict=True)], value, x.dtype)
    out[inner(widths, x.shape)] = x
    return out


def inner(widths, shape):
    """Where an array of this shape lies in the padded one."""
    return tuple(slice(before, before + n) for (before, _), n in zip(widths, shape, strict=True))
