"""Elementwise functions."""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop import _array as G
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch._functions._arguments import (
    binary,
    default_dtype,
    host,
    is_integer,
    named,
    new,
    unary,
    without_gradient,
)
from gpuprop.torch._tensor import as_torch

__all__ = [
    "abs", "absolute", "acos", "acosh", "add", "addcdiv", "addcmul", "allclose", "angle",
    "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "asin", "asinh",
    "atan", "atan2", "atanh", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or",
    "bitwise_right_shift", "bitwise_xor", "ceil", "clamp", "clamp_max", "clamp_min", "clip",
    "conj", "conj_physical", "copysign", "cos", "cosh", "deg2rad", "digamma", "div", "divide",
    "eq", "equal", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "fix", "float_power",
    "floor", "floor_divide", "fmax", "fmin", "fmod", "frac", "gcd", "ge", "greater",
    "greater_equal", "gt", "hardshrink", "heaviside", "hypot", "i0", "isclose", "isfinite",
    "isinf", "isnan", "isneginf", "isposinf", "isreal", "lcm", "ldexp", "le", "lerp", "less",
    "less_equal", "lgamma", "log", "log1p", "log2", "log10", "logaddexp", "logaddexp2",
    "logical_and", "logical_not", "logical_or", "logical_xor", "logit", "lt", "maximum",
    "minimum", "mul", "multiply", "mvlgamma", "nan_to_num", "ne", "neg", "negative",
    "nextafter", "not_equal", "polygamma", "positive", "pow", "prelu", "rad2deg", "real",
    "reciprocal", "relu", "remainder", "resolve_conj", "resolve_neg", "round", "rsqrt", "rsub",
    "sgn", "sigmoid", "sign", "signbit", "sin", "sinc", "sinh", "sqrt", "square", "sub",
    "subtract", "tan", "tanh", "true_divide", "trunc", "xlogy",
]

abs = absolute = unary(G.abs)
acos = arccos = unary(G.arccos)
acosh = arccosh = unary(G.arccosh)
asin = arcsin = unary(G.arcsin)
asinh = arcsinh = unary(G.arcsinh)
atan = arctan = unary(G.arctan)
atanh = arctanh = unary(G.arctanh)
bitwise_not = unary(G.invert)
ceil = unary(G.ceil)
cos = unary(G.cos)
cosh = unary(G.cosh)
deg2rad = unary(G.deg2rad)
digamma = unary(G.digamma)
erf = unary(G.erf)
erfc = unary(G.erfc)
erfinv = unary(G.erfinv)
exp = unary(G.exp)
exp2 = unary(G.exp2)
expm1 = unary(G.expm1)
floor = unary(G.floor)
isfinite = unary(G.isfinite)
isinf = unary(G.isinf)
isnan = unary(G.isnan)
lgamma = unary(G.lgamma)
log = unary(G.log)
log10 = unary(G.log10)
log1p = unary(G.log1p)
log2 = unary(G.log2)
logical_not = unary(G.logical_not)
neg = negative = unary(G.negative)
positive = unary(G.positive)
rad2deg = unary(G.rad2deg)
reciprocal = unary(G.reciprocal)
relu = unary(G.relu)
rsqrt = unary(G.rsqrt)
sigmoid = unary(G.sigmoid)
signbit = unary(G.signbit)
sin = unary(G.sin)
sinc = unary(G.sinc)
sinh = unary(G.sinh)
sqrt = unary(G.sqrt)
square = unary(G.square)
tan = unary(G.tan)
tanh = unary(G.tanh)
trunc = fix = unary(G.trunc)
arctan2 = atan2 = binary(G.arctan2)
bitwise_and = binary(G.bitwise_and)
bitwise_left_shift = binary(G.left_shift)
bitwise_or = binary(G.bitwise_or)
bitwise_right_shift = binary(G.right_shift)
bitwise_xor = binary(G.bitwise_xor)
copysign = binary(G.copysign)
eq = binary(G.equal)
floor_divide = binary(G.floor_divide)
fmax = binary(G.fmax)
fmin = binary(G.fmin)
fmod = binary(G.fmod)
ge = greater_equal = binary(G.greater_equal)
gt = greater = binary(G.greater)
hypot = binary(G.hypot)
le = less_equal = binary(G.less_equal)
logaddexp = binary(G.logaddexp)
logical_and = binary(G.logical_and)
logical_or = binary(G.logical_or)
logical_xor = binary(G.logical_xor)
lt = less = binary(G.less)
maximum = binary(G.maximum)
minimum = binary(G.minimum)
mul = multiply = binary(G.multiply)
ne = not_equal = binary(G.not_equal)
pow = named(G.power, "input", "exponent")
remainder = binary(G.remainder)
true_divide = binary(G.divide)


