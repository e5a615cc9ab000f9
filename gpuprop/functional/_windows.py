"""Windows on the last axes of an array, in any number of dimensions: a view of them, its adjoint, and their words."""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

from gpuprop._array.scatter import inner, pad_with
from gpuprop._core.backend import SEVERAL
from gpuprop._core.dtypes import HALF, widened
from gpuprop._core.ops import linear_op
from gpuprop._core.placement import on_device_of
from gpuprop._core.signature import Array

Sizes = int | Sequence[int]
AXES = {1: "L", 2: "H, W", 3: "D, H, W"}


# ---- what moves -----------------------------------------------------------------------------------------------------


def added_back(xp, d, shape, size, counts, stride, dilation):
    """The adjoint of `windows`."""
    return overlap.on(xp, d, shape=shape[-len(size):], stride=stride, dilation=dilation)


@linear_op(added_back)
def windows(xp, x: Array, size, counts, stride, dilation):
    """`counts` windows of `size` on the last axes, without a copy: (..., *space) -> (..., *size, *counts)."""
    lead = x.ndim - len(size)
    reach = [(c - 1) * s + k for c, s, k in zip(counts, stride, extent(size, dilation), strict=True)]
    if any(map(operator.gt, reach, x.shape[lead:])):  # there is other memory behind
        raise ValueError(f"windows: {counts} of {size} reach over {reach}, which is more than there is of {x.shape}")
    strides, space = x.strides[:lead], x.strides[lead:]
    return xp.lib.stride_tricks.as_strided(
        x, (*x.shape[:lead], *size, *counts),
        (*strides, *map(operator.mul, space, dilation), *map(operator.mul, space, stride)))


@linear_op(lambda xp, d, given, shape, stride, dilation: windows.on(
    xp, d, size=given[-2 * len(shape):-len(shape)],
    counts=given[-len(shape):], stride=stride, dilation=dilation))
def overlap(xp, x: Array, shape, stride, dilation):
    """Windows added where they lie in zeros: (..., *size, *counts) -> (..., *shape), the adjoint of `windows`."""
    n = len(shape)
    size, counts = x.shape[-2 * n:-n], x.shape[-n:]
    out = xp.zeros((*x.shape[:-2 * n], *shape), "float32" if x.dtype.char in HALF else x.dtype)
    for place in itertools.product(*map(range, size)):
        part = out[(..., *every(place, counts, stride, dilation))]
        part += x[(..., *place, *(slice(None),) * n)]
    return out.astype(x.dtype, copy=False)


@linear_op(lambda xp, d, shape, size, counts, stride, dilation: added_back(
    xp, xp.broadcast_to(d.reshape(*d.shape[:-len(size)], *(1,) * len(size), *counts),
                        (*d.shape[:-len(size)], *size, *counts)), shape, size, counts, stride, dilation))
def totals(xp, x: Array, size, counts, stride, dilation):
    """The sum of each window: (..., *space) -> (..., *counts); several times faster than that of `windows`."""
    first, *others = itertools.product(*map(range, size))
    out = xp.copy(widened(x[(..., *every(first, counts, stride, dilation))]))
    for place in others:
        out += x[(..., *every(place, counts, stride, dilation))]
    return out.astype(x.dtype, copy=False)


def every(place: Sequence[int], counts: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> tuple:
    """The elements at one place of all windows, as slices."""
    return tuple(slice(i * d, i * d + s * n, s) for i, n, s, d in zip(place, counts, stride, dilation, strict=True))


def padded(xp, x, padding):
    """(N, C, *space) with zeros around: a pair (before, after) for each axis of space."""
    return pad_with.on(xp, x, widths=((0, 0), (0, 0), *padding)) if any(map(any, padding)) else x


def cropped(x, padding, space):
    """What lies inside of the padding: the adjoint of `padded`."""
    return x[(..., *inner(padding, space))] if any(map(any, padding)) else x


# ---- how many -------------------------------------------------------------------------------------------------------


def extent(size: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """How far a window reaches."""
    return tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))


def fit(what: str, space: Sequence[int], size: Sequence[int], stride: Sequence[int],
        padding: Sequence[tuple[int, int]], dilation: Sequence[int]) -> tuple[int, ...]:
    """How many windows lie in a padded space; ValueError if it is smaller than one."""
    room = [n + sum(p) for n, p in zip(space, padding, strict=True)]
    reach = extent(size, dilation)
    if any(map(operator.gt, reach, room)) or not all(size):
        raise ValueError(f"{what}: a kernel that reaches over {reach} does not fit into the padded input {tuple(room)}")
    return tuple((n - k) // s + 1 for n, k, s in zip(room, reach, stride, strict=True))


def spatial(what: str, input: Any, n: int) -> tuple[Any, Callable]:
    """`input` with an axis of samples, and what takes it away from the output where there was none."""
    if input.ndim == n + 2:
        return input, lambda y: y
    if input.ndim == n + 1:
        return input[None], lambda y: y[0]
    raise ValueError(f"{what}: input is (N, C, {AXES[n]}) or (C, {AXES[n]}), not of shape {input.shape}")


# ---- the words ------------------------------------------------------------------------------------------------------


def numbers(what: str, name: str, value: Any, n: int, least: int = 1) -> tuple[int, ...]:
    """A number for each of `n` axes, from one for all or a sequence; ValueError for less than `least`."""
    given = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if not all(hasattr(v, "__index__") for v in given):
        raise TypeError(f"{what}: {name} is an integer or {n} of them, not {value!r}")
    if len(given) not in (1, n):
        raise ValueError(f"{what}: {name} is one number or {n}, one an axis of space, not {value!r}")
    if min(given) < least:
        raise ValueError(f"{what}: {name} must be at least {least}, not {value!r}")
    return tuple(map(operator.index, given * (n // len(given))))


def spelled(fn: Callable, *dimensions: int) -> list[Any]:
    """``fn(n, what, ...)``, for n axes of space, as a public function for each n, with n for "n" in its name."""
    def spell(n: int) -> Callable:
        name = fn.__name__.replace("nd", f"{n}d")
        own = FunctionType(fn.__code__, fn.__globals__, name, fn.__defaults__)
        own.__qualname__ = name  # which Python's own messages say

        def call(*args: Any, **kwargs: Any) -> Any:
            if not SEVERAL:
                return own(n, name, *args, **kwargs)
            with on_device_of((*args, *kwargs.values())):
                return own(n, name, *args, **kwargs)

        signature = inspect.signature(fn)
        call.__signature__ = signature.replace(parameters=[*signature.parameters.values()][2:])  # type: ignore
        call.__name__ = call.__qualname__ = name
        call.__module__, call.__doc__ = fn.__module__, (fn.__doc__ or "").replace("*space", AXES[n])
        return call

    return [spell(n) for n in dimensions]


