"""Rows of reductions, running reductions and order."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._array import reduction as R
from gpuprop.testing.rows import Row, floats, integers

FLAT = "the deviations are 0 but for rounding, and there is a kink"
NONE = "integers and bools carry none"
REDUCTIONS = (R.sum, R.mean, R.var, R.max, R.min, R.prod, R.logsumexp, R.norm)
OPTIONS: list[dict[str, Any]] = [
    dict(), dict(axis=0), dict(axis=-1, keepdims=True), dict(axis=(0, 2)), dict(axis=(2, -2), keepdims=True),
    dict(keepdims=True),
]
CALLS = [((3, 4), dict()), ((3, 4), dict(axis=0)), ((2, 3, 4), dict(axis=-2)), ((1,), dict()), ((0, 3), dict(axis=1))]
bools = lambda *shape: integers(2, *shape).astype(bool)

ROWS = [
    *(Row(op, floats(2, 3, 4), **kwargs) for op in REDUCTIONS for kwargs in OPTIONS),
    *(Row(op, floats(*s)) for op in REDUCTIONS for s in ((), (1,))),
    *(Row(op, floats(2, 0, 3), axis=axis) for op in REDUCTIONS for axis in (0, (0, 2))),
    *(Row(op, floats(0, 3), axis=0) for op in (R.sum, R.prod, R.norm)),
    Row(R.sum, floats(2, 3), axis=()),
    *(Row(op, floats(3, 4), axis=1, ddof=1, keepdims=keep) for op in (R.var, R.std) for keep in (False, True)),
    Row(R.std, floats(3, 4)),
    Row(R.std, floats(2, 3, 4), axis=(1, 2)),
    Row(R.std, floats(2, 3, 4), axis=0).but(layouts=FLAT),
    Row(R.std, floats(1)).but(gradient="a kink"),
    Row(R.std, floats(0, 3), axis=1),
    *(Row(R.norm, floats(3, 4), p, axis) for p in (0, 1, 3, np.inf, -np.inf, "fro") for axis in (None, 1)),
    *(Row(R.norm, floats(3, 4, low=0.5, high=2), p) for p in (0.5, 1.5, -1)),
    *(Row(R.trace, floats(*s), *rest) for s, *rest in (
        ((4, 5),), ((4, 5), 1), ((2, 3, 3), 0, 1, 2), ((1, 1),), ((0, 3),))),
    *(Row(op, floats(*s), **kwargs).but(second=NONE) for op in (R.argmax, R.argmin, R.count_nonzero) for s, kwargs in (
        *CALLS, ((), dict()), ((2, 3, 4), dict(axis=-1, keepdims=True)))),
    Row(R.count_nonzero, integers(2, 3, 4), axis=(0, 1)),
    *(Row(op, bools(*s), **kwargs) for op in (R.any, R.all) for s, kwargs in (*CALLS, ((), dict()))),
    Row(R.any, floats(3, 4), axis=(0, 1), keepdims=True).but(second=NONE),
    *(Row(op, floats(*s), **kwargs) for op in (R.cumsum, R.cumprod, R.sort) for s, kwargs in CALLS),
    *(Row(op, floats(2, 7), axis=None) for op in (R.cumsum, R.cumprod, R.sort)),
    *(Row(R.argsort, floats(*s), **kwargs).but(second=NONE) for s, kwargs in CALLS),
    *(Row(op, np.array(x), axis=-1) for op in (R.prod, R.cumprod) for x in (
        [[2.0, 0.0, 3.0, 1.5], [1.0, 2.0, 0.5, 3.0]], [[0.0, 2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 1.0]])),
    *(Row(R.topk, floats(*s), k, **kwargs) for s, k, kwargs in (
        ((3, 5), 2, dict()), ((3, 5), 5, dict(largest=False)), ((5, 3), 2, dict(axis=0)), ((5,), 0, dict()),
        ((1,), 1, dict()), ((0, 3), 2, dict()), ((2, 4, 3), 3, dict(axis=-2, largest=False)))),
]
