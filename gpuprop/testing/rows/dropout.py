"""Rows of dropout."""

from __future__ import annotations

import numpy as np

import gpuprop.functional as F
from gpuprop.functional._dropout import drop
from gpuprop.testing.rows import Row, floats

DRAWN = "other numbers at every call"
TICKET = np.array([7, 3], "uint64")

ROWS = [
    *(Row(drop, floats(*shape), TICKET, p) for shape in ((4, 5), (), (1,), (0, 3), (2, 3, 4)) for p in (0.25, 0.5)),
    Row(drop, floats(4, 5), TICKET, 1.0),
    *(Row(F.dropout, floats(*shape)).but(gradient=DRAWN, parity=DRAWN, capture=DRAWN)
      for shape in ((4, 5), (), (1,), (0, 3))),
    Row(F.dropout, floats(4, 5), 0.5, False),
    Row(F.dropout, floats(4, 5), 0.0),
    Row(F.dropout, floats(4, 5), 1.0),
]
