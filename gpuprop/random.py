"""Random numbers by counting: the same bits on every backend and device, eager or captured.

A random word is a function of (seed, stream, draw, index), so a generator has no state but its seed and how many draws
it made of each stream: initial weights (`INIT`) and data (`DATA`), which are drawn on the host and sent to the backend
in use, and `NOISE`, which is counted and drawn on the device and goes on counting in a captured step.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop._core.backend import Backend
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.ops import kernel
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import backend_of, default_backend, get_backend
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor

INIT, DATA, NOISE = range(3)  # the streams

# ---- words ----------------------------------------------------------------------------------------------------------

LOW = 0xFFFFFFFF


@pointwise
def philox(xp: Any, index: Any, draw: Any, stream: Any, seed: Any) -> tuple:
    """Philox4x32-10: two uint64 arrays, the earlier word of each pair in the lower half.

    The counter's four words of 32 bits are (draw, index, stream, draw >> 32), the key's two those of the seed; all come
    as uint64.  What precedes the index in the rounds is the same for all elements, and computed once.
    J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3, k0, k1 = draw & LOW, index, stream, draw >> 32, seed & LOW, seed >> 32
    for _ in range(10):
        p, q = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((q >> 32) ^ (c1 ^ k0)) & LOW, ((p >> 32) ^ (c3 ^ k1)) & LOW
        c1, c3 = q, p  # their lower halves: the upper ones are masked or shifted away wherever they are used
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    return c0 | (c1 << 32), c2 | (c3 << 32)


