"""Rows of normalization."""

from __future__ import annotations

import gpuprop.functional as F
from gpuprop.functional._normalization import count, rescale, response_norm, standardize, track
from gpuprop.testing.rows import Row, floats, integers

STATISTICS = "its statistics are written in place"

CHANNELS = ((4, 3), (2, 3, 5), (2, 3, 2, 3), (2, 1, 2, 1, 2), (0, 3, 2))


def positive(*shape):
    return floats(*shape, low=0.5, high=2.0)


ROWS = [
    *(Row(standardize, floats(*x), floats(*w), floats(*w), axes, 1e-5, centred, tracked)
      for x, w, axes in (((4, 5), (5,), (1,)), ((4, 3), (3,), (0,)), ((2, 3, 4), (3, 1), (0, 2)), ((1, 1), (1,), (1,)),
                         ((0, 3), (3,), (0,)), ((0, 3), (3,), (1,)), ((2, 2, 2, 3), (2, 2, 1), (2, 3)),
                         ((3, 2, 2, 2), (2, 2, 1), (2, 3)), ((2, 3, 2), (2, 3, 1), (0, 2)))
      for centred, tracked in ((True, False), (False, False), (True, True))),
    Row(standardize, floats(4, 5), None, None, (1,), 1e-5),
    Row(standardize, floats(5), floats(5), floats(5), (0,), 1e-5),
    Row(standardize, floats(4, 5), floats(5), None, (1,), 0.1),
    *(Row(rescale, floats(*x), floats(3, 1), positive(3, 1), floats(3, 1), floats(3, 1), 1e-5)
      for x in ((2, 3, 4), (0, 3, 4))),
    Row(rescale, floats(1, 1), floats(1), positive(1), None, None, 0.1),
    *(Row(F.layer_norm, floats(*x), n, *(floats(*x[-len(n):]) for _ in range(w)))
      for x, n in (((4, 5), (5,)), ((2, 3, 4), (3, 4)), ((2, 3, 4), (4,)), ((1, 1), (1,)), ((0, 5), (5,)))
      for w in (0, 1, 2)),
    *(Row(F.rms_norm, floats(*x), n, floats(*n), eps)
      for x, n in (((4, 5), (5,)), ((2, 3, 4), (3, 4)), ((0, 5), (5,))) for eps in (None, 1e-3)),
    Row(F.rms_norm, floats(1, 1), 1, floats(1), 0.1),
    *(Row(F.batch_norm, floats(*x), floats(x[1]), positive(x[1]), floats(x[1]), floats(x[1])) for x in CHANNELS),
    *(Row(F.batch_norm, floats(*x), None, None, floats(x[1]), floats(x[1]), True) for x in CHANNELS),
    *(Row(F.group_norm, floats(*x), groups, floats(x[1]), floats(x[1]), 1e-3)
      for x, groups in (((4, 6), 2), ((2, 6, 5), 3), ((2, 4, 2, 3), 1), ((1, 1, 1), 1), ((0, 4, 2), 2))),
    *(Row(F.instance_norm, floats(*x), None, None, floats(x[1]), floats(x[1])) for x in CHANNELS[1:]),
    Row(F.instance_norm, floats(2, 3, 4), floats(3), positive(3), use_input_stats=False),
    *(Row(f, floats(*x), size, 0.3, 0.7, 2.0) for f in (F.local_response_norm, response_norm) for size in (1, 2, 3, 5)
      for x in ((2, 4, 3), (1, 1, 1), (0, 3, 2))),
    *(row.but(gradient=STATISTICS, parity=STATISTICS, capture=STATISTICS) for row in (
        *(Row(track, floats(n), positive(n), floats(1, n, 1), positive(1, n, 1), 0.1, 4) for n in (0, 1, 3)),
        *(Row(count, integers(9, *shape)) for shape in ((), (1,), (0,))))),
]
