"""Rows of arithmetic, comparison and elementwise mathematics."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpuprop._array as A
from gpuprop.testing.rows import Row, floats, integers, pointwise

STEP = "its slope is 0, or it has none"
SHAPES = ((4, 5), (), (1,), (0, 3))
bools = lambda *shape: integers(2, *shape).astype(bool)

SMOOTH: list[Any] = [  # op, how many operands, and the interval in which there is neither a kink nor a pole
    (A.add, 2), (A.subtract, 2), (A.multiply, 2), (A.divide, 2, 0.5, 2), (A.power, 2, 0.5, 2),
    (A.maximum, 2), (A.minimum, 2), (A.fmax, 2), (A.fmin, 2), (A.copysign, 2),
    (A.arctan2, 2, 0.5, 2), (A.hypot, 2, 0.5, 2), (A.logaddexp, 2),
    (A.positive, 1), (A.negative, 1), (A.absolute, 1), (A.nan_to_num, 1), (A.square, 1), (A.reciprocal, 1, 0.5, 2),
    (A.sqrt, 1, 0.5, 2), (A.cbrt, 1, 0.5, 2), (A.rsqrt, 1, 0.5, 2), (A.exp, 1), (A.exp2, 1), (A.expm1, 1),
    (A.log, 1, 0.5, 2), (A.log2, 1, 0.5, 2), (A.log10, 1, 0.5, 2), (A.log1p, 1, 0.5, 2),
    (A.sin, 1), (A.cos, 1), (A.tan, 1, -1, 1), (A.arcsin, 1, -0.9, 0.9), (A.arccos, 1, -0.9, 0.9), (A.arctan, 1),
    (A.sinh, 1), (A.cosh, 1), (A.tanh, 1), (A.arcsinh, 1), (A.arccosh, 1, 1.2, 3), (A.arctanh, 1, -0.9, 0.9),
    (A.sinc, 1, 0.2, 2), (A.deg2rad, 1), (A.rad2deg, 1), (A.sigmoid, 1), (A.erf, 1), (A.erfc, 1),
    (A.erfinv, 1, -0.9, 0.9), (A.lgamma, 1, 0.5, 3), (A.digamma, 1, 0.5, 3),
]
STEPS: list[Any] = [
    (A.sign, 1), (A.floor, 1), (A.ceil, 1), (A.trunc, 1), (A.rint, 1), (A.round, 1), (A.floor_divide, 2),
    (A.isnan, 1), (A.isinf, 1), (A.isfinite, 1), (A.signbit, 1), (A.equal, 2), (A.not_equal, 2), (A.less, 2),
    (A.less_equal, 2), (A.greater, 2), (A.greater_equal, 2), (A.logical_and, 2), (A.logical_or, 2), (A.logical_xor, 2),
    (A.logical_not, 1),
]
BITWISE: list[Any] = [(A.bitwise_and, 2), (A.bitwise_or, 2), (A.bitwise_xor, 2), (A.invert, 1)]
SHIFTS: list[Any] = [(A.left_shift, 2), (A.right_shift, 2)]

ROWS = [
    *(row for arguments in SMOOTH for row in pointwise(*arguments)),
    *(row.but(second=STEP) for arguments in STEPS for row in pointwise(*arguments)),
    *(Row(op, *(integers(9, *s) for _ in range(n))) for op, n in (*BITWISE, *SHIFTS) for s in SHAPES),
    *(Row(op, *(bools(*s) for _ in range(n))) for op, n in BITWISE for s in SHAPES),
    *(Row(op, floats(*s, low=5.1, high=5.9), floats(*s, low=2.1, high=2.4))
      for op in (A.remainder, A.fmod) for s in SHAPES),
    *(Row(op, -floats(4, low=5.1, high=5.9), 3.0) for op in (A.remainder, A.fmod)),
    *(Row(A.power, floats(3, 4), n) for n in (0, 1, 2, 3)),
    *(Row(A.power, floats(3, 4, low=0.5, high=2), n) for n in (-1, 0.5, 2.5)),
    Row(A.power, 2.5, floats(3, 4)),
    Row(A.add, floats(3), 2.5),
    Row(A.subtract, 1, floats(3)),
    Row(A.multiply, floats(3), integers(5, 3)),
    Row(A.divide, integers(5, 3, low=1), floats(3, low=0.5, high=2)),
    Row(A.maximum, floats(3, 4), 0),
    Row(A.minimum, 0, floats(3, 4)),
    Row(A.round, floats(3, 4) * 100, -1).but(second=STEP),
    Row(A.nan_to_num, np.array([1.5, np.nan, np.inf, -np.inf, 2.0]), nan=1.0, posinf=9.0, neginf=-9.0).but(
        gradient="no step leads from infinity"),
    *(Row(A.polygamma, n, floats(*s, low=0.5, high=3)) for n in (0, 1, 2) for s in SHAPES),
    *(Row(A.where, bools(*s), floats(*s), floats(*s)) for s in SHAPES),
    Row(A.where, bools(3, 1), floats(4), 2.0),
    Row(A.where, bools(3, 1), 0, floats(3, 4)),
    Row(A.where, bools(3), 1, 0.1),
    *(Row(A.clip, floats(*s), -0.5, 0.75) for s in SHAPES),
    Row(A.clip, floats(3, 4), None, 0.5),
    Row(A.clip, floats(3, 4), 0.25),
    Row(A.clip, floats(4, 5), floats(5, low=-1, high=0), floats(4, 1, low=0.1, high=1)),
    Row(A.clip, floats(4, 5), floats(4, 5), None),
    Row(A.clip, floats(4, 5), floats(5, low=0.5, high=1), floats(4, 1, low=-1, high=0)),
]
