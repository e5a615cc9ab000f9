"""Rows of windows and their adjoint, and of windows as columns."""

from __future__ import annotations

import gpuprop.functional as F
from gpuprop.functional import _windows as W
from gpuprop.testing.rows import Row, floats

# space, size, counts, stride, dilation
CASES = [
    ((7,), (3,), (5,), (1,), (1,)), ((7,), (3,), (2,), (2,), (2,)), ((5, 6), (2, 3), (4, 2), (1, 2), (1, 1)),
    ((5, 6), (3, 1), (1, 3), (2, 2), (2, 1)), ((3, 4, 6), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 1, 3)),
    ((1,), (1,), (1,), (1,), (1,)),
]

ROWS = [
    *(Row(op, floats(*lead, *space), size, counts, stride, dilation) for op in (W.windows, W.totals)
      for lead in ((), (2, 3), (0, 2)) for space, size, counts, stride, dilation in CASES),
    *(Row(W.overlap, floats(*lead, *size, *counts), space, stride, dilation)
      for lead in ((), (2, 3), (0, 2)) for space, size, counts, stride, dilation in CASES),
    *(Row(F.unfold, floats(*s), *rest) for s, *rest in (
        ((2, 3, 5, 6), 2), ((2, 3, 5, 6), (2, 3), 2, (1, 2), (2, 1)), ((3, 4, 4), 3, 1, 1, 2), ((0, 2, 4, 4), 2),
        ((1, 1, 1, 1), 1))),
    *(Row(F.fold, floats(*s), *rest) for s, *rest in (
        ((2, 12, 20), (5, 6), 2), ((2, 18, 18), (5, 6), (2, 3), 2, (1, 2), (2, 1)), ((12, 9), 4, 2), ((0, 4, 9), 4, 2),
        ((1, 1, 1), 1, 1))),
]
