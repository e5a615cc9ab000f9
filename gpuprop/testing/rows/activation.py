"""Rows of activations."""

from __future__ import annotations

import math

import gpuprop.functional as F
from gpuprop.functional import _activation as A
from gpuprop.testing.rows import Row, floats, pointwise

DRAWN = "other numbers at every call"
PLAIN = (F.relu, F.hardtanh, F.relu6, F.hardsigmoid, F.hardswish, F.hardshrink, F.softshrink, F.leaky_relu, F.rrelu,
         F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.softplus, F.logsigmoid, F.softsign, F.tanhshrink)

ROWS = [
    *(row for op in PLAIN for row in pointwise(op)),
    *(Row(F.threshold, floats(*shape), 0.25, 2.0) for shape in ((4, 5), (), (1,), (0, 3))),
    *(Row(A.clamp, floats(*shape), -0.5, 0.75) for shape in ((4, 5), (), (1,), (0, 3))),
    *(Row(A.exponential, floats(*shape), 1.5, 0.75, 2.0) for shape in ((4, 5), (), (1,), (0, 3))),
    *(row for op in (A.leaky, A.gated) for row in pointwise(op, 2)),
    Row(F.hardtanh, floats(4, 5), -0.5, 0.25),
    Row(F.hardshrink, floats(4, 5), 0.25),
    Row(F.softshrink, floats(4, 5), 0.25),
    Row(F.leaky_relu, floats(4, 5), 0.2, inplace=True),
    Row(F.leaky_relu, floats(4, 5), -1.5),
    Row(F.rrelu, floats(4, 5), 0.1, 0.4),
    Row(F.rrelu, floats(4, 5), training=True).but(gradient=DRAWN, parity=DRAWN, capture=DRAWN),
    Row(F.elu, floats(4, 5), 0.5),
    Row(F.celu, floats(4, 5), 0.5),
    Row(F.gelu, floats(4, 5), "tanh"),
    Row(F.softplus, floats(4, 5), 2.0, 1.5),
    *(Row(op, 4 * floats(4, 5)) for op in (F.hardsigmoid, F.hardswish, F.gelu, F.silu, F.softplus, F.logsigmoid)),
    *(Row(F.prelu, floats(*x), floats(*w)) for x, w in (
        ((4, 5), (5,)), ((4, 5), (1,)), ((2, 3, 4), (3,)), ((2, 3, 4), (1,)), ((4,), (1,)), ((), (1,)), ((0, 3), (3,)),
        ((2, 3), ()))),
    *(Row(F.glu, floats(*shape), dim) for shape, dim in (
        ((4, 6), -1), ((4, 6), 0), ((2, 4, 3), 1), ((2,), 0), ((0, 4), 1), ((4, 0), 0), ((2, 1), -2))),
    *(Row(op, floats(*shape), dim) for op in (F.softmax, F.log_softmax, F.softmin) for shape, dim in (
        ((4, 5), -1), ((4, 5), 0), ((2, 3, 4), 1), ((1,), 0), ((), 0), ((0, 3), 1), ((0, 3), 0))),
    Row(F.softmax, 4 * floats(4, 5), dim=1, dtype="float64"),
    Row(F.log_softmax, 4 * floats(4, 5), dim=1, dtype="float64"),
    *(Row(A.straight_through, floats(*shape), dim).but(gradient="it is that of the identity") for shape, dim in (
        ((4, 5), -1), ((2, 3, 4), 1), ((1,), 0), ((0, 3), 1))),
    *(Row(F.gumbel_softmax, floats(*shape), tau=0.5, hard=hard, dim=0).but(gradient=DRAWN, parity=DRAWN, capture=DRAWN)
      for hard in (False, True) for shape in ((4, 5), (1,), (3, 0))),
    *(Row(F.normalize, floats(*shape), dim=dim) for shape, dim in (
        ((4, 5), 1), ((2, 3, 4), -1), ((1,), 0), ((0, 3), 1))),
    *(Row(F.normalize, floats(4, 5), p, 0, 0.25) for p in (1.0, 1.5, 3.0, math.inf)),
]
