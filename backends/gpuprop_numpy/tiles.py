"""Filters applied by loops of Numba that read the windows where they are in the planes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.microkernels import microkernels
from gpuprop_numpy.planes import Geometry, Planes

MIN_SIZE = 8  # outputs and terms of a group; fewer do not fill a tile
CHUNK = 2048  # windows of a sum in the registers
ALIGNMENT = 16  # windows: rows of dy are padded to multiples of it, which no vector exceeds


class Tiles(Planes):
    """Planes, whose windows are multiplied in tiles of sums: nothing is copied to columns.

    A task is one call of a compiled function, during which no thread waits for Python's lock.
    """

    min_windows = 1024  # a sum over fewer windows is not long enough to be fast
    max_elements = 1 << 18
    slack = 128  # elements of a tile that a few windows do not fill

    def __init__(self, g: Geometry, images: int, dtype: np.dtype) -> None:
        super().__init__(g, images, dtype)
        phases, starts = np.array(self.places(0, len(self.axes))).T
        planes = np.arange(g.channels)[:, None] + phases * g.channels
        by_channel = planes * self.planes.shape[-1] + starts  # (channels, offsets)
        self._starts = by_channel.reshape(g.groups, -1)
        self._loops = tile_loops(dtype)
        self._in_planes = boxes([plane for plane, _ in self._inside])

    @staticmethod
    def elements(g: Geometry) -> int:
        phases = math.prod(map(min, g.stride, g.size))
        return g.channels * phases + g.out

    @staticmethod
    def filters(weight: np.ndarray, g: Geometry) -> np.ndarray:
        """(groups, blocks, terms, rows); the last block may overlap the one before."""
        rows = microkernels(weight.dtype).rows
        by_output = weight.reshape(g.groups, g.group_out, -1)
        blocks = np.empty((g.groups, math.ceil(g.group_out / rows), by_output.shape[2], rows),
                          weight.dtype)
        for i, first in enumerate(range(0, g.group_out, rows)):
            first = min(first, g.group_out - rows)
            blocks[:, i] = by_output[:, first:first + rows].swapaxes(1, 2)
        return blocks

    def forward(self, x: np.ndarray, filters: np.ndarray, bias: np.ndarray | None,
                y: np.ndarray, parts: Sequence[slice]) -> None:
        g = self.geometry
        bias = np.zeros(g.out, y.dtype) if bias is None else np.array(bias)
        length = max(self.windows, self._loops.columns)
        windows = np.empty((g.groups, g.group_out, length), y.dtype)
        self._loops.forward(*self._arguments(x, windows, y, parts), filters, bias)

    def grad(self, x: np.ndarray, dy: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
        g = self.geometry
        length = math.ceil(self.windows / ALIGNMENT) * ALIGNMENT
        windows = np.zeros((g.groups, g.group_out, length), x.dtype)
        grad = np.zeros((g.groups, g.group_out, g.group_channels * math.prod(g.size)), x.dtype)
        self._loops.grad(*self._arguments(x, windows, dy, parts), grad)
        return grad

    def _arguments(self, x: np.ndarray, windows: np.ndarray, y: np.ndarray,
                   parts: Sequence[slice]) -> tuple:
        """What both loops take."""
        inside = self.inside(
            windows.reshape(self.geometry.out, -1)[:, :self.windows].reshape(-1, *self.shape))
        of_images = [x[elements] for _, elements in self._inside]
        return (parts[0].start, len(parts), self.planes.reshape(-1), self._starts, windows,
                self._in_planes, boxes(of_images), boxes([inside]), boxes([y[:self.shape[1]]]))

    @staticmethod
    def weight_grad(grad: np.ndarray, g: Geometry) -> np.ndarray:
        return grad.reshape(g.out, g.group_channels, *g.size)


def fills_tiles(g: Geometry) -> bool:
    terms = g.group_channels * math.prod(g.size)
    return min(g.group_out, terms) >= MIN_SIZE and compiled.njit() is not None


def boxes(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of the address, five steps in bytes and five sizes, for arrays (N, C, *space).

    So one compiled function copies arrays in any memory order.
    """
    return np.array([
        [a.__array_interface__["data"][0], *_five_axes(a.strides, 0), *_five_axes(a.shape, 1)]
        for a in arrays])


