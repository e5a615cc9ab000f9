"""Rows of dropout."""

from __future__ import annotations

import numpy as np

import gpuprop.functional as F
from gpuprop.functional._dropout import dropout_by_key
from gpuprop.testing.rows import Row, floats

RANDOM = dict.fromkeys(("gradient", "parity", "capture"), "each call has another random output")
DIMS = {F.dropout1d: 3, F.dropout2d: 4}  # axes of the input, else 5
RNG_KEY = np.array([7, 3], "uint64")


def rows():
    for shape in ((4, 5), (), (1,), (0, 3), (2, 3, 4)):
        for p in (0.25, 0.5):
            yield Row(dropout_by_key, floats(*shape), RNG_KEY, p)
    yield Row(dropout_by_key, floats(4, 5), RNG_KEY, 1.0)
    for shape, leading in (((3, 4, 2, 5), 2), ((6, 3), 1), ((2, 0, 3), 2), ((1, 1), 1)):
        yield Row(dropout_by_key, floats(*shape), RNG_KEY, 0.5, leading)
    for shape in ((4, 5), (), (1,), (0, 3)):
        yield Row(F.dropout, floats(*shape)).skip(**RANDOM)
    for op in (F.alpha_dropout, F.feature_alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d):
        dims = DIMS.get(op, 5)
        for shape in ((2, 3, 2, 2, 2)[:dims], (1,) * dims, (0, 3, 2, 2, 2)[:dims]):
            yield Row(op, floats(*shape), training=True).skip(**RANDOM)
            yield Row(op, floats(*shape), training=False)
    yield Row(F.dropout, floats(4, 5), 0.5, False)
    yield Row(F.dropout, floats(4, 5), 0.0)
    yield Row(F.dropout, floats(4, 5), 1.0)


ROWS = list(rows())
