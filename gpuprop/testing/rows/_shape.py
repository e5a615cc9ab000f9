"""Rows of shapes, joining and splitting."""

from __future__ import annotations

from typing import Any

from gpuprop._array import shape as S
from gpuprop.testing.rows import Row, floats

SHAPES = ((3, 4), (), (1,), (0, 3))
REPEAT: list[tuple[Any, ...]] = [  # shape, repeats, axis
    ((3, 2), 2, None),
    ((3, 2), 3, 0),
    ((3, 2), 2, -1),
    ((0, 2), 2, 0),
    ((1,), 3, None),
    ((3, 2), 0, 1),
    ((2, 3), [2, 0, 1], 1),
    ((2, 2), [1, 2, 0, 3], None),
]
SPLIT: list[tuple[Any, ...]] = [  # shape, sections or indices, axis
    ((4, 3), 2, 0),
    ((4, 6), 3, -1),
    ((5, 2), [1, 3], 0),
    ((5, 2), [2, 2, 9], 0),
    ((5,), [-1], 0),
    ((1,), 1, 0),
    ((0, 2), 2, 0),
]


def reshaping():
    for op in (S.copy, S.ravel, S.flatten, S.squeeze, S.transpose, S.flip):
        for shape in SHAPES:
            yield Row(op, floats(*shape))
    for shape in SHAPES:
        row = Row(S.astype, floats(*shape), "float32")
        yield row.skip(gradient="float32 is too coarse for finite differences")
    yield Row(S.astype, floats(3, 4), "float64")
    yield Row(S.astype, floats(3, 4), "int64").skip(gradient="integers have no gradient")
    yield Row(S.reshape, floats(3, 4), (2, 6))
    yield Row(S.reshape, floats(3, 4), -1)
    yield Row(S.reshape, floats(1), ())
    yield Row(S.reshape, floats(0, 3), (3, 0, 2))
    yield Row(S.flatten, floats(2, 3, 4, 5), 1, 2)
    yield Row(S.flatten, floats(2, 3, 4), 1)
    yield Row(S.squeeze, floats(1, 3, 1), 0)
    yield Row(S.squeeze, floats(1, 3, 1), (0, -1))
    yield Row(S.expand_dims, floats(3, 4), 1)
    yield Row(S.expand_dims, floats(3, 4), (0, -1))
    yield Row(S.expand_dims, floats(), 0)
    yield Row(S.expand_dims, floats(0), 0)


def permuting():
    yield Row(S.transpose, floats(2, 3, 4), (2, 0, 1))
    yield Row(S.transpose, floats(2, 3, 4), (-1, 0, 1))
    for shape in ((2, 3, 4), (0, 3), (1,)):
        yield Row(S.swapaxes, floats(*shape), 0, -1)
    yield Row(S.moveaxis, floats(2, 3, 4), 0, -1)
    yield Row(S.moveaxis, floats(2, 3, 4), (0, 1), (2, 0))
    yield Row(S.moveaxis, floats(0, 1), 0, 1)
    yield Row(S.moveaxis, floats(1), 0, 0)
    yield Row(S.flip, floats(3, 4), 1)
    yield Row(S.flip, floats(2, 3, 4), (0, -1))
    for shape in ((3, 4), (0, 3), (1,)):
        yield Row(S.roll, floats(*shape), 1)
    yield Row(S.roll, floats(3, 4), -2, 1)
    yield Row(S.roll, floats(3, 4), (1, 5), (0, 1))


def repeating():
    yield Row(S.broadcast_to, floats(3, 1), (2, 3, 4))
    yield Row(S.broadcast_to, floats(), (2, 2))
    yield Row(S.broadcast_to, floats(1), (0,))
    yield Row(S.broadcast_to, floats(0, 1), (2, 0, 3))
    yield Row(S.tile, floats(3, 2), 2)
    yield Row(S.tile, floats(3), (2, 2))
    yield Row(S.tile, floats(2, 3), (2, 1))
    yield Row(S.tile, floats(), 3)
    yield Row(S.tile, floats(1), 0)
    yield Row(S.tile, floats(0, 2), 2)
    for shape, repeats, axis in REPEAT:
        yield Row(S.repeat, floats(*shape), repeats, axis)


def padding():
    for mode in ("constant", "edge", "reflect", "symmetric", "wrap"):
        for width in (1, (0, 2), ((1, 2), (0, 0))):
            yield Row(S.pad, floats(3, 4), width, mode)
    for mode in ("reflect", "symmetric", "wrap"):
        yield Row(S.pad, floats(2, 3), ((7, 5), (4, 9)), mode)
    yield Row(S.pad, floats(2, 3), ((1, 1),), constant_values=-2.5)
    yield Row(S.pad, floats(0, 3), 1)
    for mode in ("constant", "reflect"):
        yield Row(S.pad, floats(1), 2, mode)
    yield Row(S.pad, floats(), 2)


def joining_and_splitting():
    yield Row(S.concatenate, [floats(2, 3), floats(4, 3), floats(0, 3)])
    yield Row(S.concatenate, [floats(2, 1), floats(2, 3)], axis=-1)
    yield Row(S.concatenate, [floats(1), floats(2)])
    yield Row(S.stack, [floats(2, 3), floats(2, 3)], axis=1)
    yield Row(S.stack, [floats(), floats()])
    yield Row(S.stack, [floats(0, 2), floats(0, 2)], -1)
    for shape, axis in (((2, 3), 0), ((2, 3), -1), ((2, 0), 0), ((1,), 0)):
        yield Row(S.unstack, floats(*shape), axis)
    for shape, parts, axis in SPLIT:
        yield Row(S.split, floats(*shape), parts, axis)
    for shape, chunks, axis in (
        ((5, 2), 2, 0),
        ((2, 7), 3, 1),
        ((2, 1), 3, 1),
        ((0, 2), 2, 0),
        ((1,), 1, 0),
    ):
        yield Row(S.chunk, floats(*shape), chunks, axis)


ROWS = [*reshaping(), *permuting(), *repeating(), *padding(), *joining_and_splitting()]
