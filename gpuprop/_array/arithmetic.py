"""Arithmetic of two arrays, with NumPy's names and broadcasting; at a tie or a pole the gradient is PyTorch's."""

from __future__ import annotations

from gpuprop._core.ops import op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array

__all__ = [
    "add", "arctan2", "clip", "copysign", "divide", "floor_divide", "fmax", "fmin", "fmod", "hypot",
    "logaddexp", "maximum", "minimum", "mod", "multiply", "power", "remainder", "subtract",
    "true_divide", "where",
]

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


mod, true_divide = remainder, divide  # NumPy's second names
