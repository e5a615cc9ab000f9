"""Filters applied in tiles whose windows are copied to panels first, without those across rows.

With many outputs, the copies cost less than the windows across the ends of short rows.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.compiled_planes import PlaneLoops, plane_loops
from gpuprop_numpy.microkernels import has_avx, microkernels, tile_of_strips
from gpuprop_numpy.planes import Geometry, Layout, layout
from gpuprop_numpy.product_loops import DIRECT_ROWS, TERMS, packing
from gpuprop_numpy.tiles import Tiles

UNIT = 8  # windows: rows of windows must be multiples of it, and of a piece, the rows of a tile
MIN_OUT = 64  # outputs of a group: with fewer, the copies take longer than they save
MIN_SAVED = 16  # outputs times the windows across the ends of rows, of each window inside


class PackedTiles(Tiles):
    """Tiles of copied windows."""

    @staticmethod
    def windows_shape(layout: Layout) -> tuple[int, ...]:
        first, *others = layout.geometry.counts
        return (first, layout.shape[1], *others)

    @staticmethod
    def places(layout: Layout, dtype: np.dtype) -> np.ndarray:
        """The places of all pieces."""
        places = np.arange(layout.windows).reshape(layout.shape)
        inside = places[(slice(None), slice(None), *map(slice, layout.geometry.counts[1:]))]
        piece = microkernels(dtype).piece
        assert layout.geometry.counts[-1] % piece == 0  # a piece is inside of a row
        return np.ascontiguousarray(inside.reshape(-1)[::piece])

    @staticmethod
    def loops(dtype: np.dtype) -> PlaneLoops:
        return packed_tile_loops(dtype)


def is_faster_for_weights(g: Geometry) -> bool:
    """Whether `PackedTiles` supports the sizes, and computes weight gradients faster."""
    return (g.counts[-1] % UNIT == 0 and g.group_out % UNIT == 0 and g.group_out >= MIN_OUT
            and has_avx())


def is_faster_for_outputs(g: Geometry) -> bool:
    """Whether `PackedTiles` computes outputs faster, too."""
    across = layout(g, 1).shape[-1] - g.counts[-1]
    return is_faster_for_weights(g) and across * g.group_out >= MIN_SAVED * g.counts[-1]


@functools.cache
def packed_tile_loops(dtype: np.dtype) -> PlaneLoops:
    """The loops of `PackedTiles` for a dtype."""
    kernels = microkernels(dtype)
    copy, move, gather, transpose = kernels.copy, kernels.move, kernels.gather, kernels.transpose
    rows, lanes, piece = kernels.rows, kernels.lanes, kernels.piece
    tile = tile_of_strips(dtype)
    _, pack_slivers = packing(dtype)
    is_direct = rows <= DIRECT_ROWS
    size = dtype.itemsize
    max_terms = TERMS // size
    columns = kernels.columns
    decorate = compiled.njit()
    assert decorate is not None  # see `fills_tiles`

    @decorate
    def pack_windows(planes: Any, starts: Any, places: Any, to: Any, width: Any) -> None:
        """``to[k * width + i]``: the window i meets the term k."""
        source = planes.ctypes.data
        if len(places) * piece == columns:
            gather(source, starts.ctypes.data, len(starts), places.ctypes.data, to)
            return
        for k in range(len(starts)):
            for p in range(len(places)):
                move(source + (starts[k] + places[p]) * size, to + (k * width + p * piece) * size)

    @decorate
    def apply(planes: Any, starts: Any, places: Any, filters: Any, bias: Any,
              windows: Any) -> None:
        groups, blocks, terms, _ = filters.shape
        outputs = windows.shape[1]
        count = len(places) * piece
        packed = np.empty(min(terms, max_terms) * columns, dtype)
        step = windows.strides[1]
        for g in range(groups):
            for o in range(outputs):
                windows[g, o, :] = bias[g * outputs + o]
            for k in range(0, terms, max_terms):
                of_terms = starts[g, k:k + max_terms]
                for first in range(0, count, columns):
                    strips = (min(columns, count - first) + lanes - 1) // lanes
                    pack_windows(planes, of_terms, places[first // piece:][:columns // piece],
                                 packed.ctypes.data, strips * lanes)
                    for block in range(blocks):
                        out = windows[g, block * rows, first:].ctypes.data
                        tile(strips, filters[g, block, k:].ctypes.data, size, rows * size,
                             packed.ctypes.data, len(of_terms), out, step, out, step)

    @decorate
    def pack_terms(planes: Any, starts: Any, places: Any, to: Any, width: Any) -> None:
        """``to[i * width + k]``: where the window i meets the term k."""
        source = planes.ctypes.data
        whole = len(starts) // piece * piece
        for p in range(len(places)):
            place = source + places[p] * size
            window = to + p * piece * width * size
            for k in range(0, whole, piece):
                transpose(place, starts[k:].ctypes.data, window + k * size, width)
            for k in range(whole, len(starts)):
                copy(window + k * size, width * size, place + starts[k] * size, size, piece)

    @decorate
    def add_grad(planes: Any, starts: Any, places: Any, dy: Any, grad: Any) -> None:
        groups, outputs, terms = grad.shape
        pieces = max_terms // piece
        step = grad.strides[1]
        row_step = dy.strides[1]
        packed_dy = np.empty(outputs * max_terms, dtype)
        packed = np.empty(max_terms * columns, dtype)
        for g in range(groups):
            for p in range(0, len(places), pieces):
                of_pieces = places[p:p + pieces]
                count = len(of_pieces) * piece
                of_dy, of_packed = dy[g, 0, p * piece:].ctypes.data, packed_dy.ctypes.data
                if not is_direct:
                    pack_slivers(of_dy, row_step, size, outputs, count, of_packed)
                for first in range(0, terms, columns):
                    of_terms = starts[g, first:first + columns]
                    strips = (len(of_terms) + lanes - 1) // lanes
                    pack_terms(planes, of_terms, of_pieces, packed.ctypes.data, strips * lanes)
                    for row in range(0, outputs, rows):
                        out = grad[g, row, first:].ctypes.data
                        if is_direct:
                            tile(strips, of_dy + row * row_step, row_step, size,
                                 packed.ctypes.data, count, out, step, out, step)
                        else:
                            tile(strips, of_packed + row * count * size, size, rows * size,
                                 packed.ctypes.data, count, out, step, out, step)

    return plane_loops(dtype, apply, add_grad)
