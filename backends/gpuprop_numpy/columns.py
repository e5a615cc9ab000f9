"""Filters applied as products of matrices."""

from __future__ import annotations

import math

import numpy as np

from gpuprop_numpy.planes import Geometry, Layout, NumpyPlanes
from gpuprop_numpy.products import has_small_products

MIN_TERMS = 48  # of the sum of one product; with fewer, columns have the offsets of all axes
SMALL_PRODUCT = 10**6  # multiplications up to which OpenBLAS makes no copies, with AVX-512
SMALL_SUM = 128  # terms up to which such products are faster


class Columns(NumpyPlanes):
    """Planes, and their windows as the columns of matrices.

    The offsets along all axes but the first are copied to columns.  Those along the first one are
    the columns from another start, so that each of them is a product with a part of the columns.
    With few channels, the offsets along the first axis are copied too.
    """

    def __init__(self, layout: Layout, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__(layout, x, y)
        g = layout.geometry
        axes = _leading_axes(g)
        starts = layout.places(0, axes)
        self._copies = layout.places(axes, len(layout.axes))
        self._length = layout.windows + max(start for _, start in starts)
        phases = math.prod(axis.phases for axis in layout.axes[:axes])
        self._by_phase = self.planes.reshape(phases, -1, *self.planes.shape[1:])
        self._columns = self._by_phase[..., :self._length]
        if len(self._copies) > 1:
            self._columns = np.empty(
                (phases, g.channels, len(self._copies), self._length), x.dtype)
        matrices = self._columns.reshape(phases, g.groups, _terms(g), self._length)
        # (groups, terms, windows) for each start
        self._matrices = [matrices[phase, ..., start:start + layout.windows]
                          for phase, start in starts]

    def read(self, part: slice) -> None:
        super().read(part)
        if len(self._copies) > 1:
            for i, (phase, start) in enumerate(self._copies):
                self._columns[:, :, i] = self._by_phase[:, phase, :, start:start + self._length]

    @staticmethod
    def elements(g: Geometry) -> int:
        return g.groups * _terms(g) + g.out

    @staticmethod
    def filters(weight: np.ndarray, g: Geometry) -> np.ndarray:
        """(starts, groups, O / groups, terms)."""
        starts = math.prod(g.size[:_leading_axes(g)])
        parts = weight.reshape(g.groups, g.group_out, g.group_channels, starts, -1)
        parts = np.ascontiguousarray(parts.transpose(3, 0, 1, 2, 4))
        return parts.reshape(starts, g.groups, g.group_out, _terms(g))

    def apply(self, filters: np.ndarray, out: np.ndarray) -> None:
        total = out.reshape(*filters.shape[1:3], self.layout.windows)
        product = np.empty_like(total)
        for i, (rows, matrix) in enumerate(zip(filters, self._matrices, strict=True)):
            _multiply(rows, matrix, product if i else total)
            if i:
                np.add(total, product, out=total)

    def new_dy(self) -> np.ndarray:
        """Transposed if products of many terms are so much faster for two matrices in C order."""
        g = self.geometry
        if not has_small_products() or _terms(g) < MIN_TERMS:
            return super().new_dy()
        by_window = np.zeros((self.layout.windows, g.out), self.planes.dtype)
        return by_window.T.reshape(-1, *self.layout.shape)

    def new_grad(self) -> np.ndarray:
        """(starts, groups, terms, O / groups)."""
        g = self.geometry
        return np.zeros((len(self._matrices), g.groups, _terms(g), g.group_out),
                        self.planes.dtype)

    def add_grad(self, grad: np.ndarray, dy: np.ndarray) -> None:
        g = self.geometry
        by_window = dy.reshape(g.out, -1).T.reshape(-1, g.groups, g.group_out)
        by_group = by_window.swapaxes(0, 1)
        for total, matrix in zip(grad, self._matrices, strict=True):
            _add_product(total, matrix, by_group)

    @staticmethod
    def weight_grad(grad: np.ndarray, g: Geometry) -> np.ndarray:
        parts = grad.reshape(len(grad), g.groups, g.group_channels, -1, g.group_out)
        parts = np.ascontiguousarray(parts.transpose(1, 4, 2, 0, 3))
        return parts.reshape(g.out, g.group_channels, *g.size)


def _leading_axes(g: Geometry) -> int:
    """The axes of the filter whose offsets are starts of the columns: 0 or 1."""
    return int(g.group_channels * math.prod(g.size[1:]) >= MIN_TERMS)


def _terms(g: Geometry) -> int:
    """The rows of a group's columns."""
    return g.group_channels * math.prod(g.size[_leading_axes(g):])


def _multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """``np.matmul(a, b, out)``, in parts that OpenBLAS multiplies without copies."""
    rows, terms = a.shape[-2:]
    n = b.shape[-1]
    is_cut = terms <= SMALL_SUM and has_small_products()
    step = SMALL_PRODUCT // (rows * terms) // 64 * 64 if is_cut else 0
    end = n // step * step if step else 0

    def parts(m: np.ndarray) -> np.ndarray:  # (groups, parts, rows, columns)
        return m[..., :end].reshape(*m.shape[:-1], end // step, step).swapaxes(1, 2)

    if end:
        np.matmul(a[:, None], parts(b), out=parts(out))
    if end < n:
        np.matmul(a, b[..., end:], out=out[..., end:])


def _add_product(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """``total += a @ b``, likewise."""
    groups, rows, n = a.shape
    columns = b.shape[-1]
    step = SMALL_PRODUCT // (rows * columns) // 16 * 16
    end = n // step * step if step >= 64 and has_small_products() else 0
    if end:
        parts = a[..., :end].reshape(groups, rows, end // step, step).swapaxes(1, 2)
        other = b[:, :end].reshape(groups, end // step, step, columns)
        total += np.matmul(parts, other).sum(axis=1)
    if end < n:
        total += np.matmul(a[..., end:], b[:, end:])
