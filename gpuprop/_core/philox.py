"""Counter-based random bits (Philox) and the samplers that turn them into numbers.

A word of 64 random bits is a function of (seed, stream, draw, index).  Samplers use only operations
whose rounding IEEE 754 specifies, one by one: no exp or log of a library, and no fused a*b + c.
Therefore all backends give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuprop._core.ops import kernel
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array

INIT, DATA, NOISE = range(3)  # the streams
LOW = 0xFFFFFFFF  # the mask of the lower 32 bits

# ---- words -------------------------------------------------------------------------------------


@pointwise
def philox(xp: Any, index: Any, draw: Any, stream: Any, seed: Any) -> tuple:
    """Philox4x32-10: two uint64 arrays, each with the earlier 32-bit word in its lower half.

    The four 32-bit words of the counter are (draw, index, stream, draw >> 32); the two of the key
    are the halves of the seed.  All arguments are uint64.  The rounds start with values that do not
    depend on the index: these are scalars and computed once, not once per element.
    J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = draw & LOW, index, stream, draw >> 32
    k0, k1 = seed & LOW, seed >> 32
    for _ in range(10):
        p, q = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((q >> 32) ^ (c1 ^ k0)) & LOW, ((p >> 32) ^ (c3 ^ k1)) & LOW
        c1, c3 = q, p  # the upper halves need no mask: each use masks or shifts them away
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    return c0 | (c1 << 32), c2 | (c3 << 32)


