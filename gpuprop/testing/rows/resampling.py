"""Rows of resampling."""

from __future__ import annotations

import gpuprop.functional as F
from gpuprop.functional._resampling import resample
from gpuprop.testing.rows import Row, floats

SMOOTH = (("linear", (5,)), ("bilinear", (4, 5)), ("bicubic", (4, 5)), ("trilinear", (2, 3, 4)))

ROWS = [
    *(Row(F.pixel_shuffle, floats(*x), r)
      for x, r in (((2, 8, 2, 3), 2), ((9, 1, 2), 3), ((0, 4, 1, 1), 2), ((1, 1, 1), 1))),
    *(Row(F.pixel_unshuffle, floats(*x), r)
      for x, r in (((2, 2, 4, 6), 2), ((1, 3, 6), 3), ((0, 1, 2, 2), 2), ((1, 1, 1), 1))),
    *(Row(F.channel_shuffle, floats(*x), g)
      for x, g in (((2, 6, 3), 2), ((2, 6, 2, 1), 3), ((0, 4, 2), 2), ((1, 1, 1), 1))),
    *(Row(f, floats(2, 3, *space), size, mode=mode) for f in (F.interpolate, F.upsample)
      for space, size in (((5,), 3), ((3,), 7), ((2, 3), (4, 2)), ((2, 1, 3), (3, 2, 6)), ((4, 4), 8))
      for mode in ("nearest", "nearest-exact", "area")),
    *(Row(F.interpolate, floats(lead, 2, *space), None, scale, mode, aligned)
      for mode, space in SMOOTH for scale in (0.6, 1.7, 2) for aligned in (False, True) for lead in (2, 0)),
    *(Row(F.interpolate, floats(2, 1, 5), None, 1.7, mode, None, True) for mode in ("nearest", "linear", "area")),
    *(Row(F.interpolate, floats(1, 1, 4, 5), size, None, mode, aligned, None, True)
      for mode in ("bilinear", "bicubic") for size in ((2, 3), (6, 5), (1, 1)) for aligned in (False, True)),
    *(Row(F.interpolate, floats(1, 1, 1, 1), (2, 3), None, mode)
      for mode in ("nearest", "bilinear", "bicubic", "area")),
    *(Row(F.upsample, floats(*x), 2) for x in ((0, 1, 2), (1, 1, 1))),
    *(Row(resample, floats(*x), (3,), mode, (0.5,), False, antialias)
      for x in ((2, 4), (0, 4), (1,))
      for mode, antialias in (("linear", False), ("cubic", True), ("area", False), ("nearest", False))),
    *(Row(F.affine_grid, floats(n, d, d + 1), (n, 1, *space), aligned) for aligned in (False, True)
      for n, d, space in ((2, 2, (3, 4)), (1, 3, (2, 1, 3)), (0, 2, (2, 2)))),
    *(Row(F.grid_sample, floats(2, 2, *space), floats(2, *out, len(space), low=-1.4, high=1.4), mode, edges, aligned)
      for space, out in (((3, 4), (2, 3)), ((2, 3, 2), (1, 2, 2))) for mode in ("bilinear", "nearest", "bicubic")
      if (mode, len(space)) != ("bicubic", 3) for edges in ("zeros", "border", "reflection")
      for aligned in (False, True)),
    Row(F.grid_sample, floats(1, 1, 1, 1), floats(1, 1, 1, 2, low=-0.9, high=0.9)),
    Row(F.grid_sample, floats(0, 2, 3, 3), floats(0, 2, 2, 2)),
]
