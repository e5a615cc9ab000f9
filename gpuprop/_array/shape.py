"""Shapes, joining and splitting, with NumPy's names."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gpuprop._array.indexing import take
from gpuprop._array.scatter import (
    flat_if_none,
    inner_slices,
    normalize_axis,
    pad_with,
    put_rows,
)
from gpuprop._core.checks import as_integer
from gpuprop._core.composed import checks_arguments
from gpuprop._core.dtypes import as_dtype, converted, is_float
from gpuprop._core.ops import called_as, op
from gpuprop._core.options import as_sizes
from gpuprop._core.signature import Array

__all__ = [
    "astype",
    "broadcast_to",
    "chunk",
    "concatenate",
    "copy",
    "expand_dims",
    "flatten",
    "flip",
    "moveaxis",
    "pad",
    "ravel",
    "repeat",
    "reshape",
    "roll",
    "split",
    "squeeze",
    "stack",
    "swapaxes",
    "tile",
    "transpose",
    "unstack",
]

INTEGERS = (int, np.integer)


@op(half="exact")
def astype(xp, x: Array, dtype: Any):
    """`x` converted to another dtype; no gradient passes a conversion to integers or bools."""
    old = x.dtype
    y = converted(x, as_dtype(dtype))
    return y, (lambda d: converted(d, old),) if is_float(y.dtype) else None


@op(half="exact")
def copy(xp, x: Array):
    """A copy of `x`."""
    return xp.copy(x), (lambda d: d,)


# ---- the same elements in another arrangement --------------------------------------------------


@op(half="exact")
def reshape(xp, x: Array, shape: int | Sequence[int]):
    """The same elements in another shape; one size may be -1, which is inferred."""
    old = x.shape
    if (shape if isinstance(shape, int) else min(shape, default=0)) < -1:
        raise ValueError(f"reshape: a size must be at least 0, or -1 once, got {shape}")
    return x.reshape(shape), (lambda d: d.reshape(old),)


@op(half="exact")
def ravel(xp, x: Array):
    """`x` flattened to one axis."""
    shape = x.shape
    return x.reshape(-1), (lambda d: d.reshape(shape),)


@op(half="exact")
def flatten(xp, x: Array, start_axis: int = 0, end_axis: int = -1):
    """`x` with the axes from `start_axis` to `end_axis`, both included, merged into one.

    >>> import gpuprop
    >>> gpuprop.flatten(gpuprop.ones((2, 3, 4)), start_axis=1).shape
    (2, 12)
    """
    shape = x.shape
    start, stop = 0, 0
    if shape:
        start = normalize_axis(x, start_axis)
        stop = normalize_axis(x, end_axis) + 1
        if start >= stop:
            raise ValueError(f"flatten: start_axis {start_axis} comes after end_axis {end_axis} "
                             f"in shape {shape}")
    merged = math.prod(shape[start:stop])
    y = x.reshape(*shape[:start], merged, *shape[stop:])
    return y, (lambda d: d.reshape(shape),)


@op(half="exact")
def squeeze(xp, x: Array, axis: int | tuple[int, ...] | None = None):
    """`x` without the given axes, which must have size 1, or without all axes of size 1."""
    shape = x.shape
    return xp.squeeze(x, axis), (lambda d: d.reshape(shape),)


@op(half="exact")
def expand_dims(xp, x: Array, axis: int | tuple[int, ...]):
    """`x` with a new axis of size 1 at each given position."""
    shape = x.shape
    return xp.expand_dims(x, axis), (lambda d: d.reshape(shape),)


@op(half="exact")
def transpose(xp, x: Array, axes: Sequence[int] | None = None):
    """`x` with its axes in the given order, or reversed."""
    if axes is None:
        axes = range(x.ndim)[::-1]
    axes = tuple(normalize_axis(x, axis) for axis in axes)
    inverse = sorted(range(len(axes)), key=axes.__getitem__)
    return x.transpose(axes), (lambda d: d.transpose(inverse),)


@op(half="exact")
def swapaxes(xp, x: Array, axis1: int, axis2: int):
    """`x` with two axes exchanged."""
    return x.swapaxes(axis1, axis2), (lambda d: d.swapaxes(axis1, axis2),)


@op(half="exact")
def moveaxis(xp, x: Array, source: int | Sequence[int], destination: int | Sequence[int]):
    """`x` with axes moved to other positions; the other axes keep their order."""
    return xp.moveaxis(x, source, destination), (lambda d: xp.moveaxis(d, destination, source),)


@op(half="exact")
def flip(xp, x: Array, axis: int | tuple[int, ...] | None = None):
    """`x` with its elements in reverse order along the given axes, or along all."""
    return xp.flip(x, axis), (lambda d: xp.flip(d, axis),)


@op(half="exact")
def roll(xp, x: Array, shift: int | tuple[int, ...], axis: int | tuple[int, ...] | None = None):
    """`x` with elements shifted cyclically along axes, in flattened order if `axis` is None."""
    shift = as_sizes("roll: shift", shift)
    back = tuple(-s for s in shift) if isinstance(shift, tuple | list) else -shift
    return xp.roll(x, shift, axis), (lambda d: xp.roll(d, back, axis),)


# ---- more elements -----------------------------------------------------------------------------


@op(half="exact")
def broadcast_to(xp, x: Array, shape: int | Sequence[int]):
    """`x` broadcast to a shape, as a view."""
    return xp.broadcast_to(x, shape), (lambda d: d,)


@op
def tile(xp, x: Array, reps: int | Sequence[int]):
    """`x` repeated as a whole, `reps` times along each axis: PyTorch's ``x.repeat(*reps)``."""
    shape = x.shape
    counts = tuple(reps) if isinstance(reps, tuple | list) else (reps,)
    ndim = max(len(shape), len(counts))
    all_counts = (1,) * (ndim - len(counts)) + counts
    sizes = (1,) * (ndim - len(shape)) + shape
    copies = [n for pair in zip(all_counts, sizes, strict=True) for n in pair]
    copy_axes = tuple(range(0, 2 * ndim, 2))
    return xp.tile(x, counts), (lambda d: d.reshape(copies).sum(axis=copy_axes).reshape(shape),)


