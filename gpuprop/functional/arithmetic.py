"""Arithmetic, comparison and elementwise mathematics, with NumPy's names and broadcasting.

At a kink, a tie or a pole the gradient is PyTorch's.
"""

from __future__ import annotations

import math

from gpuprop.mode import largest
from gpuprop.ops import Array, op
from gpuprop.pointwise import pointwise

# ---- two operands: the engine sums what broadcasting spread ---------------------------------------------------------


@op(promote=True, half="rounded")
def add(xp, x1: Array, x2: Array):
    """``x1 + x2``."""
    return x1 + x2, (lambda d: d, lambda d: d)


@op(promote=True, half="rounded")
def subtract(xp, x1: Array, x2: Array):
    """``x1 - x2``."""
    return x1 - x2, (lambda d: d, lambda d: -d)


@op(promote=True, half="rounded")
def multiply(xp, x1: Array, x2: Array):
    """``x1 * x2``."""
    return x1 * x2, (lambda d: d * x2, lambda d: d * x1)


@op(promote=True)
def divide(xp, x1: Array, x2: Array):
    """``x1 / x2``."""
    y = x1 / x2
    return y, (lambda d: d / x2, lambda d: -d * (y / x2))


@op(promote=True)
def floor_divide(xp, x1: Array, x2: Array):
    """``x1 // x2``, rounded down: flat wherever it is continuous."""
    return x1 // x2, (xp.zeros_like, xp.zeros_like)


