"""Adaptive pooling to a given output size, and fractional max pooling with random windows."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from gpuprop._array.scatter import put_rows
from gpuprop._core.checks import as_number
from gpuprop._core.composed import checks_arguments
from gpuprop._core.dtypes import is_float, widened
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.placement import on_device_of_arguments, place_of
from gpuprop._core.registry import making_on
from gpuprop._core.signature import Array
from gpuprop.functional._pooling import (
    flat_positions,
    max_at_positions,
    max_pool_by_offset,
)
from gpuprop.functional._windows import (
    Sizes,
    as_batch,
    check_memory,
    int_tuple,
)
from gpuprop.random import NOISE, Generator, default_generator

# ---- adaptive pooling ---------------------------------------------------------------------------


def adaptive_positions(xp, length, count):
    """The positions (count, size) of windows that cover an axis, and a mask.

    A window smaller than the largest repeats its last position, with False in the mask.
    """
    def start_and_end(i):
        return i * length // count, ((i + 1) * length + count - 1) // count

    # the largest end - start: (i * length) % count takes all multiples of the common divisor
    size = (length + 2 * (count - math.gcd(length, count))) // count if count else 1
    start, end = start_and_end(xp.arange(count)[:, None])
    positions = start + xp.arange(size)
    return xp.minimum(positions, end - 1), positions < end


def fractional_positions(xp, samples, length, size, count):
    """The positions of `count` windows at equal distances, up to rounding, along an axis.

    The samples (N, C) in [0, 1) shift the windows: (N, C) -> (N, C, count, size).
    """
    step = (length - size) / max(count - 1, 1)
    i = xp.arange(count)
    u = widened(samples)[..., None]
    start = ((i + u) * step).astype("int64") - (u * step).astype("int64")
    start = xp.where(i == count - 1, length - size, start)
    return start[..., None] + xp.arange(size)


def adaptive_counts(name: str, output_size: Any, space: Sequence[int]) -> tuple[int, ...]:
    """The number of windows per spatial dimension; None keeps the size of the input."""
    n = len(space)
    given = output_size if isinstance(output_size, Sequence) else (output_size,)
    if len(given) == 1:
        given = tuple(given) * n
    if len(given) != n:
        raise ValueError(f"{name}: output_size must be an int, None or a sequence of length {n}, "
                         f"not {output_size!r}")
    sizes = [length if count is None else count for count, length in zip(given, space, strict=True)]
    counts = int_tuple(name, "output_size", sizes, n, least=0)
    check_memory(name, counts)
    return counts


def equal_window_size(space: Sequence[int], counts: Sequence[int]) -> tuple[int, ...] | None:
    """The size of the adaptive windows if they are equal and do not overlap, otherwise None."""
    if not all(counts) or any(map(operator.mod, space, counts)):
        return None
    return tuple(map(operator.floordiv, space, counts))


@op(name="adaptive_avg_pool{n}d")
def adaptive_avg_pool(xp, input: Array, counts):
    """(N, C, *space) -> (N, C, *counts), computed along one axis after the other."""
    y = input
    pullbacks = []
    for axis, count in enumerate(counts, 2):
        y, pullback = adaptive_mean(xp, y, axis, count)
        pullbacks.append(pullback)

    def input_grad(dy):
        for pullback in pullbacks[::-1]:
            dy = pullback(dy)
        return dy

    return y, (input_grad,)


def adaptive_mean(xp, x, axis, count):
    """The means of `count` windows that cover one axis, and the pullback."""
    length = x.shape[axis]
    positions, mask = adaptive_positions(xp, length, count)
    weights = mask / mask.sum(axis=1, keepdims=True)
    if is_float(x.dtype):
        weights = weights.astype(x.dtype)
    weights = weights.reshape(*weights.shape, *(1,) * (x.ndim - axis - 1))
    average = lambda a: xp.where(weights == 0, 0, a * weights)
    y = average(xp.take(x, positions, axis=axis)).sum(axis=axis + 1)

    def pullback(dy):
        dy = dy.reshape(*dy.shape[:axis + 1], 1, *dy.shape[axis + 1:])
        return put_rows.on(xp, average(dy), positions, axis=axis, n=length)

    return y, pullback


@adaptive_avg_pool.faster
def adaptive_avg_pool_of_equal_windows(xp, input, counts):
    """The means of reshaped axes, if the windows are equal and do not overlap."""
    shape = input.shape
    size = equal_window_size(shape[2:], counts)
    if size is None:
        return adaptive_avg_pool.fn(xp, input, counts)

    if max(counts) == 1:
        y = input.mean(axis=tuple(range(2, input.ndim)), keepdims=True)
    else:  # several times faster than the mean over several axes that are not the last ones
        y = input
        for axis, (count, k) in enumerate(zip(counts, size, strict=True), 2):
            y = y.reshape(*y.shape[:axis], count, k, *y.shape[axis + 1:]).mean(axis=axis + 1)

    def input_grad(dy):
        split = [n for pair in zip(counts, size, strict=True) for n in pair]
        split_dy = [n for count in counts for n in (count, 1)]
        dy = (dy / math.prod(size)).reshape(*shape[:2], *split_dy)
        return xp.broadcast_to(dy, (*shape[:2], *split)).reshape(shape)

    return y, (input_grad,)


@checks_arguments
def adaptive_avg_pool1d(input: Array, output_size: Any) -> Array:
    """The means of `output_size` windows that cover a signal.

    Shapes: input (N, C, L) or (C, L); output (N, C, output_size) or (C, output_size).
    The windows are those of `adaptive_avg_pool2d`.
    """
    return adaptive_avg_pool_nd(1, "adaptive_avg_pool1d", input, output_size)


@checks_arguments
def adaptive_avg_pool2d(input: Array, output_size: Any) -> Array:
    """The means of `output_size` windows that cover an image.

    Window i of n along an axis has the elements

    ``floor(i * size / n) <= index < ceil((i + 1) * size / n)``

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, *output_size) or (C, *output_size).
    `output_size` is an int or one per spatial dimension; None keeps the size of the input.

    >>> import numpy as np, gpuprop.functional as F
    >>> F.adaptive_avg_pool2d(np.ones((8, 32, 7, 7)), 1).shape
    (8, 32, 1, 1)
    """
    return adaptive_avg_pool_nd(2, "adaptive_avg_pool2d", input, output_size)


@checks_arguments
def adaptive_avg_pool3d(input: Array, output_size: Any) -> Array:
    """The means of `output_size` windows that cover a volume.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, *output_size) or
    (C, *output_size).  The windows are those of `adaptive_avg_pool2d`.
    """
    return adaptive_avg_pool_nd(3, "adaptive_avg_pool3d", input, output_size)


def adaptive_avg_pool_nd(n: int, name: str, input: Any, output_size: Any) -> Any:
    """Adaptive average pooling in `n` spatial dimensions; `name` is the public function's."""
    x, unbatch = as_batch(name, input, n)
    counts = adaptive_counts(name, output_size, x.shape[2:])
    return unbatch(adaptive_avg_pool(x, counts))


