"""Random numbers on the device of their parameters, from the bits of a generator.

Each draw takes one `rng_key` of the stream NOISE, so that a captured step draws new numbers at each
replay.  Numbers that are called exact use only operations that IEEE 754 rounds correctly: they have
the same bits on every backend.

Samplers by rejection draw round after round, each with its own bits.  An element keeps the value of
the first round that accepts.  A device computes all rounds; the host stops when every element has a
value, which gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from gpuprop._core import philox
from gpuprop._core.graph import raw
from gpuprop._core.ops import kernel
from gpuprop._core.philox import NOISE
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import HOST, backend_of, get_backend
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor
from gpuprop.random import Generator, default_generator

ROUNDS = 32  # at most one proposal in four is rejected: 4**-32 = 5e-20


def new_key(like: Tensor, rng: Generator | None) -> Any:
    """An `rng_key` on the device of `like`."""
    return (rng or default_generator).noise(raw(like))


def noise(kind: str, shape: Sequence[int], like: Tensor, rng: Generator | None) -> Tensor:
    """Independent numbers of one of `KINDS`, in the dtype and on the device of `like`."""
    return Tensor(standard_noise(new_key(like, rng), kind, shape, like.dtype))


@kernel
def standard_noise(xp: Any, rng_key: Array, kind: str, shape: Sequence[int], dtype: Any) -> Any:
    """Numbers of a standard distribution.  All kinds are exact."""
    words = philox.words(xp, rng_key, NOISE, 0, math.prod(shape))
    return KINDS[kind](xp, words, dtype=dtype).reshape(shape)


def centered(words):
    """Words as float64 in (-1/2, 1/2)."""
    return philox.centered_unit_interval(words)


@pointwise
def uniform(xp, words, *, dtype):
    """Uniform in [0, 1); the largest number below 1 in place of 1."""
    return rounded(xp.minimum(philox.unit_interval(words), 1 - HALF_STEP[dtype.name]), dtype)


@pointwise
def normal(xp, words, *, dtype):
    z = philox.normal_quantile(xp, centered(words), False)
    return rounded(z, dtype)


@pointwise
def exponential(xp, words, *, dtype):
    """``-log(u)``, above 0."""
    return rounded(-philox.log(xp, centered(words) + 0.5), dtype)


@pointwise
def gumbel(xp, words, *, dtype):
    """``-log(-log(u))``."""
    return rounded(-philox.log(xp, -philox.log(xp, centered(words) + 0.5)), dtype)


@pointwise
def laplace(xp, words, *, dtype):
    """The exponential of one half of the interval with either sign."""
    u = centered(words)
    return rounded(xp.copysign(philox.log(xp, 1 - 2 * abs(u)), u), dtype)


@pointwise
def logistic(xp, words, *, dtype):
    """``log(u / (1 - u))``."""
    u = centered(words)
    return rounded(philox.log(xp, 0.5 + u) - philox.log(xp, 0.5 - u), dtype)


def rounded(y, dtype):
    """float64 cast to `dtype`; to half types by way of float32, since direct casts differ."""
    return y if dtype == "float64" else y.astype("float32").astype(dtype)


# half the distance from 1 to the number below it
HALF_STEP = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
KINDS = {"uniform": uniform, "normal": normal, "exponential": exponential, "gumbel": gumbel,
         "laplace": laplace, "logistic": logistic}


# ---- choices -----------------------------------------------------------------------------------


@kernel
def bernoulli(xp: Any, rng_key: Array, p: Array) -> Any:
    """1 with probability `p`, else 0, in the dtype of `p`; exact."""
    words = philox.words(xp, rng_key, NOISE, 0, p.size)
    return (philox.unit_interval(words).reshape(p.shape) < p).astype(p.dtype)


@kernel
def categorical(xp: Any, rng_key: Array, probs: Array, shape: Sequence[int]) -> Any:
    """Indices (int64) of the last axis of `probs` (*batch, K), drawn in proportion to it.

    `shape` ends with the batch.  The probabilities become integers, whose sums do not depend on the
    order of addition: exact.  Their relative error is that of the largest one, 2**-62 * K.
    """
    k = probs.shape[-1]
    bits = 62 - (k - 1).bit_length()
    p = probs.astype("float64")
    weights = (p / p.max(axis=-1, keepdims=True) * 2.0**bits).astype("uint64")
    ends = xp.cumsum(weights, axis=-1)
    words = philox.words(xp, rng_key, NOISE, 0, math.prod(shape)).reshape((*shape, 1))
    chosen = philox.integers_below(words, ends[..., -1:])
    return (chosen >= ends).sum(axis=-1)


# ---- rejection ---------------------------------------------------------------------------------


def first_accepted(xp: Any, rng_key: Any, propose: Callable, parameters: Sequence,
                   otherwise: float, rounds: int = ROUNDS) -> Any:
    """Values (float64) of ``value, accepted = propose(xp, word0, word1, *parameters)``.

    All arrays are 1-D.  An element that no round accepts becomes `otherwise`.
    """
    index = xp.arange(len(parameters[0]), dtype="uint64")
    value = xp.full(index.shape, otherwise, "float64")
    if backend_of(rng_key) is get_backend(HOST):
        for number in range(rounds):
            proposed, accepted = propose(xp, *_words(xp, rng_key, number, index), *parameters)
            value[index[accepted]] = proposed[accepted]
            rejected = ~accepted
            index = index[rejected]
            if not len(index):
                break
            parameters = [p[rejected] for p in parameters]
        return value
    done = xp.zeros(index.shape, "bool")
    for number in range(rounds):
        proposed, accepted = propose(xp, *_words(xp, rng_key, number, index), *parameters)
        value = xp.where(accepted & ~done, proposed, value)
        done = done | accepted
    return value


def _words(xp: Any, rng_key: Any, number: int, index: Any) -> Any:
    """Two words per element for one round, which no other round and no other draw reads."""
    stream = xp.uint64(NOISE | (number + 1) << 8)
    return philox.philox(xp, index, rng_key[1], stream, rng_key[0])


@pointwise
def propose_gamma(xp, word0, word1, d):
    """Marsaglia and Tsang's proposal for a gamma variable, divided by `d`.

    At least 95 % are accepted for d >= 2/3.  "A simple method for generating gamma variables",
    ACM Transactions on Mathematical Software 26 (2000).
    """
    z = philox.normal_quantile(xp, centered(word0), False)
    root = 1 + z / xp.sqrt(9 * d)
    valid = root > 0
    root = xp.where(valid, root, 1)
    v = root * root * root
    log_v = philox.log(xp, v)
    u = centered(word1) + 0.5
    return v, valid & (philox.log(xp, u) < z * z * 0.5 + d * (1 - v + log_v))


@kernel
def standard_gamma(xp: Any, rng_key: Array, alpha: Array, in_logs: bool) -> Any:
    """Gamma variables (float64) of shape `alpha` and rate 1, or their logarithms.

    A variable of shape alpha < 1 is one of shape alpha + 1 times ``u ** (1 / alpha)``.  Exact for
    alpha >= 1, unless `in_logs`.
    """
    a = alpha.astype("float64").reshape(-1)
    boosted = a < 1
    d = xp.where(boosted, a + 1, a) - 1 / 3
    v = first_accepted(xp, rng_key, propose_gamma, [d], 1.0, 16)  # 0.05**16 = 2e-21
    word, _ = _words(xp, rng_key, 16, xp.arange(len(a), dtype="uint64"))
    log_factor = xp.where(boosted, philox.log(xp, centered(word) + 0.5) / a, 0)
    x = xp.log(d * v) + log_factor if in_logs else d * v * xp.exp(log_factor)
    return x.reshape(alpha.shape)


def _log_accepted(xp, log_bound, k, high, v, us):
    """The end of both samplers below: whether a proposal is accepted."""
    guard = (k < 0) | (k > high) | ((us < 0.013) & (v > us))
    return ~guard & (xp.log(v) <= log_bound)


def propose_poisson(xp, word0, word1, rate):
    """Hoermann's proposal for a Poisson variable of rate >= 10; at least 77 % are accepted.

    W. Hoermann, "The transformed rejection method for generating Poisson random variables",
    Insurance: Mathematics and Economics 12 (1993), algorithm PTRS without its squeezes.
    """
    u = centered(word0)
    v = centered(word1) + 0.5
    b = 0.931 + 2.53 * xp.sqrt(rate)
    a = -0.059 + 0.02483 * b
    us = 0.5 - abs(u)
    k = xp.floor((2 * a / us + b) * u + rate + 0.43)
    log_height = xp.log((1.1239 + 1.1328 / (b - 3.4)) / (a / (us * us) + b))
    bound = k * xp.log(rate) - rate - xp.lgamma(xp.maximum(k, 0) + 1) - log_height
    return k, _log_accepted(xp, bound, k, math.inf, v, us)


def below_one(word):
    """A uniform number, at most 1 - 2**-48: sums of probabilities are above it despite rounding."""
    return philox.unit_interval(word) * (1 - 2.0**-48)


@pointwise
def count_poisson(xp, word, rate):
    """The inverse CDF at a uniform number, for rate <= 10: P(count > 50) < 1e-18."""
    u = below_one(word)
    p = xp.exp(-rate)
    total = p
    count = (u >= total).astype("float64")
    for k in range(1, 51):
        p = p * rate / k
        total = total + p
        count = count + (u >= total).astype("float64")
    return count


@kernel
def poisson(xp: Any, rng_key: Array, rate: Array) -> Any:
    """Poisson variables, in the dtype of `rate`."""
    r = rate.astype("float64").reshape(-1)
    word, _ = _words(xp, rng_key, ROUNDS, xp.arange(len(r), dtype="uint64"))
    small = count_poisson(xp, word, xp.minimum(r, 10))
    large = first_accepted(xp, rng_key, propose_poisson, [xp.maximum(r, 10)], 10.0)
    return rounded(xp.where(r <= 10, small, large), rate.dtype).reshape(rate.shape)


def propose_binomial(xp, word0, word1, n, p):
    """Hoermann's proposal for a binomial variable with p <= 1/2 and n * p >= 10.

    W. Hoermann, "The generation of binomial random variates", Journal of Statistical Computation
    and Simulation 46 (1993), algorithm BTRS without its squeezes.
    """
    u = centered(word0)
    v = centered(word1) + 0.5
    spread = xp.sqrt(n * p * (1 - p))
    b = 1.15 + 2.53 * spread
    a = -0.0873 + 0.0248 * b + 0.01 * p
    us = 0.5 - abs(u)
    k = xp.floor((2 * a / us + b) * u + n * p + 0.5)
    mode = xp.floor((n + 1) * p)
    log_height = xp.log((2.83 + 5.1 / b) * spread / (a / (us * us) + b))
    inside = xp.clip(k, 0, n)
    bound = (xp.lgamma(mode + 1) + xp.lgamma(n - mode + 1) - xp.lgamma(inside + 1)
             - xp.lgamma(n - inside + 1) + (inside - mode) * xp.log(p / (1 - p)) - log_height)
    return k, _log_accepted(xp, bound, k, n, v, us)


@pointwise
def count_binomial(xp, word, n, p):
    """The inverse CDF at a uniform number, for p <= 1/2 and n * p <= 10."""
    u = below_one(word)
    ratio = p / (1 - p)
    q = xp.exp(n * xp.log1p(-p))
    total = q
    count = (u >= total).astype("float64")
    for k in range(1, 51):
        q = q * xp.maximum(n - (k - 1), 0) / k * ratio
        total = total + q
        count = count + (u >= total).astype("float64")
    return xp.minimum(count, n)


@kernel
def binomial(xp: Any, rng_key: Array, n: Array, p: Array) -> Any:
    """Numbers of successes in `n` trials, in the dtype of `p`."""
    trials = n.astype("float64").reshape(-1)
    q = p.astype("float64").reshape(-1)
    flipped = q > 0.5
    q = xp.where(flipped, 1 - q, q)
    is_small = trials * q <= 10
    word, _ = _words(xp, rng_key, ROUNDS, xp.arange(len(q), dtype="uint64"))
    small = count_binomial(xp, word, trials, xp.where(is_small, q, 0))
    # elements of the other kind get harmless parameters
    large = first_accepted(xp, rng_key, propose_binomial,
                           [xp.where(is_small, 40, trials), xp.where(is_small, 0.5, q)], 20.0)
    k = xp.where(is_small, small, large)
    return rounded(xp.where(flipped, trials - k, k), p.dtype).reshape(p.shape)
