"""Pooling, each kind once, for any number of dimensions.

A maximum is sought among *places*: a table of the positions, in an image's flat space, that each window has.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpuprop._array.activation import relu
from gpuprop._array.indexing import take
from gpuprop._array.mathematics import abs, sign
from gpuprop._array.scatter import inner, pad_with, put_along_axis, scatter
from gpuprop._array.shape import pad
from gpuprop._core.composed import composed
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.placement import place_of
from gpuprop._core.registry import making_on
from gpuprop._core.signature import Array
from gpuprop.functional._windows import Sizes, every, extent, numbers, spatial, spelled, totals
from gpuprop.random import NOISE, Generator, default_generator


class Windows(NamedTuple):
    """Where windows lie: how large, how many and how far apart along each axis; `padding` is (before, after)."""

    size: tuple[int, ...]
    counts: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]


def lay(what: str, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Windows:
    """The windows of (N, C, *space); with `ceil_mode` one more where some of it lies in the image or before it."""
    n, space = x.ndim - 2, x.shape[2:]
    size = numbers(what, "kernel_size", kernel_size, n)
    stride = steps(what, stride, size)
    before, dilation = numbers(what, "padding", padding, n, 0), numbers(what, "dilation", dilation, n)
    reach = extent(size, dilation)
    if any(2 * p > k for p, k in zip(before, reach, strict=True)):
        raise ValueError(f"{what}: padding {before} is more than half of the kernel, which reaches over {reach}")
    counts = []
    for length, k, s, p in zip(space, reach, stride, before, strict=True):
        count = (length + 2 * p - k + (s - 1 if ceil_mode else 0)) // s + 1
        counts.append(count - (ceil_mode and (count - 1) * s >= length + p))
    if not all(space) or min(counts) < 1:
        raise ValueError(f"{what}: a kernel that reaches over {reach} does not fit into input {x.shape} "
                         f"padded by {before}")
    after = [max(0, (c - 1) * s + k - length - p)
             for c, s, k, length, p in zip(counts, stride, reach, space, before, strict=True)]
    return Windows(size, tuple(counts), stride, tuple(zip(before, after, strict=True)), dilation)


def steps(what: str, stride: Any, size: tuple[int, ...]) -> tuple[int, ...]:
    """The stride, by default one window beside the other."""
    return size if stride in (None, (), []) else numbers(what, "stride", stride, len(size))


# ---- the largest ----------------------------------------------------------------------------------------------------


def along(xp, n, size, count, stride, padding, dilation):
    """The places of windows along an axis of size n: (count, size); for one beyond an end, the window's next within."""
    first = (xp.arange(count) * stride - padding[0])[:, None]
    low, high = xp.where(first < 0, first % dilation, first), n - 1 - (n - 1 - first) % dilation
    return xp.minimum(xp.maximum(first + xp.arange(size) * dilation, low), high)


def together(axes, space):
    """Places (..., count, size) along each axis as places in flat space: (..., counts, sizes)."""
    n, flat = len(space), 0
    for i, place in enumerate(axes):
        *lead, count, size = place.shape
        flat = flat * space[i] + place.reshape(*lead, *(1,) * i, count, *(1,) * (n - 1), size, *(1,) * (n - 1 - i))
    split = len(flat.shape) - n
    return flat.reshape(*lead, math.prod(flat.shape[split - n:split]), math.prod(flat.shape[split:]))


@op
def max_at(xp, input: Array, places: Array, counts):
    """The largest of each window's elements, the first of equals, and its place: two of (N, C, *counts).

    (N, C, *space), and places in its flat space: (windows, size), or (N, C, windows, size).
    """
    n, c, *space = shape = input.shape
    flat, many = input.reshape(n, c, math.prod(space)), math.prod(counts)
    places = xp.broadcast_to(places, (n, c, *places.shape[-2:]))
    each = xp.take_along_axis(flat, places.reshape(n, c, many * places.shape[-1]), axis=2)
    best = xp.argmax(each.reshape(places.shape), axis=3)
    best = xp.take_along_axis(places, best[..., None], axis=3).reshape(n, c, many)
    y, flat_shape = xp.take_along_axis(flat, best, axis=2), flat.shape
    return (y.reshape(n, c, *counts), best.reshape(n, c, *counts)), lambda d: (
        scatter.on(xp, d[0].reshape(n, c, many), best, axis=2, shape=flat_shape).reshape(shape), None)


@op
def max_in(xp, input: Array, size, counts, stride, padding, dilation, indices):
    """The largest of each window of (N, C, *space), and with `indices` its place in flat space: (N, C, *counts)."""
    space = input.shape[2:]
    axes = [along(xp, *words) for words in zip(space, size, counts, stride, padding, dilation, strict=True)]
    outputs, back = max_at.fn(xp, input, together(axes, space), counts)
    return (outputs, lambda d: back(d)[:1]) if indices else (outputs[0], lambda d: back((d,))[:1])


