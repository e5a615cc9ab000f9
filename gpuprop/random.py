"""Random numbers from a counter: the same bits on every backend and device, eager or captured.

Each number is a function of (seed, stream, draw, index): a draw is one call of a method, and index
is the index of the element.  The state of a generator is its seed and the number of draws from each
stream.  There are three streams:

* `INIT` (initial weights) and `DATA` (the default) are drawn on the host and copied to the default
  backend;
* `NOISE` (dropout and the like) is drawn on the device, which also counts its draws, so that a
  captured step draws new numbers at each replay.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, ParamSpec

import numpy as np

from gpuprop._core import philox
from gpuprop._core.backend import Backend
from gpuprop._core.checks import as_instance, as_integer
from gpuprop._core.draws import taken
from gpuprop._core.dtypes import as_dtype, is_float
from gpuprop._core.graph import raw
from gpuprop._core.loading import as_entries
from gpuprop._core.locks import new_lock
from gpuprop._core.options import checks_options
from gpuprop._core.philox import DATA, INIT, NOISE
from gpuprop._core.registry import backend_of, default_backend, get_backend
from gpuprop._core.tensor import Tensor

__all__ = [
    "DATA",
    "INIT",
    "NOISE",
    "Generator",
    "bernoulli",
    "default_generator",
    "integers",
    "manual_seed",
    "normal",
    "permutation",
    "truncated_normal",
    "uniform",
]

_P = ParamSpec("_P")
# While a DataLoader makes a batch: which generator stands in for another one.
stand_in: ContextVar[Callable[[Generator], Generator] | None] = ContextVar(
    "gpuprop_stand_in", default=None)
BLOCK = 1 << 15  # words drawn at a time on the host, so that intermediate results stay in cache


class Generator:
    """A source of random numbers that depend only on the seed and the number of earlier draws.

    Methods return arrays of the default backend.  The shapes and dtypes of earlier draws do not
    matter.  An element uses one 64-bit word whatever its dtype, so a narrower dtype gives the same
    numbers, rounded.

    While a DataLoader makes a batch, in any thread or process, the dataset and the transform draw
    from a generator of this batch instead, which depends on `seed`, the epoch and the batch's
    number.  A generator that is constructed there is used as it is.

    >>> from gpuprop.random import Generator
    >>> generator = Generator(seed=7)
    >>> state = generator.get_state()
    >>> first = generator.normal((2, 3))
    >>> generator.set_state(state)
    >>> bool((generator.normal((2, 3)) == first).all())
    True
    """

    def __init__(self, seed: int = 0) -> None:
        self._lock = new_lock()
        self._made_for = stand_in.get()  # the batch, if it was made for one
        # (seed, draw) on each device, updated in place because captured steps read these arrays
        self._devices: dict[tuple[Backend, int], Any] = {}
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Generator:
        """Restart with a seed, ``0 <= seed < 2**64``, and return the generator."""
        self.set_state({"seed": seed, "draws": [0, 0, 0]})
        return self

    def get_state(self) -> dict[str, Any]:
        """The seed and the numbers of draws from (INIT, DATA, NOISE), as Python integers.

        The host waits for the devices.  If several devices drew noise, it is their largest number.
        """
        self = self._here()
        with self._lock:
            noise = [self._draws[NOISE]]
            for (backend, device), array in self._devices.items():
                draw = int(backend.to_numpy(array)[1])
                noise.append(draw - _first_draw(device))
            return {"seed": self.seed, "draws": [*self._draws[:NOISE], max(noise)]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that `get_state` returned, on any backend; so do captured steps."""
        self._prepare_load(state)()

    def _prepare_load(self, state: dict[str, Any]) -> Callable[[], None]:
        """Check a state, and return a function that writes it."""
        self = self._here()
        given = as_entries("Generator: the state", state, ("seed", "draws"), ())
        seed = as_integer("Generator: seed", given["seed"], 0, 2**64 - 1)
        numbers = as_instance("Generator: draws", given["draws"], (list, tuple),
                              "a list of three numbers of draws")
        if len(numbers) != 3:
            raise ValueError(f"Generator: draws must be a list of three numbers of draws, got "
                             f"{numbers!r}")
        draws = [as_integer("Generator: draws", n, 0, 2**63 - 1) for n in numbers]

        def write() -> None:
            with self._lock:
                self.seed = seed
                self._draws = draws[:]
                for (backend, _), array in self._devices.items():
                    with backend.at(array):
                        array[...] = self._initial(backend)

        return write

    def _here(self) -> Generator:
        """This generator, or the one that stands in for it in the batch that is being made."""
        of_batch = stand_in.get()
        return self if of_batch is None or of_batch is self._made_for else of_batch(self)

    def _snapshot(self) -> Callable[[], None]:
        """A function that takes back all later draws; does not wait for the devices."""
        seed = self.seed
        draws = self._draws[:]
        devices = {}
        for key, array in self._devices.items():
            with key[0].at(array):
                devices[key] = array.copy()

        def undo() -> None:
            self.seed = seed
            self._draws = draws[:]
            for key, array in self._devices.items():
                backend, _ = key
                with backend.at(array):
                    array[...] = devices[key] if key in devices else self._initial(backend)

        return undo

    def __getstate__(self) -> dict[str, Any]:
        return self.get_state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.set_state(state)

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed})"

    def noise(self, like: Any) -> Any:
        """An `rng_key` for one draw of noise on the device of `like`: a uint64 array (seed, draw).

        An op that takes `rng_key` as an argument draws the same numbers in its pullback.  In a
        captured step each replay yields a new key, because the device counts the draws.
        """
        backend = backend_of(raw(like))
        with backend.at(raw(like)):
            return self._take_rng_key(backend)

    @checks_options
    def uniform(self, shape: int | Sequence[int] = (), low: float = 0.0, high: float = 1.0,
                dtype: Any = None, stream: int = DATA) -> Any:
        """Uniform numbers in [low, high), from 53 random bits; `dtype` None means float32."""
        dtype = _floating(dtype)
        if not 0.0 <= high - low < math.inf:
            raise ValueError(f"uniform: expected finite low <= high, got low={low}, high={high}")
        # the largest value: rounding must not reach `high`
        last = float(np.nextafter(np.asarray(high, dtype), np.asarray(low, dtype)))

        def sample(xp: Any, words: Any) -> Any:
            return philox.uniforms(xp, words, low, high, last, dtype=dtype)

        return self._draw(shape, sample, stream)

    @checks_options
    def normal(self, shape: int | Sequence[int] = (), mean: float = 0.0, std: float = 1.0,
               dtype: Any = None, stream: int = DATA) -> Any:
        """Normal numbers, at most 8.2 `std` from `mean`; `dtype` None means float32."""
        dtype = _floating(dtype)
        on_host = stream != NOISE

        def sample(xp: Any, words: Any) -> Any:
            return philox.normals(xp, words, mean, std, dtype=dtype, on_host=on_host)

        return self._draw(shape, sample, stream)

    @checks_options
    def truncated_normal(self, shape: int | Sequence[int] = (), mean: float = 0.0,
                         std: float = 1.0, low: float = -2.0, high: float = 2.0,
                         dtype: Any = None, stream: int = DATA) -> Any:
        """Normal numbers, conditioned on low <= x <= high; `dtype` None means float32.

        `low` and `high` are values, not numbers of standard deviations.
        """
        dtype = _floating(dtype)
        if not (std > 0 and low < high):
            raise ValueError("truncated_normal: expected std > 0 and low < high, "
                             f"got std={std}, low={low}, high={high}")
        first = philox.centered_normal_cdf((low - mean) / std)
        last = philox.centered_normal_cdf((high - mean) / std)
        on_host = stream != NOISE

        def sample(xp: Any, words: Any) -> Any:
            return philox.truncated_normals(
                xp, words, mean, std, low, high, first, last, dtype=dtype, on_host=on_host)

        return self._draw(shape, sample, stream)

    @checks_options
    def integers(self, low: int, high: int, shape: int | Sequence[int] = (),
                 stream: int = DATA) -> Any:
        """Integers (int64) in [low, high).

        With n = high - low, the relative error of each probability 1 / n is at most n / 2**64.
        """
        if not -(2**63) <= low < high <= 2**63 or high - low > 2**63:
            raise ValueError(f"integers: expected low < high in the range of int64, "
                             f"got low={low}, high={high}")
        n = np.uint64(high - low)
        return self._draw(shape, lambda xp, w: philox.integers_from(xp, w, low, n), stream)

    @checks_options(p="[0, 1]")
    def bernoulli(self, p: float, shape: int | Sequence[int] = (), stream: int = DATA) -> Any:
        """Booleans that are True with probability `p`: never for 0 and always for 1."""
        return self._draw(shape, lambda xp, w: philox.truths(xp, w, p), stream)

    @checks_options(n=0)
    def permutation(self, n: int, stream: int = DATA) -> Any:
        """The integers 0, ..., n - 1 (int64) in random order."""
        bits = max(n - 1, 0).bit_length()

        def sample(xp: Any, words: Any) -> Any:
            # sort random words whose low bits are the integers
            keys = ((words >> bits) << bits) | xp.arange(n, dtype="uint64")
            return (xp.sort(keys) & ((1 << bits) - 1)).astype("int64")

        return self._draw(n, sample, stream, block=n)

    def _draw(self, shape: int | Sequence[int], sample: Callable, stream: int,
              block: int = BLOCK) -> Any:
        """The next draw of a stream: ``sample(xp, words)``, reshaped to `shape`."""
        self = self._here()
        shape = tuple(shape) if isinstance(shape, Sequence) else (operator.index(shape),)
        if min(shape, default=0) < 0:
            raise ValueError(f"shape must not contain negative sizes, got {shape}")
        if stream not in (INIT, DATA, NOISE):
            raise ValueError(f"stream must be INIT, DATA or NOISE (0, 1 or 2), got {stream}")
        n = math.prod(shape)
        backend = default_backend()
        if stream == NOISE:
            xp = backend.xp
            words = philox.words(xp, self._take_rng_key(backend), NOISE, 0, n)
            return sample(xp, words).reshape(shape)
        rng_key = taken(functools.partial(self._next_key, stream))
        xp = get_backend("numpy").xp
        drawn: Any = None
        for start in range(0, max(n, 1), max(block, 1)):
            words = philox.words(xp, rng_key, stream, start, min(start + block, n))
            values = sample(xp, words)
            if drawn is None:  # a shape that no memory holds raises here, not after hours
                drawn = np.empty(n, values.dtype)
            drawn[start:start + len(values)] = values
        return backend.asarray(drawn.reshape(shape))

    def _next_key(self, stream: int) -> np.ndarray:
        """The `rng_key` of the next draw on the host."""
        with self._lock:
            rng_key = np.array([self.seed, self._draws[stream]], "uint64")
            self._draws[stream] += 1
            return rng_key

    def _take_rng_key(self, backend: Backend) -> Any:
        """The `rng_key` of the next draw of noise on the backend's current device."""
        return taken(functools.partial(self._here()._next_noise_key, backend))

    def _next_noise_key(self, backend: Backend) -> Any:
        owner = get_backend(backend.name)  # `backend` may be the recorder of this one
        key = owner, owner.device()
        with self._lock:
            if key not in self._devices:
                self._devices[key] = self._initial(owner)
            return philox.take_rng_key(backend.asarray(self._devices[key]))

    def _initial(self, backend: Backend) -> Any:
        """(seed, draw) as an array on the backend's current device."""
        draw = self._draws[NOISE] + _first_draw(backend.device())
        return backend.asarray(np.array([self.seed, draw], "uint64"))


