"""The overrides of convolutions for the CPU: a few images at a time, in threads.

Filters are applied in tiles by compiled loops (`Tiles`, `PackedTiles`), without Numba as products
of matrices (`Columns`), with few channels per group as sums of slices (`CompiledSlices`, `Slices`),
and filters of one element as products with the images themselves.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpuprop.backend import portable
from gpuprop_numpy import compiled, products
from gpuprop_numpy.columns import Columns
from gpuprop_numpy.depthwise import MAX_PAIRS, CompiledSlices, Slices
from gpuprop_numpy.packed_tiles import (
    UNIT,
    PackedTiles,
    is_faster_for_outputs,
    is_faster_for_weights,
)
from gpuprop_numpy.planes import KEPT, Axis, Geometry, Planes, geometry, in_blocks, tasks_of
from gpuprop_numpy.threads import in_threads
from gpuprop_numpy.tiles import Tiles, fills_tiles

# the portable versions are faster below
MIN_WORK = 1 << 18  # multiplications
MIN_WORK_OF_COLUMNS = 1 << 20
# multiplications of an image, below which nobody should wait for Numba to compile
MIN_WORK_OF_TILES = 1 << 17
MIN_WORK_OF_SLICES = 1 << 13
MIN_WINDOWS = 1024  # of a batch, for products of columns
MIN_ELEMENTS = 64  # of an image, for filters of one element
MAX_ELEMENTS = 1 << 19  # of a block; a larger image is divided into bands
MAX_WIDENING = 4  # outputs per input up to which columns of dy are no more than those of the input


def kind_of(g: Geometry) -> type[Planes]:
    """What computes the outputs."""
    if g.group_channels * g.group_out <= MAX_PAIRS:
        is_compiled = g.work >= MIN_WORK_OF_SLICES and compiled.njit() is not None
        return CompiledSlices if is_compiled else Slices
    if g.work < MIN_WORK_OF_TILES or not fills_tiles(g):
        return Columns
    return PackedTiles if is_faster_for_outputs(g) else Tiles


def grad_kind_of(g: Geometry) -> type[Planes]:
    """What computes the gradient of the weight."""
    kind = kind_of(g)
    return PackedTiles if issubclass(kind, Tiles) and is_faster_for_weights(g) else kind


class Band(NamedTuple):
    """Neighbouring rows of windows, and the rows of the images that they contain."""

    windows: tuple[slice, ...]  # indices of (N, O, *counts)
    elements: tuple[slice, ...]  # indices of (N, C, *space)
    geometry: Geometry


@functools.lru_cache(KEPT)
def bands(g: Geometry) -> list[Band]:
    """The windows of an image, in bands whose blocks take little memory."""
    axis = int(g.counts[0] == 1)  # the first axis of a signal has one row
    count = g.counts[axis]
    elements = kind_of(g).elements(g) * g.windows
    step = math.ceil(count / max(1, elements // MAX_ELEMENTS))
    if axis == len(g.counts) - 1:  # rows of windows stay multiples of it: see `PackedTiles`
        step = math.ceil(step / UNIT) * UNIT
    before = (slice(None),) * (2 + axis)
    found = []
    for row in range(0, count, step):
        n = min(step, count - row)
        first = row * g.stride[axis] - g.padding[axis][0]
        end = first + (n - 1) * g.stride[axis] + (g.size[axis] - 1) * g.dilation[axis] + 1
        inside = slice(max(first, 0), min(end, g.space[axis]))
        if inside.start >= inside.stop:  # nothing but padding
            return [Band((), (), g)]
        space, padding = list(g.space), list(g.padding)
        space[axis] = inside.stop - inside.start
        padding[axis] = (inside.start - first, end - inside.stop)
        found.append(Band((*before, slice(row, row + n)), (*before, inside),
                          g.with_space(space, padding)))
    return found


def by_band(work: Callable[[Band], Any], g: Geometry, n: int) -> list:
    """The results of ``work(band)``, in threads if there are more bands than images."""
    found = bands(g)
    return in_threads(work, found) if len(found) > n else [work(band) for band in found]


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, g: Geometry,
            y: np.ndarray) -> None:
    """(N, C, *space) -> y, (N, O, *counts)."""
    kind = kind_of(g)  # that of a small band may be another one
    filters = kind.filters(weight, g)
    by_band(lambda band: forward_band(kind, x[band.elements], filters, bias, band.geometry,
                                      y[band.windows]), g, len(x))


def forward_band(kind: type[Planes], x: np.ndarray, filters: np.ndarray, bias: np.ndarray | None,
                 g: Geometry, y: np.ndarray) -> None:
    def work(block: Planes, parts: Sequence[slice]) -> None:
        block.forward(filters, bias, parts)

    in_blocks(kind, g, x, y, work)


def weight_grad(x: np.ndarray, dy: np.ndarray, g: Geometry) -> np.ndarray:
    """The gradient of the weight, (O, C / groups, *size)."""
    grads = by_band(lambda band: band_weight_grad(
        x[band.elements], dy[band.windows], band.geometry), g, len(x))
    return sum(grads[1:], grads[0])


def band_weight_grad(x: np.ndarray, dy: np.ndarray, g: Geometry) -> np.ndarray:
    kind = grad_kind_of(g)

    def work(block: Planes, parts: Sequence[slice]) -> np.ndarray:
        return block.grad(parts)

    grads = in_blocks(kind, g, x, dy, work, max_tasks=8)  # each has the weight's size
    if not grads:
        return np.zeros((g.out, g.group_channels, *g.size), x.dtype)
    return kind.weight_grad(sum(grads[1:], grads[0]), g)


def input_grad(xp: Any, dy: np.ndarray, weight: np.ndarray, g: Geometry) -> np.ndarray:
    """(N, O, *counts) -> (N, C, *space).

    Each phase of the input is a convolution of dy, of stride 1, with the part of the flipped
    filters that meets this phase.
    """
    if g.group_out > MAX_WIDENING * g.group_channels:
        return folded_input_grad(xp, dy, weight, g)
    filters = weight.reshape(g.groups, g.group_out, g.group_channels, *g.size).swapaxes(1, 2)
    filters = filters.reshape(g.channels, g.group_out, *g.size)
    dx = np.empty((len(dy), g.channels, *g.space), weight.dtype)
    phases_of_dx = [(dx[(..., *elements)], rows, of_phase)
                    for elements, rows, of_phase in input_phases(g)]
    if sum(part.size for part, *_ in phases_of_dx) < dx.size:  # some elements are in no window
        dx[...] = 0
    for part, rows, of_phase in phases_of_dx:
        if part.size:
            forward(dy, filters[(..., *rows)], None, of_phase, part)
    return dx


def folded_input_grad(xp: Any, dy: np.ndarray, weight: np.ndarray, g: Geometry) -> np.ndarray:
    """`input_grad` by the portable version, which adds columns of the input."""
    dx = np.empty((len(dy), g.channels, *g.space), weight.dtype)
    filters = weight.reshape(g.out, g.group_channels, *g.size)
    transposed = portable("gpuprop.functional:conv_transpose")
    padding = [(before, max(0, after)) for before, after in g.padding]

    def work(images: slice) -> None:
        dx[images], _ = transposed(xp, dy[images], filters, None, g.space, g.stride, padding,
                                   g.dilation, g.groups)

    in_threads(work, tasks_of(len(dy), g.work))
    return dx


@functools.lru_cache(KEPT)
def input_phases(g: Geometry) -> list[tuple[tuple, tuple, Geometry]]:
    """The phases of the input: their elements, the rows of the filter, and their convolutions."""
    found = []
    for phase in itertools.product(*(phases(g, i) for i in range(len(g.size)))):
        elements, rows, padding, dilation = zip(*phase, strict=True)
        size = [len(range(k)[part]) for k, part in zip(g.size, rows, strict=True)]
        found.append((elements, rows, geometry(
            g.counts, (g.channels, g.group_out, *size), (1,) * len(size), padding, dilation,
            g.groups)))
    return found


def phases(g: Geometry, i: int) -> list[tuple[slice, slice, tuple[int, int], int]]:
    """The phases of the input along an axis i.

    For each one: its elements; the rows of the filter that meet it, in reverse order; and the
    padding and dilation of its convolution.
    """
    axis = Axis(g, i)
    found = []
    for phase, (of_plane, elements) in enumerate(axis.inside):
        rows = range(g.size[i])[axis.rows(phase)]
        starts = [axis.offsets[row][1] for row in rows]
        padding = (starts[-1] - of_plane.start, of_plane.stop - starts[0] - g.counts[i])
        dilation = starts[1] - starts[0] if len(starts) > 1 else 1
        found.append((elements, slice(rows[-1], rows[0] - 1 if rows[0] else None, -rows.step),
                      padding, dilation))
    return found


# ---- filters of one element ----------------------------------------------------------------------


def product(x: np.ndarray, matrices: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """(N, groups, C, windows) times matrices (groups, O, C) -> (N, groups, O, windows)."""
    per_channel = None if bias is None else bias.reshape(*matrices.shape[:2], 1)
    if len(x) == 1:
        y = products.product(matrices, x[0])[None]
        return y if per_channel is None else y + per_channel
    y = np.empty((len(x), *matrices.shape[:2], x.shape[3]), matrices.dtype)

    def work(images: slice) -> None:
        np.matmul(matrices, x[images], out=y[images])
        if per_channel is not None:
            y[images] += per_channel

    in_threads(work, tasks_of(len(x), matrices.size * x.shape[3]))
    return y


def product_weight_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """The gradient of the matrices of `product`."""
    if len(x) == 1:
        return products.product(dy[0], x[0].swapaxes(1, 2))
    shape = (*dy.shape[1:3], x.shape[2])

    def work(images: slice) -> np.ndarray:
        total = np.zeros(shape, dy.dtype)
        for rows, columns in zip(dy[images], x[images], strict=True):
            total += np.matmul(rows, columns.swapaxes(1, 2))
        return total

    totals = in_threads(work, tasks_of(len(x), math.prod(shape) * x.shape[3], max_tasks=8))
    return sum(totals[1:], totals[0]) if totals else np.zeros(shape, dy.dtype)


# ---- ops -----------------------------------------------------------------------------------------


def bias_grad(dy: np.ndarray) -> np.ndarray:
    return dy.sum(axis=(0, *range(2, dy.ndim)))


def is_faster(g: Geometry, n: int, arrays: Sequence[np.ndarray | None]) -> bool:
    """Whether the overrides support the arrays and are faster than the portable versions."""
    dtypes = {a.dtype for a in arrays if a is not None}
    is_single = len(dtypes) == 1 and all(t.kind == "f" and t.itemsize > 2 for t in dtypes)
    if not is_single or min(g.counts) <= 0 or g.work * n < MIN_WORK:
        return False
    if g.is_product:
        return g.windows >= MIN_ELEMENTS
    return kind_of(g) in (Slices, CompiledSlices) or (
        g.work * n >= MIN_WORK_OF_COLUMNS and g.windows * n >= MIN_WINDOWS)


def conv(xp: Any, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
         groups: Any) -> tuple:
    """`conv` of a few images at a time."""
    g = geometry(input.shape[2:], weight.shape, stride, padding, dilation, groups)
    if not is_faster(g, len(input), (input, weight, bias)):
        return portable("gpuprop.functional:conv")(
            xp, input, weight, bias, stride, padding, dilation, groups)
    n, dtype = len(input), weight.dtype
    x_shape, weight_shape = input.shape, weight.shape
    out_shape = (n, g.out, *g.counts[len(g.counts) - len(stride):])
    if g.is_product:
        x = input.reshape(n, groups, g.group_channels, g.windows)
        matrices = weight.reshape(groups, g.group_out, g.group_channels)
        by_group = lambda dy: dy.reshape(n, groups, g.group_out, g.windows)
        return product(x, matrices, bias).reshape(out_shape), (
            lambda dy: product(
                by_group(dy), matrices.swapaxes(1, 2), None).reshape(x_shape),
            lambda dy: product_weight_grad(x, by_group(dy)).reshape(weight_shape),
            bias_grad)
    x = input.reshape(n, g.channels, *g.space)
    y_shape = (n, g.out, *g.counts)
    y = np.empty(y_shape, dtype)
    forward(x, weight, bias, g, y)
    return y.reshape(out_shape), (
        lambda dy: input_grad(xp, dy.reshape(y_shape), weight, g).reshape(x_shape),
        lambda dy: weight_grad(x, dy.reshape(y_shape), g).reshape(weight_shape),
        bias_grad)


def conv_transpose(xp: Any, input: Any, weight: Any, bias: Any, space: Any, stride: Any,
                   padding: Any, dilation: Any, groups: Any) -> tuple:
    """`conv_transpose` of a few images at a time."""
    # output padding beyond the stride would make room for more windows than the input has elements
    exact = tuple((before, (count - 1) * s + (k - 1) * d + 1 - n - before)
                  for (before, _), count, s, k, d, n in zip(
                      padding, input.shape[2:], stride, weight.shape[2:], dilation, space,
                      strict=True))
    fits = all(a <= after for (_, a), (_, after) in zip(exact, padding, strict=True))
    g = geometry(space, weight.shape, stride, exact, dilation, groups)
    if not fits or not is_faster(g, len(input), (input, weight, bias)):
        return portable("gpuprop.functional:conv_transpose")(
            xp, input, weight, bias, space, stride, padding, dilation, groups)
    n, dtype = len(input), weight.dtype
    x_shape, weight_shape = input.shape, weight.shape
    x = input.reshape(n, g.out, *g.counts)
    y = input_grad(xp, x, weight, g)
    y_shape = y.shape
    if bias is not None:
        y += bias.reshape(-1, *(1,) * len(g.space))

    def transposed_input_grad(dy: np.ndarray) -> np.ndarray:
        dx = np.empty((n, g.out, *g.counts), dtype)
        forward(dy.reshape(y_shape), weight, None, g, dx)
        return dx.reshape(x_shape)

    return y.reshape(n, g.channels, *space), (
        transposed_input_grad,
        lambda dy: weight_grad(dy.reshape(y_shape), x, g).reshape(weight_shape),
        bias_grad)
