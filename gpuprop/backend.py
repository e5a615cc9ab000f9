"""What a backend is, the registry that finds them by entry point, and the choice of the one new arrays are made on."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

GROUP = "gpuprop.backends"


class BackendMismatchError(TypeError):
    """Arrays of two backends met in one call."""


class CaptureError(RuntimeError):
    """A step cannot be captured; the message names the call that forbids it."""


class Unavailable(str):
    """Why a backend cannot be used here: false, where an answer would be true; `error` is what asking for it raises."""

    error: type[Exception]

    def __new__(cls, reason: str, error: type[Exception] = RuntimeError) -> Unavailable:
        self = super().__new__(cls, reason)
        self.error = error
        return self

    def __bool__(self) -> bool:
        return False


class Backend(ABC):
    """An array library and the few things it does not spell as NumPy does."""

    name: str
    xp: Any  # the array namespace: NumPy's names, and the extras of `EXTRAS`
    array_type: type  # the one array class this backend owns
    kernels: dict[str, Callable] = {}  # qualified op name -> faster twin, same contract

    @classmethod
    def is_available(cls) -> bool | Unavailable:
        """True, or why not."""
        return True

    @abstractmethod
    def asarray(self, value: Any, dtype: Any = None) -> Any:
        """`value` as this backend's array: its own arrays as they are, the host's copied to the device."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in {"to_numpy", "synchronize"} & vars(cls).keys():
            setattr(cls, name, _waiting(vars(cls)[name]))

    @abstractmethod
    def to_numpy(self, array: Any) -> np.ndarray:
        """A copy on the host; waits for the device, then raises what `require` found wrong meanwhile."""

    def own(self, out: Any) -> Any:
        """An op's result as this backend's array: NumPy hands back scalars for 0-d."""
        return out if type(out) is self.array_type else self.xp.asarray(out)

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked."""
        waits("synchronize()")

    def prefetch(self, batches: Iterable[list[np.ndarray]]) -> Iterator[list]:
        """Host batches as this backend's arrays, in order; a device may be sent each while the one before is in use."""
        return ([self.asarray(a) for a in arrays] for arrays in batches)

    records: bool = False  # can a step be recorded and replayed?  If not, the step itself is its own replay

    def record(self) -> Any:
        """A context that writes down the array calls made in it.

        What it gives has `replay()`; `difference(other)`, what another recording of the step did otherwise, in words;
        `outside()`, the memory, as arrays, that the calls use and did not make; `uses(array)`; `held(arrays)`, who made
        an array of its own that somebody holds beside these; and `turn()`, a context in which one thread replays it.
        """
        raise RuntimeError(f"backend {self.name!r} records nothing")

    def pointwise(self, fn: Callable) -> Callable:
        """`fn`, an elementwise body, in its fastest form; half types are computed in float32 and rounded once."""
        from gpuprop.pointwise import rounded_once  # which knows the backends

        return rounded_once(fn)

    def device_count(self) -> int:
        return 1

    def device(self) -> int:
        """The device on which this thread makes arrays."""
        return 0

    def device_of(self, array: Any) -> int:
        """The number of the device on which one of this backend's arrays lies."""
        return 0

    def use_device(self, index: int) -> None:
        if index != 0:
            raise ValueError(f"backend {self.name!r} has one device, number 0, not {index}")

    def at(self, array: Any) -> contextlib.AbstractContextManager[None]:
        """A context in which this thread computes, and makes arrays, on the device on which `array` lies."""
        return self._on(self.device_of(array)) if self in SEVERAL else AS_IT_IS

    def _on(self, device: int | None) -> contextlib.AbstractContextManager[None]:
        """A context in which this thread computes, and makes arrays, on a device; None is the current one."""
        return AS_IT_IS if device is None or device == self.device() else self._on_device(device)

    @contextlib.contextmanager
    def _on_device(self, index: int) -> Iterator[None]:
        before = self.device()
        self.use_device(index)
        try:
            yield
        finally:
            self.use_device(before)

    def workspace(self) -> int:
        """Bytes that an op may hold at once beside its arguments and results: on a CPU what its cache holds.

        The same in every run on one machine, for the order of sums may depend on it.
        """
        return 4 << 20

    def memory(self) -> dict[str, int]:
        """Bytes by kind (``used``, ``reserved`` ...), as far as the library knows them."""
        return {}

    def require(self, condition: Any, message: str) -> None:
        """State what must hold of data: all of `condition`, or IndexError(message).

        The host never waits for it: a flag on the device is read with the next value that is, or at once in `debug()`.
        """
        holds = self._flags_here().of(message)
        holds &= condition.all()
        if _debugging.get():
            self.raise_found()

    def raise_found(self) -> None:
        """Raise what `require` found wrong on the device since the last look; `to_numpy` calls it."""
        for message, holds in self._flags_here().failed(self._read):
            holds[...] = True
            raise IndexError(message)

    def _flags_here(self) -> Flags:
        """The flags of `require` on the current device."""
        device, flags = self.device(), self.__dict__.setdefault("_flags", {})
        if device not in flags:
            flags[device] = Flags(self.xp)
        return flags[device]

    def _read(self, flags: Any) -> np.ndarray:
        """A copy of flags on the host."""
        raise NotImplementedError(f"backend {self.name!r} neither answers `require` itself nor reads its flags")


