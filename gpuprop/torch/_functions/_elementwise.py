"""Elementwise functions."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

import gpuprop.functional as F
from gpuprop import _array as G
from gpuprop.torch._functions._arguments import binary, host, named, new, unary

__all__ = [
    "abs", "absolute", "acos", "acosh", "add", "addcdiv", "addcmul", "allclose", "arccos",
    "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "asin", "asinh", "atan",
    "atan2", "atanh", "bitwise_and", "bitwise_or", "bitwise_xor", "ceil", "clamp", "clamp_max",
    "clamp_min", "clip", "cos", "cosh", "digamma", "div", "divide", "eq", "equal", "erf",
    "erfc", "erfinv", "exp", "exp2", "expm1", "fix", "floor", "floor_divide", "fmax", "fmin",
    "fmod", "ge", "greater", "greater_equal", "gt", "isclose", "isfinite", "isinf", "isnan",
    "le", "lerp", "less", "less_equal", "lgamma", "log", "log1p", "log2", "log10", "logaddexp",
    "logical_and", "logical_not", "logical_or", "logical_xor", "logit", "lt", "maximum",
    "minimum", "mul", "multiply", "nan_to_num", "ne", "neg", "negative", "not_equal",
    "positive", "pow", "reciprocal", "relu", "remainder", "round", "rsqrt", "rsub", "sigmoid",
    "sign", "sin", "sinh", "sqrt", "square", "sub", "subtract", "tan", "tanh", "true_divide",
    "trunc",
]

abs = absolute = unary(G.abs)
acos = arccos = unary(G.arccos)
acosh = arccosh = unary(G.arccosh)
asin = arcsin = unary(G.arcsin)
asinh = arcsinh = unary(G.arcsinh)
atan = arctan = unary(G.arctan)
atanh = arctanh = unary(G.arctanh)
ceil = unary(G.ceil)
cos = unary(G.cos)
cosh = unary(G.cosh)
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
reciprocal = unary(G.reciprocal)
relu = unary(F.relu)
rsqrt = unary(G.rsqrt)
sigmoid = unary(G.sigmoid)
sign = unary(G.sign)
sin = unary(G.sin)
sinh = unary(G.sinh)
sqrt = unary(G.sqrt)
square = unary(G.square)
tan = unary(G.tan)
tanh = unary(G.tanh)
trunc = fix = unary(G.trunc)
arctan2 = atan2 = binary(G.arctan2)
bitwise_and = binary(G.bitwise_and)
bitwise_or = binary(G.bitwise_or)
bitwise_xor = binary(G.bitwise_xor)
eq = binary(G.equal)
floor_divide = binary(G.floor_divide)
fmax = binary(G.fmax)
fmin = binary(G.fmin)
fmod = binary(G.fmod)
ge = greater_equal = binary(G.greater_equal)
gt = greater = binary(G.greater)
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