def words(xp: Any, rng_key: Any, stream: int, start: int, stop: int) -> Any:
    """The 64-bit words from `start` (even) to `stop` among the 2**33 words of a draw.

    `rng_key` is a uint64 array (seed, draw).
    """
    index = xp.arange(start // 2, (stop + 1) // 2, dtype="uint64")
    pairs = philox(xp, index, rng_key[1], xp.uint64(stream), rng_key[0])
    return xp.stack(pairs, axis=-1).reshape(-1)[: stop - start]


@kernel
def keep_mask(xp: Any, rng_key: Array, shape: Sequence[int], p: float) -> Any:
    """The mask of dropout: booleans of this shape, each False with probability `p`.

    `rng_key` comes from `Generator.noise`.  An element uses 16 random bits, so that a Philox block
    serves eight elements and `p` is rounded to a multiple of 2**-16.  With ``p=0`` all elements
    are True, with ``p=1`` none.
    """
    n = math.prod(shape)
    dropped = round(p * 2**16)
    if dropped in (0, 2**16):
        return (xp.zeros if dropped else xp.ones)(shape, "bool")
    draws = words(xp, rng_key, NOISE, 0, (n + 3) // 4).view("uint16")[:n]
    return (draws >= dropped).reshape(shape)


@kernel
def keep_rows(xp: Any, rng_key: Array, rows: Array, n: int, start: int, stop: int,
              p: float) -> Any:
    """The columns from `start` to `stop` of the given rows of a dropout mask with `n` columns.

    `rows` holds row numbers.  Each row starts with a new Philox block, so the result equals a part
    of `keep_mask`'s if `n` is a multiple of 8.
    """
    shape = (*rows.shape, stop - start)
    dropped = round(p * 2**16)
    if dropped in (0, 2**16):
        return (xp.zeros if dropped else xp.ones)(shape, "bool")
    first = start // 8
    last = (stop + 7) // 8
    blocks = xp.arange(first, last, dtype="uint64")
    index = rows[..., None].astype("uint64") * ((n + 7) // 8) + blocks
    pairs = philox(xp, index, rng_key[1], xp.uint64(NOISE), rng_key[0])
    draws = xp.stack(pairs, axis=-1).view("uint16").reshape(*rows.shape, 8 * (last - first))
    return draws[..., start - 8 * first:stop - 8 * first] >= dropped


@kernel
def take_rng_key(xp: Any, state: Array) -> Any:
    """A copy of `state` (seed, draw); the draw number in `state` is then incremented in place."""
    rng_key = xp.copy(state)
    state[1:] += 1
    return rng_key


# ---- from words to numbers ---------------------------------------------------------------------


def unit_interval(words: Any) -> Any:
    """Words as float64 in [0, 1), from 53 of their bits."""
    return (words >> 11).astype("float64") * 2.0**-53


def centered_unit_interval(words: Any) -> Any:
    """Words as float64 in (-1/2, 1/2), from 52 of their bits, symmetric about 0."""
    return ((words >> 12).astype("float64") + (0.5 - 2.0**51)) * 2.0**-52


def integers_below(words: Any, n: int) -> Any:
    """Words as uint64 in [0, n): the upper 64 bits of ``word * n``, with n <= 2**63.

    The product is assembled from products of 32-bit halves.
    """
    low, high = words & LOW, words >> 32
    middle = high * (n & LOW) + (low * (n & LOW) >> 32)
    return high * (n >> 32) + (middle >> 32) + ((low * (n >> 32) + (middle & LOW)) >> 32)


def normal_quantile(xp: Any, q: Any, on_host: bool) -> Any:
    """z with P(normal < z) = 1/2 + q, in float64 to 1e-15, for abs(q) <= 1/2 - 2**-54.

    M. J. Wichura, "Algorithm AS 241: the percentage points of the normal distribution",
    Applied Statistics 37 (1988).
    """
    in_tail = abs(q) > CENTRAL
    if not on_host:
        return xp.where(in_tail, _tail_quantile(xp, q), _central_quantile(q))
    z = _central_quantile(q)
    # One in seven is in a tail, so indexing is twice as fast.  For a device the host would have to
    # wait for the number of indices.
    index = xp.flatnonzero(in_tail)
    z[index] = _tail_quantile(xp, q[index])
    return z


CENTRAL = 0.425


def _central_quantile(q: Any) -> Any:
    r = CENTRAL * CENTRAL - q * q
    return q * (_polynomial(r, (
        3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
        1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
        3.3430575583588128105e4, 2.5090809287301226727e3,
    )) / _polynomial(r, (
        1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
        2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
        5.2264952788528545610e3,
    )))


def _tail_quantile(xp: Any, q: Any) -> Any:
    r = xp.sqrt(-log(xp, 0.5 - abs(q)))
    tail, extreme = r - 1.6, r - 5.0
    z = xp.where(r <= 5.0, _polynomial(tail, (
        1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
        3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
        2.27238449892691845833e-2, 7.74545014278341407640e-4,
    )) / _polynomial(tail, (
        1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
        1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    )), _polynomial(extreme, (
        6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
        2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
        2.71155556874348757815e-5, 2.01033439929228813265e-7,
    )) / _polynomial(extreme, (
        1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
        7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    )))
    return xp.copysign(z, q)


def log(xp: Any, x: Any) -> Any:
    """The natural logarithm, with the same bits on every backend.

    log(x) = exponent * log(2) + 2 * atanh((m - 1) / (m + 1)) for x = m * 2**exponent with
    sqrt(1/2) <= m < sqrt(2).  The polynomial is FreeBSD's.
    """
    m, exponent = xp.frexp(x)
    small = m < 0.7071067811865476
    m = xp.where(small, m + m, m)
    exponent = xp.where(small, exponent - 1, exponent).astype("float64")
    s = (m - 1.0) / (m + 1.0)
    return exponent * 0.6931471805599453 + s * _polynomial(s * s, (
        2.0, 6.666666666666735130e-1, 3.999999999940941908e-1, 2.857142874366239149e-1,
        2.222219843214978396e-1, 1.818357216161805012e-1, 1.531383769920937332e-1,
        1.479819860511658591e-1,
    ))


def _polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    *rest, y = coefficients
    for c in reversed(rest):
        y = y * x + c
    return y


def _rounded(y: Any, dtype: Any) -> Any:
    """float64 cast to `dtype`; to half types by way of float32, since direct casts differ."""
    return y if dtype == "float64" else y.astype("float32").astype(dtype)


@pointwise
def uniforms(xp, words, low, high, last, *, dtype):
    return _rounded(xp.minimum(low + (high - low) * unit_interval(words), last), dtype)


@pointwise
def normals(xp, words, mean, std, *, dtype, on_host):
    z = normal_quantile(xp, centered_unit_interval(words), on_host)
    return _rounded(mean + std * z, dtype)


@pointwise
def truncated_normals(xp, words, mean, std, low, high, first, last, *, dtype, on_host):
    q = first + (last - first) * (centered_unit_interval(words) + 0.5)
    z = normal_quantile(xp, q, on_host)
    return _rounded(xp.clip(mean + std * z, low, high), dtype)


@pointwise
def integers_from(xp, words, low, n):
    return integers_below(words, n).astype("int64") + low


@pointwise
def truths(xp, words, p):
    return unit_interval(words) < p


def centered_normal_cdf(z: float) -> float:
    """P(normal < z) - 1/2, clipped to the range that `normal_quantile` accepts.

    A Taylor series in integer arithmetic: the erf of C libraries is not the same everywhere.
    """
    one = 1 << 128
    n, d = max(-9.0, min(9.0, float(z))).as_integer_ratio()
    total = term = n * one // d
    square = term * term // one
    for k in range(1, 200):
        term = -term * square // (2 * k * one)
        total += term // (2 * k + 1)
    limit = 0.5 - 2.0**-53
    return max(-limit, min(limit, 0.3989422804014327 * (total / one)))  # 1 / sqrt(2 pi)