def _first_draw(device: int) -> int:
    """The number of a device's first draw of noise.

    The numbers are far apart, so that devices draw different noise.  Device 0 starts at 0, like the
    host.
    """
    return device << 48


def _floating(dtype: Any) -> np.dtype:
    dtype = as_dtype("float32" if dtype is None else dtype)
    if not is_float(dtype):
        raise TypeError(f"dtype must be floating, got {dtype}; draw float32 and convert by astype")
    return dtype


# ---- functions of the default generator --------------------------------------------------------

default_generator = Generator()  # seed 0: runs repeat unless they set another seed


def manual_seed(seed: int) -> Generator:
    """Restart the default generator with a seed, ``0 <= seed < 2**64``, on every device.

    >>> import gpuprop
    >>> _ = gpuprop.manual_seed(1)
    >>> gpuprop.random.integers(0, 10, (5,)).tolist()
    [2, 4, 6, 2, 5]
    """
    return default_generator.manual_seed(seed)


def _of_default(method: Callable[_P, Any]) -> Callable[_P, Tensor]:
    """A function that calls a method of the default generator and returns a Tensor."""

    @functools.wraps(method)
    def draw(*args: _P.args, **kwargs: _P.kwargs) -> Tensor:
        return Tensor(method(*args, **kwargs))

    return draw


uniform = _of_default(default_generator.uniform)
normal = _of_default(default_generator.normal)
truncated_normal = _of_default(default_generator.truncated_normal)
integers = _of_default(default_generator.integers)
bernoulli = _of_default(default_generator.bernoulli)
permutation = _of_default(default_generator.permutation)
