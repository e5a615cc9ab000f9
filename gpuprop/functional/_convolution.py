"""Convolution, its transpose, and the windows of it as columns; each once, for any number of dimensions."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

from gpuprop._array.shape import pad
from gpuprop._core.composed import composed
from gpuprop._core.dtypes import compute_dtype, widened
from gpuprop._core.ops import op
from gpuprop._core.registry import backend_of
from gpuprop._core.signature import Array
from gpuprop.functional._checks import check_dtypes
from gpuprop.functional._windows import (
    Sizes,
    cropped,
    extent,
    fit,
    numbers,
    overlap,
    padded,
    spatial,
    spelled,
    windows,
)

# ---- three products, each the derivative of another: of an image x, an image y and a weight w -----------------------


def columns(xp, x, size, counts, stride, padding, dilation, groups):
    """(N, C, *space) -> (groups, C / groups * size, N * counts): each window a column."""
    n, c, k = len(x), x.shape[1], len(size)
    w = windows.on(xp, padded(xp, x, padding), size=size, counts=counts, stride=stride, dilation=dilation)
    w = w.transpose((*range(1, k + 2), 0, *range(k + 2, 2 * k + 2)))
    return w.reshape(groups, c // groups * math.prod(size), n * math.prod(counts))


def correlate(xp, x, w, counts, stride, padding, dilation, groups):
    """``y[n, o, i] = sum of x[n, c, i * stride + j * dilation] * w[o, c, j]`` over c and j, in each group."""
    out, filters = len(w), w.reshape(groups, len(w) // groups, math.prod(w.shape[1:]))
    y = xp.matmul(filters, columns(xp, x, w.shape[2:], counts, stride, padding, dilation, groups))
    return y.reshape(out, len(x), *counts).swapaxes(0, 1)


def spread(xp, y, w, space, stride, padding, dilation, groups):
    """The x-gradient of `correlate` for the gradient y: each of its elements times w, added where the window lay."""
    (n, _, *counts), (_, c, *size), k = y.shape, w.shape, y.ndim - 2
    filters = w.reshape(groups, len(w) // groups, math.prod(w.shape[1:])).swapaxes(1, 2)
    w = xp.matmul(filters, by_group(y, groups)).reshape(groups * c, *size, n, *counts)
    w = w.transpose((k + 1, *range(k + 1), *range(k + 2, 2 * k + 2)))
    full = tuple(s + sum(p) for s, p in zip(space, padding, strict=True))
    return cropped(overlap.on(xp, w, shape=full, stride=stride, dilation=dilation), padding, space)


def weigh(xp, x, y, shape, stride, padding, dilation, groups):
    """The w-gradient of `correlate` for the gradient y: of half types in float32, to which others are added."""
    x = columns(xp, x, shape[2:], y.shape[2:], stride, padding, dilation, groups)
    return xp.matmul(by_group(y, groups), x.swapaxes(1, 2), dtype=compute_dtype(x.dtype)).reshape(shape)


def by_group(y, groups):
    """(N, O, *counts) -> (groups, O / groups, N * counts)."""
    return y.swapaxes(0, 1).reshape(groups, y.shape[1] // groups, len(y) * math.prod(y.shape[2:]))


def along_channels(b, y):
    """A number a channel, so that it broadcasts with (N, C, *space)."""
    return b.reshape(-1, *(1,) * (y.ndim - 2))


def by_bias(dy):
    """The gradient of a bias: the sum over images and space, of half types in float32."""
    return widened(dy).sum(axis=(0, *range(2, dy.ndim)))


@op(precision="low")
def conv(xp, input: Array, weight: Array, bias: Array, stride, padding, dilation, groups):
    """The correlation of images with filters: (N, C, *space), (O, C / groups, *size), (O,) -> (N, O, *counts).

    A number an axis of space, for `padding` a pair (before, after), not necessarily equal.
    """
    check_dtypes(f"conv{input.ndim - 2}d", input, weight, bias)
    how, space, shape = (stride, padding, dilation, groups), input.shape[2:], weight.shape
    y = correlate(xp, input, weight, fit("convolution", space, shape[2:], stride, padding, dilation), *how)
    if bias is not None:
        y += along_channels(bias, y)
    return y, (
        lambda dy: spread(xp, dy, weight, space, *how),
        lambda dy: weigh(xp, input, dy, shape, *how),
        by_bias)


@conv.faster
def conv_in_parts(xp, input, weight, bias, stride, padding, dilation, groups):
    """Few images at a time, or the columns would take many times the memory of these."""
    many, how = math.prod(fit("convolution", input.shape[2:], weight.shape[2:], stride, padding, dilation)), (
        stride, padding, dilation, groups)
    image = math.prod(weight.shape[1:]) * groups * many * input.dtype.itemsize  # bytes of its columns
    at_once = max(1, backend_of(input).workspace() // max(1, image))
    parts = [slice(i, i + at_once) for i in range(0, len(input), at_once)]
    if len(parts) < 2:
        return turned(xp, input, weight, bias, *how)
    done = [turned(xp, input[p], weight, bias, *how) for p in parts]
    each = lambda i, dy: [back[i](dy[p]) for p, (_, back) in zip(parts, done, strict=True)]
    return xp.concatenate([y for y, _ in done]), (
        lambda dy: xp.concatenate(each(0, dy)),
        lambda dy: functools.reduce(operator.iadd, each(1, dy)),
        by_bias)


def turned(xp, input, weight, bias, stride, padding, dilation, groups):
    """The gradient of the images as the correlation of the output's with filters turned round, where it has no more."""
    (out, c, *size), space = weight.shape, input.shape[2:]
    y, pullbacks = conv.fn(xp, input, weight, bias, stride, padding, dilation, groups)
    outside = [(k - 1 - before, k - 1 - after)
               for k, (before, after) in zip(extent(size, dilation), padding, strict=True)]
    if any(s > 1 for s in stride) or out > c * groups or min(map(min, outside)) < 0:
        return y, pullbacks
    back = weight[(..., *(slice(None, None, -1),) * len(size))].reshape(groups, out // groups, c, *size)
    back = back.swapaxes(1, 2).reshape(groups * c, out // groups, *size)
    return y, (lambda dy: correlate(xp, dy, back, space, stride, outside, dilation, groups), *pullbacks[1:])


@op(precision="low")
def conv_transpose(xp, input: Array, weight: Array, bias: Array, space, stride, padding, dilation, groups):
    """What `conv` is the transpose of: (N, C, *counts), (C, O / groups, *size), (O,) -> (N, O, *space)."""
    check_dtypes(f"conv_transpose{input.ndim - 2}d", input, weight, bias)
    how, shape, counts = (stride, padding, dilation, groups), weight.shape, input.shape[2:]
    y = spread(xp, input, weight, space, *how)
    if bias is not None:
        y += along_channels(bias, y)
    return y, (
        lambda dy: correlate(xp, dy, weight, counts, *how),
        lambda dy: weigh(xp, dy, input, shape, *how),
        by_bias)


# ---- the public names -----------------------------------------------------------------------------------------------


def convnd(n: int, what: str, input: Array, weight: Array, bias: Array = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Array:
    """The correlation of (N, C, *space) images, or one (C, *space), with (O, C / groups, *size) filters, plus (O,).

    `padding` is numbers of zeros, "valid" for none, or "same" for as many as keep the input's size with stride 1.
    """
    x, back = spatial(what, input, n)
    stride, dilation = numbers(what, "stride", stride, n), numbers(what, "dilation", dilation, n)
    check_channels(what, n, x, weight, bias, groups, transposed=False)
    widths = around(what, padding, weight.shape[2:], stride, dilation)
    fit(what, x.shape[2:], weight.shape[2:], stride, widths, dilation)
    return back(conv(x, weight, bias, stride, widths, dilation, groups))


def around(what: str, padding: Any, size: Sequence[int], stride: Sequence[int],
           dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The padding before and after each axis: of "same", the odd one comes after."""
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(f"{what}: padding='same' goes with stride 1 alone, not {stride}")
        return tuple(((k - 1) // 2, k // 2) for k in extent(size, dilation))
    if isinstance(padding, str) and padding != "valid":
        raise ValueError(f"{what}: padding is numbers, 'same' or 'valid', not {padding!r}")
    given = numbers(what, "padding", 0 if padding == "valid" else padding, len(size), least=0)
    return tuple((p, p) for p in given)


def check_channels(what: str, n: int, x: Any, weight: Any, bias: Any, groups: int, transposed: bool) -> None:
    """That the channels of image, filters and bias go together, in as many groups."""
    layout = "(C, O / groups, *size)" if transposed else "(O, C / groups, *size)"
    if weight.ndim != n + 2:
        raise ValueError(f"{what}: weight is {layout}, of {n + 2} axes, not of shape {weight.shape}")
    if groups < 1 or len(weight) % groups:
        raise ValueError(f"{what}: groups={groups} does not divide the {len(weight)} filters of weight {weight.shape}")
    outer, inner = len(weight), weight.shape[1] * groups
    channels, out = (outer, inner) if transposed else (inner, outer)
    if x.shape[1] != channels:
        raise ValueError(f"{what}: input {x.shape} has {x.shape[1]} channels, but weight {weight.shape}, which is "
                         f"{layout} with groups={groups}, takes {channels}")
    if bias is not None and bias.shape != (out,):
        raise ValueError(f"{what}: bias is one number a channel of the output, ({out},), not {bias.shape}")


def conv_transposend(n: int, what: str, input: Array, weight: Array, bias: Array = None, stride: Sizes = 1,
                     padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1) -> Array:
    """The transpose of convolution: (N, C, *space) or (C, *space), filters (C, O / groups, *size), plus (O,).

    `padding` is cut off the output, `output_padding` comes back at its end: less than the stride, or the dilation.
    """
    x, back = spatial(what, input, n)
    stride, dilation = numbers(what, "stride", stride, n), numbers(what, "dilation", dilation, n)
    cut, more = numbers(what, "padding", padding, n, 0), numbers(what, "output_padding", output_padding, n, 0)
    check_channels(what, n, x, weight, bias, groups, transposed=True)
    if any(m >= max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
        raise ValueError(f"{what}: output_padding {more} must be less than the stride {stride} or "
                         f"the dilation {dilation}")
    reach = extent(weight.shape[2:], dilation)
    space = tuple((i - 1) * s - 2 * p + k + m
                  for i, s, p, k, m in zip(x.shape[2:], stride, cut, reach, more, strict=True))
    if min(space) < 1 or not math.prod(x.shape[2:]):
        raise ValueError(f"{what}: of input {x.shape} and weight {weight.shape} nothing is left: the output is {space}")
    return back(conv_transpose(x, weight, bias, space, stride, tuple((p, p) for p in cut), dilation, groups))


conv1d, conv2d, conv3d = spelled(convnd, 1, 2, 3)
conv_transpose1d, conv_transpose2d, conv_transpose3d = spelled(conv_transposend, 1, 2, 3)


# ---- windows as columns ---------------------------------------------------------------------------------------------


@composed
def unfold(input: Array, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1) -> Array:
    """Each window of (N, C, H, W) or (C, H, W) as a column: (N, C * kernel, windows)."""
    x, back = spatial("unfold", input, 2)
    size, how = window_words("unfold", kernel_size, stride, padding, dilation)
    counts = fit("unfold", x.shape[2:], size, *how)
    stride, widths, dilation = how
    w = windows(pad(x, ((0, 0), (0, 0), *widths)), size, counts, stride, dilation)
    return back(w.reshape(len(x), x.shape[1] * math.prod(size), math.prod(counts)))


@composed
def fold(input: Array, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0,
         stride: Sizes = 1) -> Array:
    """The transpose of `unfold`: (N, C * kernel, windows) columns, added where they lay in (N, C, *output_size)."""
    if input.ndim not in (2, 3):
        raise ValueError(f"fold: input is (N, C * kernel, windows) or (C * kernel, windows), "
                         f"not of shape {input.shape}")
    x = input if input.ndim == 3 else input[None]
    space = numbers("fold", "output_size", output_size, 2)
    size, how = window_words("fold", kernel_size, stride, padding, dilation)
    counts = fit("fold", space, size, *how)
    stride, widths, dilation = how
    if x.shape[1] % math.prod(size) or x.shape[2] != math.prod(counts):
        raise ValueError(f"fold: input {input.shape} has {x.shape[1]} rows and {x.shape[2]} columns, but kernel {size} "
                         f"takes a multiple of {math.prod(size)} rows, and output {space} {math.prod(counts)} columns")
    w = x.reshape(len(x), x.shape[1] // math.prod(size), *size, *counts)
    full = tuple(n + sum(p) for n, p in zip(space, widths, strict=True))
    y = cropped(overlap(w, full, stride, dilation), widths, space)
    return y if input.ndim == 3 else y[0]


def window_words(what: str, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> tuple:
    """The size of windows of images, and their (stride, padding, dilation)."""
    size, stride = numbers(what, "kernel_size", kernel_size, 2), numbers(what, "stride", stride, 2)
    dilation = numbers(what, "dilation", dilation, 2)
    return size, (stride, around(what, padding, size, stride, dilation), dilation)