@op(promote=True)
def remainder(xp, x1: Array, x2: Array):
    """``x1 % x2``, with the sign of `x2`."""
    return x1 % x2, (lambda d: d, lambda d: -d * (x1 // x2))


@op(promote=True)
def fmod(xp, x1: Array, x2: Array):
    """The remainder of the division rounded towards zero: it has the sign of `x1`."""
    return xp.fmod(x1, x2), (lambda d: d, lambda d: -d * xp.trunc(x1 / x2))


@op(promote=True, precision="full")
def power(xp, x1: Array, x2: Array):
    """``x1 ** x2``; where ``0 ** 0`` meets ``0 ** x``, the gradients of both are 0."""
    y = x1**x2

    def by_exponent(d):
        base = x1 if hasattr(x1, "shape") else xp.full_like(x2, x1)
        flat = (base == 0) & (x2 >= 0)
        return d * xp.where(flat, 0, y * xp.log(xp.where(flat, 1, base)))

    return y, (lambda d: d * _power_slope(xp, x1, x2), by_exponent)


def _power_slope(xp, x, n):
    """``n * x ** (n - 1)``, and 0 where n is 0, be x what it may."""
    if not hasattr(n, "shape"):
        return n * (x if n == 2 else x ** (n - 1)) if n else xp.zeros_like(x)
    flat = n == 0
    return xp.where(flat, 0, n * x ** xp.where(flat, 1, n - 1))


@pointwise
def _winner(xp, d, x1, x2):
    """The gradient of a maximum for its operand `x1`: all where it is the larger, half at a tie."""
    return xp.where(x1 < x2, 0, xp.where(x1 == x2, d / 2, d))


@op(promote=True, half="rounded")
def maximum(xp, x1: Array, x2: Array):
    """The larger of two; NaN wins, and at a tie each takes half of the gradient."""
    return xp.maximum(x1, x2), (lambda d: _winner(xp, d, x1, x2), lambda d: _winner(xp, d, x2, x1))


@op(promote=True, half="rounded")
def minimum(xp, x1: Array, x2: Array):
    """The smaller of two; NaN wins, and at a tie each takes half of the gradient."""
    return xp.minimum(x1, x2), (lambda d: _winner(xp, d, x2, x1), lambda d: _winner(xp, d, x1, x2))


@op(promote=True, half="rounded")
def fmax(xp, x1: Array, x2: Array):
    """The larger of two; NaN loses, and at a tie the first takes the gradient."""
    first = lambda: (x1 >= x2) | (x2 != x2)
    return xp.fmax(x1, x2), (lambda d: xp.where(first(), d, 0), lambda d: xp.where(first(), 0, d))


@op(promote=True, half="rounded")
def fmin(xp, x1: Array, x2: Array):
    """The smaller of two; NaN loses, and at a tie the first takes the gradient."""
    first = lambda: (x1 <= x2) | (x2 != x2)
    return xp.fmin(x1, x2), (lambda d: xp.where(first(), d, 0), lambda d: xp.where(first(), 0, d))


@op
def clip(xp, x: Array, min: Array = None, max: Array = None):
    """`x` kept between two bounds, `max` the stronger; None is no bound, and at a bound the gradient passes."""
    y = x if min is None else xp.maximum(x, min)
    y = y if max is None else xp.minimum(y, max)

    def by_x(d):
        d = d if min is None else xp.where(x >= min, d, 0)
        return d if max is None else xp.where(x <= max, d, 0)

    def by_min(d):
        d = xp.where(x < min, d, 0)
        return d if max is None else xp.where(min < max, d, 0)

    def by_max(d):
        crossed = x > max if min is None else (x > max) | (max < min)
        return xp.where(crossed, d, 0)

    return y, (by_x, by_min, by_max)


@op(promote=True)
def arctan2(xp, x1: Array, x2: Array):
    """The angle of the point (x2, x1), in radians from -pi to pi."""
    def over_square(d):
        square = x1 * x1 + x2 * x2
        return xp.where(square == 0, 0, d / xp.where(square == 0, 1, square))

    return xp.arctan2(x1, x2), (lambda d: over_square(d) * x2, lambda d: over_square(-d) * x1)


@op(promote=True)
def hypot(xp, x1: Array, x2: Array):
    """``sqrt(x1**2 + x2**2)``."""
    y = xp.hypot(x1, x2)
    return y, (lambda d: d * (x1 / y), lambda d: d * (x2 / y))


@op(promote=True)
def logaddexp(xp, x1: Array, x2: Array):
    """``log(exp(x1) + exp(x2))`` without overflow."""
    return xp.logaddexp(x1, x2), (lambda d: d * xp.sigmoid(x1 - x2), lambda d: d * xp.sigmoid(x2 - x1))


@op(promote=True)
def copysign(xp, x1: Array, x2: Array):
    """The size of `x1` with the sign of `x2`."""
    y = xp.copysign(x1, x2)
    return y, (lambda d: d * xp.sign(x1) * xp.sign(y), xp.zeros_like)


@op(promote=True, half="rounded")
def where(xp, condition: Array, x: Array, y: Array):
    """`x` where the condition holds, else `y`; of two numbers, float32 if one is a float."""
    if {type(x), type(y)} in ({float}, {float, int}):
        x = xp.full((), x, "float32")
    return xp.where(condition, x, y), (
        lambda d: xp.zeros_like(condition), lambda d: xp.where(condition, d, 0), lambda d: xp.where(condition, 0, d))


# ---- comparison and logic: no gradient passes -----------------------------------------------------------------------


@op(promote=True, half="exact")
def equal(xp, x1: Array, x2: Array):
    """``x1 == x2``, element by element."""
    return x1 == x2, None


@op(promote=True, half="exact")
def not_equal(xp, x1: Array, x2: Array):
    """``x1 != x2``, element by element."""
    return x1 != x2, None


@op(promote=True, half="exact")
def less(xp, x1: Array, x2: Array):
    """``x1 < x2``, element by element."""
    return x1 < x2, None


@op(promote=True, half="exact")
def less_equal(xp, x1: Array, x2: Array):
    """``x1 <= x2``, element by element."""
    return x1 <= x2, None


@op(promote=True, half="exact")
def greater(xp, x1: Array, x2: Array):
    """``x1 > x2``, element by element."""
    return x1 > x2, None


@op(promote=True, half="exact")
def greater_equal(xp, x1: Array, x2: Array):
    """``x1 >= x2``, element by element."""
    return x1 >= x2, None


@op(half="exact")
def logical_and(xp, x1: Array, x2: Array):
    """Are both true (not zero)?"""
    return xp.logical_and(x1, x2), None


@op(half="exact")
def logical_or(xp, x1: Array, x2: Array):
    """Is one of them true (not zero)?"""
    return xp.logical_or(x1, x2), None


@op(half="exact")
def logical_xor(xp, x1: Array, x2: Array):
    """Is exactly one of them true (not zero)?"""
    return xp.logical_xor(x1, x2), None


@op(half="exact")
def logical_not(xp, x: Array):
    """Is it false (zero)?"""
    return xp.logical_not(x), None


@op
def bitwise_and(xp, x1: Array, x2: Array):
    """``x1 & x2`` of integers or bools."""
    return x1 & x2, None


@op
def bitwise_or(xp, x1: Array, x2: Array):
    """``x1 | x2`` of integers or bools."""
    return x1 | x2, None


@op
def bitwise_xor(xp, x1: Array, x2: Array):
    """``x1 ^ x2`` of integers or bools."""
    return x1 ^ x2, None


@op
def invert(xp, x: Array):
    """``~x`` of integers or bools."""
    return ~x, None


@op
def left_shift(xp, x1: Array, x2: Array):
    """``x1 << x2`` of integers."""
    return x1 << x2, None


@op
def right_shift(xp, x1: Array, x2: Array):
    """``x1 >> x2`` of integers."""
    return x1 >> x2, None


@op(half="exact")
def isnan(xp, x: Array):
    """Is it NaN?"""
    return xp.isnan(x), None


@op(half="exact")
def isinf(xp, x: Array):
    """Is it infinite?"""
    return xp.isinf(x), None


@op(half="exact")
def isfinite(xp, x: Array):
    """Is it neither NaN nor infinite?"""
    return xp.isfinite(x), None


@op(half="exact")
def signbit(xp, x: Array):
    """Is the sign bit set, as it is in -0.0?"""
    return xp.signbit(x), None


# ---- signs, rounding ------------------------------------------------------------------------------------------------


@op(half="exact")
def positive(xp, x: Array):
    """``+x``: a copy."""
    return +x, (lambda d: d,)


@op(half="exact")
def negative(xp, x: Array):
    """``-x``."""
    return -x, (lambda d: -d,)


@op(half="exact")
def absolute(xp, x: Array):
    """``abs(x)``; the slope at 0 is 0."""
    return xp.absolute(x), (lambda d: d * xp.sign(x),)


@op(half="exact")
def sign(xp, x: Array):
    """-1, 0 or 1, as x is below, at or above 0; flat wherever it is continuous."""
    return xp.sign(x), (xp.zeros_like,)


@op(half="exact")
def floor(xp, x: Array):
    """The largest integer not above x; flat wherever it is continuous."""
    return xp.floor(x), (xp.zeros_like,)


@op(half="exact")
def ceil(xp, x: Array):
    """The smallest integer not below x; flat wherever it is continuous."""
    return xp.ceil(x), (xp.zeros_like,)


@op(half="exact")
def trunc(xp, x: Array):
    """The nearest integer towards zero; flat wherever it is continuous."""
    return xp.trunc(x), (xp.zeros_like,)


@op(half="exact")
def rint(xp, x: Array):
    """The nearest integer, the even one of two; flat wherever it is continuous."""
    return xp.rint(x), (xp.zeros_like,)


@op
def round(xp, x: Array, decimals=0):
    """Rounded to so many decimals, to even where two are as near; flat wherever it is continuous."""
    return xp.round(x, decimals), (xp.zeros_like,)


@op(half="exact")
def nan_to_num(xp, x: Array, nan=0.0, posinf=None, neginf=None):
    """NaN and infinities replaced by numbers, by default 0 and the largest of the type; no gradient passes there."""
    if x.dtype.kind in "iub":
        return +x, None
    top = largest(x.dtype)
    y = x
    for found, value in ((x != x, nan), (x == math.inf, top if posinf is None else posinf),
                         (x == -math.inf, -top if neginf is None else neginf)):
        y = xp.where(found, xp.full((), value, x.dtype), y)
    return y, (lambda d: xp.where(xp.isfinite(x), d, 0),)


# ---- powers, exponentials, logarithms -------------------------------------------------------------------------------


@op
def square(xp, x: Array):
    """``x * x``."""
    return x * x, (lambda d: d * 2 * x,)


@op
def sqrt(xp, x: Array):
    """The square root; its slope at 0 is infinite."""
    y = xp.sqrt(x)
    return y, (lambda d: d / (2 * y),)


@op
def cbrt(xp, x: Array):
    """The cube root, of negative numbers too."""
    y = xp.cbrt(x)
    return y, (lambda d: d / (3 * y * y),)


@op(precision="full")
def rsqrt(xp, x: Array):
    """``1 / sqrt(x)``."""
    y = 1 / xp.sqrt(x)
    return y, (lambda d: d * -0.5 * (y * y * y),)


@op(precision="full")
def reciprocal(xp, x: Array):
    """``1 / x``."""
    y = xp.reciprocal(x)
    return y, (lambda d: -d * y * y,)


@op(precision="full")
def exp(xp, x: Array):
    """e to the power x."""
    y = xp.exp(x)
    return y, (lambda d: d * y,)


@op(precision="full")
def exp2(xp, x: Array):
    """2 to the power x."""
    y = xp.exp2(x)
    return y, (lambda d: d * math.log(2) * y,)


@op(precision="full")
def expm1(xp, x: Array):
    """``exp(x) - 1``, accurate near 0."""
    y = xp.expm1(x)
    return y, (lambda d: d * (y + 1),)


@op(precision="full")
def log(xp, x: Array):
    """The natural logarithm."""
    return xp.log(x), (lambda d: d / x,)


@op(precision="full")
def log2(xp, x: Array):
    """The logarithm to base 2."""
    return xp.log2(x), (lambda d: d / (math.log(2) * x),)


@op(precision="full")
def log10(xp, x: Array):
    """The logarithm to base 10."""
    return xp.log10(x), (lambda d: d / (math.log(10) * x),)


@op(precision="full")
def log1p(xp, x: Array):
    """``log(1 + x)``, accurate near 0."""
    return xp.log1p(x), (lambda d: d / (1 + x),)


# ---- angles and hyperbolas ------------------------------------------------------------------------------------------


@op
def sin(xp, x: Array):
    """The sine of radians."""
    return xp.sin(x), (lambda d: d * xp.cos(x),)


@op
def cos(xp, x: Array):
    """The cosine of radians."""
    return xp.cos(x), (lambda d: -d * xp.sin(x),)


@op(precision="full")
def tan(xp, x: Array):
    """The tangent of radians."""
    y = xp.tan(x)
    return y, (lambda d: d * (1 + y * y),)


@op(precision="full")
def arcsin(xp, x: Array):
    """The angle in radians whose sine is x."""
    return xp.arcsin(x), (lambda d: d / xp.sqrt(1 - x * x),)


@op(precision="full")
def arccos(xp, x: Array):
    """The angle in radians whose cosine is x."""
    return xp.arccos(x), (lambda d: -d / xp.sqrt(1 - x * x),)


@op
def arctan(xp, x: Array):
    """The angle in radians whose tangent is x."""
    return xp.arctan(x), (lambda d: d / (1 + x * x),)


@op(precision="full")
def sinh(xp, x: Array):
    """The hyperbolic sine."""
    return xp.sinh(x), (lambda d: d * xp.cosh(x),)


@op(precision="full")
def cosh(xp, x: Array):
    """The hyperbolic cosine."""
    return xp.cosh(x), (lambda d: d * xp.sinh(x),)


@pointwise
def _tanh_backward(xp, y, d):
    return d * (1 - y * y)


@op
def tanh(xp, x: Array):
    """The hyperbolic tangent."""
    y = xp.tanh(x)
    return y, (lambda d: _tanh_backward(xp, y, d),)


@op
def arcsinh(xp, x: Array):
    """The inverse of sinh."""
    return xp.arcsinh(x), (lambda d: d / xp.sqrt(x * x + 1),)


@op
def arccosh(xp, x: Array):
    """The inverse of cosh, for x from 1."""
    return xp.arccosh(x), (lambda d: d / xp.sqrt(x * x - 1),)


@op
def arctanh(xp, x: Array):
    """The inverse of tanh."""
    return xp.arctanh(x), (lambda d: d / (1 - x * x),)


@op
def sinc(xp, x: Array):
    """``sin(pi x) / (pi x)``, and 1 at 0."""
    y = xp.sinc(x)

    def back(d):
        zero = x == 0
        return d * xp.where(zero, 0, (xp.cos(math.pi * x) - y) / xp.where(zero, 1, x))

    return y, (back,)


@op
def deg2rad(xp, x: Array):
    """Degrees in radians."""
    return xp.deg2rad(x), (lambda d: d * (math.pi / 180),)


@op
def rad2deg(xp, x: Array):
    """Radians in degrees."""
    return xp.rad2deg(x), (lambda d: d * (180 / math.pi),)


# ---- special functions ----------------------------------------------------------------------------------------------


@pointwise
def _sigmoid_backward(xp, y, d):
    return d * (1 - y) * y


@op
def sigmoid(xp, x: Array):
    """``1 / (1 + exp(-x))``."""
    y = xp.sigmoid(x)
    return y, (lambda d: _sigmoid_backward(xp, y, d),)


@op
def erf(xp, x: Array):
    """The error function."""
    return xp.erf(x), (lambda d: d * (2 / math.sqrt(math.pi)) * xp.exp(-x * x),)


@op
def erfc(xp, x: Array):
    """``1 - erf(x)``, accurate where it is small."""
    return xp.erfc(x), (lambda d: d * (-2 / math.sqrt(math.pi)) * xp.exp(-x * x),)


@op(precision="full")
def erfinv(xp, x: Array):
    """The inverse of erf, on (-1, 1)."""
    y = xp.erfinv(x)
    return y, (lambda d: d * (math.sqrt(math.pi) / 2) * xp.exp(y * y),)


@op(precision="full")
def lgamma(xp, x: Array):
    """The logarithm of the absolute value of the gamma function."""
    return xp.lgamma(x), (lambda d: d * xp.digamma(x),)


@op(precision="full")
def digamma(xp, x: Array):
    """The derivative of lgamma."""
    return xp.digamma(x), (lambda d: d * xp.polygamma(1, x),)


@op(precision="full")
def polygamma(xp, n, x: Array):
    """The n-th derivative of digamma."""
    return xp.polygamma(n, x), (lambda d: d * xp.polygamma(n + 1, x),)


abs, mod, true_divide = absolute, remainder, divide  # NumPy's second names of them