@op(name="adaptive_max_pool{n}d")
def adaptive_max_pool(xp, input: Array, counts, return_indices):
    """(N, C, *space) -> (N, C, *counts), and with `return_indices` the positions of the maxima."""
    space = input.shape[2:]
    axes = [adaptive_positions(xp, length, count)[0]
            for length, count in zip(space, counts, strict=True)]
    positions = flat_positions(axes, space)
    outputs, input_grad = max_at_positions(xp, input, positions, counts, return_indices)
    return outputs, (input_grad,)


@adaptive_max_pool.faster
def adaptive_max_pool_of_equal_windows(xp, input, counts, return_indices):
    """`max_pool`, if the windows are equal and do not overlap."""
    size = equal_window_size(input.shape[2:], counts)
    if size is None:
        return adaptive_max_pool.fn(xp, input, counts, return_indices)
    padding = ((0, 0),) * len(size)
    dilation = (1,) * len(size)
    return max_pool_by_offset(
        xp, input, size, counts, size, padding, dilation, return_indices)


@checks_arguments
def adaptive_max_pool1d(input: Array, output_size: Any, return_indices: bool = False) -> Any:
    """The maxima of `output_size` windows that cover a signal.

    Shapes: input (N, C, L) or (C, L); output (N, C, output_size) or (C, output_size).
    The other parameters are those of `adaptive_max_pool2d`.
    """
    return adaptive_max_pool_nd(1, "adaptive_max_pool1d", input, output_size, return_indices)


@checks_arguments
def adaptive_max_pool2d(input: Array, output_size: Any, return_indices: bool = False) -> Any:
    """The maxima of `output_size` windows that cover an image: those of `adaptive_avg_pool2d`.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, *output_size) or (C, *output_size).
    `output_size` is an int or one per spatial dimension; None keeps the size of the input.  With
    `return_indices` the result is a pair: the maxima, and their indices in the flattened H * W.
    """
    return adaptive_max_pool_nd(2, "adaptive_max_pool2d", input, output_size, return_indices)


@checks_arguments
def adaptive_max_pool3d(input: Array, output_size: Any, return_indices: bool = False) -> Any:
    """The maxima of `output_size` windows that cover a volume.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, *output_size) or
    (C, *output_size).  The other parameters are those of `adaptive_max_pool2d`.
    """
    return adaptive_max_pool_nd(3, "adaptive_max_pool3d", input, output_size, return_indices)


def adaptive_max_pool_nd(n: int, name: str, input: Any, output_size: Any,
                         return_indices: bool) -> Any:
    """Adaptive max pooling in `n` spatial dimensions; `name` is the public function's."""
    x, unbatch = as_batch(name, input, n)
    counts = adaptive_counts(name, output_size, x.shape[2:])
    outputs = adaptive_max_pool(x, counts, return_indices)
    return tuple(map(unbatch, outputs)) if return_indices else unbatch(outputs)


