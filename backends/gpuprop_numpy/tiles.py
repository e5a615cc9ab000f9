"""Filters applied in tiles of sums that stay in the CPU's registers, without copies to columns."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.compiled_planes import CompiledPlanes, PlaneLoops, plane_loops
from gpuprop_numpy.microkernels import microkernels
from gpuprop_numpy.planes import Geometry

MIN_SIZE = 8  # outputs and terms of a group; fewer do not fill a tile
CHUNK = 2048  # windows of a sum in the registers


class Tiles(CompiledPlanes):
    """Applies filters to the windows where they are in the planes."""

    min_windows = 1024  # a sum over fewer windows is not long enough to be fast
    max_elements = 1 << 18

    @staticmethod
    def elements(g: Geometry) -> int:
        phases = math.prod(map(min, g.stride, g.size))
        return g.channels * phases + g.out

    @staticmethod
    def filters(weight: np.ndarray, g: Geometry) -> np.ndarray:
        """(groups, blocks, terms, rows); the last block may overlap the one before."""
        rows = microkernels(weight.dtype).rows
        n = g.group_out // rows  # blocks that do not overlap
        terms = g.group_channels, *g.size
        by_output = weight.reshape(g.groups, g.group_out, *terms)
        blocks = np.empty((g.groups, math.ceil(g.group_out / rows), *terms, rows), weight.dtype)
        whole = by_output[:, :n * rows].reshape(g.groups, n, rows, *terms)
        blocks[:, :n] = np.moveaxis(whole, 2, -1)
        blocks[:, n:] = np.moveaxis(by_output[:, None, -rows:], 2, -1)
        return blocks.reshape(*blocks.shape[:2], -1, rows)

    @staticmethod
    def loops(dtype: np.dtype) -> PlaneLoops:
        return tile_loops(dtype)


def fills_tiles(g: Geometry) -> bool:
    terms = g.group_channels * math.prod(g.size)
    return min(g.group_out, terms) >= MIN_SIZE and compiled.njit() is not None


@functools.cache
def tile_loops(dtype: np.dtype) -> PlaneLoops:
    """The loops of `Tiles` for a dtype."""
    kernels = microkernels(dtype)
    multiply, rows, columns = kernels.multiply, kernels.rows, kernels.columns
    dot, dot_rows, dot_columns = kernels.dot, kernels.dot_rows, kernels.dot_columns
    decorate = compiled.njit()
    assert decorate is not None  # see `fills_tiles`

    @decorate
    def apply(planes: Any, starts: Any, places: Any, filters: Any, bias: Any,
              windows: Any) -> None:
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
    def add_grad(planes: Any, starts: Any, places: Any, dy: Any, grad: Any) -> None:
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

    return plane_loops(dtype, apply, add_grad)
