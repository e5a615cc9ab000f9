"""Special functions that NumPy lacks, accurate to a few units in the last place of float64.

The pairs of tuples are the coefficients of numerators and denominators of rational minimax
approximations, computed with 60 digits, highest power first.  Their relative error is below 1e-16
(ERF32: 3e-9).  All coefficients are positive, so that no digits cancel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop_numpy.pointwise import blockwise


def _polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    y = x * coefficients[0]
    y += coefficients[1]
    for c in coefficients[2:]:
        y *= x
        y += c
    return y


def _ratio(x: Any, p: Sequence[float], q: Sequence[float]) -> Any:
    y = _polynomial(x, p)
    y /= _polynomial(x, q)
    return y


def _lift(body: Callable, single: bool = False) -> Callable:
    """Make `body`, a function of float64 arrays, accept all real dtypes.

    The result has the dtype of the input, or float64 for integers.  With `single` the body gets
    float32 arrays as float32.  Poles and tails cause no warnings, as on devices.
    """

    @blockwise
    def compute(_: Any, x: np.ndarray) -> Any:
        dtype = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
        compute_dtype = dtype if single and dtype == np.float32 else np.float64
        return body(x.astype(compute_dtype, copy=False)).astype(dtype, copy=False)

    @functools.wraps(body)
    def call(x: Any) -> Any:
        x = np.asarray(x)
        if x.dtype.kind not in "biuf" and x.dtype.name != "bfloat16":
            raise TypeError(f"{call.__name__}: expected real numbers, got {x.dtype}")
        with np.errstate(all="ignore"):
            return compute(None, x.reshape(-1)).reshape(x.shape)[()]

    call.__name__ = body.__name__.strip("_")
    return call


def _where(condition: np.ndarray, x: np.ndarray, yes: Callable, no: Callable) -> np.ndarray:
    """``where(condition, yes(x), no(x))``; each function gets only its own elements."""
    true = np.flatnonzero(condition)  # indexing with it is several times faster than with a mask
    if not len(true):
        return no(x)
    if len(true) == len(x):
        return yes(x)
    false = np.flatnonzero(~condition)
    y = np.empty_like(x)
    y[true] = yes(x[true])
    y[false] = no(x[false])
    return y


# ---- the logistic function and the error function ------------------------------------------------


def _sigmoid(x: Any) -> Any:
    """``1 / (1 + exp(-x))``; where exp overflows, the result is 0, which is correct."""
    y = np.asarray(np.exp(-x))
    y += 1
    return np.divide(1, y, out=y)


# erf(x) / x as a function of x^2, for |x| <= 1
ERF = (
    (0.0001949561349568516, 0.001827294428471934, 0.04530390914282019, 0.14214928481583916,
     1.1283791670955126),
    (2.0297422014398354e-05, 0.0006812158206446401, 0.01058221222476568, 0.09325282976763768,
     0.45930985697098253, 1.0),
)
# the same for |x| <= 3.9 and float32; erf is 1 there, and above, to half a unit
ERF32 = (
    (6.664226e-06, 0.00040780483, 0.0042066559, 0.055645343, 0.19262122, 1.1283792),
    (2.532926e-07, 7.165208e-05, 0.0014126703, 0.016244151, 0.11732698, 0.50403953, 1.0),
)
# exp(x^2) erfc(x) for x >= 0
ERFC = (
    (6.300060597630723e-05, 0.001196752598209149, 0.011132840356706262, 0.06560483046768997,
     0.2678424171491476, 0.78294881986613, 1.638845029907932, 2.378295448432993, 2.1927039960273063,
     1.0),
    (0.00011166566667239929, 0.002121188751230877, 0.01978827859816193, 0.11734212865365215,
     0.4845487170699858, 1.4448207588822388, 3.132420663353879, 4.8537889295943275,
     5.125736501893096, 3.321083163122804, 1.0),
)


def _erf(x: Any) -> Any:
    if x.dtype == np.float32:
        x = np.clip(x, -3.9, 3.9)
        return np.clip(x * _ratio(x * x, *ERF32), -1, 1)

    def tail(x: Any) -> Any:
        a = np.minimum(np.abs(x), 6)  # erf rounds to 1 above
        return np.copysign(1 - np.exp(-a * a) * _ratio(a, *ERFC), x)

    return _where(np.abs(x) <= 1, x, lambda x: x * _ratio(x * x, *ERF), tail)


def _erfc(x: Any) -> Any:
    a = np.minimum(np.abs(x), 28)  # erfc(28) rounds to 0
    near = np.rint(a * 16) / 16  # its square is exact, which preserves the last digits of exp(-a^2)
    tail = np.exp(-near * near) * np.exp((near - a) * (near + a)) * _ratio(a, *ERFC)
    sign = np.copysign(1, x)
    return (1 - sign) + sign * tail


# erfinv(y) / y as a function of 0.64 - y^2
ERFINV = (
    (0.20210935028886354, 3.4771031428700954, 15.52537829994482, 27.477641109689777,
     22.244119608730276, 8.24471690476944, 1.132742253046029),
    (0.008874724437020136, 0.6788798897049358, 6.796708268680427, 22.720186735247,
     33.302437441904154, 23.561452305578786, 7.88673993923998, 1.0),
)
# erfinv(y) as a function of sqrt(-log((1 - y) / 2)) - 1.5
ERFINV_TAIL = (
    (3.143995906974022e-05, 0.0015734671788074587, 0.02684262911698552, 0.22297580015776058,
     1.0297754342769412, 2.742192327812204, 4.100091764371828, 3.106075809910063,
     0.8848542839294999),
    (3.1439002384960585e-05, 0.0015264977044368872, 0.02464640956856221, 0.18932831676231324,
     0.7868992230453025, 1.8026733673656157, 2.1244694749345254, 1.0),
)


def _erfinv(y: Any) -> Any:
    def tail(y: Any) -> Any:
        a = np.abs(y)
        r = np.sqrt(-np.log((1 - a) / 2))
        return np.copysign(np.where(a == 1, math.inf, _ratio(r - 1.5, *ERFINV_TAIL)), y)

    return _where(np.abs(y) <= 0.8, y, lambda y: y * _ratio(0.64 - y * y, *ERFINV), tail)


# ---- the gamma function and its derivatives ------------------------------------------------------

# log(gamma(1 + t)) / (t (t - 1)) for 0 <= t <= 1
LGAMMA = (
    (1.7417319208068618e-05, 0.004396820430669278, 0.0837824729518518, 0.5067086771138375,
     1.2851536579110585, 1.431064806149917, 0.5772156649015329),
    (0.0012849394127510815, 0.042339055294746374, 0.4069303910644561, 1.6511653120992023,
     3.191119488940883, 2.904141859972664, 1.0),
)
# B2, B4 ... B16
BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)


def _even_terms(factor: Callable[[int], float]) -> list[float]:
    """The coefficients ``factor(2k) * B2k`` of an asymptotic series, highest power first."""
    return [factor(2 * k) * b for k, b in enumerate(BERNOULLI, 1)][::-1]


def _lgamma(x: Any) -> Any:
    """log|gamma(x)|, by the reflection formula for x < 0."""

    def negative(x: Any) -> Any:
        y = np.log(math.pi / np.abs(_sin_pi(x))) - _lgamma(1 - x)
        return np.where(np.isinf(x), math.inf, y)

    def positive(x: Any) -> Any:
        return _where(x < 8, x, _lgamma_small, _lgamma_large)

    return _where(x < 0, x, negative, positive)


def _lgamma_small(x: Any) -> Any:
    """An approximation on [1, 2], extended by gamma(x + 1) = x gamma(x)."""
    t = x - np.floor(x)
    factors = np.maximum(x - 1, 1)
    for k in range(2, 8):
        factors *= np.maximum(x - k, 1)
    return t * (t - 1) * _ratio(t, *LGAMMA) + np.log(factors) - np.log(np.minimum(x, 1))


def _lgamma_large(x: Any) -> Any:
    """Stirling's series."""
    v = 1 / x
    series = v * _polynomial(v * v, _even_terms(lambda k: 1 / (k * (k - 1))))
    return (x - 0.5) * (np.log(x) - 1) + (series + 0.5 * (math.log(2 * math.pi) - 1))