@op
def repeat(xp, x: Array, repeats: int | Sequence[int], axis: int | None = None):
    """Each element repeated along an axis; if `axis` is None, `x` is flattened first.

    If `repeats` is a sequence, it has one count per position.  This is PyTorch's
    `repeat_interleave`.

    >>> import gpuprop
    >>> gpuprop.repeat(gpuprop.tensor([1, 2]), 2).tolist()
    [1, 1, 2, 2]
    """
    repeats = as_sizes("repeat: repeats", repeats, 0)
    shape = x.shape
    flat, axis = flat_if_none(x, axis)
    n = flat.shape[axis]
    before = flat.shape[:axis]
    after = flat.shape[axis + 1:]

    def x_grad(d):
        if isinstance(repeats, INTEGERS):
            dx = d.reshape(*before, n, repeats, *after).sum(axis=axis + 1)
        else:
            source = xp.repeat(xp.arange(n), repeats)
            dx = put_rows.on(xp, d, source, axis=axis, n=n)
        return dx.reshape(shape)

    return xp.repeat(flat, repeats, axis=axis), (x_grad,)


@op(half="exact")
def pad(xp, array: Array, pad_width: Any, mode: str = "constant", constant_values: float = 0):
    """`array` with elements added before and after along each axis.

    `pad_width` is an int, a pair (before, after) or a pair per axis.  `mode` is "constant", "edge",
    "reflect", "symmetric" or "wrap", as in NumPy.

    >>> import gpuprop
    >>> x = gpuprop.tensor([1, 2, 3])
    >>> gpuprop.pad(x, (1, 2)).tolist()
    [0, 1, 2, 3, 0, 0]
    >>> gpuprop.pad(x, 1, mode="reflect").tolist()
    [2, 1, 2, 3, 2]
    """
    shape = array.shape
    widths = _pairs_per_axis(pad_width, array.ndim)
    if mode == "constant":
        y = pad_with.on(xp, array, widths=widths, value=constant_values)
        return y, (lambda d: d[inner_slices(widths, shape)],)
    y = array
    pullbacks = []
    for axis, (before, after) in enumerate(widths):
        if before or after:
            indices = _padded_indices(xp, mode, shape[axis], before, after)
            y, (pullback, _) = take.fn(xp, y, indices, axis)
            pullbacks.append(pullback)
    return y, (lambda d: functools.reduce(lambda d, pullback: pullback(d), pullbacks[::-1], d),)


def _pairs_per_axis(width, ndim):
    """Any form of NumPy's `pad_width` as a pair (before, after) per axis."""
    if isinstance(width, INTEGERS):
        return ((width, width),) * ndim
    try:
        if all(isinstance(w, INTEGERS) for w in width):
            return ((width[0], width[-1]),) * ndim
        pairs = tuple((w[0], w[-1]) for w in width)
    except (TypeError, LookupError):
        pairs = ((None,),)
    if not all(isinstance(i, INTEGERS) for pair in pairs for i in pair):
        raise TypeError(f"pad: pad_width must be an integer, a pair (before, after) or a pair per "
                        f"axis, got {width!r}")
    if len(pairs) not in (1, ndim):
        raise ValueError(f"pad: pad_width has {len(pairs)} pairs for an array with {ndim} axes")
    return pairs * (ndim if len(pairs) == 1 else 1)


