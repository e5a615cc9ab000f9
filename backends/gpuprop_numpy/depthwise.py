"""Filters with few channels per group, applied as sums of slices of the planes."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.compiled_planes import CompiledPlanes, PlaneLoops, plane_loops
from gpuprop_numpy.planes import Geometry, Layout, NumpyPlanes

MAX_PAIRS = 4  # channels per group, times outputs per group
CHUNK = 2048  # windows, which stay in the cache while all offsets are added


class Slices(NumpyPlanes):
    """Planes, and the slices of them that the elements of the filter meet.

    einsum multiplies and adds in one pass, and for all rows of the filter while a slice is in the
    cache.  Products of matrices of so few rows take longer than the copies that they need.
    """

    cost = 16  # einsum adds four products at a time, and rereads the sums

    def __init__(self, layout: Layout, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__(layout, x, y)
        # slices (groups, C / groups, rows of the filter, windows), these rows, the other offset
        self._slices = []
        g, first = layout.geometry, layout.axes[0]
        planes = self.planes.reshape(first.phases, -1, g.groups, g.group_channels, layout.length)
        for i in range(first.phases):
            rows = first.rows(i)
            starts = [start * layout.steps[0] for _, start in first.offsets[rows]]
            step = starts[1] - starts[0] if len(starts) > 1 else 0
            for j, (phase, start) in enumerate(layout.places(1, len(layout.axes))):
                plane = planes[i, phase, ..., starts[0] + start:]
                view = np.lib.stride_tricks.as_strided(
                    plane, (*plane.shape[:2], len(starts), layout.windows),
                    (*plane.strides[:2], step * x.itemsize, x.itemsize))
                self._slices.append((view, rows, j))

    @staticmethod
    def elements(g: Geometry) -> int:
        return g.channels + g.out

    @staticmethod
    def filters(weight: np.ndarray, g: Geometry) -> np.ndarray:
        """(groups, O / groups, C / groups, size[0], other offsets)."""
        return weight.reshape(g.groups, g.group_out, g.group_channels, g.size[0],
                              math.prod(g.size[1:]))

    def apply(self, filters: np.ndarray, out: np.ndarray) -> None:
        total = out.reshape(*filters.shape[:2], -1)
        product = np.empty_like(total)
        for i, (view, rows, j) in enumerate(self._slices):
            target = product if i else total
            np.einsum("gckw,gock->gow", view, filters[..., rows, j], out=target)
            if i:
                np.add(total, product, out=total)

    def new_grad(self) -> np.ndarray:
        g = self.geometry
        return np.zeros((g.groups, g.group_out, g.group_channels, g.size[0],
                         math.prod(g.size[1:])), self.planes.dtype)

    def add_grad(self, grad: np.ndarray, dy: np.ndarray) -> None:
        dy = dy.reshape(*grad.shape[:2], -1)
        for view, rows, j in self._slices:
            grad[..., rows, j] += np.einsum("gckw,gow->gock", view, dy)


class CompiledSlices(CompiledPlanes):
    """`Slices` by loops of Numba."""

    cost = 4  # a loop rereads the sums

    @staticmethod
    def elements(g: Geometry) -> int:
        return g.channels + g.out

    @staticmethod
    def filters(weight: np.ndarray, g: Geometry) -> np.ndarray:
        """(groups, O / groups, terms)."""
        return np.ascontiguousarray(weight).reshape(g.groups, g.group_out, -1)

    @staticmethod
    def loops(dtype: np.dtype) -> PlaneLoops:
        return slice_loops(dtype)


@functools.cache
def slice_loops(dtype: np.dtype) -> PlaneLoops:
    """The loops of `CompiledSlices` for a dtype."""
    decorate, decorate_sum = compiled.njit(), compiled.njit(in_any_order=True)
    assert decorate is not None and decorate_sum is not None  # see `convolution.kind_of`

    @decorate
    def apply(planes: Any, starts: Any, places: Any, filters: Any, bias: Any,
              windows: Any) -> None:
        groups, outputs, terms = filters.shape
        for g in range(groups):
            s = starts[g]
            for o in range(outputs):
                f = filters[g, o]
                for first in range(0, windows.shape[2], CHUNK):
                    # slices of arrays let Numba use vector instructions
                    total = windows[g, o, first:first + CHUNK]
                    n = total.size
                    total[:] = bias[g * outputs + o]
                    for k in range(0, terms - 2, 3):  # three at once save passes over the sum
                        x, y, z = (planes[s[k] + first:s[k] + first + n],
                                   planes[s[k + 1] + first:s[k + 1] + first + n],
                                   planes[s[k + 2] + first:s[k + 2] + first + n])
                        for i in range(n):
                            total[i] += f[k] * x[i] + f[k + 1] * y[i] + f[k + 2] * z[i]
                    for k in range(terms // 3 * 3, terms):
                        x = planes[s[k] + first:s[k] + first + n]
                        for i in range(n):
                            total[i] += f[k] * x[i]

    @decorate_sum
    def add_grad(planes: Any, starts: Any, places: Any, dy: Any, grad: Any) -> None:
        groups, outputs, terms = grad.shape
        for g in range(groups):
            for o in range(outputs):
                for first in range(0, dy.shape[2], CHUNK):
                    d = dy[g, o, first:first + CHUNK]
                    for k in range(terms):
                        start = starts[g, k] + first
                        x = planes[start:start + d.size]
                        total = grad[g, o, k]
                        for i in range(d.size):
                            total += x[i] * d[i]
                        grad[g, o, k] = total

    return plane_loops(dtype, apply, add_grad)
