"""Rows of reductions, cumulative reductions and sorting."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._array import reduction as R
from gpuprop.testing.rows import Row, floats, integers

ZERO_DEVIATION = "the deviations are 0 but for rounding, where std has a kink"
KINK = "there is a kink"
NO_GRADIENT = "integers and bools have no gradient"
REDUCTIONS = (R.sum, R.mean, R.var, R.max, R.min, R.prod, R.logsumexp, R.norm)
OPTIONS: list[dict[str, Any]] = [
    dict(),
    dict(axis=0),
    dict(axis=-1, keepdims=True),
    dict(axis=(0, 2)),
    dict(axis=(2, -2), keepdims=True),
    dict(keepdims=True),
]
CALLS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((3, 4), dict()),
    ((3, 4), dict(axis=0)),
    ((2, 3, 4), dict(axis=-2)),
    ((1,), dict()),
    ((0, 3), dict(axis=1)),
]


def bools(*shape: int) -> np.ndarray:
    return integers(2, *shape).astype(bool)


def reductions():
    for op in REDUCTIONS:
        for options in OPTIONS:
            yield Row(op, floats(2, 3, 4), **options)
    for op in REDUCTIONS:
        for shape in ((), (1,)):
            yield Row(op, floats(*shape))
    for op in REDUCTIONS:
        for axis in (0, (0, 2)):
            yield Row(op, floats(2, 0, 3), axis=axis)
    for op in (R.sum, R.prod, R.norm):
        yield Row(op, floats(0, 3), axis=0)
    yield Row(R.sum, floats(2, 3), axis=())
    for op in (R.var, R.std):
        for keepdims in (False, True):
            yield Row(op, floats(3, 4), axis=1, ddof=1, keepdims=keepdims)
    yield Row(R.std, floats(3, 4))
    yield Row(R.std, floats(2, 3, 4), axis=(1, 2))
    yield Row(R.std, floats(2, 3, 4), axis=0).skip(layouts=ZERO_DEVIATION)
    yield Row(R.std, floats(1)).skip(gradient="it has a kink there")
    yield Row(R.std, floats(0, 3), axis=1)
    for p in (0, 1, 3, np.inf, -np.inf, "fro"):
        for axis in (None, 1):
            yield Row(R.norm, floats(3, 4), p, axis)
    for p in (0.5, 1.5, -1):
        yield Row(R.norm, floats(3, 4, low=0.5, high=2), p)
    constant = np.array([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    for p in (1.5, 2, 3, np.inf):
        yield Row(R.norm, constant, p, 1).skip(gradient=KINK)
    for op in (R.std, R.max, R.min):
        yield Row(op, constant, 1).skip(gradient=KINK)
    yield Row(R.trace, floats(4, 5))
    yield Row(R.trace, floats(4, 5), 1)
    yield Row(R.trace, floats(2, 3, 3), 0, 1, 2)
    yield Row(R.trace, floats(1, 1))
    yield Row(R.trace, floats(0, 3))


def of_indices_and_bools():
    calls = [*CALLS, ((), dict()), ((2, 3, 4), dict(axis=-1, keepdims=True))]
    for op in (R.argmax, R.argmin, R.count_nonzero):
        for shape, options in calls:
            yield Row(op, floats(*shape), **options).skip(second=NO_GRADIENT)
    yield Row(R.count_nonzero, integers(2, 3, 4), axis=(0, 1))
    for op in (R.any, R.all):
        for shape, options in (*CALLS, ((), dict())):
            yield Row(op, bools(*shape), **options)
    yield Row(R.any, floats(3, 4), axis=(0, 1), keepdims=True).skip(second=NO_GRADIENT)


def scans_and_sorting():
    for op in (R.cumsum, R.cumprod, R.sort):
        for shape, options in CALLS:
            yield Row(op, floats(*shape), **options)
    for op in (R.cumsum, R.cumprod, R.sort):
        yield Row(op, floats(2, 7), axis=None)
    for shape, options in CALLS:
        yield Row(R.argsort, floats(*shape), **options).skip(second=NO_GRADIENT)
    one_zero = np.array([[2.0, 0.0, 3.0, 1.5], [1.0, 2.0, 0.5, 3.0]])
    several_zeros = np.array([[0.0, 2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 1.0]])
    for op in (R.prod, R.cumprod):
        for x in (one_zero, several_zeros):
            yield Row(op, x, axis=-1)
    yield Row(R.topk, floats(3, 5), 2)
    yield Row(R.topk, floats(3, 5), 5, largest=False)
    yield Row(R.topk, floats(5, 3), 2, axis=0)
    yield Row(R.topk, floats(5), 0)
    yield Row(R.topk, floats(1), 1)
    yield Row(R.topk, floats(0, 3), 2)
    yield Row(R.topk, floats(2, 4, 3), 3, axis=-2, largest=False)


ROWS = [*reductions(), *of_indices_and_bools(), *scans_and_sorting()]
for _row in ROWS:
    if _row.op in (R.prod, R.cumprod):
        _row.skip(half="long products overflow")
