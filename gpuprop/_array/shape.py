"""Shapes, joining and splitting, with NumPy's names."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

from gpuprop._array.indexing import take
from gpuprop._array.scatter import axis_of, flat_without, inner, pad_with, put_rows
from gpuprop._core.dtypes import is_float
from gpuprop._core.ops import op
from gpuprop._core.signature import Array

__all__ = [
    "astype", "broadcast_to", "chunk", "concatenate", "copy", "expand_dims", "flatten", "flip",
    "moveaxis", "pad", "ravel", "repeat", "reshape", "roll", "split", "squeeze", "stack",
    "swapaxes", "tile", "transpose", "unstack",
]


@op(half="exact")
def astype(xp, x: Array, dtype):
    """The same values in another dtype; integers and bools carry no gradient."""
    before, y = x.dtype, x.astype(dtype)
    return y, (lambda d: d.astype(before),) if is_float(y.dtype) else None


@op(half="exact")
def copy(xp, x: Array):
    """The same values in memory of their own."""
    return xp.copy(x), (lambda d: d,)


# ---- the same elements in another arrangement -----------------------------------------------------------------------


@op(half="exact")
def reshape(xp, x: Array, shape):
    """The same elements in another shape; one -1 is inferred."""
    before = x.shape
    return x.reshape(shape), (lambda d: d.reshape(before),)


@op(half="exact")
def ravel(xp, x: Array):
    """All elements along one axis."""
    shape = x.shape
    return x.reshape(-1), (lambda d: d.reshape(shape),)


@op(half="exact")
def flatten(xp, x: Array, start_axis=0, end_axis=-1):
    """The axes from `start_axis` to `end_axis`, both included, as one."""
    shape = x.shape
    start, end = (axis_of(x, start_axis), axis_of(x, end_axis) + 1) if shape else (0, 0)
    if start >= end > 0:
        raise ValueError(f"flatten: axis {start_axis} of {shape} comes after axis {end_axis}")
    return x.reshape(*shape[:start], math.prod(shape[start:end]), *shape[end:]), (lambda d: d.reshape(shape),)


@op(half="exact")
def squeeze(xp, x: Array, axis=None):
    """Without axes of size 1: all of them, or those named."""
    shape = x.shape
    return xp.squeeze(x, axis), (lambda d: d.reshape(shape),)


@op(half="exact")
def expand_dims(xp, x: Array, axis):
    """A new axis of size 1 at each position named."""
    shape = x.shape
    return xp.expand_dims(x, axis), (lambda d: d.reshape(shape),)


@op(half="exact")
def transpose(xp, x: Array, axes=None):
    """Axes in the order given, or reversed."""
    axes = tuple(axis_of(x, a) for a in axes) if axes is not None else tuple(range(x.ndim))[::-1]
    inverse = sorted(range(len(axes)), key=axes.__getitem__)
    return x.transpose(axes), (lambda d: d.transpose(inverse),)


@op(half="exact")
def swapaxes(xp, x: Array, axis1, axis2):
    """Two axes exchanged."""
    return x.swapaxes(axis1, axis2), (lambda d: d.swapaxes(axis1, axis2),)


@op(half="exact")
def moveaxis(xp, x: Array, source, destination):
    """Axes moved to other positions, the others in their order."""
    return xp.moveaxis(x, source, destination), (lambda d: xp.moveaxis(d, destination, source),)


@op(half="exact")
def flip(xp, x: Array, axis=None):
    """Elements in reverse order along axes, or along all."""
    return xp.flip(x, axis), (lambda d: xp.flip(d, axis),)


@op(half="exact")
def roll(xp, x: Array, shift, axis=None):
    """Elements moved along axes; what leaves at the end comes in at the start."""
    back = tuple(-s for s in shift) if isinstance(shift, tuple | list) else -shift
    return xp.roll(x, shift, axis), (lambda d: xp.roll(d, back, axis),)


# ---- more elements --------------------------------------------------------------------------------------------------


@op(half="exact")
def broadcast_to(xp, x: Array, shape):
    """The array repeated, without memory, to a shape it broadcasts to."""
    return xp.broadcast_to(x, shape), (lambda d: d,)


@op
def tile(xp, x: Array, reps):
    """The array beside itself, `reps` times along each axis."""
    shape, reps = x.shape, tuple(reps) if isinstance(reps, tuple | list) else (reps,)
    ndim = max(len(shape), len(reps))
    pairs = zip((1,) * (ndim - len(reps)) + reps, (1,) * (ndim - len(shape)) + shape, strict=True)
    apart = tuple(n for pair in pairs for n in pair)
    return xp.tile(x, reps), (lambda d: d.reshape(apart).sum(axis=tuple(range(0, 2 * ndim, 2))).reshape(shape),)


@op
def repeat(xp, x: Array, repeats, axis=None):
    """Each element `repeats` times in a row, along an axis or of the flat array; a sequence says how often each."""
    shape = x.shape
    flat, axis = flat_without(x, axis)
    n, before, after = flat.shape[axis], flat.shape[:axis], flat.shape[axis + 1:]
    if isinstance(repeats, int):
        back = lambda d: d.reshape(*before, n, repeats, *after).sum(axis=axis + 1).reshape(shape)
    else:
        back = lambda d: put_rows.on(xp, d, xp.repeat(xp.arange(n), repeats), axis=axis, n=n).reshape(shape)
    return xp.repeat(flat, repeats, axis=axis), (back,)


@op(half="exact")
def pad(xp, array: Array, pad_width, mode="constant", constant_values=0):
    """More elements before and after along each axis: a constant number, or elements of the array.

    `pad_width` is a number, a pair (before, after) or a pair an axis; `mode` is "constant", "edge", "reflect",
    "symmetric" or "wrap".
    """
    shape, widths = array.shape, _pairs(pad_width, array.ndim)
    if mode == "constant":
        return pad_with.on(xp, array, widths=widths, value=constant_values), (lambda d: d[inner(widths, shape)],)
    y, backs = array, []
    for axis, (before, after) in enumerate(widths):
        if before or after:
            y, (back, _) = take.fn(xp, y, _places(xp, mode, shape[axis], before, after), axis)
            backs.append(back)
    return y, (lambda d: functools.reduce(lambda d, back: back(d), backs[::-1], d),)


def _pairs(width, ndim):
    """NumPy's ways of saying how far to pad, as a pair an axis."""
    if isinstance(width, int):
        return ((width, width),) * ndim
    if all(isinstance(w, int) for w in width):
        return ((width[0], width[-1]),) * ndim
    if len(width) not in (1, ndim):
        raise ValueError(f"pad: {len(width)} pairs for an array of {ndim} axes")
    return tuple((w[0], w[-1]) for w in width) * (ndim if len(width) == 1 else 1)


