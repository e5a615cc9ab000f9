"""Rows of pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpuprop.functional as F
from gpuprop.functional import _adaptive_pooling as A
from gpuprop.functional import _pooling as P
from gpuprop.testing.rows import Row, floats, integers

SPACE = {1: (7,), 2: (6, 7), 3: (4, 5, 4)}  # spatial shape by number of dimensions
OPTIONS: list[dict[str, Any]] = [
    {},
    dict(stride=1),
    dict(padding=1, ceil_mode=True),
    dict(stride=2, ceil_mode=True),
]
POSITIVE = dict(low=0.5, high=2)
KINK = "it has a kink there"
NO_OPERANDS = "samples are no operands of the input"
PIECEWISE_CONSTANT = "steps of whole elements"


def function(kind: str, n: int) -> Any:
    return getattr(F, f"{kind}{n}d")


def distinct(*shape: int) -> np.ndarray:
    """Floats far from each other: their order is the same in float32 and near them."""
    size = int(np.prod(shape))
    return np.random.default_rng(size).permutation(size).reshape(shape) / max(size, 1) + 0.0


def of_dimensions(n):
    """Rows for `n` spatial dimensions."""
    max_pool = function("max_pool", n)
    avg_pool = function("avg_pool", n)
    lp_pool = function("lp_pool", n)
    max_unpool = function("max_unpool", n)
    adaptive_avg_pool = function("adaptive_avg_pool", n)
    adaptive_max_pool = function("adaptive_max_pool", n)
    ones = (1,) * n
    for batch in ((2, 3), (3,), (0, 2)):
        shape = (*batch, *SPACE[n])
        yield Row(max_pool, distinct(*shape), 2)
        yield Row(avg_pool, floats(*shape), 2)
        yield Row(lp_pool, floats(*shape, **POSITIVE), 2.0, 2)
        for size in (2, 3, None):
            yield Row(adaptive_avg_pool, floats(*shape), size)
            yield Row(adaptive_max_pool, distinct(*shape), size, size == 2)
    shape = (2, 2, *SPACE[n])
    for options in OPTIONS:
        yield Row(max_pool, distinct(*shape), 3, **options)
        yield Row(max_pool, distinct(*shape), 3, return_indices=True, **options)
        yield Row(avg_pool, floats(*shape), 3, **options)
        yield Row(avg_pool, floats(*shape), 3, count_include_pad=False, **options)
        if "padding" not in options:
            yield Row(lp_pool, np.zeros(shape), 2.0, 3, **options).skip(gradient=KINK)
            yield Row(lp_pool, floats(*shape, **POSITIVE), 3.0, 3, **options)
    yield Row(max_pool, distinct(*shape), 2, 1, 1, 3)
    for batch_size in (1, 0):
        indices = np.arange(batch_size * 2**n).reshape(batch_size, 1, *(2,) * n) * 2
        yield Row(max_unpool, floats(*indices.shape), indices, 2)
    yield Row(max_unpool, floats(1, 1, *ones), integers(1, 1, 1, *ones), 1)
    for op in (max_pool, avg_pool, adaptive_max_pool, adaptive_avg_pool):
        yield Row(op, floats(1, 1, *ones), 1)
    yield Row(lp_pool, floats(1, 1, *ones, **POSITIVE), 2, 1)


def fractional(n):
    """Rows of fractional_max_pool, and of avg_pool's divisor, for `n` spatial dimensions."""
    op = function("fractional_max_pool", n)
    samples = floats(2, 2, n, low=0.1, high=0.9)
    x = distinct(2, 2, *SPACE[n])
    skip = dict(gradient=PIECEWISE_CONSTANT, layouts="they would repeat the samples",
                integers=NO_OPERANDS)
    row = Row(op, x, 2, 3, _random_samples=samples, return_indices=True)
    yield row.skip(**skip)
    yield Row(op, x, 2, output_ratio=0.5, _random_samples=samples).skip(**skip)
    for shape in ((1, 1, *(1,) * n), (0, 2, *(3,) * n)):
        row = Row(op, distinct(*shape), 1, shape[-1], _random_samples=floats(*shape[:2], n))
        yield row.skip(gradient=PIECEWISE_CONSTANT, integers=NO_OPERANDS)
    yield Row(function("avg_pool", n), floats(2, 2, *SPACE[n]), 2, divisor_override=3)


def more():
    yield Row(F.max_pool2d, distinct(2, 2, 6, 7), (2, 3), (2, 1), (1, 0), (1, 2))
    yield Row(F.max_pool2d, integers(90, 2, 2, 6, 7), 2, padding=1)
    yield Row(F.adaptive_avg_pool2d, floats(2, 2, 6, 7), (3, None))
    yield Row(F.adaptive_max_pool2d, distinct(2, 2, 6, 7), (None, 4))
    yield Row(F.adaptive_avg_pool2d, floats(2, 2, 6, 7), 0)
    for batch in ((2,), (0, 2)):
        for size in (None, (7,), (5,)):
            indices = np.broadcast_to([0, 3, 4], (*batch, 3))
            yield Row(F.max_unpool1d, floats(*batch, 3), indices, 2, output_size=size)


def of_ops():
    """Rows of internal ops."""
    for n in (0, 2):
        for return_indices in (True, False):
            yield Row(P.max_pool, distinct(n, 1, 6), (2,), (3,), (2,), ((0, 0),), (1,),
                      return_indices)
    yield Row(P.max_pool, floats(1, 1, 1), (1,), (1,), (1,), ((0, 0),), (1,), False)
    for n in (0, 2):
        for count_include_pad in (True, False):
            yield Row(P.avg_pool, floats(n, 1, 6), (3,), (4,), (2,), ((1, 2),), count_include_pad,
                      None)
    yield Row(P.avg_pool, floats(1, 1, 1), (1,), (1,), (1,), ((0, 0),), True, None)
    for n in (0, 2):
        for count in (0, 3, 4):
            yield Row(A.adaptive_avg_pool, floats(n, 1, 6), (count,))
    yield Row(A.adaptive_avg_pool, floats(1, 1, 1), (1,))
    for n in (0, 2):
        for count in (3, 4):
            for return_indices in (True, False):
                yield Row(A.adaptive_max_pool, distinct(n, 1, 6), (count,), return_indices)
    yield Row(A.adaptive_max_pool, floats(1, 1, 1), (1,), False)
    for n, *batch in ((2,), (2, 2, 2), (0,)):
        for return_indices in (True, False):
            yield Row(A.fractional_max_pool, distinct(n, 2, 6), integers(6, *batch, 3, 2), (3,),
                      return_indices)
    yield Row(A.fractional_max_pool, floats(1, 1, 1), integers(1, 1, 1), (1,), False)


ROWS: list[Row] = []
for n in (1, 2, 3):
    ROWS += of_dimensions(n)
for n in (2, 3):
    ROWS += fractional(n)
ROWS += [*more(), *of_ops()]
