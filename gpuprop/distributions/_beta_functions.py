"""Samples of the beta and the Dirichlet distribution with their implicit gradients.

The logit z of a beta variable has the density ``f(z) = exp(h(z)) / B(a, b)`` with ``h(z) = a
log(sigmoid(z)) + b log(sigmoid(-z))``, which is log-concave.  At a fixed value of its CDF

    dz/da = s (integral over y >= 0 of w(z - s y) exp(h(z - s y) - h(z))),
    w(z) = psi(a) - psi(a + b) - log(sigmoid(z)),

from z to the lower end (s = 1) if w(z) >= 0, else to the upper one (s = -1): then no terms cancel.
The integral is computed by Gauss's rule up to the point where the exponent is -32.  For small x =
sigmoid(z) the power series of the CDF is used.  The relative error is below 2e-5, and mostly below
1e-10 (a test compares it with quantiles).
"""

from __future__ import annotations

import numpy as np

from gpuprop._core.graph import level
from gpuprop._core.ops import op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor
from gpuprop.distributions._gamma_functions import not_differentiable
from gpuprop.distributions._noise import rounded, standard_gamma

END = 32.0  # exp(-32) = 1e-14
NODES = [(float(t + 1) / 2, float(w) / 2)  # of Gauss's rule on [0, 1]
         for t, w in zip(*np.polynomial.legendre.leggauss(32), strict=True)]
TERMS = 16  # of the power series, whose terms shrink by 0.1 at least


def log_sigmoid(xp, z):
    return xp.minimum(z, 0) - xp.log1p(xp.exp(-abs(z)))


@pointwise
def integral(xp, a, b, z, shift):
    """``dz/da``; `shift` is ``psi(a) - psi(a + b)``."""
    log_x = log_sigmoid(xp, z)
    height = a * log_x + b * (log_x - z)
    lower = shift >= log_x
    s = xp.where(lower, 1.0, -1.0)
    # beyond the end, since h(z) <= min(a z, -b z); then Newton's method
    end = s * z + (END - height) / xp.where(lower, a, b)
    for _ in range(4):
        log_t = log_sigmoid(xp, z - s * end)
        t = xp.exp(log_t)
        phi = height - a * log_t - b * (log_t - z + s * end)
        end = end - (phi - END) / (s * (a * (1 - t) - b * t))
    total = 0.0
    for node, weight in NODES:
        t = z - s * (node * end)
        log_t = log_sigmoid(xp, t)
        density = xp.exp(a * log_t + b * (log_t - t) - height)
        total = total + weight * density * (shift - log_t)
    return s * end * total


@pointwise
def series(xp, a, b, z, log_ratio):
    """``dz/da`` for small x; `log_ratio` is ``psi(a + 1) - psi(a + b) - log(x)``."""
    log_x = log_sigmoid(xp, z)
    x = xp.exp(log_x)
    total = log_ratio / a
    power = 1.0
    for n in range(1, TERMS + 1):
        power = power * x * (n - b) / n
        total = total + power / (a + n) * (log_ratio - n / (a * (a + n)))
    return xp.exp(b * (z - log_x)) * total


def logit_slope(xp, a, b, z):
    """``dz/da`` at a fixed value of the CDF of the logit z, in float64."""
    log_x = log_sigmoid(xp, z)
    psi = xp.digamma(a + b)
    is_small = log_x < -2.3 - xp.log(xp.maximum(b, 1))
    small = series(xp, a, b, xp.where(is_small, z, -50), xp.digamma(a + 1) - psi - log_x)
    safe_a = xp.where(is_small, 1, a)
    safe_b = xp.where(is_small, 1, b)
    shift = xp.digamma(safe_a) - xp.digamma(safe_a + safe_b)
    large = integral(xp, safe_a, safe_b, xp.where(is_small, 0, z), shift)
    return xp.where(is_small, small, large)


@op(precision="full")
def beta_slope(xp, a: Array, b: Array, z: Array):
    """The derivative in `a` of the logit z of a beta variable: see the top of this file."""
    y = logit_slope(xp, a.astype("float64"), b.astype("float64"), z)
    return rounded(y, a.dtype), (not_differentiable,) * 3


@op(promote="a b", precision="full")
def beta_logit(xp, a: Array, b: Array, rng_key: Array):
    """Logits of samples of the beta distribution, for `a` and `b` of one shape.

    `rng_key` comes from `Generator.noise`.
    """
    logs = standard_gamma(rng_key, xp.stack([a, b]), True)
    z = logs[0] - logs[1]
    while level(z) < level(a):  # a kernel's result has lost the nesting of Tensors
        z = Tensor(z)
    return rounded(z, a.dtype), (
        lambda d: d * beta_slope(a, b, z),
        lambda d: -d * beta_slope(b, a, -z),
        None)


@op(precision="full")
def dirichlet(xp, alpha: Array, rng_key: Array):
    """Samples of the Dirichlet distribution: (..., K) -> (..., K).

    `rng_key` comes from `Generator.noise`.  Element i is a beta variable, which changes with
    ``alpha[i]`` as such; the others keep their proportions.
    """
    logs = standard_gamma(rng_key, alpha, True)
    while level(logs) < level(alpha):
        logs = Tensor(logs)
    if logs.size:
        logs = logs - logs.max(axis=-1, keepdims=True)
    x = xp.exp(logs)
    total = x.sum(axis=-1, keepdims=True)
    x = x / total
    smallest = 2.0**-1022 if alpha.dtype == "float64" else 2.0**-126  # a sample is never 0
    y = rounded(xp.maximum(x, smallest), alpha.dtype)

    def alpha_grad(d):
        if alpha.shape[-1] == 1:
            return xp.zeros_like(d)
        z = logs - xp.log(total) - xp.log1p(-xp.minimum(x, 1 - 2.0**-53))
        slope = beta_slope(alpha, alpha.sum(axis=-1, keepdims=True) - alpha, z)
        return y * slope * (d - (y * d).sum(axis=-1, keepdims=True))

    return y, (alpha_grad, None)