class Flags:
    """What must hold on one device: booleans side by side, so that one read answers for all."""

    SIZE = 64  # booleans in an array; a captured step writes to it, so it is never replaced, but another added

    def __init__(self, xp: Any) -> None:
        self.xp, self.arrays, self.views = xp, [], {}  # type: ignore[var-annotated]
        self._lock = threading.Lock()

    def of(self, message: str) -> Any:
        """The flag of a message: a 0-d array."""
        if message not in self.views:
            with self._lock:
                number = len(self.views)
                if number == len(self.arrays) * self.SIZE:
                    self.arrays.append(self.xp.ones(self.SIZE, "bool"))
                self.views.setdefault(message, self.arrays[-1][number % self.SIZE:][:1].reshape(()))
        return self.views[message]

    def failed(self, read: Callable) -> list[tuple[str, Any]]:
        """The messages whose flags no longer hold, with these; waits for the device, once for each array."""
        held = [holds for array in list(self.arrays) for holds in read(array)]
        return [found for found, holds in zip(list(self.views.items()), held, strict=False) if not holds]


# What `xp` must offer beside NumPy's own names.
EXTRAS = "erf erfc erfinv lgamma digamma polygamma sigmoid index_add require".split()

_debugging: ContextVar[bool] = ContextVar("gpuprop_debugging", default=False)


@contextlib.contextmanager
def debug(nan: bool = False) -> Iterator[None]:
    """Check at once, on every backend, what is otherwise looked at with the next value read: labels, indices.

    With `nan`, raise FloatingPointError naming the layer and the op, forward, backward or update, that the first NaN
    comes from: on the host at once, on a device at the end of the block.  All threads are watched, no step is captured.
    """
    token = _debugging.set(True)
    try:
        if not nan:
            yield
        else:
            from gpuprop.diagnosis.nan import detect_nan

            with detect_nan():
                yield
    finally:
        _debugging.reset(token)


_no_sync: ContextVar[bool] = ContextVar("gpuprop_no_sync", default=False)


@contextlib.contextmanager
def no_sync() -> Iterator[None]:
    """Raise RuntimeError where this thread would wait for a device: where a value is read, or `synchronize` called.

    On NumPy, where nobody waits, reading a Tensor raises just so, for on a device it would.  A device array's own
    methods are out of reach, unless its backend tells `waits`, as "strict" does.
    """
    token = _no_sync.set(True)
    try:
        yield
    finally:
        _no_sync.reset(token)


def waits(what: str) -> None:
    """Say that the host waits for a device here."""
    if _no_sync.get():
        raise RuntimeError(f"{what} makes the host wait for the device, and this is inside gpuprop.no_sync(): "
                           f"read values after the block, or keep them on the device")


def _waiting(method: Callable) -> Callable:
    @functools.wraps(method)
    def call(self: Backend, *args: Any) -> Any:
        waits(f"{method.__name__}(), as .numpy(), .item(), float() and bool() call it," if args else "synchronize()")
        return method(self, *args)

    return call


# ---- the registry ---------------------------------------------------------------------------------------------------

_classes: dict[str, type[Backend]] = {}
_instances: dict[str, Backend] = {}
BY_TYPE: dict[type, Backend] = {}  # whose array is this?  One exact lookup; engine and pointwise bodies share it
AS_IT_IS = contextlib.nullcontext()
SEVERAL: list[Backend] = []  # the backends with more than one device: on the others nobody asks where an array lies


