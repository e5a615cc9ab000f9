"""Mathematical functions of one array, with NumPy's names.

At kinks and poles the gradients are PyTorch's.
"""

from __future__ import annotations

import math

from gpuprop._core.dtypes import is_float, largest
from gpuprop._core.ops import op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array

__all__ = [
    "abs",
    "absolute",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctanh",
    "cbrt",
    "ceil",
    "cos",
    "cosh",
    "deg2rad",
    "digamma",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "lgamma",
    "log",
    "log1p",
    "log2",
    "log10",
    "nan_to_num",
    "negative",
    "polygamma",
    "positive",
    "rad2deg",
    "reciprocal",
    "rint",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinc",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
]

# ---- signs, rounding ---------------------------------------------------------------------------


@op(half="exact")
def positive(xp, x: Array):
    """``+x``, a copy."""
    return +x, (lambda d: d,)


@op(half="exact")
def negative(xp, x: Array):
    """``-x``."""
    return -x, (lambda d: -d,)


@op(half="exact")
def absolute(xp, x: Array):
    """``abs(x)``; the gradient at 0 is 0."""
    return xp.absolute(x), (lambda d: d * xp.sign(x),)


@op(half="exact")
def sign(xp, x: Array):
    """-1 where x < 0, 0 where x == 0, 1 where x > 0; the gradient is 0."""
    return xp.sign(x), (xp.zeros_like,)


@op(half="exact")
def floor(xp, x: Array):
    """The largest integer <= x; the gradient is 0."""
    return xp.floor(x) if is_float(x.dtype) else xp.copy(x), (xp.zeros_like,)


@op(half="exact")
def ceil(xp, x: Array):
    """The smallest integer >= x; the gradient is 0."""
    return xp.ceil(x) if is_float(x.dtype) else xp.copy(x), (xp.zeros_like,)


@op(half="exact")
def trunc(xp, x: Array):
    """`x` rounded towards zero; the gradient is 0."""
    return xp.trunc(x) if is_float(x.dtype) else xp.copy(x), (xp.zeros_like,)


@op(half="exact", integers="float64")
def rint(xp, x: Array):
    """The nearest integer, at a tie the even one; the gradient is 0."""
    return xp.rint(x), (xp.zeros_like,)


@op
def round(xp, x: Array, decimals: int = 0):
    """`x` rounded to a number of decimals, at a tie to even; the gradient is 0."""
    if x.dtype.kind in "iub" and decimals >= 0:
        return x.astype(x.dtype), None
    return xp.round(x, decimals), (xp.zeros_like,)


@op(half="exact")
def nan_to_num(xp, x: Array, nan: float = 0.0, posinf: float | None = None,
               neginf: float | None = None):
    """`x` with NaN and infinities replaced by numbers; the gradient there is 0.

    By default NaN becomes 0, and infinities the largest and the lowest number of the dtype.
    """
    if x.dtype.kind in "iub":
        return x.astype(x.dtype), None
    top = largest(x.dtype)
    posinf = top if posinf is None else posinf
    neginf = -top if neginf is None else neginf
    y = xp.where(x != x, xp.full((), nan, x.dtype), x)
    y = xp.where(x == math.inf, xp.full((), posinf, x.dtype), y)
    y = xp.where(x == -math.inf, xp.full((), neginf, x.dtype), y)
    return y, (lambda d: xp.where(xp.isfinite(x), d, 0),)


# ---- powers, exponentials, logarithms ----------------------------------------------------------


@op
def square(xp, x: Array):
    """``x * x``."""
    return x * x, (lambda d: d * 2 * x,)


@op(integers="float64")
def sqrt(xp, x: Array):
    """The square root; its gradient at 0 is infinite."""
    y = xp.sqrt(x)
    return y, (lambda d: d / (2 * y),)


@op(integers="float64")
def cbrt(xp, x: Array):
    """The cube root, also of negative numbers."""
    y = xp.cbrt(x)
    return y, (lambda d: d / (3 * y * y),)


@op(precision="full", integers="float64")
def rsqrt(xp, x: Array):
    """``1 / sqrt(x)``."""
    y = 1 / xp.sqrt(x)
    return y, (lambda d: d * -0.5 * (y * y * y),)


@op(precision="full", integers="float64")
def reciprocal(xp, x: Array):
    """``1 / x``."""
    y = xp.reciprocal(x)
    return y, (lambda d: -d * y * y,)


@op(precision="full", integers="float64")
def exp(xp, x: Array):
    """``e ** x``."""
    y = xp.exp(x)
    return y, (lambda d: d * y,)


@op(precision="full", integers="float64")
def exp2(xp, x: Array):
    """``2 ** x``."""
    y = xp.exp2(x)
    return y, (lambda d: d * math.log(2) * y,)


@op(precision="full", integers="float64")
def expm1(xp, x: Array):
    """``exp(x) - 1``, accurate near 0."""
    y = xp.expm1(x)
    return y, (lambda d: d * (y + 1),)


@op(precision="full", integers="float64")
def log(xp, x: Array):
    """The natural logarithm."""
    return xp.log(x), (lambda d: d / x,)


@op(precision="full", integers="float64")
def log2(xp, x: Array):
    """The logarithm to base 2."""
    return xp.log2(x), (lambda d: d / (math.log(2) * x),)


