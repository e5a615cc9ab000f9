"""Rows of padding."""

from __future__ import annotations

import gpuprop.functional as F
from gpuprop.testing.rows import Row, floats

ROWS = [
    *(Row(F.pad, floats(*x), widths, mode) for mode in ("constant", "reflect", "replicate", "circular")
      for x, widths in (((2, 3, 4), (1, 2)), ((2, 3, 4), (2, 1, 0, 2)), ((2, 3, 4), (-1, 2)),
                        ((2, 3, 4), (1, -2, -1, 0)), ((2, 1, 3, 2, 4), (1, 1, 1, 0, 2, 2)),
                        ((0, 3, 4), (1, 2)), ((3, 4), ()), ((2, 3), (-1, -1)))),
    *(Row(F.pad, floats(1, 1), (2, 1), mode) for mode in ("constant", "replicate")),
    Row(F.pad, floats(2, 3), (1, 2, 3, 4), "constant", -1.5),
    Row(F.pad, floats(2, 0), (1, 2)),
]