def _padded_indices(xp, mode, n, before, after):
    """The indices along an axis of size `n` that make up the padded axis."""
    if n == 0:
        raise ValueError(f"pad: mode {mode!r} cannot pad an empty axis")
    indices = xp.arange(-before, n + after)
    if mode == "edge":
        return xp.clip(indices, 0, n - 1)
    if mode == "wrap":
        return indices % n
    if mode == "symmetric":
        return xp.minimum(indices % (2 * n), 2 * n - 1 - indices % (2 * n))
    if mode == "reflect":
        return n - 1 - xp.abs(indices % max(2 * n - 2, 1) - (n - 1))
    raise ValueError(f"pad: mode must be constant, edge, reflect, symmetric or wrap, got {mode!r}")


# ---- joining and splitting ---------------------------------------------------------------------


def _check_arrays(name, arrays):
    if not arrays or not all(hasattr(a, "shape") for a in arrays):
        raise TypeError(f"{name}: arrays must be a sequence of at least one array, without numbers")


def _joining(arrays: Iterable[Any], axis: int = 0, *, dim: int | None = None) -> Any:
    """The signature of `concatenate` and `stack`, for type checkers."""


@called_as(_joining)
@op(promote=True, half="exact")
def concatenate(xp, *arrays: Array, axis: int = 0):
    """A sequence of arrays joined along an existing axis.

    >>> import gpuprop
    >>> gpuprop.concatenate([gpuprop.zeros((2, 3)), gpuprop.ones((2, 1))], axis=1).tolist()
    [[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
    """
    _check_arrays("concatenate", arrays)
    leading = (slice(None),) * normalize_axis(arrays[0], axis)
    sizes = [a.shape[axis] for a in arrays]

    def pullback(stop, n):
        return lambda d: d[(*leading, slice(stop - n, stop))]

    pullbacks = tuple(map(pullback, itertools.accumulate(sizes), sizes))
    return xp.concatenate(arrays, axis=axis), pullbacks


@called_as(_joining)
@op(promote=True, half="exact")
def stack(xp, *arrays: Array, axis: int = 0):
    """A sequence of arrays of equal shape joined along a new axis.

    >>> import gpuprop
    >>> gpuprop.stack([gpuprop.zeros(2), gpuprop.ones(2)], axis=1).tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    _check_arrays("stack", arrays)
    leading = (slice(None),) * (axis % (arrays[0].ndim + 1))

    def pullback(i):
        return lambda d: d[(*leading, i)]

    return xp.stack(arrays, axis=axis), tuple(map(pullback, range(len(arrays))))


@op(half="exact")
def unstack(xp, x: Array, axis: int = 0):
    """A tuple of the slices of `x` along an axis, without that axis."""
    leading = (slice(None),) * normalize_axis(x, axis)
    slices = tuple(x[(*leading, i)] for i in range(x.shape[axis]))
    return slices, lambda d: (xp.stack(d, axis=axis),)


@op(half="exact")
def split(xp, ary: Array, indices_or_sections: int | Sequence[int], axis: int = 0):
    """A tuple of parts of `ary` along an axis.

    An int is the number of parts of equal size; a sequence contains the indices at which parts
    begin.  (PyTorch's ``x.split(sizes)`` is a method of Tensor.)

    >>> import gpuprop
    >>> [part.tolist() for part in gpuprop.split(gpuprop.arange(5), [2, 3])]
    [[0, 1], [2], [3, 4]]
    """
    leading = (slice(None),) * normalize_axis(ary, axis)
    n = ary.shape[axis]
    if isinstance(indices_or_sections, INTEGERS):
        sections = as_integer("split: indices_or_sections", indices_or_sections, 1)
        if n % sections:
            raise ValueError(f"split: an axis of size {n} cannot be split into {sections} equal "
                             f"parts; see chunk")
        cuts = [n // sections * i for i in range(1, sections)]
    else:
        indices = as_sizes("split: indices_or_sections", indices_or_sections)
        cuts = [min(max(i + n, 0) if i < 0 else i, n) for i in indices]
        if cuts != sorted(cuts):
            raise ValueError(f"split: indices must be in ascending order, got {indices}")
    bounds = itertools.pairwise([0, *cuts, n])
    parts = tuple(ary[(*leading, slice(start, stop))] for start, stop in bounds)
    return parts, lambda d: (xp.concatenate(d, axis=axis),)


@checks_arguments
def chunk(x: Array, chunks: int, axis: int = 0) -> tuple[Any, ...]:
    """A tuple of at most `chunks` parts along an axis, of equal size except for the last.

    >>> import gpuprop
    >>> [part.tolist() for part in gpuprop.chunk(gpuprop.arange(5), 2)]
    [[0, 1, 2], [3, 4]]
    """
    n = x.shape[axis]
    size = math.ceil(n / chunks) or 1
    return split(x, list(range(size, n, size)), axis)
