"""Rows of sliding windows, of their adjoint, and of fold and unfold."""

from __future__ import annotations

from typing import Any

import gpuprop.functional as F
from gpuprop.functional import _windows as W
from gpuprop.testing.rows import Row, floats

BATCHES = ((), (2, 3), (0, 2))
CASES = [  # spatial shape, window shape, windows per dimension, stride, dilation
    ((7,), (3,), (5,), (1,), (1,)),
    ((7,), (3,), (2,), (2,), (2,)),
    ((5, 6), (2, 3), (4, 2), (1, 2), (1, 1)),
    ((5, 6), (3, 1), (1, 3), (2, 2), (2, 1)),
    ((3, 4, 6), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 1, 3)),
    ((1,), (1,), (1,), (1,), (1,)),
]
UNFOLD: list[tuple[Any, ...]] = [  # shape, and the arguments
    ((2, 3, 5, 6), 2),
    ((2, 3, 5, 6), (2, 3), 2, (1, 2), (2, 1)),
    ((3, 4, 4), 3, 1, 1, 2),
    ((0, 2, 4, 4), 2),
    ((1, 1, 1, 1), 1),
]
FOLD: list[tuple[Any, ...]] = [
    ((2, 12, 20), (5, 6), 2),
    ((2, 18, 18), (5, 6), (2, 3), 2, (1, 2), (2, 1)),
    ((12, 9), 4, 2),
    ((0, 4, 9), 4, 2),
    ((1, 1, 1), 1, 1),
]


def rows():
    for op in (W.windows, W.window_sum):
        for batch in BATCHES:
            for space, size, counts, stride, dilation in CASES:
                yield Row(op, floats(*batch, *space), size, counts, stride, dilation)
    for batch in BATCHES:
        for space, size, counts, stride, dilation in CASES:
            yield Row(W.fold_windows, floats(*batch, *size, *counts), space, stride, dilation)
    for shape, *arguments in UNFOLD:
        yield Row(F.unfold, floats(*shape), *arguments)
    for shape, *arguments in FOLD:
        yield Row(F.fold, floats(*shape), *arguments)


ROWS = list(rows())