def add(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    return G.add(input, other if alpha == 1 else other * alpha)


def sub(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    return G.subtract(input, other if alpha == 1 else other * alpha)


subtract = sub


def rsub(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    return sub(other, input, alpha=alpha)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return G.floor_divide(input, other)
    if rounding_mode == "trunc" and not any(
            isinstance(v, float) or (isinstance(v, Plain) and not is_integer(v))
            for v in (input, other)):
        return G.floor_divide(input - G.fmod(input, other), other)
    quotient = G.divide(input, other)
    return quotient if rounding_mode is None else G.trunc(quotient)


divide = div


def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    return input + value * tensor1 * tensor2


def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    return input + value * tensor1 / tensor2


def lerp(input: Any, end: Any, weight: Any) -> Any:
    return input + weight * (end - input)


def clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    return G.clip(input, min, max)


clip = clamp


def clamp_min(input: Any, min: Any) -> Any:
    return G.clip(input, min, None)


def clamp_max(input: Any, max: Any) -> Any:
    return G.clip(input, None, max)


def round(input: Any, *, decimals: int = 0) -> Any:
    return G.round(input, decimals) if decimals else G.round(input)


def nan_to_num(input: Any, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    return G.nan_to_num(input, nan, posinf, neginf)


def logit(input: Any, eps: float | None = None) -> Any:
    x = input if eps is None else clamp(input, eps, 1 - eps)
    return G.log(x / (1 - x))


def isclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8,
            equal_nan: bool = False) -> Any:
    return new(np.isclose(host(input), host(other), rtol, atol, equal_nan))


def allclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8,
             equal_nan: bool = False) -> bool:
    return builtins.bool(np.allclose(host(input), host(other), rtol, atol, equal_nan))


def equal(input: Any, other: Any) -> bool:
    """True if both have the same shape and elements."""
    return builtins.bool(np.array_equal(host(input), host(other)))


# ---- compositions of the above -------------------------------------------------------------------


def sign(input: Any) -> Any:
    return G.copy(input) if input.array.dtype == "bool" else G.sign(input)


sgn = sign


def frac(input: Any) -> Any:
    return input - G.trunc(input)


def heaviside(input: Any, values: Any) -> Any:
    return G.where(input == 0, values, (input > 0).to(input.array.dtype))


def logaddexp2(input: Any, other: Any) -> Any:
    return G.logaddexp(input * math.log(2), other * math.log(2)) / math.log(2)


def xlogy(input: Any, other: Any) -> Any:
    """``input * log(other)``, 0 where `input` is 0."""
    return x_times(input, other, G.log)


def x_times(x: Any, y: Any, f: Callable) -> Any:
    """``x * f(y)``, 0 where `x` is 0 and `y` is a number."""
    is_0 = (x == 0) & ~G.isnan(y) if isinstance(y, Plain) else x == 0
    return G.where(is_0, 0.0, x * f(G.where(is_0, 1.0, y)))


def float_power(input: Any, exponent: Any) -> Any:
    """``input ** exponent`` in float64."""
    input, exponent = (v.to("float64") if isinstance(v, Plain) else builtins.float(v)
                       for v in (input, exponent))
    return G.power(input, exponent)


def ldexp(input: Any, other: Any) -> Any:
    return input * G.exp2(other.to(default_dtype()) if is_integer(other) else other)


def gcd(input: Any, other: Any) -> Any:
    return _by_numpy(np.gcd, input, other)


def lcm(input: Any, other: Any) -> Any:
    return _by_numpy(np.lcm, input, other)


def nextafter(input: Any, other: Any) -> Any:
    return _by_numpy(np.nextafter, input, other)


def _by_numpy(f: Callable, *tensors: Any) -> Any:
    """A function without a gradient, computed on the host."""
    first = next(t for t in tensors if isinstance(t, Plain))
    return new(np.asarray(f(*map(host, tensors))), first)


def i0(input: Any) -> Any:
    """The modified Bessel function of order 0; it has no gradient here."""
    return _by_numpy(np.i0, without_gradient("i0", input)).to(_float_dtype(input))


def _float_dtype(x: Any) -> Any:
    return default_dtype() if is_integer(x) else x.array.dtype


def isneginf(input: Any) -> Any:
    return input == -math.inf


def isposinf(input: Any) -> Any:
    return input == math.inf


def isreal(input: Any) -> Any:
    return as_torch(G.ones_like(input.detach(), "bool"))


def conj(input: Any) -> Any:
    """The tensor itself: there are no complex numbers."""
    return input


conj_physical = resolve_conj = resolve_neg = real = conj


def angle(input: Any) -> Any:
    """0, or pi for negative numbers."""
    x = input.to(_float_dtype(input))
    return G.where(x < 0, G.full_like(x.detach(), math.pi), G.where(G.isnan(x), x, 0.0))


def polygamma(n: int, input: Any) -> Any:
    return G.polygamma(n, input)


def mvlgamma(input: Any, p: int) -> Any:
    """The logarithm of the multivariate gamma function with dimension `p`."""
    terms = [G.lgamma(input - i / 2) for i in range(p)]
    return functools.reduce(G.add, terms) + p * (p - 1) / 4 * math.log(math.pi)


def hardshrink(input: Any, lambd: float = 0.5) -> Any:
    import gpuprop.functional as F

    return F.hardshrink(input, lambd)


def prelu(input: Any, weight: Any) -> Any:
    import gpuprop.functional as F

    return F.prelu(input, weight)