# ---- fractional max pooling --------------------------------------------------------------------


@op(name="fractional_max_pool{n}d")
def fractional_max_pool(xp, input: Array, positions: Array, counts, return_indices):
    """(N, C, *space) -> (N, C, *counts), and with `return_indices` the positions of the maxima.

    `positions` is (windows, size), or (N, C, windows, size).
    """
    outputs, input_grad = max_at_positions(xp, input, positions, counts, return_indices)
    return outputs, (input_grad, None)


@checks_arguments
def fractional_max_pool2d(input: Array, kernel_size: Sizes, output_size: Any = None,
                          output_ratio: Any = None, return_indices: bool = False,
                          _random_samples: Array = None, rng: Generator | None = None) -> Any:
    """Fractional max pooling of images: the maxima of windows with a random shift.

    The windows cover the image at equal distances, up to rounding.  B. Graham, "Fractional
    Max-Pooling", arXiv:1412.6071.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, *output_size) or (C, *output_size).
    Give either `output_size` or `output_ratio`, a fraction of the input's size between 0 and 1.
    The shifts of each channel are drawn from `rng` or the default generator, or computed from
    `_random_samples` (N, C, 2) in [0, 1).  With `return_indices` the result is a pair: the maxima,
    and their indices in the flattened H * W.
    """
    return fractional_max_pool_nd(2, "fractional_max_pool2d", input, kernel_size, output_size,
                                  output_ratio, return_indices, _random_samples, rng)


@checks_arguments
def fractional_max_pool3d(input: Array, kernel_size: Sizes, output_size: Any = None,
                          output_ratio: Any = None, return_indices: bool = False,
                          _random_samples: Array = None, rng: Generator | None = None) -> Any:
    """Fractional max pooling of volumes: the maxima of windows with a random shift.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, *output_size) or
    (C, *output_size).  The other parameters are those of `fractional_max_pool2d`, with
    `_random_samples` (N, C, 3).
    """
    return fractional_max_pool_nd(3, "fractional_max_pool3d", input, kernel_size, output_size,
                                  output_ratio, return_indices, _random_samples, rng)


@on_device_of_arguments
def fractional_max_pool_nd(n: int, name: str, input: Any, kernel_size: Any, output_size: Any,
                           output_ratio: Any, return_indices: bool, random_samples: Any,
                           rng: Generator | None) -> Any:
    """Fractional max pooling in `n` spatial dimensions; `name` is the public function's."""
    x, unbatch = as_batch(name, input, n)
    space = x.shape[2:]
    size = int_tuple(name, "kernel_size", kernel_size, n)
    counts = fractional_counts(name, space, output_size, output_ratio)
    if any(c + k - 1 > length for c, k, length in zip(counts, size, space, strict=True)):
        raise ValueError(f"{name}: {counts} windows of size {size} do not fit into input {x.shape}")

    samples = random_samples
    if samples is None:
        with making_on(place_of(raw(x))):
            generator = rng or default_generator
            samples = generator.uniform((*x.shape[:2], n), dtype=x.dtype, stream=NOISE)
    samples = samples[:len(x)]  # PyTorch accepts samples for more images than there are
    expected = (*x.shape[:2], n)
    if samples.shape != expected:
        raise ValueError(f"{name}: _random_samples must have shape {expected} for input "
                         f"{input.shape}, not {samples.shape}")

    xp = namespace(x)
    order = range(n)[::-1] if n == 2 else range(n)  # as in PyTorch: for images, W's sample is first
    axes = [fractional_positions(xp, samples[..., j], *axis)
            for j, *axis in zip(order, space, size, counts, strict=True)]
    positions = flat_positions(axes, space)
    outputs = fractional_max_pool(x, positions, counts, return_indices)
    return tuple(map(unbatch, outputs)) if return_indices else unbatch(outputs)


def check_either(name: str, output_size: Any, output_ratio: Any) -> None:
    if (output_size is None) == (output_ratio is None):
        raise ValueError(f"{name}: give either output_size or output_ratio, not "
                         f"output_size={output_size}, output_ratio={output_ratio}")


def fractional_counts(name: str, space: Sequence[int], output_size: Any,
                      output_ratio: Any) -> tuple[int, ...]:
    """The number of windows per spatial dimension, from `output_size` or `output_ratio`."""
    n = len(space)
    check_either(name, output_size, output_ratio)
    if output_size is not None:
        return int_tuple(name, "output_size", output_size, n)
    ratios = output_ratio if isinstance(output_ratio, Sequence) else (output_ratio,) * n
    if len(ratios) != n:
        raise ValueError(f"{name}: output_ratio must be a number or a sequence of length {n}, "
                         f"got {output_ratio!r}")
    ratios = [as_number(f"{name}: output_ratio", ratio, "(0, 1)") for ratio in ratios]
    counts = [int(length * r) for length, r in zip(space, ratios, strict=True)]
    return int_tuple(name, "output_size", counts, n)
