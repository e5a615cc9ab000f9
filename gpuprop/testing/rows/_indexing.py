"""Rows of indexing, selection and scatter."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._array import indexing as I
from gpuprop._array import scatter as M
from gpuprop.testing.rows import Row, floats, integers

DUPLICATES = "repeated rows of indices contain duplicates"
WAITS = dict.fromkeys(("waits", "capture"), "the host waits for the number of True elements")
SHAPES = ((4, 5), (), (1,), (0, 3))


def bools(*shape: int) -> np.ndarray:
    return integers(2, *shape).astype(bool)


def permutations(*shape: int) -> np.ndarray:
    """Random permutations along the last axis."""
    return np.argsort(floats(*shape), -1)


KEYS: list[Any] = [  # of an array of shape (4, 5, 3)
    0,
    -1,
    slice(1, 3),
    slice(None, None, -2),
    (..., 1),
    (slice(None), 2),
    (None, 1, ..., None),
    (1, 2, 0),
    (0, slice(1, None), None),
    integers(4, 6),
    integers(4, 2, 2, low=-4),
    (slice(None), integers(5, 7)),
    (..., integers(3, 2)),
    (slice(1, 4), integers(5, 2, 3), slice(2)),
    (integers(4, 6), integers(5, 6)),
    (integers(4, 6), slice(None), integers(3, 6)),
    (integers(4, 2, 1), integers(5, 3), 1),
    (integers(4, 6), 1),
    (None, integers(4, 6)),
    integers(4, 0),
    (..., None, integers(3, 2)),
]


def by_key():
    for key in KEYS:
        yield Row(I.getitem, floats(4, 5, 3), key)
    for key in (bools(4, 5), bools(4), (slice(None), bools(5))):
        yield Row(I.getitem, floats(4, 5), key).skip(**WAITS)
    yield Row(I.getitem, floats(), ())
    yield Row(I.getitem, floats(), ...)
    yield Row(I.getitem, floats(1), 0)
    yield Row(I.getitem, floats(0, 3), slice(None))
    yield Row(M.put, floats(2, 5), slice(1, 3), (4, 5))
    yield Row(M.put, floats(), 1, (3,))
    yield Row(M.put, floats(6, 5), integers(4, 6), (4, 5))
    yield Row(M.put, floats(6), (integers(4, 6), integers(5, 6)), (4, 5))
    yield Row(M.put, floats(0, 5), integers(4, 0), (4, 5))
    yield Row(M.put, floats(1), integers(4, 1), (4,))


def along_an_axis():
    for index, axis in (
        (integers(4, 6), 0),
        (integers(5, 2, 3), 1),
        (integers(3, 4, low=-3), -1),
        (integers(60, 7), None),
        (integers(5), 1),
        (2, 1),
        (-1, None),
    ):
        yield Row(I.take, floats(4, 5, 3), index, axis)
    yield Row(I.take, floats(1), integers(1, 3), 0)
    yield Row(I.take, floats(0, 3), integers(3, 4), 1)
    yield Row(I.take, floats(4), integers(4, 0), 0)
    for shape, index, axis, n in (
        ((6, 3), integers(4, 6), 0, 4),
        ((2, 3, 3), integers(4, 3, 3), 1, 4),
        ((1,), integers(4, 1), 0, 4),
        ((0, 3), integers(4, 0), 0, 4),
    ):
        yield Row(M.put_rows, floats(*shape), index, axis, n)
    yield Row(I.index_select, floats(4, 5), 1, integers(5, 3))
    yield Row(I.index_select, floats(1), 0, integers(1, 3))
    yield Row(I.index_select, floats(2, 0), 0, integers(2, 3))
    for shape, index, axis in (
        ((4, 5), integers(5, 4, 2), 1),
        ((4, 5), integers(4, 7, 5), 0),
        ((4, 5), integers(5, 4, 1, low=-5), -1),
        ((4, 5), integers(5, 1, 3), 1),
        ((1, 5), integers(5, 4, 3), 1),
        ((1,), integers(1, 3), 0),
        ((0, 3), integers(3, 0, 2), 1),
    ):
        yield Row(I.take_along_axis, floats(*shape), index, axis)
    for shape, index, axis, n in (
        ((4, 5), permutations(4, 5), 1, 5),
        ((4, 2), permutations(4, 5)[:, :2].copy(), -1, 5),
        ((5, 4), permutations(4, 5).T.copy(), 0, 5),
        ((1,), permutations(1), 0, 1),
        ((0, 2), permutations(0, 2), 1, 2),
    ):
        yield Row(M.put_along_axis, floats(*shape), index, axis, n).skip(layouts=DUPLICATES)


def gather_and_scatter():
    for shape, axis, index in (
        ((4, 5), 1, integers(5, 4, 3)),
        ((4, 5), 0, integers(4, 6, 5)),
        ((4, 5), -1, integers(5, 2, 8)),
        ((4, 5, 3), 1, integers(5, 2, 3, 3)),
        ((1,), 0, integers(1, 2)),
        ((0, 3), 1, integers(3, 0, 2)),
    ):
        yield Row(I.gather, floats(*shape), axis, index)
    for shape, axis, index in (
        ((4, 5), 1, integers(5, 4, 3)),
        ((4, 5), 0, integers(4, 6, 5)),
        ((4, 5), 1, integers(5, 2, 8)),
        ((1,), 0, integers(1, 1)),
        ((0, 3), 1, integers(3, 0, 2)),
    ):
        yield Row(M.scatter, floats(*index.shape), index, axis, shape)
    for shape, axis, index, source in (
        ((4, 5), 1, integers(5, 4, 3), (4, 3)),
        ((4, 5), 0, integers(4, 6, 5), (6, 5)),
        ((4, 5), 1, integers(5, 2, 3), (3, 4)),
        ((1,), 0, integers(1, 2), (2,)),
        ((2, 3), 1, integers(3, 0, 2), (0, 2)),
    ):
        yield Row(I.scatter_add, floats(*shape), axis, index, floats(*source))
    for shape, axis, index, source in (
        ((4, 5), 0, integers(4, 6), (6, 5)),
        ((4, 5), -1, integers(5, 2), (4, 2)),
        ((1,), 0, integers(1, 3), (3,)),
        ((0, 3), 1, integers(3, 2), (0, 2)),
    ):
        yield Row(I.index_add, floats(*shape), axis, index, floats(*source))


def masks_and_diagonals():
    for shape in SHAPES:
        for value in (2.5, floats()):
            yield Row(I.masked_fill, floats(*shape), bools(*shape), value)
    yield Row(I.masked_fill, floats(2, 3, 4), bools(3, 1), -1)
    for op in (I.tril, I.triu):
        for shape in ((4, 5), (2, 3, 3), (1, 1), (0, 3)):
            for k in (0, -1, 1):
                yield Row(op, floats(*shape), k)
    for k in (0, 1, -2, 5, -4):
        yield Row(I.diagonal, floats(4, 5), k)
    yield Row(I.diagonal, floats(2, 3, 4), 1, 1, 2)
    yield Row(I.diagonal, floats(2, 3, 4), 0, -1, 0)
    yield Row(I.diagonal, floats(1, 1))
    yield Row(I.diagonal, floats(0, 3))
    yield Row(M.put_diagonal, floats(4), (4, 5), 0, 0, 1)
    yield Row(M.put_diagonal, floats(2, 3), (2, 4, 4), -1, 1, 2)
    yield Row(M.put_diagonal, floats(1), (1, 1), 0, 0, 1)
    yield Row(M.put_diagonal, floats(0), (0, 3), 0, 0, 1)
    for shape in ((4, 5), (3,), (1,), (0,)):
        for k in (0, 2, -1):
            yield Row(I.diag, floats(*shape), k)


def padding():
    yield Row(M.pad_with, floats(2, 3), ((1, 2), (0, 1)), 0)
    yield Row(M.pad_with, floats(1), ((0, 2),), 1.5)
    yield Row(M.pad_with, floats(0), ((1, 1),), 0)
    yield Row(M.pad_with, floats(), (), 0)


ROWS = [
    *by_key(),
    *along_an_axis(),
    *gather_and_scatter(),
    *masks_and_diagonals(),
    *padding(),
]