@max_in.faster
def max_in_turn(xp, input, size, counts, stride, padding, dilation, indices):
    """One place of all windows after the other, without a table."""
    padded = any(map(any, padding))
    if indices or math.prod(size) > 255 or (padded and input.dtype.kind in "iub"):
        return max_in.fn(xp, input, size, counts, stride, padding, dilation, indices)
    widths = ((0, 0), (0, 0), *padding)
    x = pad_with.on(xp, input, widths=widths, value=-math.inf) if padded else input
    shape, kept = x.shape, inner(widths, input.shape)
    parts = [(..., *every(place, counts, stride, dilation)) for place in itertools.product(*map(range, size))]
    overlapping = any(map(operator.lt, stride, extent(size, dilation)))
    best, which = xp.copy(x[parts[0]]), xp.zeros((*shape[:2], *counts), "uint8")
    for i, part in enumerate(parts[1:], 1):
        other = xp.copy(x[part])  # read more than once
        higher = (other > best) | ((other != other) & (best == best))
        which = xp.maximum(which, higher.astype("uint8") * i)  # many times faster than `where`
        best = xp.maximum(best, other)
    if padded:  # whose -inf is no element, where nothing is larger
        inside = first_inside(xp, size, counts, stride, padding, dilation)
        which = xp.where(best == -math.inf, inside.astype("uint8"), which)

    def pullback(dy):
        dx = xp.zeros(shape, dy.dtype)
        for i, part in enumerate(parts):
            if overlapping:
                there = dx[part]
                there += dy * (which == i)
            else:
                dx[part] = dy * (which == i)
        return (dx[kept],)

    return best, pullback


