"""Rows of reading, choosing and adding at places."""

from __future__ import annotations

import numpy as np

from gpuprop._array import indexing as I
from gpuprop._array import scatter as M
from gpuprop.testing.rows import Row, floats, integers

TWICE = "repeated rows of indices name a place twice"
WAITS = "a device waits for the host to know how many are true"
SHAPES = ((4, 5), (), (1,), (0, 3))
bools = lambda *shape: integers(2, *shape).astype(bool)
order = lambda *shape: np.argsort(floats(*shape), -1)

KEYS = [  # of an array of shape (4, 5, 3)
    0, -1, slice(1, 3), slice(None, None, -2), (..., 1), (slice(None), 2), (None, 1, ..., None), (1, 2, 0),
    (0, slice(1, None), None), integers(4, 6), integers(4, 2, 2, low=-4), (slice(None), integers(5, 7)),
    (..., integers(3, 2)), (slice(1, 4), integers(5, 2, 3), slice(2)), (integers(4, 6), integers(5, 6)),
    (integers(4, 6), slice(None), integers(3, 6)), (integers(4, 2, 1), integers(5, 3), 1), (integers(4, 6), 1),
    (None, integers(4, 6)), integers(4, 0), (..., None, integers(3, 2)),
]

ROWS = [
    *(Row(I.getitem, floats(4, 5, 3), key) for key in KEYS),
    *(Row(I.getitem, floats(4, 5), key).skip(parity=WAITS, capture=WAITS)
      for key in (bools(4, 5), bools(4), (slice(None), bools(5)))),
    Row(I.getitem, floats(), ()),
    Row(I.getitem, floats(), ...),
    Row(I.getitem, floats(1), 0),
    Row(I.getitem, floats(0, 3), slice(None)),
    Row(M.put, floats(2, 5), slice(1, 3), (4, 5)),
    Row(M.put, floats(), 1, (3,)),
    Row(M.put, floats(6, 5), integers(4, 6), (4, 5)),
    Row(M.put, floats(6), (integers(4, 6), integers(5, 6)), (4, 5)),
    Row(M.put, floats(0, 5), integers(4, 0), (4, 5)),
    Row(M.put, floats(1), integers(4, 1), (4,)),
    *(Row(I.take, floats(4, 5, 3), index, axis) for index, axis in (
        (integers(4, 6), 0), (integers(5, 2, 3), 1), (integers(3, 4, low=-3), -1), (integers(60, 7), None),
        (integers(5), 1), (2, 1), (-1, None))),
    Row(I.take, floats(1), integers(1, 3), 0),
    Row(I.take, floats(0, 3), integers(3, 4), 1),
    Row(I.take, floats(4), integers(4, 0), 0),
    *(Row(M.put_rows, floats(*s), index, axis, n) for s, index, axis, n in (
        ((6, 3), integers(4, 6), 0, 4), ((2, 3, 3), integers(4, 3, 3), 1, 4), ((1,), integers(4, 1), 0, 4),
        ((0, 3), integers(4, 0), 0, 4))),
    Row(I.index_select, floats(4, 5), 1, integers(5, 3)),
    Row(I.index_select, floats(1), 0, integers(1, 3)),
    Row(I.index_select, floats(2, 0), 0, integers(2, 3)),
    *(Row(I.take_along_axis, floats(*s), index, axis) for s, index, axis in (
        ((4, 5), integers(5, 4, 2), 1), ((4, 5), integers(4, 7, 5), 0), ((4, 5), integers(5, 4, 1, low=-5), -1),
        ((4, 5), integers(5, 1, 3), 1), ((1, 5), integers(5, 4, 3), 1), ((1,), integers(1, 3), 0),
        ((0, 3), integers(3, 0, 2), 1))),
    *(Row(M.put_along_axis, floats(*s), index, axis, n).skip(layouts=TWICE) for s, index, axis, n in (
        ((4, 5), order(4, 5), 1, 5), ((4, 2), order(4, 5)[:, :2].copy(), -1, 5), ((5, 4), order(4, 5).T.copy(), 0, 5),
        ((1,), order(1), 0, 1), ((0, 2), order(0, 2), 1, 2))),
    *(Row(I.gather, floats(*s), axis, index) for s, axis, index in (
        ((4, 5), 1, integers(5, 4, 3)), ((4, 5), 0, integers(4, 6, 5)), ((4, 5), -1, integers(5, 2, 8)),
        ((4, 5, 3), 1, integers(5, 2, 3, 3)), ((1,), 0, integers(1, 2)), ((0, 3), 1, integers(3, 0, 2)))),
    *(Row(M.scatter, floats(*index.shape), index, axis, shape) for shape, axis, index in (
        ((4, 5), 1, integers(5, 4, 3)), ((4, 5), 0, integers(4, 6, 5)), ((4, 5), 1, integers(5, 2, 8)),
        ((1,), 0, integers(1, 1)), ((0, 3), 1, integers(3, 0, 2)))),
    *(Row(I.scatter_add, floats(*s), axis, index, floats(*source)) for s, axis, index, source in (
        ((4, 5), 1, integers(5, 4, 3), (4, 3)), ((4, 5), 0, integers(4, 6, 5), (6, 5)),
        ((4, 5), 1, integers(5, 2, 3), (3, 4)), ((1,), 0, integers(1, 2), (2,)),
        ((2, 3), 1, integers(3, 0, 2), (0, 2)))),
    *(Row(I.index_add, floats(*s), axis, index, floats(*source)) for s, axis, index, source in (
        ((4, 5), 0, integers(4, 6), (6, 5)), ((4, 5), -1, integers(5, 2), (4, 2)), ((1,), 0, integers(1, 3), (3,)),
        ((0, 3), 1, integers(3, 2), (0, 2)))),
    *(Row(I.masked_fill, floats(*s), bools(*s), value) for s in SHAPES for value in (2.5, floats())),
    Row(I.masked_fill, floats(2, 3, 4), bools(3, 1), -1),
    *(Row(op, floats(*s), k)
      for op in (I.tril, I.triu) for s in ((4, 5), (2, 3, 3), (1, 1), (0, 3)) for k in (0, -1, 1)),
    *(Row(I.diagonal, floats(4, 5), k) for k in (0, 1, -2, 5, -4)),
    *(Row(I.diagonal, floats(*s), *rest) for s, *rest in (
        ((2, 3, 4), 1, 1, 2), ((2, 3, 4), 0, -1, 0), ((1, 1),), ((0, 3),))),
    *(Row(M.put_diagonal, floats(*s), to, *rest) for s, to, *rest in (
        ((4,), (4, 5), 0, 0, 1), ((2, 3), (2, 4, 4), -1, 1, 2), ((1,), (1, 1), 0, 0, 1), ((0,), (0, 3), 0, 0, 1))),
    *(Row(I.diag, floats(*s), k) for s in ((4, 5), (3,), (1,), (0,)) for k in (0, 2, -1)),
    *(Row(M.pad_with, floats(*s), widths, value) for s, widths, value in (
        ((2, 3), ((1, 2), (0, 1)), 0), ((1,), ((0, 2),), 1.5), ((0,), ((1, 1),), 0), ((), (), 0))),
]
