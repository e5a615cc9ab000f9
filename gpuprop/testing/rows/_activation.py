"""Rows of activations."""

from __future__ import annotations

import math

import numpy as np

import gpuprop.functional as F
from gpuprop.functional import _activation as A
from gpuprop.testing.rows import Row, floats, pointwise

RANDOM = dict.fromkeys(("gradient", "parity", "capture"), "each call has another random output")
SHAPES = ((4, 5), (), (1,), (0, 3))
ELEMENTWISE = (
    F.relu,
    F.hardtanh,
    F.relu6,
    F.hardsigmoid,
    F.hardswish,
    F.hardshrink,
    F.softshrink,
    F.leaky_relu,
    F.rrelu,
    F.elu,
    F.celu,
    F.selu,
    F.gelu,
    F.silu,
    F.mish,
    F.softplus,
    F.logsigmoid,
    F.softsign,
    F.tanhshrink,
)


def elementwise():
    for op in ELEMENTWISE:
        yield from pointwise(op)
    for shape in SHAPES:
        yield Row(F.threshold, floats(*shape), 0.25, 2.0)
    for shape in SHAPES:
        yield Row(F.hardtanh, floats(*shape), -0.5, 0.75)
    for shape in SHAPES:
        yield Row(A.elu_op, floats(*shape), 1.5, 0.75, 2.0)
    for op in (A.leaky_relu_op, A.sigmoid_gate):
        yield from pointwise(op, 2)
    yield Row(F.hardtanh, floats(4, 5), -0.5, 0.25)
    yield Row(F.hardshrink, floats(4, 5), 0.25)
    yield Row(F.softshrink, floats(4, 5), 0.25)
    yield Row(F.leaky_relu, floats(4, 5), 0.2, inplace=True)
    yield Row(F.leaky_relu, floats(4, 5), -1.5)
    yield Row(F.rrelu, floats(4, 5), 0.1, 0.4)
    yield Row(F.rrelu, floats(4, 5), training=True).skip(**RANDOM)
    yield Row(F.elu, floats(4, 5), 0.5)
    yield Row(F.celu, floats(4, 5), 0.5)
    yield Row(F.gelu, floats(4, 5), "tanh")
    yield Row(F.softplus, floats(4, 5), 2.0, 1.5)
    for op in (F.hardsigmoid, F.hardswish, F.gelu, F.silu, F.softplus, F.logsigmoid):
        yield Row(op, 4 * floats(4, 5))
    for shape, weight in (
        ((4, 5), (5,)),
        ((4, 5), (1,)),
        ((2, 3, 4), (3,)),
        ((2, 3, 4), (1,)),
        ((4,), (1,)),
        ((), (1,)),
        ((0, 3), (3,)),
        ((2, 3), ()),
    ):
        yield Row(F.prelu, floats(*shape), floats(*weight))


def along_a_dimension():
    for shape, dim in (
        ((4, 6), -1),
        ((4, 6), 0),
        ((2, 4, 3), 1),
        ((2,), 0),
        ((0, 4), 1),
        ((4, 0), 0),
        ((2, 1), -2),
    ):
        yield Row(F.glu, floats(*shape), dim)
    for op in (F.softmax, F.log_softmax, F.softmin):
        for shape, dim in (
            ((4, 5), -1),
            ((4, 5), 0),
            ((2, 3, 4), 1),
            ((1,), 0),
            ((), 0),
            ((0, 3), 1),
            ((0, 3), 0),
        ):
            yield Row(op, floats(*shape), dim)
    yield Row(F.softmax, 4 * floats(4, 5), dim=1, dtype="float64")
    yield Row(F.log_softmax, 4 * floats(4, 5), dim=1, dtype="float64")
    for shape, dim in (((4, 5), -1), ((2, 3, 4), 1), ((1,), 0), ((0, 3), 1)):
        row = Row(A.straight_through_one_hot, floats(*shape), dim)
        yield row.skip(gradient="by definition the identity's")
    for hard in (False, True):
        for shape in ((4, 5), (1,), (3, 0)):
            yield Row(F.gumbel_softmax, floats(*shape), tau=0.5, hard=hard, dim=0).skip(**RANDOM)
    for shape, dim in (((4, 5), 1), ((2, 3, 4), -1), ((1,), 0), ((0, 3), 1)):
        yield Row(F.normalize, floats(*shape), dim=dim)
    yield Row(F.normalize, np.zeros((2, 3)), eps=0.25).skip(gradient="it has a kink there")
    for p in (1.0, 1.5, 3.0):
        yield Row(F.normalize, floats(4, 5), p, 0, 0.25)
    row = Row(F.normalize, floats(4, 5), math.inf, 0, 0.25)
    yield row.skip(hidden="the largest element is divided by itself: equal terms cancel")


ROWS = [*elementwise(), *along_a_dimension()]