def _five_axes(values: tuple, missing: int) -> tuple:
    """Of three or four axes: others in the middle."""
    return values[:3] + (missing,) * (5 - len(values)) + values[3:]


# ---- loops of Numba ------------------------------------------------------------------------------


class TileLoops(NamedTuple):
    forward: Callable
    grad: Callable
    columns: int  # windows of a tile


@functools.cache
def tile_loops(dtype: np.dtype) -> TileLoops:
    """``forward(first, parts, planes, starts, windows, *boxes, filters, bias)`` and ``grad(...)``.

    They compute `parts` of a batch from the image `first` on.  The boxes are those of the images
    in planes, of the first images of x, of the windows in `windows`, and of the first images of y
    or dy.  `planes` is flat; ``starts[g, k]`` is where the windows meet the term k of group g.
    `filters` is (groups, blocks, terms, rows), `windows` (groups, O / groups, windows), and `grad`
    (groups, O / groups, terms).
    """
    multiply, dot, copy, rows, columns, dot_rows, dot_columns, _ = microkernels(dtype)
    decorate = compiled.njit()
    assert decorate is not None  # see `fills_tiles`

    @decorate
    def move(to: Any, to_image: Any, source: Any, image: Any) -> None:
        """Copy the images of a box, and those after the first of `source`."""
        for c in range(to[7]):
            for i in range(to[8]):
                for n in range(to[6]):
                    for j in range(to[9]):
                        copy(to[0] + (to_image + n) * to[1] + c * to[2] + i * to[3] + j * to[4],
                             to[5], source[0] + (image + n) * source[1] + c * source[2]
                             + i * source[3] + j * source[4], source[5], to[10])

    @decorate
    def apply(planes: Any, starts: Any, filters: Any, bias: Any, windows: Any) -> None:
        groups, blocks, terms, _ = filters.shape
        outputs, length = windows.shape[1:]
        for g in range(groups):
            for following in range(0, length, columns):
                first = min(following, length - columns)
                for block in range(blocks):
                    row = min(block * rows, outputs - rows)
                    multiply(filters[g, block].ctypes.data, 1, rows, planes[first:].ctypes.data,
                             starts[g].ctypes.data, terms, bias[g * outputs + row:].ctypes.data,
                             windows[g, row, first:].ctypes.data, length)

    @decorate
    def forward(first: Any, parts: Any, planes: Any, starts: Any, windows: Any, in_planes: Any,
                in_x: Any, in_windows: Any, in_y: Any, filters: Any, bias: Any) -> None:
        images = in_windows[0, 6]
        for image in range(first, first + parts * images, images):
            for phase in range(len(in_planes)):
                move(in_planes[phase], 0, in_x[phase], image)
            apply(planes, starts, filters, bias, windows)
            move(in_y[0], image, in_windows[0], 0)

    @decorate
    def add_grad(planes: Any, starts: Any, dy: Any, grad: Any) -> None:
        groups, outputs, terms = grad.shape
        length = dy.shape[2]
        sums = np.empty(dot_rows * dot_columns, dtype)
        for g in range(groups):
            for first in range(0, length, CHUNK):
                count = min(CHUNK, length - first)
                for next_column in range(0, terms, dot_columns):
                    column = min(next_column, terms - dot_columns)
                    for next_row in range(0, outputs, dot_rows):
                        row = min(next_row, outputs - dot_rows)
                        dot(dy[g, row, first:].ctypes.data, length, planes[first:].ctypes.data,
                            starts[g, column:].ctypes.data, count, sums.ctypes.data)
                        for r in range(next_row - row, dot_rows):  # without those done before
                            for c in range(next_column - column, dot_columns):
                                grad[g, row + r, column + c] += sums[r * dot_columns + c]

    @decorate
    def grad(first: Any, parts: Any, planes: Any, starts: Any, windows: Any, in_planes: Any,
             in_x: Any, in_windows: Any, in_dy: Any, total: Any) -> None:
        images = in_windows[0, 6]
        for image in range(first, first + parts * images, images):
            for phase in range(len(in_planes)):
                move(in_planes[phase], 0, in_x[phase], image)
            move(in_windows[0], 0, in_dy[0], image)
            add_grad(planes, starts, windows, total)

    return TileLoops(compiled.Loop(forward), compiled.Loop(grad), columns)
