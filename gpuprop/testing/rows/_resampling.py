"""Rows of resampling."""

from __future__ import annotations

from typing import Any

import gpuprop.functional as F
from gpuprop.functional._resampling import resample
from gpuprop.testing.rows import Row, floats

BOOLS = (False, True)
INTERPOLATING_MODES = (  # mode, spatial shape
    ("linear", (5,)),
    ("bilinear", (4, 5)),
    ("bicubic", (4, 5)),
    ("trilinear", (2, 3, 4)),
)
SIZES: list[tuple[tuple[int, ...], Any]] = [  # spatial shape, size of the output
    ((5,), 3),
    ((3,), 7),
    ((2, 3), (4, 2)),
    ((2, 1, 3), (3, 2, 6)),
    ((4, 4), 8),
]


def shuffles():
    for shape, factor in (((2, 8, 2, 3), 2), ((9, 1, 2), 3), ((0, 4, 1, 1), 2), ((1, 1, 1), 1)):
        yield Row(F.pixel_shuffle, floats(*shape), factor)
    for shape, factor in (((2, 2, 4, 6), 2), ((1, 3, 6), 3), ((0, 1, 2, 2), 2), ((1, 1, 1), 1)):
        yield Row(F.pixel_unshuffle, floats(*shape), factor)
    for shape, groups in (((2, 6, 3), 2), ((2, 6, 2, 1), 3), ((0, 4, 2), 2), ((1, 1, 1), 1)):
        yield Row(F.channel_shuffle, floats(*shape), groups)


def interpolation():
    for op in (F.interpolate, F.upsample):
        for space, size in SIZES:
            for mode in ("nearest", "nearest-exact", "area"):
                yield Row(op, floats(2, 3, *space), size, mode=mode)
    for mode, space in INTERPOLATING_MODES:
        for scale in (0.6, 1.7, 2):
            for align_corners in BOOLS:
                for batch in (2, 0):
                    yield Row(F.interpolate, floats(batch, 2, *space), None, scale, mode,
                              align_corners)
    for mode in ("nearest", "linear", "area"):
        yield Row(F.interpolate, floats(2, 1, 5), None, 1.7, mode, None, True)
    for mode in ("bilinear", "bicubic"):
        for size in ((2, 3), (6, 5), (1, 1)):
            for align_corners in BOOLS:
                yield Row(F.interpolate, floats(1, 1, 4, 5), size, None, mode, align_corners,
                          None, True)
    for mode in ("nearest", "bilinear", "bicubic", "area"):
        yield Row(F.interpolate, floats(1, 1, 1, 1), (2, 3), None, mode)
    for shape in ((2, 1, 3, 4), (1, 1, 1, 1), (0, 2, 2, 3)):
        for size, scale in (((3, 2), None), (None, 2)):
            yield Row(F.upsample_nearest, floats(*shape), size, scale)
            yield Row(F.upsample_bilinear, floats(*shape), size, scale)
    for shape in ((0, 1, 2), (1, 1, 1)):
        yield Row(F.upsample, floats(*shape), 2)
    for shape in ((2, 4), (0, 4), (1,)):
        for mode, antialias in (
            ("linear", False),
            ("cubic", True),
            ("area", False),
            ("nearest", False),
        ):
            yield Row(resample, floats(*shape), (3,), mode, (0.5,), False, antialias)


def grids():
    for align_corners in BOOLS:
        for n, dims, space in ((2, 2, (3, 4)), (1, 3, (2, 1, 3)), (0, 2, (2, 2))):
            row = Row(F.affine_grid, floats(n, dims, dims + 1), (n, 1, *space), align_corners)
            yield row.skip(hidden="a product with coordinates that are 0; so in PyTorch")
    for space, out in (((3, 4), (2, 3)), ((2, 3, 2), (1, 2, 2))):
        for mode in ("bilinear", "nearest", "bicubic"):
            if mode == "bicubic" and len(space) == 3:  # not defined
                continue
            for padding_mode in ("zeros", "border", "reflection"):
                for align_corners in BOOLS:
                    x = floats(2, 2, *space)
                    grid = floats(2, *out, len(space), low=-1.4, high=1.4)
                    row = Row(F.grid_sample, x, grid, mode, padding_mode, align_corners)
                    edge = "a product with weights that are 0 at an edge; so in PyTorch"
                    yield row if padding_mode == "zeros" else row.skip(hidden=edge)
    yield Row(F.grid_sample, floats(1, 1, 1, 1), floats(1, 1, 1, 2, low=-0.9, high=0.9))
    yield Row(F.grid_sample, floats(0, 2, 3, 3), floats(0, 2, 2, 2))


# Products of the elements in each window alone are ten times as slow on a CPU.
DENSE = "a product with a matrix, whose zeros spread infinite gradients along an axis"


def spreads_nan(row):
    """Whether `row` is a product with a matrix, which the modes that copy elements are not."""
    words = (row.name.partition("_")[2], *row.args, *row.kwargs.values())
    return not any(str(value).startswith("nearest") for value in words)


ROWS = [*shuffles(), *(row.skip(hidden=DENSE) if spreads_nan(row) else row
                       for row in interpolation()), *grids()]