def _digamma(x: Any) -> Any:
    """The derivative of lgamma.

    An asymptotic series for x >= 10, the recurrence below, the reflection formula for x < 0.
    """

    def large(x: Any) -> Any:
        v = 1 / x
        return np.log(x) - v * (0.5 + v * _polynomial(v * v, _even_terms(lambda k: 1 / k)))

    def small(x: Any) -> Any:
        return large(x + 10) - sum(1 / (x + k) for k in range(10))

    def negative(x: Any) -> Any:
        return np.where(x == np.rint(x), math.nan, _digamma(1 - x) - math.pi * _cot_pi(x))

    y = _where(x < 0, x, negative, lambda x: _where(x < 10, x, small, large))
    return np.where(x == 0, np.copysign(math.inf, -x), y)


def _sin_pi(x: Any) -> Any:
    return np.sin(math.pi * (x - np.rint(x)))


def _cot_pi(x: Any) -> Any:
    return 1 / np.tan(math.pi * (x - np.rint(x)))


def polygamma(n: int, x: Any) -> Any:
    """The n-th derivative of digamma: ``(-1)^(n+1) n! zeta(n+1, x)``, reflected for x < 0."""
    if n < 0:
        raise ValueError(f"polygamma: the order n must be 0 or more, got {n}")
    if n == 0:
        return digamma(x)
    factorial = float(math.factorial(n)) if n < 171 else math.inf

    def positive(x: Any) -> Any:
        return (-1) ** (n + 1) * factorial * _zeta(n + 1, x)

    def negative(x: Any) -> Any:
        derivative = math.pi ** (n + 1) * _polynomial(_cot_pi(x), _cot_derivative(n))
        return (-1) ** n * positive(1 - x) - derivative

    def polygamma(x: Any) -> Any:
        return _where(x < 0, x, negative, positive)

    return _lift(polygamma)(x)


def _zeta(s: int, x: Any) -> Any:
    """The Hurwitz zeta function for x >= 0: the sum of ``(x + k)^-s`` over k >= 0.

    Ten terms are added; the Euler-Maclaurin formula gives the sum of the others.
    """
    first_terms = sum((x + k) ** -float(s) for k in range(10))
    y = x + 10
    v = 1 / y
    coefficients = _even_terms(lambda k: math.prod(range(s, s + k - 1)) / math.factorial(k))
    series = _polynomial(v * v, coefficients)
    return first_terms + y ** (1.0 - s) * (1 / (s - 1) + v * (0.5 + v * series))


def _cot_derivative(n: int) -> Sequence[float]:
    """The n-th derivative of cot as a polynomial in cot, by ``cot' = -(1 + cot^2)``."""
    p = np.array([1.0, 0.0])
    for _ in range(n):
        p = np.polymul([-1, 0, -1], np.polyder(p))
    return p.tolist()


sigmoid = _lift(_sigmoid, single=True)
erf = _lift(_erf, single=True)
erfc = _lift(_erfc)
erfinv = _lift(_erfinv)
lgamma = _lift(_lgamma)
digamma = _lift(_digamma)
