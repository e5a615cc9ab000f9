"""Elementary functions of float32 numbers for Numba's loops.

Numba computes its own exp and tanh for one number at a time; these are vectorized.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpuprop_numpy import compiled

f = np.float32
# exp(r) - 1 - r, divided by r^2, for |r| < log(2) / 2: Cephes, expf.c
EXP = tuple(map(f, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                    1.6666665459e-1, 5.0000001201e-1)))
# tanh(x) / x - 1, divided by x^2, for |x| < 0.625: Cephes, tanhf.c
TANH = tuple(map(f, (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1,
                     -3.33332819422e-1)))
LOG2, LOG2_LOW = f(0.693359375), f(-2.12194440e-4)  # their sum is log(2), and n * LOG2 is exact
ROUNDER = f(3 << 22)  # added and subtracted, it rounds to an integer


class Elementary(NamedTuple):
    polynomial: Callable  # (x, coefficients, highest power first)
    exp: Callable  # of x <= 88; subnormal results are 0
    sigmoid: Callable
    tanh: Callable


@functools.cache
def elementary() -> Elementary:
    """The functions; Numba must be installed."""
    decorate = compiled.njit()
    assert decorate is not None

    @decorate
    def polynomial(x: Any, coefficients: Any) -> Any:
        y = coefficients[0]
        for c in coefficients[1:]:
            y = y * x + c
        return y

    @decorate
    def exp(x: Any) -> Any:
        """The power of 2 is the exponent of a float."""
        is_zero = x < f(-87)
        x = f(-87) if is_zero else x
        n = (x * f(1 / math.log(2)) + ROUNDER) - ROUNDER
        r = (x - n * LOG2) - n * LOG2_LOW
        power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
        return f(0) if is_zero else (polynomial(r, EXP) * r * r + r + f(1)) * power

    @decorate
    def sigmoid(x: Any) -> Any:
        """``1 / (1 + exp(-x))``."""
        e = exp(-abs(x))
        return (e if x < f(0) else f(1)) / (f(1) + e)

    @decorate
    def tanh(x: Any) -> Any:
        e = exp(f(-2) * abs(x))
        large = (f(1) - e) / (f(1) + e)
        square = x * x
        small = polynomial(square, TANH) * square * x + x
        return small if abs(x) < f(0.625) else (large if x > f(0) else -large)

    return Elementary(polynomial, exp, sigmoid, tanh)
