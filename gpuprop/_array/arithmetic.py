"""Arithmetic of two arrays, with NumPy's names and broadcasting.

At ties and poles the gradients are PyTorch's.  The engine sums gradients over broadcast axes.
"""

from __future__ import annotations

from gpuprop._core.ops import op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array

__all__ = [
    "add",
    "arctan2",
    "clip",
    "copysign",
    "divide",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "hypot",
    "logaddexp",
    "maximum",
    "minimum",
    "mod",
    "multiply",
    "power",
    "remainder",
    "subtract",
    "true_divide",
    "where",
]


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
    """``x1 // x2``, rounded down; its gradients are 0."""
    return x1 // x2, (xp.zeros_like, xp.zeros_like)


@op(promote=True)
def remainder(xp, x1: Array, x2: Array):
    """``x1 % x2``, the remainder of `floor_divide`; it has the sign of `x2`."""
    return x1 % x2, (lambda d: d, lambda d: -d * (x1 // x2))


@op(promote=True)
def fmod(xp, x1: Array, x2: Array):
    """The remainder of a division rounded towards zero; it has the sign of `x1`."""
    return xp.fmod(x1, x2), (lambda d: d, lambda d: -d * xp.trunc(x1 / x2))


@op(promote=True, precision="full")
def power(xp, x1: Array, x2: Array):
    """``x1 ** x2``; the gradient of `x2` is 0 where x1 is 0 and x2 >= 0."""
    y = x1**x2

    def exponent_grad(d):
        base = x1 if hasattr(x1, "shape") else xp.full_like(x2, x1)
        is_zero = (base == 0) & (x2 >= 0)
        return xp.where(is_zero, 0, d * y * xp.log(xp.where(is_zero, 1, base)))

    return y, (lambda d: _power_grad(xp, d, x1, x2), exponent_grad)


def _power_grad(xp, d, x, n):
    """``d * n * x ** (n - 1)``, and 0 where n is 0, for any x and d."""
    if not hasattr(n, "shape"):
        if n == 0:
            return xp.zeros_like(d)
        return d * (n * (x if n == 2 else x ** (n - 1)))
    is_zero = n == 0
    return xp.where(is_zero, 0, d * n * x ** xp.where(is_zero, 1, n - 1))


@pointwise
def _winner(xp, d, x1, x2):
    """The gradient of ``maximum(x1, x2)`` for `x1`: d where x1 > x2, d / 2 where they are equal."""
    return xp.where(x1 < x2, 0, xp.where(x1 == x2, d / 2, d))


@op(promote=True, half="rounded")
def maximum(xp, x1: Array, x2: Array):
    """The larger of `x1` and `x2`, NaN if one is NaN; at a tie each gets half of the gradient."""
    return xp.maximum(x1, x2), (
        lambda d: _winner(xp, d, x1, x2),
        lambda d: _winner(xp, d, x2, x1),
    )


@op(promote=True, half="rounded")
def minimum(xp, x1: Array, x2: Array):
    """The smaller of `x1` and `x2`, NaN if one is NaN; at a tie each gets half of the gradient."""
    return xp.minimum(x1, x2), (
        lambda d: _winner(xp, d, x2, x1),
        lambda d: _winner(xp, d, x1, x2),
    )


@op(promote=True, half="rounded")
def fmax(xp, x1: Array, x2: Array):
    """The larger of `x1` and `x2`, NaN only if both are; at a tie `x1` gets the gradient."""
    is_first = lambda: (x1 >= x2) | (x2 != x2)
    return xp.fmax(x1, x2), (
        lambda d: xp.where(is_first(), d, 0),
        lambda d: xp.where(is_first(), 0, d),
    )


@op(promote=True, half="rounded")
def fmin(xp, x1: Array, x2: Array):
    """The smaller of `x1` and `x2`, NaN only if both are; at a tie `x1` gets the gradient."""
    is_first = lambda: (x1 <= x2) | (x2 != x2)
    return xp.fmin(x1, x2), (
        lambda d: xp.where(is_first(), d, 0),
        lambda d: xp.where(is_first(), 0, d),
    )


@op(promote=True)
def clip(xp, x: Array, min: Array = None, max: Array = None):
    """`x` limited to [`min`, `max`], where None is no bound; `clamp` in PyTorch.

    Elements equal to a bound get the gradient.  Where `min` exceeds `max` the result is `max`.

    >>> import gpuprop
    >>> gpuprop.clip(gpuprop.tensor([-2.0, 0.5, 3.0]), 0, 1).tolist()
    [0.0, 0.5, 1.0]
    """
    y = x if min is None else xp.maximum(x, min)
    y = y if max is None else xp.minimum(y, max)

    def x_grad(d):
        d = d if min is None else xp.where(x >= min, d, 0)
        return d if max is None else xp.where(x <= max, d, 0)

    def min_grad(d):
        d = xp.where(x < min, d, 0)
        return d if max is None else xp.where(min < max, d, 0)

    def max_grad(d):
        crossed = x > max if min is None else (x > max) | (max < min)
        return xp.where(crossed, d, 0)

    return y, (x_grad, min_grad, max_grad)


@op(promote=True, integers="float64")
def arctan2(xp, x1: Array, x2: Array):
    """The angle of the point (x2, x1), in radians from -pi to pi; the gradients at (0, 0) are 0."""

    def over_square(d):
        square = x1 * x1 + x2 * x2
        return xp.where(square == 0, 0, d / xp.where(square == 0, 1, square))

    return xp.arctan2(x1, x2), (lambda d: over_square(d) * x2, lambda d: over_square(-d) * x1)


@op(promote=True, integers="float64")
def hypot(xp, x1: Array, x2: Array):
    """``sqrt(x1**2 + x2**2)``."""
    y = xp.hypot(x1, x2)
    return y, (lambda d: d * (x1 / y), lambda d: d * (x2 / y))


@op(promote=True, integers="float64")
def logaddexp(xp, x1: Array, x2: Array):
    """``log(exp(x1) + exp(x2))`` without overflow."""
    return xp.logaddexp(x1, x2), (
        lambda d: d * xp.sigmoid(x1 - x2),
        lambda d: d * xp.sigmoid(x2 - x1),
    )


@op(promote=True, integers="float64")
def copysign(xp, x1: Array, x2: Array):
    """The absolute value of `x1` with the sign of `x2`."""
    y = xp.copysign(x1, x2)
    return y, (lambda d: d * xp.sign(x1) * xp.sign(y), xp.zeros_like)


@op(promote="x y", half="rounded")
def where(xp, condition: Array, x: Array, y: Array):
    """`x` where `condition` is True, else `y`.

    If both are Python numbers and one is a float, the result is float32.

    >>> import gpuprop
    >>> x = gpuprop.tensor([-1.0, 2.0])
    >>> gpuprop.where(x > 0, x, 0.1 * x).tolist()
    [-0.10000000149011612, 2.0]
    """
    if {type(x), type(y)} in ({float}, {float, int}):
        x = xp.full((), x, "float32")
    return xp.where(condition, x, y), (
        lambda d: xp.zeros_like(condition),
        lambda d: xp.where(condition, d, 0),
        lambda d: xp.where(condition, 0, d),
    )


mod = remainder
true_divide = divide