@op(precision="full", integers="float64")
def log10(xp, x: Array):
    """The logarithm to base 10."""
    return xp.log10(x), (lambda d: d / (math.log(10) * x),)


@op(precision="full", integers="float64")
def log1p(xp, x: Array):
    """``log(1 + x)``, accurate near 0."""
    return xp.log1p(x), (lambda d: d / (1 + x),)


# ---- trigonometric and hyperbolic functions ----------------------------------------------------


@op(integers="float64")
def sin(xp, x: Array):
    """The sine of an angle in radians."""
    return xp.sin(x), (lambda d: d * xp.cos(x),)


@op(integers="float64")
def cos(xp, x: Array):
    """The cosine of an angle in radians."""
    return xp.cos(x), (lambda d: -d * xp.sin(x),)


@op(precision="full", integers="float64")
def tan(xp, x: Array):
    """The tangent of an angle in radians."""
    y = xp.tan(x)
    return y, (lambda d: d * (1 + y * y),)


@op(precision="full", integers="float64")
def arcsin(xp, x: Array):
    """The angle in radians whose sine is x."""
    return xp.arcsin(x), (lambda d: d / xp.sqrt(1 - x * x),)


@op(precision="full", integers="float64")
def arccos(xp, x: Array):
    """The angle in radians whose cosine is x."""
    return xp.arccos(x), (lambda d: -d / xp.sqrt(1 - x * x),)


@op(integers="float64")
def arctan(xp, x: Array):
    """The angle in radians whose tangent is x."""
    return xp.arctan(x), (lambda d: d / (1 + x * x),)


@op(precision="full", integers="float64")
def sinh(xp, x: Array):
    """The hyperbolic sine."""
    return xp.sinh(x), (lambda d: d * xp.cosh(x),)


@op(precision="full", integers="float64")
def cosh(xp, x: Array):
    """The hyperbolic cosine."""
    return xp.cosh(x), (lambda d: d * xp.sinh(x),)


@pointwise
def _tanh_backward(xp, y, d):
    return d * (1 - y * y)


@op(integers="float64")
def tanh(xp, x: Array):
    """The hyperbolic tangent."""
    y = xp.tanh(x)
    return y, (lambda d: _tanh_backward(xp, y, d),)


@op(integers="float64")
def arcsinh(xp, x: Array):
    """The inverse of sinh."""
    return xp.arcsinh(x), (lambda d: d / xp.sqrt(x * x + 1),)


@op(integers="float64")
def arccosh(xp, x: Array):
    """The inverse of cosh, for x >= 1."""
    return xp.arccosh(x), (lambda d: d / xp.sqrt(x * x - 1),)


@op(integers="float64")
def arctanh(xp, x: Array):
    """The inverse of tanh."""
    return xp.arctanh(x), (lambda d: d / (1 - x * x),)


@op(integers="float64")
def sinc(xp, x: Array):
    """``sin(pi * x) / (pi * x)``, 1 at x = 0."""
    y = xp.sinc(x)

    def x_grad(d):
        zero = x == 0
        return xp.where(zero, 0, d * ((xp.cos(math.pi * x) - y) / xp.where(zero, 1, x)))

    return y, (x_grad,)


@op(integers="float64")
def deg2rad(xp, x: Array):
    """Degrees converted to radians."""
    return xp.deg2rad(x), (lambda d: d * (math.pi / 180),)


@op(integers="float64")
def rad2deg(xp, x: Array):
    """Radians converted to degrees."""
    return xp.rad2deg(x), (lambda d: d * (180 / math.pi),)


# ---- special functions -------------------------------------------------------------------------


@pointwise
def _sigmoid_backward(xp, y, d):
    return d * (1 - y) * y


@op(integers="float64")
def sigmoid(xp, x: Array):
    """``1 / (1 + exp(-x))``."""
    y = xp.sigmoid(x)
    return y, (lambda d: _sigmoid_backward(xp, y, d),)


@op(integers="float64")
def erf(xp, x: Array):
    """The error function."""
    return xp.erf(x), (lambda d: d * (2 / math.sqrt(math.pi)) * xp.exp(-x * x),)


@op(integers="float64")
def erfc(xp, x: Array):
    """``1 - erf(x)``, accurate where it is close to 0."""
    return xp.erfc(x), (lambda d: d * (-2 / math.sqrt(math.pi)) * xp.exp(-x * x),)


@op(precision="full", integers="float64")
def erfinv(xp, x: Array):
    """The inverse of erf, on (-1, 1)."""
    y = xp.erfinv(x)
    return y, (lambda d: d * (math.sqrt(math.pi) / 2) * xp.exp(y * y),)


@op(precision="full", integers="float64")
def lgamma(xp, x: Array):
    """The logarithm of the absolute value of the gamma function."""
    return xp.lgamma(x), (lambda d: d * xp.digamma(x),)


@op(precision="full", integers="float64")
def digamma(xp, x: Array):
    """The derivative of `lgamma`."""
    return xp.digamma(x), (lambda d: d * xp.polygamma(1, x),)


@op(precision="full", integers="float64")
def polygamma(xp, n: int, x: Array):
    """The n-th derivative of digamma."""
    return xp.polygamma(n, x), (lambda d: d * xp.polygamma(n + 1, x),)


abs = absolute
