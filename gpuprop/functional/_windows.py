"""Sliding windows over the last axes of an array, in any number of dimensions.

`windows` returns a view of them, `fold_windows` is its adjoint, and `window_sum` adds up each
window.  `size` is the size of a window, and `counts` the number of windows along each axis.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from gpuprop._array.scatter import inner_slices, pad_with
from gpuprop._core.checks import as_integer
from gpuprop._core.dtypes import HALF, cast, widened
from gpuprop._core.ops import linear_op
from gpuprop._core.signature import Array

Sizes = int | Sequence[int]
SPATIAL_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}


# ---- ops ---------------------------------------------------------------------------------------


def windows_adjoint(xp, d, shape, size, counts, stride, dilation):
    space = shape[-len(size):]
    return fold_windows.on(xp, d, shape=space, stride=stride, dilation=dilation)


@linear_op(windows_adjoint)
def windows(xp, x: Array, size, counts, stride, dilation):
    """A view of the windows: (..., *space) -> (..., *size, *counts)."""
    lead = x.ndim - len(size)
    reach = extent(size, dilation)
    needed = [(c - 1) * s + k for c, s, k in zip(counts, stride, reach, strict=True)]
    if any(map(operator.gt, needed, x.shape[lead:])):  # the view would leave the array's memory
        raise ValueError(f"windows: {counts} windows of size {size} need a space of {needed}, "
                         f"but the input has shape {x.shape}")
    strides = x.strides[:lead]
    steps = x.strides[lead:]
    return xp.lib.stride_tricks.as_strided(
        x,
        (*x.shape[:lead], *size, *counts),
        (*strides, *map(operator.mul, steps, dilation), *map(operator.mul, steps, stride)))


def fold_windows_adjoint(xp, d, windows_shape, shape, stride, dilation):
    n = len(shape)
    size = windows_shape[-2 * n:-n]
    counts = windows_shape[-n:]
    return windows.on(xp, d, size=size, counts=counts, stride=stride, dilation=dilation)


@linear_op(fold_windows_adjoint)
def fold_windows(xp, x: Array, shape, stride, dilation):
    """The sum of overlapping windows: (..., *size, *counts) -> (..., *shape).

    The adjoint of `windows`.
    """
    n = len(shape)
    size = x.shape[-2 * n:-n]
    counts = x.shape[-n:]
    out = xp.zeros((*x.shape[:-2 * n], *shape), "float32" if x.dtype.char in HALF else x.dtype)
    every_window = (slice(None),) * n
    for offset in itertools.product(*map(range, size)):
        part = out[(..., *window_slices(offset, counts, stride, dilation))]
        part += x[(..., *offset, *every_window)]
    return cast(out, x.dtype)


def window_sum_adjoint(xp, d, shape, size, counts, stride, dilation):
    lead = d.shape[:-len(size)]
    d = d.reshape(*lead, *(1,) * len(size), *counts)
    d = xp.broadcast_to(d, (*lead, *size, *counts))
    return windows_adjoint(xp, d, shape, size, counts, stride, dilation)


@linear_op(window_sum_adjoint)
def window_sum(xp, x: Array, size, counts, stride, dilation):
    """The sum of each window: (..., *space) -> (..., *counts).

    Several times faster than ``windows(...).sum(...)`` over the axes of `size`.
    """
    first, *others = itertools.product(*map(range, size))
    out = xp.copy(widened(x[(..., *window_slices(first, counts, stride, dilation))]))
    for offset in others:
        out += x[(..., *window_slices(offset, counts, stride, dilation))]
    return cast(out, x.dtype)


def window_slices(offset: Sequence[int], counts: Sequence[int], stride: Sequence[int],
                  dilation: Sequence[int]) -> tuple[slice, ...]:
    """Slices that select the element at one offset inside of every window."""
    return tuple(slice(i * d, i * d + s * n, s)
                 for i, n, s, d in zip(offset, counts, stride, dilation, strict=True))


def zero_pad(xp, x, padding):
    """(N, C, *space) padded with zeros: `padding` has (before, after) per spatial dimension."""
    if not any(map(any, padding)):
        return x
    return pad_with.on(xp, x, widths=((0, 0), (0, 0), *padding))


def crop(x, padding, space):
    """`x` without its padding: the adjoint of `zero_pad`."""
    if not any(map(any, padding)):
        return x
    return x[(..., *inner_slices(padding, space))]


# ---- sizes -------------------------------------------------------------------------------------


def extent(size: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """The space that a dilated window covers: ``dilation * (size - 1) + 1``."""
    return tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))


def window_counts(name: str, space: Sequence[int], size: Sequence[int], stride: Sequence[int],
                  padding: Sequence[tuple[int, int]], dilation: Sequence[int]) -> tuple[int, ...]:
    """The number of windows that fit into the padded space; ValueError if none does."""
    padded = [n + before + after for n, (before, after) in zip(space, padding, strict=True)]
    reach = extent(size, dilation)
    if not all(size):
        raise ValueError(f"{name}: kernel size {tuple(size)} must be positive")
    if any(map(operator.gt, reach, padded)):
        raise ValueError(f"{name}: a kernel of extent {reach} does not fit into the padded input "
                         f"of size {tuple(padded)}")
    return tuple((n - k) // s + 1 for n, k, s in zip(padded, reach, stride, strict=True))


MAX_ELEMENTS = 2**40  # several terabytes


def check_memory(name: str, sizes: Sequence[int]) -> None:
    """Raise ValueError for an output that no memory holds, before work is done for it."""
    if math.prod(sizes) > MAX_ELEMENTS:
        raise ValueError(f"{name}: the output size {tuple(sizes)} has {math.prod(sizes):.1e} "
                         f"elements, more than any memory holds")


# ---- arguments ---------------------------------------------------------------------------------


def as_batch(name: str, input: Any, n: int) -> tuple[Any, Callable[[Any], Any]]:
    """`input` with a batch axis, and a function that removes this axis from the output again."""
    if input.ndim == n + 2:
        return input, lambda y: y
    if input.ndim == n + 1:
        return input[None], lambda y: y[0]
    axes = SPATIAL_AXES[n]
    raise ValueError(f"{name}: input must have shape (N, C, {axes}) or (C, {axes}), "
                     f"not {input.shape}")


def int_tuple(name: str, parameter: str, value: Any, n: int, least: int = 1) -> tuple[int, ...]:
    """`n` ints from one int or a sequence of `n`; ValueError for an int below `least`."""
    if type(value) is int and value >= least:
        return (value,) * n
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
    given = tuple(value) if is_sequence else (value,)
    expected = f"an int or a sequence of length {n}"
    try:
        given = tuple(as_integer(parameter, v) for v in given)
    except TypeError:
        raise TypeError(f"{name}: {parameter} must be {expected}, not {value!r}") from None
    if len(given) not in (1, n):
        raise ValueError(f"{name}: {parameter} must be {expected}, not {value!r}")
    if min(given) < least:
        raise ValueError(f"{name}: {parameter} must be at least {least}, not {value!r}")
    return given * (n // len(given))
