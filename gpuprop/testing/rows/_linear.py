"""Rows of linear and bilinear layers and of distances."""

from __future__ import annotations

import math

import gpuprop.functional as F
from gpuprop.testing.rows import Row, floats

PAIRS = (
    ((4, 5), (4, 5)),
    ((4, 5), (5,)),
    ((4, 1, 5), (3, 5)),
    ((1,), (1,)),
    ((0, 3), (0, 3)),
)
PAIRS_OF_ROWS = "slow: the pairs of thousands of rows"
LINEAR = (  # input, weight
    ((2, 5), (3, 5)),
    ((5,), (3, 5)),
    ((2, 4, 5), (3, 5)),
    ((1, 1), (1, 1)),
    ((0, 5), (3, 5)),
    ((2, 0), (3, 0)),
)


def layers():
    for x, w in LINEAR:
        yield Row(F.linear, floats(*x), floats(*w), floats(w[0]))
    for x, w in LINEAR:
        yield Row(F.linear, floats(*x), floats(*w))
    for bias in (True, False):
        for batch in ((2,), (), (2, 3), (0,)):
            arrays = [floats(*batch, 5), floats(*batch, 4), floats(3, 5, 4)]
            if bias:
                arrays.append(floats(3))
            yield Row(F.bilinear, *arrays)
    yield Row(F.bilinear, floats(1, 1), floats(1, 1), floats(1, 1, 1))


def distances():
    for a, b in PAIRS:
        yield Row(F.cosine_similarity, floats(*a), floats(*b), -1)
    yield Row(F.cosine_similarity, floats(2, 3, 4), floats(3, 1), 1)
    yield Row(F.cosine_similarity, floats(4, 5), floats(4, 5), eps=1.5)
    for a, b in PAIRS:
        yield Row(F.pairwise_distance, floats(*a), floats(*b))
    for p in (1.0, 1.5, 2.0, math.inf):
        yield Row(F.pdist, floats(4, 3), p).skip(half=PAIRS_OF_ROWS)
    for shape in ((0, 3), (1, 3), (1, 1)):
        yield Row(F.pdist, floats(*shape)).skip(half=PAIRS_OF_ROWS)
    for p in (1.0, 1.5, 3.0, math.inf):
        yield Row(F.pairwise_distance, floats(4, 5), floats(4, 5), p, 1e-3, True)


ROWS = [*layers(), *distances()]
