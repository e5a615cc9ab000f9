"""Rows of matrix products, dot products and einsum."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._array import products as P
from gpuprop.nn.utils._orthogonal import solve_without_pivots
from gpuprop.testing.rows import Row, floats, integers

MATMUL = [
    ((3, 4), (4, 5)),
    ((4,), (4,)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((2, 3, 4), (4, 5)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((2, 3, 4), (2, 4, 5)),
    ((1, 1), (1, 1)),
    ((0, 4), (4, 5)),
    ((3, 0), (0, 5)),
    ((2, 0, 4), (4, 5)),
    ((0, 3, 4), (0, 4, 2)),
]
BMM = [((2, 3, 4), (2, 4, 5)), ((1, 1, 1), (1, 1, 1)), ((0, 3, 4), (0, 4, 5))]
OUTER = [((3,), (4,)), ((2, 2), (3,)), ((1,), (1,)), ((0,), (3,))]
DOT = [
    ((4,), (4,)),
    ((3, 4), (4,)),
    ((3, 4), (4, 5)),
    ((2, 3, 4), (5, 4, 2)),
    ((), (3,)),
    ((2,), ()),
    ((1,), (1,)),
    ((0, 3), (3, 2)),
]
INNER = [
    ((4,), (4,)),
    ((3, 4), (2, 4)),
    ((2, 3, 4), (4,)),
    ((), (3,)),
    ((1,), (1,)),
    ((0, 3), (2, 3)),
]
TENSORDOT: list[tuple[Any, ...]] = [  # two shapes, axes
    ((2, 3, 4), (3, 4, 5), 2),
    ((2, 3), (4, 5), 0),
    ((2, 3, 4), (4, 3, 5), ((1, 2), (1, 0))),
    ((2, 3), (5, 3), (-1, -1)),
    ((1,), (1,), 1),
    ((0, 3), (3, 2), 1),
]
EINSUM: list[tuple[Any, ...]] = [  # subscripts, shapes
    ("ij->ji", (2, 3)),
    ("ij->", (2, 3)),
    ("ii->i", (3, 3)),
    ("ii", (3, 3)),
    ("iij->j", (3, 3, 2)),
    ("ba", (2, 3)),
    ("iii->i", (3, 3, 3)),
    ("...i->i...", (2, 3, 4)),
    ("i->i", (0,)),
    ("i,i->", (1,), (1,)),
    ("ij,jk", (2, 3), (3, 4)),
    ("ij,jk->ki", (2, 3), (3, 4)),
    ("i,j->ij", (2,), (3,)),
    ("ij,ij->ij", (2, 3), (2, 3)),
    ("ij,ij->i", (2, 3), (2, 3)),
    ("ij,kj->", (2, 3), (4, 3)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("...ij,...jk->...ik", (2, 3, 4), (4, 5)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("...ij,...j", (2, 1, 3, 4), (5, 4)),
    ("ij,j->ij", (2, 3), (1,)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)),
    ("i,i,i->i", (3,), (3,), (3,)),
    ("i,ij,j->", (2,), (2, 3), (3,)),
    ("iij,jk->ik", (3, 3, 2), (2, 4)),
    ("ijk,ilm->jkm", (2, 3, 4), (2, 5, 6)),
    ("ij,jk->ik", (2, 1), (3, 4)),
    ("ij, jk -> ik", (0, 3), (3, 4)),
    (",ij->ij", (), (2, 3)),
    ("bn,anm,bm->ba", (2, 3), (4, 3, 5), (2, 5)),
    ("b...,b...->...", (2, 3, 4), (2, 3, 4)),
]


def rows():
    for a, b in MATMUL:
        yield Row(P.matmul, floats(*a), floats(*b))
    yield Row(P.matmul, integers(4, 3, 4, low=1), floats(4, 5))
    for op, shapes in ((P.bmm, BMM), (P.outer, OUTER), (P.dot, DOT), (P.inner, INNER)):
        for a, b in shapes:
            yield Row(op, floats(*a), floats(*b))
    for a, b, axes in TENSORDOT:
        yield Row(P.tensordot, floats(*a), floats(*b), axes)
    for subscripts, *shapes in EINSUM:
        yield Row(P.einsum, subscripts, *(floats(*s) for s in shapes))


def systems():
    for shape in ((3,), (2, 4), (1,), (0,)):
        n = shape[-1]
        skew = floats(*shape, n)
        skew = skew - skew.swapaxes(-1, -2)
        yield Row(solve_without_pivots, 2 * np.eye(n) - skew, floats(*shape, 2)).skip(
            half="ill-conditioned", hidden="products with elements that are 0",
            integers="other numbers are no such matrix", layouts="other numbers are no such matrix")


ROWS = [*rows(), *systems()]
