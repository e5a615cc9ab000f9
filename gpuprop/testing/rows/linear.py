"""Rows of layers that are a product, and of distances."""

from __future__ import annotations

import math

import gpuprop.functional as F
from gpuprop.testing.rows import Row, floats

PAIRS = (((4, 5), (4, 5)), ((4, 5), (5,)), ((4, 1, 5), (3, 5)), ((1,), (1,)), ((0, 3), (0, 3)))

ROWS = [
    *(Row(F.linear, floats(*x), floats(*w), *(floats(n) for n in w[:1] if bias)) for bias in (True, False) for x, w in (
        ((2, 5), (3, 5)), ((5,), (3, 5)), ((2, 4, 5), (3, 5)), ((1, 1), (1, 1)), ((0, 5), (3, 5)), ((2, 0), (3, 0)))),
    *(Row(F.bilinear, floats(*lead, 5), floats(*lead, 4), floats(3, 5, 4), *(floats(3) for _ in range(bias)))
      for bias in (True, False) for lead in ((2,), (), (2, 3), (0,))),
    Row(F.bilinear, floats(1, 1), floats(1, 1), floats(1, 1, 1)),
    *(Row(F.cosine_similarity, floats(*a), floats(*b), -1) for a, b in PAIRS),
    Row(F.cosine_similarity, floats(2, 3, 4), floats(3, 1), 1),
    Row(F.cosine_similarity, floats(4, 5), floats(4, 5), eps=1.5),
    *(Row(F.pairwise_distance, floats(*a), floats(*b)) for a, b in PAIRS),
    *(Row(F.pdist, floats(4, 3), p) for p in (1.0, 1.5, 2.0, math.inf)),
    *(Row(F.pdist, floats(*shape)) for shape in ((0, 3), (1, 3), (1, 1))),
    *(Row(F.pairwise_distance, floats(4, 5), floats(4, 5), p, 1e-3, True) for p in (1.0, 1.5, 3.0, math.inf)),
]
