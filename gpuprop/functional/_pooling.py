"""Pooling, for any number of spatial dimensions.

Max pooling is defined by a table of *positions*: for every window, the indices of its elements in
the flattened space of an image.  The faster version needs no table.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpuprop._array.arithmetic import where
from gpuprop._array.scatter import inner_slices, pad_with, put_along_axis, scatter
from gpuprop._core.composed import checks_arguments, composed
from gpuprop._core.dtypes import check_floating
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.signature import Array
from gpuprop.functional._windows import (
    Sizes,
    as_batch,
    crop,
    extent,
    int_tuple,
    window_slices,
    window_sum,
    window_sum_adjoint,
    zero_pad,
)


class PoolWindows(NamedTuple):
    """The windows of a pooling function; each field has one item per spatial dimension."""

    size: tuple[int, ...]
    counts: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # (before, after)
    dilation: tuple[int, ...]


def pool_windows(name: str, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
                 ceil_mode: bool) -> PoolWindows:
    """The windows on `x` (N, C, *space); ValueError if none fits.

    With `ceil_mode` the last window may end outside of the padded image, if it does not start in
    the padding after the image.
    """
    space = x.shape[2:]
    n = len(space)
    size = int_tuple(name, "kernel_size", kernel_size, n)
    stride = pool_stride(name, stride, size)
    before = int_tuple(name, "padding", padding, n, least=0)
    dilation = int_tuple(name, "dilation", dilation, n)
    reach = extent(size, dilation)
    if any(2 * p > k for p, k in zip(before, reach, strict=True)):
        raise ValueError(f"{name}: padding {before} must be at most half of the kernel's extent "
                         f"{reach}")

    counts = []
    for length, k, s, p in zip(space, reach, stride, before, strict=True):
        count = (length + 2 * p - k + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (count - 1) * s >= length + p:
            count -= 1
        counts.append(count)
    if not all(space) or min(counts) < 1:
        raise ValueError(f"{name}: a kernel of extent {reach} does not fit into input {x.shape} "
                         f"with padding {before}")

    after = [max(0, (count - 1) * s + k - length - p)
             for count, s, k, length, p in zip(counts, stride, reach, space, before, strict=True)]
    widths = tuple(zip(before, after, strict=True))
    return PoolWindows(size, tuple(counts), stride, widths, dilation)


def pool_stride(name: str, stride: Any, size: tuple[int, ...]) -> tuple[int, ...]:
    """The stride per spatial dimension, by default the kernel size."""
    if stride is None or (isinstance(stride, tuple | list) and not stride):
        return size
    return int_tuple(name, "stride", stride, len(size))


# ---- tables of positions -----------------------------------------------------------------------


def axis_positions(xp, length, size, count, stride, padding, dilation):
    """The positions of windows along one axis: (count, size).

    A position in the padding is replaced by the nearest one of the same window in the image.
    """
    first = (xp.arange(count) * stride - padding[0])[:, None]
    low = xp.where(first < 0, first % dilation, first)
    high = length - 1 - (length - 1 - first) % dilation
    return xp.minimum(xp.maximum(first + xp.arange(size) * dilation, low), high)


def flat_positions(axes, space):
    """Indices of the flattened space, from positions (..., count, size) along each of its axes.

    The result is (..., prod(counts), prod(sizes)).
    """
    n = len(space)
    flat = 0
    for i, positions in enumerate(axes):
        *lead, count, size = positions.shape
        before = (1,) * i
        after = (1,) * (n - 1 - i)
        positions = positions.reshape(*lead, *before, count, *after, *before, size, *after)
        flat = flat * space[i] + positions
    split = len(flat.shape) - n
    counts = flat.shape[split - n:split]
    sizes = flat.shape[split:]
    return flat.reshape(*lead, math.prod(counts), math.prod(sizes))


def max_at_positions(xp, input, positions, counts, return_indices):
    """The first largest element of each window, and its pullback.

    `input` is (N, C, *space), `positions` (windows, size) or (N, C, windows, size), and the output
    (N, C, *counts).  With `return_indices` there is a second output: the positions of the elements.
    """
    shape = input.shape
    batch, channels, *space = shape
    flat = input.reshape(batch, channels, math.prod(space))
    flat_shape = flat.shape
    count, size = positions.shape[-2:]
    positions = xp.broadcast_to(positions, (batch, channels, count, size))
    elements = positions.reshape(batch, channels, count * size)
    elements = xp.take_along_axis(flat, elements, axis=2).reshape(positions.shape)
    best = xp.argmax(elements, axis=3)[..., None]
    indices = xp.take_along_axis(positions, best, axis=3).reshape(batch, channels, count)
    y = xp.take_along_axis(flat, indices, axis=2).reshape(batch, channels, *counts)

    def input_grad(d):
        dy = d[0] if return_indices else d
        dy = dy.reshape(batch, channels, count)
        return scatter.on(xp, dy, indices, axis=2, shape=flat_shape).reshape(shape)

    if return_indices:
        return (y, indices.reshape(batch, channels, *counts)), input_grad
    return y, input_grad


# ---- max pooling -------------------------------------------------------------------------------


@op(name="max_pool{n}d")
def max_pool(xp, input: Array, size, counts, stride, padding, dilation, return_indices):
    """(N, C, *space) -> (N, C, *counts), and with `return_indices` the positions of the maxima."""
    space = input.shape[2:]
    axes = [axis_positions(xp, *axis)
            for axis in zip(space, size, counts, stride, padding, dilation, strict=True)]
    positions = flat_positions(axes, space)
    outputs, input_grad = max_at_positions(xp, input, positions, counts, return_indices)
    return outputs, (input_grad,)


@max_pool.faster
def max_pool_by_offset(xp, input, size, counts, stride, padding, dilation, return_indices):
    """Compare the elements at one offset of all windows at a time, without a table of positions."""
    is_padded = any(map(any, padding))
    if return_indices or math.prod(size) > 255 or (is_padded and input.dtype.kind in "iub"):
        return max_pool.fn(xp, input, size, counts, stride, padding, dilation, return_indices)

    widths = ((0, 0), (0, 0), *padding)
    x = pad_with.on(xp, input, widths=widths, value=-math.inf) if is_padded else input
    padded_shape = x.shape
    unpadded = inner_slices(widths, input.shape)
    offsets = itertools.product(*map(range, size))
    parts = [(..., *window_slices(offset, counts, stride, dilation)) for offset in offsets]

    best = xp.copy(x[parts[0]])
    best_offset = xp.zeros(best.shape, "uint8")
    for i, part in enumerate(parts[1:], 1):
        other = xp.copy(x[part])  # it is read several times
        is_higher = (other > best) | ((other != other) & (best == best))
        best_offset = xp.maximum(best_offset, is_higher.astype("uint8") * i)  # faster than `where`
        best = xp.maximum(best, other)
    if is_padded:  # if all elements are -inf, the maximum is the first one outside of the padding
        first = first_valid_offset(xp, size, counts, stride, padding, dilation)
        best_offset = xp.where(best == -math.inf, first.astype("uint8"), best_offset)

    overlap = any(map(operator.lt, stride, extent(size, dilation)))

    def input_grad(dy):
        dx = xp.zeros(padded_shape, dy.dtype)
        for i, part in enumerate(parts):
            if overlap:
                target = dx[part]
                target += xp.where(best_offset == i, dy, 0)
            else:
                dx[part] = xp.where(best_offset == i, dy, 0)
        return dx[unpadded]

    return best, (input_grad,)


def first_valid_offset(xp, size, counts, stride, padding, dilation):
    """The index of the first offset of each window that is not in the padding: (*counts)."""
    flat = 0
    axes = zip(size, counts, stride, padding, dilation, strict=True)
    for axis, (k, count, s, (before, _), d) in enumerate(axes):
        in_padding = xp.maximum(-((xp.arange(count) * s - before) // d), 0)
        flat = flat * k + in_padding.reshape(count, *(1,) * (len(size) - 1 - axis))
    return flat


@checks_arguments
def max_pool1d(input: Array, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """The maximum of each window of a signal.

    Shapes: input (N, C, L) or (C, L); output (N, C, L_out) or (C, L_out) with

    ``L_out = floor((L + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``

    The other parameters and the errors are those of `max_pool2d`.
    """
    return max_pool_nd(1, "max_pool1d", input, kernel_size, stride, padding, dilation, ceil_mode,
                       return_indices)


@checks_arguments
def max_pool2d(input: Array, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """The maximum of each window of an image.

    ``y[n, c, i, j] = max over k, l of
    input[n, c, i * stride + k * dilation, j * stride + l * dilation]``

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, H_out, W_out) or (C, H_out, W_out) with

    ``H_out = floor((H + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``

    and W_out likewise.  `stride` is by default `kernel_size`.  `padding` adds elements of -inf on
    each side, at most half of the kernel's extent.  `ceil_mode` rounds the size up, without windows
    that start in the padding at the end.  Of equal maxima the first gets the gradient; NaN is
    larger than any number.  With `return_indices` the result is a pair: the maxima, and their
    indices in the flattened H * W, for `max_unpool2d`.

    Raises ValueError if the kernel is larger than the padded input, or the padding too large.

    >>> import numpy as np, gpuprop.functional as F
    >>> image = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> F.max_pool2d(image, 2)
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    >>> maxima, indices = F.max_pool2d(image, 3, stride=1, return_indices=True)
    >>> indices
    array([[[[10, 11],
             [14, 15]]]])
    """
    return max_pool_nd(2, "max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode,
                       return_indices)


@checks_arguments
def max_pool3d(input: Array, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               dilation: Sizes = 1, ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """The maximum of each window of a volume.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, D_out, H_out, W_out) or
    (C, D_out, H_out, W_out) with

    ``D_out = floor((D + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``

    and H_out, W_out likewise.  The other parameters and the errors are those of `max_pool2d`.
    """
    return max_pool_nd(3, "max_pool3d", input, kernel_size, stride, padding, dilation, ceil_mode,
                       return_indices)


def max_pool_nd(n: int, name: str, input: Any, kernel_size: Any, stride: Any, padding: Any,
                dilation: Any, ceil_mode: bool, return_indices: bool) -> Any:
    """Max pooling in `n` spatial dimensions; `name` is the public function's, for messages."""
    x, unbatch = as_batch(name, input, n)
    windows = pool_windows(name, x, kernel_size, stride, padding, dilation, ceil_mode)
    outputs = max_pool(x, *windows, return_indices)
    return tuple(map(unbatch, outputs)) if return_indices else unbatch(outputs)


# ---- average pooling ---------------------------------------------------------------------------


@op(name="avg_pool{n}d")
def avg_pool(xp, input: Array, size, counts, stride, padding, count_include_pad, divisor_override):
    """(N, C, *space) -> (N, C, *counts)."""
    space = input.shape[2:]
    windows = dict(size=size, counts=counts, stride=stride, dilation=(1,) * len(size))
    x = zero_pad(xp, input, padding)
    padded_shape = x.shape
    total = window_sum.on(xp, x, **windows)
    divisor = divisor_override
    if divisor is None:
        divisor = window_divisor(xp, space, size, counts, stride, padding, count_include_pad)
    if hasattr(divisor, "astype"):
        divisor = divisor.astype(total.dtype)

    def input_grad(dy):
        return crop(window_sum_adjoint(xp, dy / divisor, padded_shape, **windows), padding, space)

    return total / divisor, (input_grad,)


def window_divisor(xp, space, size, counts, stride, padding, count_include_pad):
    """The number of elements in each window: an int, or an array (*counts) if there is padding."""
    if not any(map(any, padding)):
        return math.prod(size)
    divisor = 1
    axes = zip(space, size, counts, stride, padding, strict=True)
    for axis, (length, k, count, s, (before, _)) in enumerate(axes):
        first = xp.arange(count) * s
        if count_include_pad:
            low, high = 0, length + 2 * before
        else:
            low, high = before, length + before
        elements = xp.minimum(first + k, high) - xp.maximum(first, low)
        divisor = divisor * elements.reshape(count, *(1,) * (len(size) - 1 - axis))
    return divisor


@checks_arguments
def avg_pool1d(input: Array, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               ceil_mode: bool = False, count_include_pad: bool = True) -> Array:
    """The mean of each window of a signal.

    Shapes: input (N, C, L) or (C, L); output (N, C, L_out) or (C, L_out) with

    ``L_out = floor((L + 2 * padding - kernel_size) / stride) + 1``

    The other parameters and the errors are those of `avg_pool2d`, but there is no
    `divisor_override`.
    """
    return avg_pool_nd(1, "avg_pool1d", input, kernel_size, stride, padding, ceil_mode,
                       count_include_pad, None)


@checks_arguments
def avg_pool2d(input: Array, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               ceil_mode: bool = False, count_include_pad: bool = True,
               divisor_override: int | None = None) -> Array:
    """The mean of each window of an image.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, H_out, W_out) or (C, H_out, W_out) with

    ``H_out = floor((H + 2 * padding - kernel_size) / stride) + 1``

    and W_out likewise.  `stride` is by default `kernel_size`.  `padding` adds zeros on each side,
    at most half of the kernel size; the mean includes them unless `count_include_pad` is False.
    `ceil_mode` rounds the size up, without windows that start in the padding at the end.  If
    `divisor_override` is given, the sum of each window is divided by it.

    Raises ValueError if the kernel is larger than the padded input, or the padding too large.

    >>> import numpy as np, gpuprop.functional as F
    >>> F.avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    """
    return avg_pool_nd(2, "avg_pool2d", input, kernel_size, stride, padding, ceil_mode,
                       count_include_pad, divisor_override)


@checks_arguments
def avg_pool3d(input: Array, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
               ceil_mode: bool = False, count_include_pad: bool = True,
               divisor_override: int | None = None) -> Array:
    """The mean of each window of a volume.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, D_out, H_out, W_out) or
    (C, D_out, H_out, W_out) with

    ``D_out = floor((D + 2 * padding - kernel_size) / stride) + 1``

    and H_out, W_out likewise.  The other parameters and the errors are those of `avg_pool2d`.
    """
    return avg_pool_nd(3, "avg_pool3d", input, kernel_size, stride, padding, ceil_mode,
                       count_include_pad, divisor_override)


def avg_pool_nd(n: int, name: str, input: Any, kernel_size: Any, stride: Any, padding: Any,
                ceil_mode: bool, count_include_pad: bool, divisor_override: int | None) -> Any:
    """Average pooling in `n` spatial dimensions; `name` is the public function's, for messages."""
    check_floating(name, input)
    if divisor_override == 0:
        raise ValueError(f"{name}: divisor_override must not be 0")
    x, unbatch = as_batch(name, input, n)
    size, counts, stride, padding, _ = pool_windows(
        name, x, kernel_size, stride, padding, 1, ceil_mode)
    y = avg_pool(x, size, counts, stride, padding, count_include_pad, divisor_override)
    return unbatch(y)


# ---- power-average pooling ---------------------------------------------------------------------


@checks_arguments
def lp_pool1d(input: Array, norm_type: int | float, kernel_size: Sizes,
              stride: Sizes | None = None, ceil_mode: bool = False) -> Array:
    """The p-norm of each window of a signal: ``sum(x**p) ** (1 / p)``, p = `norm_type`.

    Shapes: input (N, C, L) or (C, L); output (N, C, L_out) or (C, L_out) with

    ``L_out = floor((L - kernel_size) / stride) + 1``

    The other parameters are those of `lp_pool2d`.
    """
    return lp_pool_nd(1, "lp_pool1d", input, norm_type, kernel_size, stride, ceil_mode)


@checks_arguments
def lp_pool2d(input: Array, norm_type: int | float, kernel_size: Sizes,
              stride: Sizes | None = None, ceil_mode: bool = False) -> Array:
    """The p-norm of each window of an image: ``sum(x**p) ** (1 / p)``, p = `norm_type`.

    As in PyTorch, no absolute values are taken: with an odd p elements may cancel, and a negative
    sum counts as 0.  p = 1 gives the sum of each window.  p = inf is not supported: use
    `max_pool2d`.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, H_out, W_out) or (C, H_out, W_out) with

    ``H_out = floor((H - kernel_size) / stride) + 1``

    and W_out likewise.  `stride` is by default `kernel_size`.  `ceil_mode` rounds the size up; the
    sum of a window that ends outside of the image is scaled to the full number of elements.
    """
    return lp_pool_nd(2, "lp_pool2d", input, norm_type, kernel_size, stride, ceil_mode)


@checks_arguments
def lp_pool3d(input: Array, norm_type: int | float, kernel_size: Sizes,
              stride: Sizes | None = None, ceil_mode: bool = False) -> Array:
    """The p-norm of each window of a volume: ``sum(x**p) ** (1 / p)``, p = `norm_type`.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, D_out, H_out, W_out) or
    (C, D_out, H_out, W_out) with

    ``D_out = floor((D - kernel_size) / stride) + 1``

    and H_out, W_out likewise.  The other parameters are those of `lp_pool2d`.
    """
    return lp_pool_nd(3, "lp_pool3d", input, norm_type, kernel_size, stride, ceil_mode)


@composed(full=True)
def lp_pool_nd(n: int, name: str, input: Any, norm_type: float, kernel_size: Any, stride: Any,
               ceil_mode: bool) -> Any:
    """Power-average pooling in `n` spatial dimensions; `name` is the public function's."""
    if norm_type == 0:
        raise ValueError(f"{name}: norm_type must be a number other than 0")
    mean = avg_pool_nd(n, name, input ** norm_type, kernel_size, stride, 0, ceil_mode, True, None)
    elements = math.prod(int_tuple(name, "kernel_size", kernel_size, n))
    total = mean * elements
    is_zero = total == 0  # its gradient is 0, as in PyTorch; that of the power is infinite
    return where(is_zero, 0, where(is_zero, 1, total) ** (1 / norm_type))


# ---- max unpooling -----------------------------------------------------------------------------


@checks_arguments
def max_unpool1d(input: Array, indices: Array, kernel_size: Sizes, stride: Sizes | None = None,
                 padding: Sizes = 0, output_size: Sequence[int] | None = None) -> Array:
    """Write the elements of `input` at `indices` into zeros: a partial inverse of `max_pool1d`.

    Shapes: input and indices (N, C, L) or (C, L); output (N, C, L_out) or (C, L_out) with
    L_out = `output_size`, by default

    ``L_out = (L - 1) * stride - 2 * padding + kernel_size``

    The other parameters and the errors are those of `max_unpool2d`.
    """
    return max_unpool_nd(1, "max_unpool1d", input, indices, kernel_size, stride, padding,
                         output_size)


@checks_arguments
def max_unpool2d(input: Array, indices: Array, kernel_size: Sizes, stride: Sizes | None = None,
                 padding: Sizes = 0, output_size: Sequence[int] | None = None) -> Array:
    """Write the elements of `input` at `indices` into zeros: a partial inverse of `max_pool2d`.

    Shapes: input and indices (N, C, H, W) or (C, H, W); output (N, C, H_out, W_out) or
    (C, H_out, W_out) with (H_out, W_out) = `output_size`, by default

    ``H_out = (H - 1) * stride - 2 * padding + kernel_size``

    and W_out likewise.  `indices` are those that `max_pool2d` returned, and `kernel_size`, `stride`
    and `padding` those that it was called with.  `output_size` must differ from the default by less
    than the stride; it may begin with N and C, which are ignored.

    Raises ValueError for indices of another shape or dtype and for other output sizes, and
    IndexError for an index outside of the output (on a device, when a value is next read).

    >>> import numpy as np, gpuprop.functional as F
    >>> image = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> maxima, indices = F.max_pool2d(image, 2, return_indices=True)
    >>> F.max_unpool2d(maxima, indices, 2)
    array([[[[ 0.,  0.,  0.,  0.],
             [ 0.,  5.,  0.,  7.],
             [ 0.,  0.,  0.,  0.],
             [ 0., 13.,  0., 15.]]]])
    """
    return max_unpool_nd(2, "max_unpool2d", input, indices, kernel_size, stride, padding,
                         output_size)


@checks_arguments
def max_unpool3d(input: Array, indices: Array, kernel_size: Sizes, stride: Sizes | None = None,
                 padding: Sizes = 0, output_size: Sequence[int] | None = None) -> Array:
    """Write the elements of `input` at `indices` into zeros: a partial inverse of `max_pool3d`.

    Shapes: input and indices (N, C, D, H, W) or (C, D, H, W); output (N, C, D_out, H_out, W_out) or
    (C, D_out, H_out, W_out) with (D_out, H_out, W_out) = `output_size`, by default

    ``D_out = (D - 1) * stride - 2 * padding + kernel_size``

    and H_out, W_out likewise.  The other parameters and the errors are those of `max_unpool2d`.
    """
    return max_unpool_nd(3, "max_unpool3d", input, indices, kernel_size, stride, padding,
                         output_size)


@composed
def max_unpool_nd(n: int, name: str, input: Any, indices: Any, kernel_size: Any, stride: Any,
                  padding: Any, output_size: Sequence[int] | None) -> Any:
    """Max unpooling in `n` spatial dimensions; `name` is the public function's, for messages."""
    size = int_tuple(name, "kernel_size", kernel_size, n)
    stride = pool_stride(name, stride, size)
    padding = int_tuple(name, "padding", padding, n, least=0)
    x, unbatch = as_batch(name, input, n)
    if indices.shape != input.shape or indices.dtype.kind not in "iu":
        raise ValueError(f"{name}: indices must be integers of the shape of input {input.shape}, "
                         f"not {indices.dtype.name} {indices.shape}")
    counts = x.shape[2:]
    default = tuple((count - 1) * s + k - 2 * p
                    for count, s, k, p in zip(counts, stride, size, padding, strict=True))
    space = default
    if output_size is not None:
        if len(output_size) not in (n, input.ndim):
            raise ValueError(f"{name}: output_size must have {n} or {input.ndim} elements, not "
                             f"{tuple(output_size)}")
        space = tuple(output_size)[-n:]
        excess = map(operator.sub, space, default)
        if any(not -s < e < s for e, s in zip(excess, stride, strict=True)):
            raise ValueError(f"{name}: output_size must differ from {default} by less than the "
                             f"stride {stride}, not {space}")
    if min(space) < 1:
        raise ValueError(f"{name}: output size {space} must be positive")

    elements = math.prod(space)
    indices = indices.reshape(*x.shape[:2], math.prod(counts))
    is_inside = (indices >= 0) & (indices < elements)
    namespace(x).check(is_inside, f"{name}: index out of range for an output of size {space}")
    y = put_along_axis(x.reshape(indices.shape), indices, 2, elements)
    return unbatch(y.reshape(*x.shape[:2], *space))