def _places(xp, mode, n, before, after):
    """Which elements of an axis of size `n` the padded one consists of."""
    if n == 0:
        raise ValueError(f"pad: an axis is empty, so mode {mode!r} has no element to pad it with")
    places = xp.arange(-before, n + after)
    if mode == "edge":
        return xp.clip(places, 0, n - 1)
    if mode == "wrap":
        return places % n
    if mode == "symmetric":
        return xp.minimum(places % (2 * n), 2 * n - 1 - places % (2 * n))
    if mode == "reflect":
        return n - 1 - xp.abs(places % max(2 * n - 2, 1) - (n - 1))
    raise ValueError(f"pad: mode {mode!r} is none of constant, edge, reflect, symmetric, wrap")


# ---- joining and splitting ------------------------------------------------------------------------------------------


def _check(name, arrays):
    if not arrays or not all(hasattr(a, "shape") for a in arrays):
        raise TypeError(f"{name} takes a sequence of arrays, at least one, and no numbers")


@op(half="exact")
def concatenate(xp, *arrays: Array, axis=0):
    """Arrays joined along an existing axis."""
    _check("concatenate", arrays)
    lead, sizes = (slice(None),) * axis_of(arrays[0], axis), [a.shape[axis] for a in arrays]
    cut = lambda end, n: lambda d: d[(*lead, slice(end - n, end))]
    return xp.concatenate(arrays, axis=axis), tuple(map(cut, itertools.accumulate(sizes), sizes))


@op(half="exact")
def stack(xp, *arrays: Array, axis=0):
    """Arrays of one shape joined along a new axis."""
    _check("stack", arrays)
    lead = (slice(None),) * (axis % (arrays[0].ndim + 1))
    cut = lambda i: lambda d: d[(*lead, i)]
    return xp.stack(arrays, axis=axis), tuple(map(cut, range(len(arrays))))


@op(half="exact")
def unstack(xp, x: Array, axis=0):
    """The slices of an axis, without it."""
    lead = (slice(None),) * axis_of(x, axis)
    return tuple(x[(*lead, i)] for i in range(x.shape[axis])), lambda d: (xp.stack(d, axis=axis),)


@op(half="exact")
def split(xp, ary: Array, indices_or_sections, axis=0):
    """So many equal parts of an axis, or the parts between the places named."""
    lead, n = (slice(None),) * axis_of(ary, axis), ary.shape[axis]
    if isinstance(indices_or_sections, int):
        if n % indices_or_sections:
            raise ValueError(f"split: an axis of size {n} has no {indices_or_sections} equal parts; see chunk")
        ends = [n // indices_or_sections * i for i in range(1, indices_or_sections)]
    else:
        ends = [min(max(i + n, 0) if i < 0 else i, n) for i in indices_or_sections]
        if ends != sorted(ends):
            raise ValueError(f"split: the places {list(indices_or_sections)} do not ascend, so the parts would overlap")
    parts = tuple(ary[(*lead, slice(start, end))] for start, end in itertools.pairwise([0, *ends, n]))
    return parts, lambda d: (xp.concatenate(d, axis=axis),)


def chunk(x: Any, chunks: int, axis: int = 0) -> Any:
    """At most `chunks` parts of an axis of one size, the last one what is left: a tuple."""
    n = x.shape[axis]
    size = math.ceil(n / chunks) or 1
    return split(x, list(range(size, n, size)), axis)