def register(name: str, cls: type[Backend]) -> None:
    """Make a backend known by name in this process; installed packages do it by an entry point instead."""
    missing = [m for m in ("asarray", "to_numpy") if not callable(getattr(cls, m, None))]
    if missing:
        raise TypeError(f"{cls.__name__} is no backend: it lacks {', '.join(missing)}; "
                        f"derive it from gpuprop.backend.Backend")
    _classes[name] = cls


def backends() -> dict[str, Any]:
    """Every known backend by name: a class once loaded, an entry point (not imported) before."""
    from importlib.metadata import entry_points  # 15 ms that `import gpuprop` does not need

    return {**{ep.name: ep for ep in entry_points(group=GROUP)}, **_classes}


def _load(name: str) -> type[Backend]:
    if name not in _classes:
        known = backends()
        if name not in known:
            names = ", ".join(sorted(known))
            raise ValueError(f"unknown backend {name!r}; known here: {names}. Also: cpu, cuda, cuda:0, auto")
        try:
            cls = known[name].load()
        except Exception as e:
            what = f"{type(e).__name__}: {e}"
            raise ImportError(f"backend {name!r} ({known[name].value}) cannot be imported: {what}") from e
        register(name, cls)
    return _classes[name]


def get_backend(name: str) -> Backend:
    """The backend of this name, made at the first call.

    Raises ValueError for a name nobody knows, ImportError where its library is missing (with the line that installs
    it) and RuntimeError where it has no usable device (with the driver's reason).
    """
    if name not in _instances:
        cls = _load(name)
        usable = cls.is_available()
        if not usable:
            reason = usable if isinstance(usable, Unavailable) else Unavailable("it says so itself")
            raise reason.error(f"backend {name!r} cannot be used: {reason:s}")
        backend = cls()
        _check(name, backend)
        _instances[name] = BY_TYPE[backend.array_type] = backend
        if backend.device_count() > 1:
            SEVERAL.append(backend)
    return _instances[name]


def _check(name: str, backend: Backend) -> None:
    missing = [extra for extra in EXTRAS if not hasattr(backend.xp, extra)]
    if missing:
        raise TypeError(f"backend {name!r}: its xp lacks {', '.join(missing)}")
    if backend.kernels:
        from gpuprop.ops import check_twins  # the table of definitions, complete once gpuprop is imported

        check_twins(name, backend.kernels)


def backend_of(array: Any) -> Backend:
    """The backend that owns an array."""
    try:
        return BY_TYPE[type(array)]
    except KeyError:
        pass
    if isinstance(array, np.ndarray):
        return get_backend("numpy")
    for name, module in (("cupy", "cupy"),):  # the user's own arrays may come before the first use of their backend
        if type(array).__module__.partition(".")[0] == module:
            return get_backend(name)
    raise TypeError(f"no backend owns arrays of type {type(array).__module__}.{type(array).__qualname__}: "
                    f"convert it first, for example with gpuprop.tensor(...)")


# ---- where new arrays are made --------------------------------------------------------------------------------------

_override: ContextVar[Backend | None] = ContextVar("gpuprop_backend", default=None)
_chosen: Backend | None = None  # process-wide, so that notebook cells and worker threads see it
_chosen_by: list[tuple[Any, Backend]] = []  # by which `use`, as a weak reference, in order; the last one counts
_choosing = threading.RLock()
WORDS = {"cpu": "numpy", "cuda": "cupy", "gpu": "cupy"}


def default_backend() -> Backend:
    """Where new arrays are made: the context's, else the process's, else GPUPROP_BACKEND's, else the best usable."""
    return _override.get() or _chosen or set_default_backend(os.environ.get("GPUPROP_BACKEND") or "auto")


def set_default_backend(name: str, device: int | None = None) -> Backend:
    """Make new arrays on this backend from here on, in every thread."""
    backend, index = _parse(name, device)
    _enter(backend, index)
    _choose(backend, lambda: None)
    return backend


def _choose(backend: Backend, by: Callable) -> None:
    """Put a choice of the process on top of those before."""
    global _chosen
    with _choosing:
        # a `use` that is gone is not going to be the beginning of a block: what lies beneath it is never seen again
        del _chosen_by[:next((i for i in reversed(range(len(_chosen_by))) if _chosen_by[i][0]() is None), 0)]
        _chosen_by.append((by, backend))
        _chosen = backend


def _withdraw(choice: Any) -> None:
    """Take a choice back, whatever was chosen since."""
    global _chosen
    with _choosing:
        _chosen_by[:] = [pair for pair in _chosen_by if pair[0]() is not choice]
        _chosen = _chosen_by[-1][1] if _chosen_by else None