def words(xp: Any, rng_key: Any, stream: int, start: int, stop: int) -> Any:
    """The 64-bit words `start` (even) to `stop` of the 2**33 of a draw; `rng_key` is a uint64 array (seed, draw)."""
    index = xp.arange(start // 2, (stop + 1) // 2, dtype="uint64")
    return xp.stack(philox(xp, index, rng_key[1], xp.uint64(stream), rng_key[0]), axis=-1).reshape(-1)[: stop - start]


@kernel
def keep_mask(xp: Any, rng_key: Array, shape: Sequence[int], p: float) -> Any:
    """What dropout keeps: booleans of this shape, each false with probability `p`, by a rng_key of `Generator.noise`.

    An element takes 16 bits, eight elements a block of Philox, so `p` is rounded to a multiple of 2**-16; 0 keeps
    everything and 1 nothing.
    """
    n, dropped = math.prod(shape), round(p * 2**16)
    if dropped in (0, 2**16):
        return (xp.zeros if dropped else xp.ones)(shape, "bool")
    draws = words(xp, rng_key, NOISE, 0, (n + 3) // 4).view("uint16")[:n]
    return (draws >= dropped).reshape(shape)


@kernel
def keep_rows(xp: Any, rng_key: Array, rows: Array, n: int, start: int, stop: int, p: float) -> Any:
    """Columns `start` to `stop` of the numbered rows of what `keep_mask` would keep of rows of `n` elements.

    Each row begins with a block of its own, so they are those of `keep_mask` itself where 8 divides `n`.
    """
    shape, dropped = (*rows.shape, stop - start), round(p * 2**16)
    if dropped in (0, 2**16):
        return (xp.zeros if dropped else xp.ones)(shape, "bool")
    first, last = start // 8, (stop + 7) // 8
    index = rows[..., None].astype("uint64") * ((n + 7) // 8) + xp.arange(first, last, dtype="uint64")
    draws = xp.stack(philox(xp, index, rng_key[1], xp.uint64(NOISE), rng_key[0]), axis=-1).view("uint16")
    draws = draws.reshape(*rows.shape, 8 * (last - first))
    return draws[..., start - 8 * first:stop - 8 * first] >= dropped


@kernel
def take_rng_key(xp: Any, state: Array) -> Any:
    """A copy of (seed, draw), whose original then counts on, on the device."""
    rng_key = xp.copy(state)
    state[1:] += 1
    return rng_key


# ---- distributions of words -----------------------------------------------------------------------------------------
# Only operations that IEEE 754 rounds exactly, one by one: no exp or log of a library, and no a*b + c in one rounding.


def _unit(words: Any) -> Any:
    """Words as float64 in [0, 1), 53 bits of them."""
    return (words >> 11).astype("float64") * 2.0**-53


def _centred(words: Any) -> Any:
    """Words as float64 in (-1/2, 1/2), 52 bits of them, symmetric about 0."""
    return ((words >> 12).astype("float64") + (0.5 - 2.0**51)) * 2.0**-52


def _below(words: Any, n: int) -> Any:
    """Words as uint64 in [0, n): the upper half of the product with n <= 2**63, from products of 32-bit halves."""
    low, high = words & LOW, words >> 32
    middle = high * (n & LOW) + (low * (n & LOW) >> 32)
    return high * (n >> 32) + (middle >> 32) + ((low * (n >> 32) + (middle & LOW)) >> 32)


def _quantile(xp: Any, q: Any, on_host: bool) -> Any:
    """z with P(normal < z) = 1/2 + q, in float64 to 1e-15, for abs(q) <= 1/2 - 2**-54.

    M. J. Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37 (1988).
    """
    far = abs(q) > NEAR
    if not on_host:
        return xp.where(far, _far(xp, q), _near(q))
    z = _near(q)
    few = xp.flatnonzero(far)  # one in seven: twice as fast, but a shape that depends on data, for which a device waits
    z[few] = _far(xp, q[few])
    return z


NEAR = 0.425


def _near(q: Any) -> Any:
    r = NEAR * NEAR - q * q
    return q * (_polynomial(r, (
        3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
        4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3,
    )) / _polynomial(r, (
        1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
        2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3,
    )))


def _far(xp: Any, q: Any) -> Any:
    r = xp.sqrt(-_log(xp, 0.5 - abs(q)))
    tail, extreme = r - 1.6, r - 5.0
    z = xp.where(r <= 5.0, _polynomial(tail, (
        1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
        1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4,
    )) / _polynomial(tail, (
        1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
        1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9,
    )), _polynomial(extreme, (
        6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
        2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7,
    )) / _polynomial(extreme, (
        1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
        7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15,
    )))
    return xp.copysign(z, q)


def _log(xp: Any, x: Any) -> Any:
    """log x = log(2) exponent + 2 atanh((m - 1) / (m + 1)) with sqrt(1/2) <= m < sqrt(2); FreeBSD's polynomial."""
    m, exponent = xp.frexp(x)
    small = m < 0.7071067811865476
    m = xp.where(small, m + m, m)
    exponent = xp.where(small, exponent - 1, exponent).astype("float64")
    s = (m - 1.0) / (m + 1.0)
    return exponent * 0.6931471805599453 + s * _polynomial(s * s, (
        2.0, 6.666666666666735130e-1, 3.999999999940941908e-1, 2.857142874366239149e-1,
        2.222219843214978396e-1, 1.818357216161805012e-1, 1.531383769920937332e-1, 1.479819860511658591e-1,
    ))


def _polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    *rest, y = coefficients
    for c in reversed(rest):
        y = y * x + c
    return y


def _rounded(y: Any, dtype: Any) -> Any:
    """float64 as `dtype`; half types by way of float32, as libraries differ in the direct way."""
    return y if dtype == "float64" else y.astype("float32").astype(dtype)


@pointwise
def uniforms(xp, words, low, high, last, *, dtype):
    return _rounded(xp.minimum(low + (high - low) * _unit(words), last), dtype)


@pointwise
def normals(xp, words, mean, std, *, dtype, on_host):
    return _rounded(mean + std * _quantile(xp, _centred(words), on_host), dtype)


@pointwise
def truncated_normals(xp, words, mean, std, low, high, first, last, *, dtype, on_host):
    z = _quantile(xp, first + (last - first) * (_centred(words) + 0.5), on_host)
    return _rounded(xp.clip(mean + std * z, low, high), dtype)


@pointwise
def integers_from(xp, words, low, n):
    return _below(words, n).astype("int64") + low


@pointwise
def truths(xp, words, p):
    return _unit(words) < p


def _centred_cdf(z: float) -> float:
    """P(normal < z) - 1/2, inside what `_quantile` takes.

    Taylor's series in integers: the erf of C libraries is not the same everywhere.
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


# ---- the generator --------------------------------------------------------------------------------------------------

BLOCK = 1 << 15  # words drawn at a time on the host, so that what lies between word and number stays in cache


class Generator:
    """Draws of random numbers, each a function of the seed and of how many draws of its stream came before.

    The methods return arrays of the backend in use.  An element takes one 64-bit word whatever it becomes, so shapes
    and dtypes change nothing in later draws, and a narrower dtype gets the same numbers, rounded.
    """

    def __init__(self, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._devices: dict[tuple[str, int], Any] = {}  # (seed, draw) on each, changed in place for captured steps
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Generator:
        """Begin again, with this seed of 64 bits."""
        self.set_state({"seed": seed, "draws": [0, 0, 0]})
        return self

    def get_state(self) -> dict[str, Any]:
        """The seed and the numbers of draws (INIT, DATA, NOISE), as Python's integers; waits for the devices.

        Of several devices, the one that drew most noise counts.
        """
        noise = [self._draws[NOISE]]
        for (name, device), array in self._devices.items():
            noise.append(int(get_backend(name).to_numpy(array)[1]) - _first_draw(device))
        return {"seed": self.seed, "draws": [*self._draws[:NOISE], max(noise)]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called, here or on another backend; captured steps follow."""
        seed, draws = operator.index(state["seed"]), [operator.index(d) for d in state["draws"]]
        if not 0 <= seed < 2**64:
            raise ValueError(f"a seed is an integer of 64 bits, 0 <= seed < 2**64, not {seed}")
        self.seed, self._draws = seed, draws
        for (name, _), array in self._devices.items():
            backend = get_backend(name)
            with backend.at(array):
                array[...] = self._start(backend)

    def __getstate__(self) -> dict[str, Any]:
        return self.get_state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.set_state(state)

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed})"

    def noise(self, like: Any) -> Any:
        """A rng_key for one draw of noise on the backend of `like`: a uint64 array (seed, draw), good for many uses.

        An op that takes the rng_key as an argument draws the same numbers in its pullback, and new ones at each replay
        of a captured step, since the device counts.
        """
        backend = backend_of(raw(like))
        with backend.at(raw(like)):
            return self._take(backend)

    def uniform(self, shape: int | Sequence[int] = (), low: float = 0.0, high: float = 1.0, dtype: Any = None,
                stream: int = DATA) -> Any:
        """Uniform in [low, high), of 53 bits rounded to `dtype`, float32 if None."""
        dtype = _floating(dtype)
        if not 0.0 <= high - low < math.inf:
            raise ValueError(f"uniform: needs low <= high, both finite, not low={low}, high={high}")
        last = float(np.nextafter(np.asarray(high, dtype), np.asarray(low, dtype)))  # rounding must not reach `high`
        return self._draw(shape, lambda xp, w: uniforms(xp, w, low, high, last, dtype=dtype), stream)

    def normal(self, shape: int | Sequence[int] = (), mean: float = 0.0, std: float = 1.0, dtype: Any = None,
               stream: int = DATA) -> Any:
        """Normal, at most 8.2 standard deviations out, rounded to `dtype`, float32 if None."""
        dtype = _floating(dtype)
        if not std >= 0:
            raise ValueError(f"normal: needs std >= 0, not {std}")

        on_host = stream != NOISE
        return self._draw(shape, lambda xp, w: normals(xp, w, mean, std, dtype=dtype, on_host=on_host), stream)

    def truncated_normal(self, shape: int | Sequence[int] = (), mean: float = 0.0, std: float = 1.0, low: float = -2.0,
                         high: float = 2.0, dtype: Any = None, stream: int = DATA) -> Any:
        """Normal if low <= x <= high (values, not standard deviations), rounded to `dtype`, float32 if None."""
        dtype = _floating(dtype)
        if not (std > 0 and low < high):
            raise ValueError(f"truncated_normal: needs std > 0 and low < high, not std={std}, low={low}, high={high}")
        first, last = _centred_cdf((low - mean) / std), _centred_cdf((high - mean) / std)

        def make(xp: Any, w: Any) -> Any:
            return truncated_normals(xp, w, mean, std, low, high, first, last, dtype=dtype, on_host=stream != NOISE)

        return self._draw(shape, make, stream)

    def integers(self, low: int, high: int, shape: int | Sequence[int] = (), stream: int = DATA) -> Any:
        """Integers (int64) in [low, high); among n = high - low the odds differ by at most n / 2**64 of themselves."""
        low, high = operator.index(low), operator.index(high)
        if not -(2**63) <= low < high <= 2**63 or high - low > 2**63:
            raise ValueError(f"integers: needs low < high within int64, not low={low}, high={high}")
        return self._draw(shape, lambda xp, w: integers_from(xp, w, low, np.uint64(high - low)), stream)

    def bernoulli(self, p: float, shape: int | Sequence[int] = (), stream: int = DATA) -> Any:
        """Booleans, each true with probability `p`; 0 and 1 are exact."""
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"bernoulli: p is a probability, not {p}")
        return self._draw(shape, lambda xp, w: truths(xp, w, p), stream)

    def permutation(self, n: int, stream: int = DATA) -> Any:
        """The integers (int64) 0 ... n - 1 in random order: that of words which carry them in their last bits."""
        bits = max(n - 1, 0).bit_length()

        def order(xp: Any, w: Any) -> Any:
            keys = ((w >> bits) << bits) | xp.arange(n, dtype="uint64")
            return (xp.sort(keys) & ((1 << bits) - 1)).astype("int64")

        return self._draw(n, order, stream, block=n)

    def _draw(self, shape: int | Sequence[int], make: Callable, stream: int, block: int = BLOCK) -> Any:
        """The next draw of a stream: ``make(xp, words)`` in this shape."""
        shape = tuple(shape) if isinstance(shape, Sequence) else (operator.index(shape),)
        if min(shape, default=0) < 0:
            raise ValueError(f"a shape has no negative lengths: {shape}")
        if stream not in (INIT, DATA, NOISE):
            raise ValueError(f"the streams are INIT, DATA and NOISE (0, 1, 2), not {stream}")
        n, backend = math.prod(shape), default_backend()
        if stream == NOISE:
            return make(backend.xp, words(backend.xp, self._take(backend), NOISE, 0, n)).reshape(shape)
        with self._lock:
            rng_key = np.array([self.seed, self._draws[stream]], "uint64")
            self._draws[stream] += 1
        xp = get_backend("numpy").xp
        blocks = [make(xp, words(xp, rng_key, stream, i, min(i + block, n))) for i in range(0, max(n, 1), max(block, 1))]
        return backend.asarray(xp.concatenate(blocks).reshape(shape))

    def _take(self, backend: Backend) -> Any:
        key = backend.name, backend.device()
        with self._lock:
            if key not in self._devices:
                self._devices[key] = self._start(backend)
            return take_rng_key(self._devices[key])

    def _start(self, backend: Backend) -> Any:
        """(seed, draw) on the backend's current device."""
        return backend.asarray(np.array([self.seed, self._draws[NOISE] + _first_draw(backend.device())], "uint64"))


