"""Rows of padding."""

from __future__ import annotations

import gpuprop.functional as F
from gpuprop.testing.rows import Row, floats

CASES = (
    ((2, 3, 4), (1, 2)),
    ((2, 3, 4), (2, 1, 0, 2)),
    ((2, 3, 4), (-1, 2)),
    ((2, 3, 4), (1, -2, -1, 0)),
    ((2, 1, 3, 2, 4), (1, 1, 1, 0, 2, 2)),
    ((0, 3, 4), (1, 2)),
    ((3, 4), ()),
    ((2, 3), (-1, -1)),
)


def rows():
    for mode in ("constant", "reflect", "replicate", "circular"):
        for shape, widths in CASES:
            yield Row(F.pad, floats(*shape), widths, mode)
    for mode in ("constant", "replicate"):
        yield Row(F.pad, floats(1, 1), (2, 1), mode)
    yield Row(F.pad, floats(2, 3), (1, 2, 3, 4), "constant", -1.5)
    yield Row(F.pad, floats(2, 0), (1, 2))


ROWS = list(rows())