class use:
    """Make new arrays on a backend: from the call on, in every thread, or, as ``with use(...):``, inside the block.

    `name` is a backend's name or "cpu", "cuda", "cuda:1" or "auto" (the best usable one; it says which and why).
    """

    def __init__(self, name: str, device: int | None = None) -> None:
        self.backend, index = _parse(name, device)
        self._before = _override.get(), self.backend.device()
        _enter(self.backend, index)
        _override.set(None)
        _choose(self.backend, weakref.ref(self))

    def __enter__(self) -> Backend:
        _withdraw(self)  # the block is this thread's alone
        _override.set(self._before[0])
        self._token = _override.set(self.backend)
        return self.backend

    def __exit__(self, *_: object) -> None:
        _override.reset(self._token)
        self.backend.use_device(self._before[1])

    def __repr__(self) -> str:
        return f"<new arrays are made on {self.backend.name!r}>"


@contextlib.contextmanager
def making_on(name: str) -> Iterator[Backend]:
    """Make new arrays on a backend or device (a name as `use` takes it) inside the block; no other thread sees it."""
    backend, device = _parse(name)
    token = _override.set(backend)
    try:
        with backend._on(device):
            yield backend
    finally:
        _override.reset(token)


on_host = functools.partial(making_on, "numpy")


def _enter(backend: Backend, device: int | None) -> None:
    if device is not None:
        backend.use_device(device)


def _parse(name: str, device: int | None = None) -> tuple[Backend, int | None]:
    """A backend and device number from what users write: ``"cupy"``, ``"cuda:1"``, ``"auto"``."""
    if not isinstance(name, str):
        raise TypeError(f"a backend is chosen by name, not by {type(name).__name__}")
    word, colon, number = name.partition(":")
    if colon:
        if not re.fullmatch(r"\d+", number) or device not in (None, int(number)):
            raise ValueError(f"{name!r}: after the colon comes the number of one device, as in 'cuda:1'")
        device = int(number)
    backend = _best() if word == "auto" else get_backend(WORDS.get(word, word))
    if device is not None and not 0 <= device < backend.device_count():
        count = backend.device_count()
        raise RuntimeError(f"backend {backend.name!r} has {count} device(s); there is no number {device}")
    return backend, device


def _best() -> Backend:
    """CuPy if a GPU answers, else NumPy; said once on stderr, with the reason."""
    try:
        backend, why = get_backend("cupy"), "a CUDA device answered"
    except (ImportError, RuntimeError, ValueError) as e:
        backend, why = get_backend("numpy"), str(e).removeprefix("backend 'cupy' cannot be used: ")
    if not _said:
        _said.append(why)
        print(f"gpuprop: using {backend.name} ({why})", file=sys.stderr)
    return backend


_said: list[str] = []  # the automatic choice, once a process


def usable_backends() -> dict[str, Backend]:
    """Every backend that works here; a broken third-party one is warned of and left out."""
    found = {}
    for name in sorted(backends()):
        try:
            found[name] = get_backend(name)
        except (ImportError, RuntimeError) as e:
            if name not in ("numpy", "cupy"):
                warnings.warn(f"gpuprop leaves out backend {name!r}: {e}", stacklevel=2)
        except Exception as e:
            warnings.warn(f"gpuprop leaves out backend {name!r}: {type(e).__name__}: {e}", stacklevel=2)
    return found


def place(array: Any, where: str | None = None, dtype: Any = None) -> Any:
    """An array on another backend or device (a name as `use` takes it), in another dtype, or both."""
    source = backend_of(array)
    target, device = (source, source.device_of(array)) if where is None else _parse(where)
    value = array if target is source or type(array) is np.ndarray else source.to_numpy(array)
    with target._on(device):
        return target.asarray(value, dtype)


def place_of(array: Any) -> str:
    """The name of where an array is, as `use` and `place` take it: "numpy", "cupy:1"."""
    backend = backend_of(array)
    return f"{backend.name}:{backend.device_of(array)}" if backend in SEVERAL else backend.name


def write(array: Any, value: Any, key: Any = ...) -> None:
    """``array[key] = value`` on the device of the array, to which host values and arrays of other devices are sent."""
    backend = backend_of(array)
    with backend.at(array):
        if isinstance(value, np.ndarray | list | tuple):
            value = backend.asarray(value, array.dtype)
        array[key] = backend.asarray(value) if type(value) is backend.array_type else value