def _first_draw(device: int) -> int:
    """Devices of one process count from far apart, so that each draws its own noise; the first as the host, from 0."""
    return device << 48


def _floating(dtype: Any) -> np.dtype:
    dtype = np.dtype("float32" if dtype is None else dtype)
    if not is_float(dtype):
        raise TypeError(f"only floating point can hold these numbers, and {dtype} is not: draw float32 and convert")
    return dtype


# ---- functions of the default generator -----------------------------------------------------------------------------

default_generator = Generator()  # seed 0: a run is the same again unless it asks for another seed


def manual_seed(seed: int) -> Generator:
    """Begin the default generator again, with this seed of 64 bits, on every device."""
    return default_generator.manual_seed(seed)


def _of_default(method: Callable) -> Callable[..., Tensor]:
    """The default generator's method as a function that returns a Tensor, as `gpuprop.tensor` does."""

    @functools.wraps(method)
    def draw(*args: Any, **kwargs: Any) -> Tensor:
        return Tensor(method(default_generator, *args, **kwargs))

    signature = inspect.signature(method)
    own = signature.replace(parameters=list(signature.parameters.values())[1:], return_annotation="Tensor")
    draw.__signature__ = own  # type: ignore[attr-defined]
    return draw


uniform = _of_default(Generator.uniform)
normal = _of_default(Generator.normal)
truncated_normal = _of_default(Generator.truncated_normal)
integers = _of_default(Generator.integers)
bernoulli = _of_default(Generator.bernoulli)
permutation = _of_default(Generator.permutation)
