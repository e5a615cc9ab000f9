"""Rows of arithmetic, comparisons and elementwise functions."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpuprop._array as A
from gpuprop.testing.rows import Row, floats, integers, pointwise

NO_SLOPE = "its gradient is 0, or it has none"
SHAPES = ((4, 5), (), (1,), (0, 3))

# Op, number of operands, and an interval that contains neither a kink nor a pole.
DIFFERENTIABLE: list[tuple[Any, ...]] = [
    (A.add, 2),
    (A.subtract, 2),
    (A.multiply, 2),
    (A.divide, 2, 0.5, 2),
    (A.power, 2, 0.5, 2),
    (A.maximum, 2),
    (A.minimum, 2),
    (A.fmax, 2),
    (A.fmin, 2),
    (A.copysign, 2),
    (A.arctan2, 2, 0.5, 2),
    (A.hypot, 2, 0.5, 2),
    (A.logaddexp, 2),
    (A.positive, 1),
    (A.negative, 1),
    (A.absolute, 1),
    (A.nan_to_num, 1),
    (A.square, 1),
    (A.reciprocal, 1, 0.5, 2),
    (A.sqrt, 1, 0.5, 2),
    (A.cbrt, 1, 0.5, 2),
    (A.rsqrt, 1, 0.5, 2),
    (A.exp, 1),
    (A.exp2, 1),
    (A.expm1, 1),
    (A.log, 1, 0.5, 2),
    (A.log2, 1, 0.5, 2),
    (A.log10, 1, 0.5, 2),
    (A.log1p, 1, 0.5, 2),
    (A.sin, 1),
    (A.cos, 1),
    (A.tan, 1, -1, 1),
    (A.arcsin, 1, -0.9, 0.9),
    (A.arccos, 1, -0.9, 0.9),
    (A.arctan, 1),
    (A.sinh, 1),
    (A.cosh, 1),
    (A.tanh, 1),
    (A.arcsinh, 1),
    (A.arccosh, 1, 1.2, 3),
    (A.arctanh, 1, -0.9, 0.9),
    (A.sinc, 1, 0.2, 2),
    (A.deg2rad, 1),
    (A.rad2deg, 1),
    (A.sigmoid, 1),
    (A.erf, 1),
    (A.erfc, 1),
    (A.erfinv, 1, -0.9, 0.9),
    (A.lgamma, 1, 0.5, 3),
    (A.digamma, 1, 0.5, 3),
]
UNARY_STEPS = (A.sign, A.floor, A.ceil, A.trunc, A.rint, A.round)
BINARY_STEPS = (A.floor_divide,)
UNARY_PREDICATES = (A.isnan, A.isinf, A.isfinite, A.signbit)
COMPARISONS = (
    A.equal,
    A.not_equal,
    A.less,
    A.less_equal,
    A.greater,
    A.greater_equal,
    A.logical_and,
    A.logical_or,
    A.logical_xor,
)
BITWISE: list[tuple[Any, int]] = [
    (A.bitwise_and, 2),
    (A.bitwise_or, 2),
    (A.bitwise_xor, 2),
    (A.invert, 1),
]
SHIFTS: list[tuple[Any, int]] = [(A.left_shift, 2), (A.right_shift, 2)]


def bools(*shape: int) -> np.ndarray:
    return integers(2, *shape).astype(bool)


def elementwise():
    for arguments in DIFFERENTIABLE:
        yield from pointwise(*arguments)
    for ops, operands in (
        (UNARY_STEPS, 1),
        (BINARY_STEPS, 2),
        (UNARY_PREDICATES, 1),
        (COMPARISONS, 2),
        ((A.logical_not,), 1),
    ):
        for op in ops:
            for row in pointwise(op, operands):
                yield row.skip(second=NO_SLOPE)


def of_integers_and_bools():
    for op, operands in (*BITWISE, *SHIFTS):
        for shape in SHAPES:
            yield Row(op, *(integers(9, *shape) for _ in range(operands)))
    for op, operands in BITWISE:
        for shape in SHAPES:
            yield Row(op, *(bools(*shape) for _ in range(operands)))


def with_numbers():
    for op in (A.remainder, A.fmod):
        for shape in SHAPES:
            yield Row(op, floats(*shape, low=5.1, high=5.9), floats(*shape, low=2.1, high=2.4))
    for op in (A.remainder, A.fmod):
        yield Row(op, -floats(4, low=5.1, high=5.9), 3.0)
    for exponent in (0, 1, 2, 3):
        yield Row(A.power, floats(3, 4), exponent)
    for exponent in (-1, 0.5, 2.5):
        yield Row(A.power, floats(3, 4, low=0.5, high=2), exponent)
    yield Row(A.power, 2.5, floats(3, 4))
    yield Row(A.add, floats(3), 2.5)
    yield Row(A.subtract, 1, floats(3))
    yield Row(A.multiply, floats(3), integers(5, 3))
    yield Row(A.divide, integers(5, 3, low=1), floats(3, low=0.5, high=2))
    yield Row(A.maximum, floats(3, 4), 0)
    yield Row(A.minimum, 0, floats(3, 4))
    yield Row(A.round, floats(3, 4) * 100, -1).skip(second=NO_SLOPE)
    special = np.array([1.5, np.nan, np.inf, -np.inf, 2.0])
    row = Row(A.nan_to_num, special, nan=1.0, posinf=9.0, neginf=-9.0)
    yield row.skip(gradient="no finite differences at infinity")
    for n in (0, 1, 2):
        for shape in SHAPES:
            yield Row(A.polygamma, n, floats(*shape, low=0.5, high=3))


def where_and_clip():
    for shape in SHAPES:
        yield Row(A.where, bools(*shape), floats(*shape), floats(*shape))
    yield Row(A.where, bools(3, 1), floats(4), 2.0)
    yield Row(A.where, bools(3, 1), 0, floats(3, 4))
    yield Row(A.where, bools(3), 1, 0.1)
    for shape in SHAPES:
        yield Row(A.clip, floats(*shape), -0.5, 0.75)
    yield Row(A.clip, floats(3, 4), None, 0.5)
    yield Row(A.clip, floats(3, 4), 0.25)
    yield Row(A.clip, floats(4, 5), floats(5, low=-1, high=0), floats(4, 1, low=0.1, high=1))
    yield Row(A.clip, floats(4, 5), floats(4, 5), None)
    yield Row(A.clip, floats(4, 5), floats(5, low=0.5, high=1), floats(4, 1, low=-1, high=0))


ROWS = [*elementwise(), *of_integers_and_bools(), *with_numbers(), *where_and_clip()]
