"""The override of `gelu` for the CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop.backend import definition
from gpuprop_numpy import compiled
from gpuprop_numpy.elementary import elementary
from gpuprop_numpy.special import ERF32, erf
from gpuprop_numpy.threads import even_slices, in_threads

BLOCK = 1 << 17  # elements, which stay in the CPU's cache: 0.4 ms of work

# The normal CDF is sigmoid(2 x p(x^2)).  Of p, the coefficients, highest power first: a minimax
# fit, for which the error of the CDF is below 3e-8, and the approximation of `gelu`.
NORMAL = (1.7561702e-09, -1.3226332e-07, 3.9647442e-06, -5.5306192e-05, -3.2594979e-05,
          0.036333085, 0.79788494)
TANH = (0.044715 * math.sqrt(2 / math.pi), math.sqrt(2 / math.pi))


def gelu(xp: Any, input: Any, approximate: Any = "none") -> tuple:
    """``input * cdf(input)``, where cdf is the CDF of the standard normal distribution.

    The pullback reuses the CDF, which takes most of the time.
    """
    is_full = input.dtype in (np.float32, np.float64)
    if not is_full or approximate not in ("none", "tanh"):
        return definition("gpuprop.functional:gelu")(xp, input, approximate=approximate)
    is_exact = approximate == "none"
    coefficients = NORMAL if is_exact else TANH
    compute_gradient = normal_gradient if is_exact else tanh_gradient

    def forward(x: Any, cdf: Any, y: Any) -> None:
        if is_exact and x.dtype == np.float64:
            normal_cdf(x, cdf)
        else:
            sigmoid_cdf(x, coefficients, cdf)
        np.multiply(x, cdf, out=y)

    def backward(x: Any, cdf: Any, dy: Any, dx: Any) -> None:
        compute_gradient(x, cdf, dx)
        dx *= dy

    is_large = input.size >= compiled.MIN_SIZE
    if is_exact and is_large and input.dtype == np.float32 and (loops := compiled_loops()):
        forward, backward = loops
    x = np.ascontiguousarray(input)
    cdf, y = np.empty_like(x), np.empty_like(x)
    in_blocks(forward, x, cdf, y)

    def pullback(dy: Any) -> Any:
        dx = np.empty_like(x)
        in_blocks(backward, x, cdf, np.ascontiguousarray(dy), dx)
        return dx.reshape(input.shape)

    return y.reshape(input.shape), (pullback,)


def in_blocks(work: Callable, *arrays: Any) -> None:
    """Call ``work(*blocks)`` for equal blocks of contiguous arrays of one size, in threads."""
    flat = [a.reshape(-1) for a in arrays]
    blocks = even_slices(flat[0].size, BLOCK)
    in_threads(lambda block: work(*(a[block] for a in flat)), blocks)


# ---- blocks: the last argument is the array of the result, and holds all temporary values --------


def sigmoid_cdf(x: Any, coefficients: Any, cdf: Any) -> None:
    """``1 / (1 + exp(-2 * x * p(x**2)))``: NumPy's exp takes half the time of its tanh."""
    first, second, *others = (-2 * c for c in coefficients)
    with np.errstate(over="ignore", under="ignore"):  # the result is 0 or 1 there
        square = x * x
        np.multiply(square, first, out=cdf)
        cdf += second
        for c in others:
            cdf *= square
            cdf += c
        cdf *= x
        np.exp(cdf, out=cdf)
    cdf += 1
    np.divide(1, cdf, out=cdf)


def normal_cdf(x: Any, cdf: Any) -> None:
    np.multiply(x, math.sqrt(0.5), out=cdf)
    cdf[...] = erf(cdf)
    cdf *= 0.5
    cdf += 0.5


def normal_gradient(x: Any, cdf: Any, gradient: Any) -> None:
    """``cdf + x * exp(-x**2 / 2) / sqrt(2 * pi)``."""
    np.multiply(x, x, out=gradient)
    gradient *= -0.5
    np.exp(gradient, out=gradient)
    gradient *= x
    gradient *= 1 / math.sqrt(2 * math.pi)
    gradient += cdf


def tanh_gradient(x: Any, cdf: Any, gradient: Any) -> None:
    """``cdf + x * dcdf``, with ``dcdf = 2 * cdf * (1 - cdf) * (x * p(x**2))'``."""
    cubic, linear = TANH
    np.multiply(x, x, out=gradient)
    gradient *= 6 * cubic
    gradient += 2 * linear
    gradient *= x
    gradient *= 1 - cdf
    gradient += 1
    gradient *= cdf


# ---- the same in one pass, by Numba --------------------------------------------------------------

f = np.float32
ERF_NUMERATOR, ERF_DENOMINATOR = (tuple(map(f, c)) for c in ERF32)


@functools.cache
def compiled_loops() -> tuple[Callable, Callable] | None:
    """``forward(x, cdf, y)`` and ``backward(x, cdf, dy, dx)``, or None without Numba."""
    decorate = compiled.njit()
    if decorate is None:
        return None

    polynomial, exp, _, _ = elementary()

    @decorate
    def forward(x: Any, cdf: Any, y: Any) -> None:
        for i in range(x.size):
            t = x[i] * f(math.sqrt(0.5))
            t = f(-3.9) if t < f(-3.9) else t
            t = f(3.9) if t > f(3.9) else t
            s = t * t
            erf = t * polynomial(s, ERF_NUMERATOR) / polynomial(s, ERF_DENOMINATOR)
            erf = f(-1) if erf < f(-1) else erf
            erf = f(1) if erf > f(1) else erf
            cdf[i] = f(0.5) + f(0.5) * erf
            y[i] = x[i] * cdf[i]

    @decorate
    def backward(x: Any, cdf: Any, dy: Any, dx: Any) -> None:
        for i in range(x.size):
            density = f(1 / math.sqrt(2 * math.pi)) * exp(f(-0.5) * x[i] * x[i])
            dx[i] = (cdf[i] + x[i] * density) * dy[i]

    return compiled.Loop(forward), compiled.Loop(backward)
