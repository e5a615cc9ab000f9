"""Rows of convolutions and their transposes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gpuprop.functional as F
from gpuprop.functional import _convolution as C
from gpuprop.testing.rows import Row, floats

SPACE = {1: (7,), 2: (5, 6), 3: (3, 4, 4)}
SIZE = {1: (3,), 2: (3, 2), 3: (2, 3, 2)}
CONV, TRANSPOSED = (F.conv1d, F.conv2d, F.conv3d), (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

# input, weight, and the options, of images
MORE: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 4, 7, 6), (6, 2, 3, 3), dict(groups=2, stride=(2, 1), padding=(1, 0))),
    ((2, 3, 7, 6), (6, 1, 3, 2), dict(groups=3, padding=1)), ((2, 3, 6, 7), (2, 3, 3, 2), dict(padding="same")),
    ((2, 3, 7, 7), (2, 3, 2, 3), dict(padding="same", dilation=(2, 1))),
    ((1, 2, 7, 7), (3, 2, 3, 3), dict(padding="valid", dilation=2, stride=3)),
    ((2, 3, 4, 5), (2, 3, 1, 1), {}), ((2, 3, 5, 5), (2, 3, 1, 1), dict(stride=2)),
    ((1, 1, 1, 1), (1, 1, 3, 3), dict(padding=1)),
]
MORE_TRANSPOSED: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 4, 3, 4), (4, 3, 3, 3), dict(groups=2, stride=2, padding=1, output_padding=(1, 0))),
    ((2, 3, 4, 3), (3, 1, 2, 3), dict(groups=3, padding=(1, 0))),
    ((2, 2, 3, 3), (2, 3, 3, 2), dict(dilation=(3, 1), output_padding=(2, 0), padding=(0, 1))),
    ((2, 3, 4, 5), (3, 2, 1, 1), {}),
]


def of_dimensions() -> Iterator[Row]:
    """What goes for any number of dimensions."""
    for n in (1, 2, 3):
        for op in (CONV[n - 1], TRANSPOSED[n - 1]):
            yield Row(op, floats(1, 1, *(1,) * n), floats(1, 1, *(1,) * n))
        for batch in ((2,), (), (0,)):
            for op, weight in ((CONV[n - 1], (2, 3)), (TRANSPOSED[n - 1], (3, 2))):
                for bias in (True, False):
                    arrays = floats(*batch, 3, *SPACE[n]), floats(*weight, *SIZE[n]), *(floats(2) for _ in range(bias))
                    yield Row(op, *arrays, stride=2 if bias else 1, padding=int(bias))


def plain(n: int, padding: int = 1, groups: int = 1) -> tuple[Any, ...]:
    """The ops' own words."""
    return (2,) * n, ((padding, padding),) * n, (1,) * n, groups


ROWS = [
    *of_dimensions(),
    *(Row(F.conv2d, floats(*x), floats(*w), floats(w[0]), **options) for x, w, options in MORE),
    *(Row(F.conv_transpose2d, floats(*x), floats(*w), floats(w[1] * options.get("groups", 1)), **options)
      for x, w, options in MORE_TRANSPOSED),
    *(Row(C.conv, floats(n, 4, 6), floats(2, 2, 3), floats(2), *plain(1, groups=2)) for n in (0, 1, 3)),
    Row(C.conv, floats(1, 1, 1), floats(1, 1, 1), None, *plain(1, 0)),
    Row(C.conv, floats(3, 4, 48, 48), floats(2, 4, 6, 6), None, *plain(2, 2)).but(
        layouts="they are many, and this row is for its size"),
    *(Row(C.conv_transpose, floats(n, 4, 3), floats(4, 1, 3), floats(2), (5,), *plain(1, groups=2)) for n in (0, 1, 3)),
    Row(C.conv_transpose, floats(1, 1, 1), floats(1, 1, 1), None, (1,), *plain(1, 0)),
]
