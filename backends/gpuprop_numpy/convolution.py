"""The overrides of convolutions for the CPU: one image at a time, in threads.

The columns of one image stay in the CPU's cache.  Windows are copied along all spatial axes but the
first; the offsets of a filter along the first are the rows of the columns from another row on, so
that each of them is a matrix product with a part of the columns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop.backend import portable
from gpuprop_numpy.threads import in_threads

MAX_WIDENING = 4  # outputs per input up to which columns of dy cost less than adding columns
MIN_WORK = 1 << 20  # multiplications per image; the portable version is faster below
MIN_WINDOWS = 64  # per image; with fewer, adding the gradients of weights takes most of the time
WORK_PER_TASK = 1 << 25


class Geometry:
    """The sizes of a convolution of one image.

    Row r of the padded image is row ``r // phases`` of phase ``r % phases``.  In this order, the
    rows that one row of the filter meets follow each other for every stride.
    """

    def __init__(self, space: Sequence[int], weight_shape: Sequence[int], stride: Sequence[int],
                 padding: Sequence[tuple[int, int]], dilation: Sequence[int], groups: int) -> None:
        self.out, channels, *size = weight_shape
        self.groups, self.channels = groups, channels * groups
        self.size, self.space, self.padding = size, list(space), padding
        self.stride, self.dilation = stride, dilation
        padded = [n + before + after for n, (before, after) in zip(space, padding, strict=True)]
        self.counts = [(n - (k - 1) * d - 1) // s + 1
                       for n, k, s, d in zip(padded, size, stride, dilation, strict=True)]
        self.phases = stride[0]
        self.rows = math.ceil(padded[0] / self.phases)
        self.padded = [self.rows * self.phases, *padded[1:]]
        self.terms = channels * math.prod(size[1:])  # of the sum that one offset contributes
        self.row = math.prod(self.counts[1:])  # windows per row
        self.windows = self.counts[0] * self.row
        self.work = self.out * self.terms * size[0] * self.windows
        # the columns are the image itself
        self.needs_no_copy = (self.padded == self.space and math.prod(size[1:]) == 1
                              and math.prod(stride) == 1)

    def offsets(self) -> list[tuple[int, slice]]:
        """The phase, and the part of the columns, that each row of the filter meets."""
        found = []
        for i in range(self.size[0]):
            first, phase = divmod(i * self.dilation[0], self.phases)
            found.append((phase, slice(first * self.row, first * self.row + self.windows)))
        return found

    def filters(self, weight: np.ndarray) -> np.ndarray:
        """(O, C / groups, *size) -> (size[0], groups, O / groups, terms)."""
        rows = weight.reshape(self.groups, self.out // self.groups, -1, *self.size)
        rows = np.moveaxis(rows, 3, 0)
        return np.ascontiguousarray(rows).reshape(
            self.size[0], self.groups, self.out // self.groups, self.terms)

    def weight(self, filters: np.ndarray) -> np.ndarray:
        """The inverse of `filters`."""
        rows = filters.reshape(self.size[0], self.out, -1, *self.size[1:])
        return np.ascontiguousarray(np.moveaxis(rows, 0, 2))

    def new_columns(self, dtype: np.dtype) -> np.ndarray:
        """(phases, C, *size[1:], rows, *counts[1:]), uninitialised."""
        return np.empty((self.phases, self.channels, *self.size[1:], self.rows, *self.counts[1:]),
                        dtype)

    def matrices(self, columns: np.ndarray) -> np.ndarray:
        """The columns as (phases, groups, terms, windows of all rows)."""
        return columns.reshape(self.phases, self.groups, self.terms, self.rows * self.row)

    def parts(self, padded: np.ndarray) -> list[np.ndarray]:
        """Views of a padded image that the columns hold, one for each of the other offsets."""
        image = padded.reshape(self.channels, self.rows, self.phases, *self.padded[1:])
        image = np.moveaxis(image, 2, 0)  # (phases, C, rows, ...)
        parts = []
        for offset in itertools.product(*map(range, self.size[1:])):
            index: list[Any] = [slice(i * d, i * d + s * n, s) for i, d, s, n in zip(
                offset, self.dilation[1:], self.stride[1:], self.counts[1:], strict=True)]
            parts.append(image[(..., *index)])
        return parts

    def inside(self) -> tuple[slice, ...]:
        """The image without its padding."""
        return (slice(None), *(slice(before, before + n) for n, (before, _) in zip(
            self.space, self.padding, strict=True)))

    def new_padded(self, dtype: np.dtype) -> np.ndarray | None:
        """A padded image of zeros; None if images need no padding."""
        if self.padded == self.space:
            return None
        return np.zeros((self.channels, *self.padded), dtype)


def by_image(work: Callable[[Sequence[int]], Any], n: int, geometry: Geometry,
             max_tasks: int | None = None) -> list:
    """The results of ``work(images)`` for tasks of a few images each."""
    step = max(1, WORK_PER_TASK // geometry.work, math.ceil(n / (max_tasks or n or 1)))
    return in_threads(work, [range(i, min(n, i + step)) for i in range(0, n, step)])


def column_reader(g: Geometry, dtype: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """A function of an image that returns its matrices of columns, each time in the same memory."""
    if g.needs_no_copy:
        return lambda image: g.matrices(np.ascontiguousarray(image, dtype))
    columns = g.new_columns(dtype)
    matrices = g.matrices(columns)
    targets = columns.reshape(g.phases, g.channels, -1, g.rows, *g.counts[1:])
    padded = g.new_padded(dtype)

    def read(image: np.ndarray) -> np.ndarray:
        if padded is not None:
            padded[g.inside()] = image
            image = padded
        for i, part in enumerate(g.parts(image)):
            targets[:, :, i] = part
        return matrices

    return read


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, g: Geometry) -> np.ndarray:
    """(N, C, *space) -> (N, O, *counts)."""
    dtype = weight.dtype
    filters = g.filters(weight)
    offsets = g.offsets()
    y = np.empty((len(x), g.groups, g.out // g.groups, g.windows), dtype)
    per_channel = None if bias is None else bias.reshape(*y.shape[1:3], 1)

    def work(images: Sequence[int]) -> None:
        read = column_reader(g, dtype)
        product = np.empty(y.shape[1:], dtype)
        for i in images:
            columns = read(x[i])
            for j, (phase, part) in enumerate(offsets):
                out = product if j else y[i]
                np.matmul(filters[j], columns[phase][..., part], out=out)
                if j:
                    y[i] += product
            if per_channel is not None:
                y[i] += per_channel

    by_image(work, len(x), g)
    return y.reshape(len(x), g.out, *g.counts)


def input_grad(dy: np.ndarray, weight: np.ndarray, g: Geometry) -> np.ndarray:
    """(N, O, *counts) -> (N, C, *space)."""
    padding = [((k - 1) * d - before, (k - 1) * d - after) for k, d, (before, after) in zip(
        g.size, g.dilation, g.padding, strict=True)]
    is_narrow = g.out <= MAX_WIDENING * g.channels
    if max(g.stride) == 1 and is_narrow and min(map(min, padding)) >= 0:
        swapped = weight.reshape(g.groups, -1, *weight.shape[1:]).swapaxes(1, 2)
        swapped = swapped.reshape(g.channels, -1, *g.size)
        backwards: list[Any] = [slice(None, None, -1)] * len(g.size)
        flipped = swapped[(..., *backwards)]
        return forward(dy, flipped, None, Geometry(
            g.counts, flipped.shape, g.stride, padding, g.dilation, g.groups))
    return folded_input_grad(dy, weight, g)


def folded_input_grad(dy: np.ndarray, weight: np.ndarray, g: Geometry) -> np.ndarray:
    """`input_grad` for every stride: it adds columns into the windows."""
    dtype = weight.dtype
    filters = np.ascontiguousarray(g.filters(weight).swapaxes(2, 3))
    offsets = g.offsets()
    dx = np.empty((len(dy), g.channels, *g.space), dtype)

    def work(images: Sequence[int]) -> None:
        columns = g.new_columns(dtype)
        matrices = g.matrices(columns)
        sources = columns.reshape(g.phases, g.channels, -1, g.rows, *g.counts[1:])
        product = np.empty((g.groups, g.terms, g.windows), dtype)
        padded = g.new_padded(dtype)
        for i in images:
            rows = np.ascontiguousarray(dy[i], dtype).reshape(g.groups, -1, g.windows)
            columns.fill(0)
            for j, (phase, part) in enumerate(offsets):
                np.matmul(filters[j], rows, out=product)
                matrices[phase][..., part] += product
            image = dx[i] if padded is None else padded
            image.fill(0)
            for j, target in enumerate(g.parts(image)):
                target += sources[:, :, j]
            if padded is not None:
                dx[i] = padded[g.inside()]

    by_image(work, len(dy), g)
    return dx


def weight_grad(x: np.ndarray, dy: np.ndarray, g: Geometry, dtype: np.dtype) -> np.ndarray:
    """The gradient of the weight, (O, C / groups, *size)."""
    offsets = g.offsets()
    shape = (len(offsets), g.groups, g.out // g.groups, g.terms)

    def work(images: Sequence[int]) -> np.ndarray:
        read = column_reader(g, dtype)
        total = np.zeros(shape, dtype)
        product = np.empty(shape[1:], dtype)
        for i in images:
            columns = read(x[i])
            rows = np.ascontiguousarray(dy[i], dtype).reshape(g.groups, -1, g.windows)
            for j, (phase, part) in enumerate(offsets):
                np.matmul(rows, columns[phase][..., part].swapaxes(1, 2), out=product)
                total[j] += product
        return total

    totals = by_image(work, len(x), g, max_tasks=8)  # each has a result of the weight's size
    return g.weight(sum(totals[1:], totals[0]) if totals else np.zeros(shape, dtype))


def bias_grad(dy: np.ndarray) -> np.ndarray:
    return dy.sum(axis=(0, *range(2, dy.ndim)))


def is_faster(g: Geometry, arrays: Sequence[np.ndarray | None]) -> bool:
    """Whether the overrides support the arrays and are faster than the portable versions."""
    dtypes = {a.dtype for a in arrays if a is not None}
    is_single = len(dtypes) == 1 and all(t.kind == "f" and t.itemsize > 2 for t in dtypes)
    return (is_single and min(g.counts) > 0 and g.windows >= MIN_WINDOWS
            and g.work >= MIN_WORK)


def conv(xp: Any, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
         groups: Any) -> tuple:
    """`conv` with the columns of one image at a time."""
    g = Geometry(input.shape[2:], weight.shape, stride, padding, dilation, groups)
    if not is_faster(g, (input, weight, bias)):
        return portable("gpuprop.functional:conv")(
            xp, input, weight, bias, stride, padding, dilation, groups)
    return forward(input, weight, bias, g), (
        lambda dy: input_grad(dy, weight, g),
        lambda dy: weight_grad(input, dy, g, weight.dtype),
        bias_grad)


def conv_transpose(xp: Any, input: Any, weight: Any, bias: Any, space: Any, stride: Any,
                   padding: Any, dilation: Any, groups: Any) -> tuple:
    """`conv_transpose` with the columns of one image at a time."""
    g = Geometry(space, weight.shape, stride, padding, dilation, groups)
    if not is_faster(g, (input, weight, bias)):
        return portable("gpuprop.functional:conv_transpose")(
            xp, input, weight, bias, space, stride, padding, dilation, groups)
    y = input_grad(input, weight, g)
    if bias is not None:
        y += bias.reshape(-1, *(1,) * len(space))
    return y, (
        lambda dy: forward(dy, weight, None, g),
        lambda dy: weight_grad(dy, input, g, weight.dtype),
        bias_grad)
