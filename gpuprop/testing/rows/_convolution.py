"""Rows of convolutions and transposed convolutions."""

from __future__ import annotations

from typing import Any

import gpuprop.functional as F
from gpuprop.functional import _convolution as C
from gpuprop.testing.rows import Row, floats

PADDING = "the gradient of the weight is a product with the zeros of the padding; so in PyTorch"
SPACE = {1: (7,), 2: (5, 6), 3: (3, 4, 4)}  # spatial shape by number of dimensions
KERNEL = {1: (3,), 2: (3, 2), 3: (2, 3, 2)}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

Case = tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]  # input, weight, options
CASES: list[Case] = [
    ((2, 4, 7, 6), (6, 2, 3, 3), dict(groups=2, stride=(2, 1), padding=(1, 0))),
    ((2, 3, 7, 6), (6, 1, 3, 2), dict(groups=3, padding=1)),
    ((2, 3, 6, 7), (2, 3, 3, 2), dict(padding="same")),
    ((2, 3, 7, 7), (2, 3, 2, 3), dict(padding="same", dilation=(2, 1))),
    ((1, 2, 7, 7), (3, 2, 3, 3), dict(padding="valid", dilation=2, stride=3)),
    ((2, 3, 4, 5), (2, 3, 1, 1), {}),
    ((2, 3, 5, 5), (2, 3, 1, 1), dict(stride=2)),
    ((1, 1, 1, 1), (1, 1, 3, 3), dict(padding=1)),
]
TRANSPOSED_CASES: list[Case] = [
    ((2, 4, 3, 4), (4, 3, 3, 3), dict(groups=2, stride=2, padding=1, output_padding=(1, 0))),
    ((2, 3, 4, 3), (3, 1, 2, 3), dict(groups=3, padding=(1, 0))),
    ((2, 2, 3, 3), (2, 3, 3, 2), dict(dilation=(3, 1), output_padding=(2, 0), padding=(0, 1))),
    ((2, 3, 4, 5), (3, 2, 1, 1), {}),
]


def of_dimensions(n):
    """Rows for `n` spatial dimensions."""
    ones = (1,) * n
    for op in (CONV[n], TRANSPOSED[n]):
        yield Row(op, floats(1, 1, *ones), floats(1, 1, *ones))
    for batch in ((2,), (), (0,)):
        for op, channels in ((CONV[n], (2, 3)), (TRANSPOSED[n], (3, 2))):
            x = floats(*batch, 3, *SPACE[n])
            weight = floats(*channels, *KERNEL[n])
            yield Row(op, x, weight, floats(2), stride=2, padding=1).skip(hidden=PADDING)
            x = floats(*batch, 3, *SPACE[n])
            weight = floats(*channels, *KERNEL[n])
            yield Row(op, x, weight, stride=1, padding=0)


def of_images():
    for x, w, options in CASES:
        row = Row(F.conv2d, floats(*x), floats(*w), floats(w[0]), **options)
        yield row.skip(hidden=PADDING) if "padding" in options else row
    for x, w, options in TRANSPOSED_CASES:
        channels = w[1] * options.get("groups", 1)
        yield Row(F.conv_transpose2d, floats(*x), floats(*w), floats(channels), **options)


def op_arguments(n: int, padding: int = 1, groups: int = 1) -> tuple[Any, ...]:
    """stride, padding, dilation and groups of the internal ops."""
    return (2,) * n, ((padding, padding),) * n, (1,) * n, groups


def of_ops():
    """Rows of internal ops."""
    arguments = op_arguments(1, groups=2)
    for n in (0, 1, 3):
        row = Row(C.conv, floats(n, 4, 6), floats(2, 2, 3), floats(2), *arguments)
        yield row.skip(hidden=PADDING)
    yield Row(C.conv, floats(1, 1, 1), floats(1, 1, 1), None, *op_arguments(1, 0))
    large = Row(C.conv, floats(3, 4, 48, 48), floats(2, 4, 6, 6), None, *op_arguments(2, 2))
    yield large.skip(layouts="slow, and this row is for its size", hidden=PADDING)
    for n in (0, 1, 3):
        yield Row(C.conv_transpose, floats(n, 4, 3), floats(4, 1, 3), floats(2), (5,), *arguments)
    yield Row(C.conv_transpose, floats(1, 1, 1), floats(1, 1, 1), None, (1,), *op_arguments(1, 0))


ROWS: list[Row] = []
for n in (1, 2, 3):
    ROWS += of_dimensions(n)
ROWS += [*of_images(), *of_ops()]
