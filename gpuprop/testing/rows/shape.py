"""Rows of shapes, joining and splitting."""

from __future__ import annotations

from gpuprop._array import shape as S
from gpuprop.testing.rows import Row, floats

SHAPES = ((3, 4), (), (1,), (0, 3))

ROWS = [
    *(Row(op, floats(*s)) for op in (S.copy, S.ravel, S.flatten, S.squeeze, S.transpose, S.flip) for s in SHAPES),
    *(Row(S.astype, floats(*s), "float32").skip(gradient="float32 has no steps so small") for s in SHAPES),
    Row(S.astype, floats(3, 4), "float64"),
    Row(S.astype, floats(3, 4), "int64").skip(gradient="integers carry none"),
    Row(S.reshape, floats(3, 4), (2, 6)),
    Row(S.reshape, floats(3, 4), -1),
    Row(S.reshape, floats(1), ()),
    Row(S.reshape, floats(0, 3), (3, 0, 2)),
    Row(S.flatten, floats(2, 3, 4, 5), 1, 2),
    Row(S.flatten, floats(2, 3, 4), 1),
    Row(S.squeeze, floats(1, 3, 1), 0),
    Row(S.squeeze, floats(1, 3, 1), (0, -1)),
    Row(S.expand_dims, floats(3, 4), 1),
    Row(S.expand_dims, floats(3, 4), (0, -1)),
    Row(S.expand_dims, floats(), 0),
    Row(S.expand_dims, floats(0), 0),
    Row(S.transpose, floats(2, 3, 4), (2, 0, 1)),
    Row(S.transpose, floats(2, 3, 4), (-1, 0, 1)),
    *(Row(S.swapaxes, floats(*s), 0, -1) for s in ((2, 3, 4), (0, 3), (1,))),
    Row(S.moveaxis, floats(2, 3, 4), 0, -1),
    Row(S.moveaxis, floats(2, 3, 4), (0, 1), (2, 0)),
    Row(S.moveaxis, floats(0, 1), 0, 1),
    Row(S.moveaxis, floats(1), 0, 0),
    Row(S.flip, floats(3, 4), 1),
    Row(S.flip, floats(2, 3, 4), (0, -1)),
    *(Row(S.roll, floats(*s), 1) for s in ((3, 4), (0, 3), (1,))),
    Row(S.roll, floats(3, 4), -2, 1),
    Row(S.roll, floats(3, 4), (1, 5), (0, 1)),
    Row(S.broadcast_to, floats(3, 1), (2, 3, 4)),
    Row(S.broadcast_to, floats(), (2, 2)),
    Row(S.broadcast_to, floats(1), (0,)),
    Row(S.broadcast_to, floats(0, 1), (2, 0, 3)),
    *(Row(S.tile, floats(*s), reps) for s, reps in (
        ((3, 2), 2), ((3,), (2, 2)), ((2, 3), (2, 1)), ((), 3), ((1,), 0), ((0, 2), 2))),
    *(Row(S.repeat, floats(*s), n, axis) for s, n, axis in (
        ((3, 2), 2, None), ((3, 2), 3, 0), ((3, 2), 2, -1), ((0, 2), 2, 0), ((1,), 3, None), ((3, 2), 0, 1),
        ((2, 3), [2, 0, 1], 1), ((2, 2), [1, 2, 0, 3], None))),
    *(Row(S.pad, floats(3, 4), width, mode) for mode in ("constant", "edge", "reflect", "symmetric", "wrap")
      for width in (1, (0, 2), ((1, 2), (0, 0)))),
    *(Row(S.pad, floats(2, 3), ((7, 5), (4, 9)), mode) for mode in ("reflect", "symmetric", "wrap")),
    Row(S.pad, floats(2, 3), ((1, 1),), constant_values=-2.5),
    Row(S.pad, floats(0, 3), 1),
    *(Row(S.pad, floats(1), 2, mode) for mode in ("constant", "reflect")),
    Row(S.pad, floats(), 2),
    Row(S.concatenate, [floats(2, 3), floats(4, 3), floats(0, 3)]),
    Row(S.concatenate, [floats(2, 1), floats(2, 3)], axis=-1),
    Row(S.concatenate, [floats(1), floats(2)]),
    Row(S.stack, [floats(2, 3), floats(2, 3)], axis=1),
    Row(S.stack, [floats(), floats()]),
    Row(S.stack, [floats(0, 2), floats(0, 2)], -1),
    *(Row(S.unstack, floats(*s), axis) for s, axis in (((2, 3), 0), ((2, 3), -1), ((2, 0), 0), ((1,), 0))),
    *(Row(S.split, floats(*s), parts, axis) for s, parts, axis in (
        ((4, 3), 2, 0), ((4, 6), 3, -1), ((5, 2), [1, 3], 0), ((5, 2), [2, 2, 9], 0), ((5,), [-1], 0), ((1,), 1, 0),
        ((0, 2), 2, 0))),
    *(Row(S.chunk, floats(*s), chunks, axis) for s, chunks, axis in (
        ((5, 2), 2, 0), ((2, 7), 3, 1), ((2, 1), 3, 1), ((0, 2), 2, 0), ((1,), 1, 0))),
]