def first_inside(xp, size, counts, stride, padding, dilation):
    """Which place of each window is the first that is not padding: (*counts)."""
    flat = 0
    for k, count, s, (before, _), d in zip(size, counts, stride, padding, dilation, strict=True):
        missing = xp.maximum(-((xp.arange(count) * s - before) // d), 0)  # places before the image
        flat = (flat[..., None] if hasattr(flat, "shape") else flat) * k + missing
    return flat


def max_poolnd(n: int, what: str, input: Array, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """The largest element of each window of (N, C, *space) or (C, *space), the first of equals, a NaN before all.

    With `return_indices` also its place, counted through *space as if flat.
    """
    x, back = spatial(what, input, n)
    found = max_in(x, *lay(what, x, kernel_size, stride, padding, dilation, ceil_mode), return_indices)
    return tuple(map(back, found)) if return_indices else back(found)


max_pool1d, max_pool2d, max_pool3d = spelled(max_poolnd, 1, 2, 3)


# ---- the mean -------------------------------------------------------------------------------------------------------


def divisor(xp: Any, space: Sequence[int], w: Windows, count_include_pad: bool) -> Any:
    """How many elements each window's mean is of: a number, or (*counts)."""
    if not any(map(any, w.padding)):
        return math.prod(w.size)
    each: Any = 1
    for n, size, count, stride, (before, _) in zip(space, w.size, w.counts, w.stride, w.padding, strict=True):
        first = xp.arange(count) * stride
        low, high = (0, n + 2 * before) if count_include_pad else (before, n + before)
        each = (each[..., None] if hasattr(each, "shape") else each) * (
            xp.minimum(first + size, high) - xp.maximum(first, low))
    return each


@composed(full=True)
def mean_in(what: str, n: int, input: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
            count_include_pad: bool, divisor_override: int | None) -> Any:
    """The sum of each window, divided."""
    if divisor_override == 0:
        raise ValueError(f"{what}: divisor_override must not be 0")
    x, back = spatial(what, input, n)
    w = lay(what, x, kernel_size, stride, padding, 1, ceil_mode)
    total = totals(pad(x, ((0, 0), (0, 0), *w.padding)), w.size, w.counts, w.stride, w.dilation)
    return back(total / (divisor_override or divisor(namespace(x), x.shape[2:], w, count_include_pad)))


def avg_poolnd(n: int, what: str, input: Array, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None) -> Array:
    """The mean of each window of (N, C, *space) or (C, *space), or its sum divided by `divisor_override`.

    With `count_include_pad` the zeros of the padding count as elements.
    """
    return mean_in(what, n, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool1d(input: Array, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               ceil_mode: bool = False, count_include_pad: bool = True) -> Array:
    """The mean of each window of (N, C, L) or (C, L); with `count_include_pad` the padding's zeros are elements."""
    return mean_in("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


avg_pool2d, avg_pool3d = spelled(avg_poolnd, 2, 3)


@composed(full=True)
def norm_in(what: str, n: int, input: Any, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool) -> Any:
    """The norm of each window."""
    mean = mean_in(what, n, input ** norm_type, kernel_size, stride, 0, ceil_mode, True, None)
    return (sign(mean) * relu(abs(mean)) * math.prod(numbers(what, "kernel_size", kernel_size, n))) ** (1 / norm_type)


def lp_poolnd(n: int, what: str, input: Array, norm_type: int | float, kernel_size: Sizes,
              stride: Sizes | None = None, ceil_mode: bool = False) -> Array:
    """``sum(x**norm_type) ** (1 / norm_type)`` of each window of (N, C, *space) or (C, *space)."""
    return norm_in(what, n, input, norm_type, kernel_size, stride, ceil_mode)


lp_pool1d, lp_pool2d, lp_pool3d = spelled(lp_poolnd, 1, 2, 3)


# ---- as many windows as are asked for -------------------------------------------------------------------------------


def output_sizes(what: str, output_size: Any, space: Sequence[int]) -> tuple[int, ...]:
    """How many windows along each axis: None leaves it as it is."""
    given = output_size if isinstance(output_size, Sequence) else (output_size,) * len(space)
    if len(given) == 1:
        given = tuple(given) * len(space)
    if len(given) != len(space):
        raise ValueError(f"{what}: output_size is one number or {len(space)}, one an axis of space, "
                         f"not {output_size!r}")
    sizes = [n if wanted is None else wanted for wanted, n in zip(given, space, strict=True)]
    return numbers(what, "output_size", sizes, len(space), 0)


def shares(xp: Any, n: int, count: int) -> tuple[Any, Any]:
    """An axis in `count` windows that cover it: their places (count, size), the last repeated, and which are none."""
    size = max(-(-(i + 1) * n // count) - i * n // count for i in range(count))
    first, end = xp.arange(count) * n // count, ((xp.arange(count) + 1) * n + count - 1) // count
    places = first[:, None] + xp.arange(size)
    return xp.minimum(places, end[:, None] - 1), places < end[:, None]


@composed(full=True)
def adaptive_mean(what: str, n: int, input: Any, output_size: Any) -> Any:
    """The means along one axis after the other."""
    x, back = spatial(what, input, n)
    for axis, count in enumerate(output_sizes(what, output_size, x.shape[2:]), 2):
        lead, length, rest = x.shape[:axis], x.shape[axis], x.shape[axis + 1:]
        if count and length % count == 0:
            x = x.reshape(*lead, count, length // count, *rest).mean(axis=axis + 1)
        elif count:
            places, there = shares(namespace(x), length, count)
            there = (there / there.sum(axis=1, keepdims=True)).astype(x.dtype).reshape(*there.shape, *(1,) * len(rest))
            x = (take(x, places, axis) * there).sum(axis=axis + 1)
        else:
            x = x[(*(slice(None),) * axis, slice(0))]
    return back(x)


def adaptive_avg_poolnd(n: int, what: str, input: Array, output_size: Any) -> Array:
    """The means of `output_size` windows that cover (N, C, *space) or (C, *space); None: one an element."""
    return adaptive_mean(what, n, input, output_size)


def adaptive_max_poolnd(n: int, what: str, input: Array, output_size: Any, return_indices: bool = False) -> Any:
    """The largest elements of `output_size` windows that cover (N, C, *space) or (C, *space), and their places."""
    x, back = spatial(what, input, n)
    space = x.shape[2:]
    counts = output_sizes(what, output_size, space)
    if all(counts) and not any(length % count for length, count in zip(space, counts, strict=True)):
        size = tuple(length // count for length, count in zip(space, counts, strict=True))
        found = max_in(x, size, counts, size, ((0, 0),) * n, (1,) * n, return_indices)
    else:
        axes = [shares(namespace(x), *pair)[0] for pair in zip(space, counts, strict=True)]
        outputs = max_at(x, together(axes, space), counts)
        found = outputs if return_indices else outputs[0]
    return tuple(map(back, found)) if return_indices else back(found)


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = spelled(adaptive_avg_poolnd, 1, 2, 3)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = spelled(adaptive_max_poolnd, 1, 2, 3)


# ---- at random ------------------------------------------------------------------------------------------------------


def scattered(xp: Any, samples: Any, n: int, size: int, count: int) -> Any:
    """The places of `count` windows of one size, apart by almost equal steps: (N, C) numbers -> (N, C, count, size)."""
    step = (n - size) / max(count - 1, 1)
    i, u = xp.arange(count), samples[..., None]
    first = ((i + u) * step).astype("int64") - (u * step).astype("int64")
    return xp.where(i == count - 1, n - size, first)[..., None] + xp.arange(size)


def fractional_max_poolnd(n: int, what: str, input: Array, kernel_size: Sizes, output_size: Any = None,
                          output_ratio: Any = None, return_indices: bool = False, _random_samples: Array = None,
                          rng: Generator | None = None) -> Any:
    """The largest elements of `output_size` windows (or a ratio of the input's) at random places, and these.

    (N, C, *space) or (C, *space); `_random_samples`, (N, C, axes) in [0, 1), say where.  B. Graham, arXiv:1412.6071.
    """
    x, back = spatial(what, input, n)
    space, size = x.shape[2:], numbers(what, "kernel_size", kernel_size, n)
    if (output_size is None) == (output_ratio is None):
        raise ValueError(f"{what}: give either output_size or output_ratio")
    if output_size is None:
        ratios = output_ratio if isinstance(output_ratio, Sequence) else (output_ratio,) * n
        if not all(0 < r < 1 for r in ratios):
            raise ValueError(f"{what}: output_ratio lies between 0 and 1, and is {output_ratio}")
        output_size = [int(length * r) for length, r in zip(space, ratios, strict=True)]
    counts = numbers(what, "output_size", output_size, n)
    if any(c + k - 1 > length for c, k, length in zip(counts, size, space, strict=True)):
        raise ValueError(f"{what}: {counts} windows of {size} do not fit into input {x.shape}")
    xp, samples = namespace(x), _random_samples
    if samples is None:
        with making_on(place_of(raw(x))):
            samples = (rng or default_generator).uniform((*x.shape[:2], n), dtype=x.dtype, stream=NOISE)
    samples = samples[:len(x)]  # PyTorch takes more than there are images
    if samples.shape != (*x.shape[:2], n):
        raise ValueError(f"{what}: _random_samples are {(*x.shape[:2], n)} of {input.shape}, not {samples.shape}")
    order = range(n)[::-1] if n == 2 else range(n)  # PyTorch's: of images the width's number comes first
    axes = [scattered(xp, samples[..., j], *words) for j, *words in zip(order, space, size, counts, strict=True)]
    outputs = max_at(x, together(axes, space), counts)
    return tuple(map(back, outputs)) if return_indices else back(outputs[0])


fractional_max_pool2d, fractional_max_pool3d = spelled(fractional_max_poolnd, 2, 3)


# ---- back where the largest were ------------------------------------------------------------------------------------


def max_unpoolnd(n: int, what: str, input: Array, indices: Array, kernel_size: Sizes, stride: Sizes | None = None,
                 padding: Sizes = 0, output_size: Sequence[int] | None = None) -> Array:
    """Zeros of *space with (N, C, *counts) or (C, *counts) values at `indices`, the places `max_pool` gave.

    By default the space is the least that the windows cover.
    """
    size = numbers(what, "kernel_size", kernel_size, n)
    return put_back(what, n, input, indices, size, steps(what, stride, size), numbers(what, "padding", padding, n, 0),
                    output_size)


@composed
def put_back(what: str, n: int, input: Any, indices: Any, size: Any, stride: Any, padding: Any, wanted: Any) -> Any:
    """`max_unpoolnd`, of Tensors."""
    x, back = spatial(what, input, n)
    if indices.shape != input.shape or indices.dtype.kind not in "iu":
        raise ValueError(f"{what}: indices are integers, one for each element of input {input.shape}, "
                         f"not {indices.dtype.name} {indices.shape}")
    counts = x.shape[2:]
    least = tuple((c - 1) * s + k - 2 * p for c, s, k, p in zip(counts, stride, size, padding, strict=True))
    space = least if wanted is None else tuple(wanted)[len(wanted) - n:]
    far = [m - s < given < m + s for m, given, s in zip(least, space, stride, strict=True)]
    if min(space, default=0) < 1 or not all(far) or (wanted is not None and len(wanted) not in (n, input.ndim)):
        raise ValueError(f"{what}: of input {input.shape} output_size is {least}, give or take less than the stride "
                         f"{stride}, not {space}")
    places = indices.reshape(*x.shape[:2], math.prod(counts))
    within = (places >= 0) & (places < math.prod(space))
    namespace(x).check(within, f"{what}: an index lies outside of the output {space}")
    y = put_along_axis(x.reshape(places.shape), places, 2, math.prod(space))
    return back(y.reshape(*x.shape[:2], *space))


max_unpool1d, max_unpool2d, max_unpool3d = spelled(max_unpoolnd, 1, 2, 3)
