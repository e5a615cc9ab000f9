"""Filters with few channels per group, applied as sums of slices of the planes."""

from __future__ import annotations

import math

import numpy as np

from gpuprop_numpy.planes import Geometry, Planes

MAX_PAIRS = 4  # channels per group, times outputs per group


class Slices(Planes):
    """Planes, and the slices of them that the elements of the filter meet.

    einsum multiplies and adds in one pass, and for all rows of the filter while a slice is in the
    cache.  Products of matrices of so few rows take longer than the copies that they need.
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
        for view, rows, j in self._slices:
            grad[..., rows, j] += np.einsum("gckw,gow->gock", view, dy)

    @staticmethod
    def weight_grad(grad: np.ndarray, g: Geometry) -> np.ndarray:
        return grad.reshape(g.out, g.group_channels, *g.size)
