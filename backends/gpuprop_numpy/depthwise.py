"""Filters with few channels per group, applied as sums of slices of the planes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.planes import Geometry, NumpyPlanes

MAX_PAIRS = 4  # channels per group, times outputs per group


class Slices(NumpyPlanes):
    """Planes, and the slices of them that the elements of the filter meet.

    einsum multiplies and adds in one pass, and for all rows of the filter while a slice is in the
    cache.  Products of matrices of so few rows take longer than the copies that they need.  Loops
    of Numba take a third of the time.
    """

    cost = 16  # einsum adds four products at a time, and rereads the sums

    def __init__(self, g: Geometry, images: int, dtype: np.dtype) -> None:
        super().__init__(g, images, dtype)
        # slices (groups, C / groups, rows of the filter, windows), these rows, the other offset
        self._slices = []
        first = self.axes[0]
        planes = self.planes.reshape(first.phases, -1, g.groups, g.group_channels,
                                     self.planes.shape[-1])
        for i in range(first.phases):
            rows = first.rows(i)
            starts = [start * self.steps[0] for _, start in first.offsets[rows]]
            step = starts[1] - starts[0] if len(starts) > 1 else 0
            for j, (phase, start) in enumerate(self.places(1, len(self.axes))):
                plane = planes[i, phase, ..., starts[0] + start:]
                view = np.lib.stride_tricks.as_strided(
                    plane, (*plane.shape[:2], len(starts), self.windows),
                    (*plane.strides[:2], step * dtype.itemsize, dtype.itemsize))
                self._slices.append((view, rows, j))
        phases, starts = np.array(self.places(0, len(self.axes))).T
        planes_of = np.arange(g.channels)[:, None] + phases * g.channels
        self._starts = planes_of * self.planes.shape[-1] + starts  # see `compiled_loops`

    def _loops(self) -> tuple[Callable, Callable] | None:
        return compiled_loops() if self.planes.size >= compiled.MIN_SIZE else None

    @staticmethod
    def elements(g: Geometry) -> int:
        return g.channels + g.out

    @staticmethod
    def filters(weight: np.ndarray, g: Geometry) -> np.ndarray:
        """(groups, O / groups, C / groups, size[0], other offsets)."""
        return weight.reshape(g.groups, g.group_out, g.group_channels, g.size[0],
                              math.prod(g.size[1:]))

    def apply(self, filters: np.ndarray, out: np.ndarray) -> None:
        g = self.geometry
        total = out.reshape(g.groups, g.group_out, self.windows)
        if (loops := self._loops()):
            by_offset = np.ascontiguousarray(filters).reshape(*filters.shape[:3], -1)
            loops[0](self.planes.reshape(-1), self._starts, by_offset, total)
            return
        product = np.empty_like(total)
        for i, (view, rows, j) in enumerate(self._slices):
            target = product if i else total
            np.einsum("gckw,gock->gow", view, filters[..., rows, j], out=target)
            if i:
                np.add(total, product, out=total)

    def new_dy(self) -> np.ndarray:
        return np.zeros((self.geometry.out, *self.shape), self.planes.dtype)

    def new_grad(self) -> np.ndarray:
        g = self.geometry
        return np.zeros((g.groups, g.group_out, g.group_channels, g.size[0],
                         math.prod(g.size[1:])), self.planes.dtype)

    def add_grad(self, grad: np.ndarray, dy: np.ndarray) -> None:
        g = self.geometry
        dy = dy.reshape(g.groups, g.group_out, self.windows)
        if (loops := self._loops()):
            loops[1](self.planes.reshape(-1), self._starts, dy, grad.reshape(*grad.shape[:3], -1))
            return
        for view, rows, j in self._slices:
            grad[..., rows, j] += np.einsum("gckw,gow->gock", view, dy)

    @staticmethod
    def weight_grad(grad: np.ndarray, g: Geometry) -> np.ndarray:
        return grad.reshape(g.out, g.group_channels, *g.size)


# ---- loops of Numba ------------------------------------------------------------------------------

CHUNK = 2048  # windows, which stay in the cache while all offsets are added


@functools.cache
def compiled_loops() -> tuple[Callable, Callable] | None:
    """``apply(planes, starts, filters, out)`` and ``add_grad(planes, starts, dy, grad)``, or None.

    `planes` is flat; ``starts[c, k]`` is where the windows meet element k of the filter of channel
    c.  `filters` and `grad` are (groups, O / groups, C / groups, k); `out` and `dy` are (groups,
    O / groups, windows).  Slices let Numba use vector instructions.
    """
    decorate, decorate_sum = compiled.njit(), compiled.njit(in_any_order=True)
    if decorate is None or decorate_sum is None:
        return None

    @decorate
    def apply(planes: Any, starts: Any, filters: Any, out: Any) -> None:
        groups, outputs, inputs, size = filters.shape
        for g in range(groups):
            for o in range(outputs):
                for first in range(0, out.shape[2], CHUNK):
                    total = out[g, o, first:first + CHUNK]
                    n = total.size
                    total[:] = 0
                    for c in range(inputs):
                        f, s = filters[g, o, c], starts[g * inputs + c] + first
                        for k in range(0, size - 2, 3):  # three at once save passes over the sum
                            x, y, z = (planes[s[k]:s[k] + n], planes[s[k + 1]:s[k + 1] + n],
                                       planes[s[k + 2]:s[k + 2] + n])
                            for i in range(n):
                                total[i] += f[k] * x[i] + f[k + 1] * y[i] + f[k + 2] * z[i]
                        for k in range(size // 3 * 3, size):
                            x = planes[s[k]:s[k] + n]
                            for i in range(n):
                                total[i] += f[k] * x[i]

    @decorate_sum
    def add_grad(planes: Any, starts: Any, dy: Any, grad: Any) -> None:
        groups, outputs, inputs, size = grad.shape
        for g in range(groups):
            for o in range(outputs):
                for first in range(0, dy.shape[2], CHUNK):
                    d = dy[g, o, first:first + CHUNK]
                    for c in range(inputs):
                        for k in range(size):
                            start = starts[g * inputs + c, k] + first
                            x = planes[start:start + d.size]
                            total = grad[g, o, c, k]
                            for i in range(d.size):
                                total += x[i] * d[i]
                            grad[g, o, c, k] = total

    return compiled.Loop(apply), compiled.Loop(add_grad)
