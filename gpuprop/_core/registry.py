"""The backends by name, and the choice of the one on which new arrays are made."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from gpuprop._core.backend import BY_TYPE, SEVERAL, Backend, Unavailable
from gpuprop._core.extras import complete

GROUP = "gpuprop.backends"
HOST = "numpy"  # whose arrays are in host memory: the one backend that is always there

_classes: dict[str, type[Backend]] = {}
_instances: dict[str, Backend] = {}
_making = threading.RLock()
checks: list[Callable[[str, Backend], None]] = []  # (name, backend), called for each backend made


def register(name: str, cls: type[Backend]) -> None:
    """Make a backend known by name in this process.

    Installed packages use an entry point instead.
    """
    required = "asarray", "to_numpy", "_to_numpy"
    missing = [name for name in required if not callable(getattr(cls, name, None))]
    if missing:
        raise TypeError(f"{cls.__name__} is no backend: it lacks {', '.join(missing)}; "
                        f"derive it from gpuprop.Backend")
    _classes[name] = cls


def backends() -> dict[str, Any]:
    """Every known backend by name: its class once loaded, before that its entry point.

    Entry points are not imported.
    """
    from importlib.metadata import entry_points  # 15 ms that `import gpuprop` does not need

    return {**{ep.name: ep for ep in entry_points(group=GROUP)}, **_classes}


def load(name: str) -> type[Backend]:
    """The class of a backend, by its name or one of its aliases.

    Errors as those of `get_backend`.
    """
    if name in _classes:
        return _classes[name]
    known = backends()
    if name not in known:
        alias = next((n for n, cls in _loadable() if name in cls.aliases), None)
        if alias is None:
            names = ", ".join(sorted({*known, *(a for _, cls in _loadable() for a in cls.aliases)}))
            raise ValueError(f"unknown backend {name!r}; known are: {names}, auto")
        return _classes[alias]
    try:
        cls = known[name].load()
    except Exception as e:
        what = f"{type(e).__name__}: {e}"
        where = known[name].value
        raise ImportError(f"backend {name!r} ({where}) cannot be imported: {what}") from e
    register(name, cls)
    return _classes[name]


def _loadable() -> Iterator[tuple[str, type[Backend]]]:
    """Every backend whose class can be imported, by name."""
    for name in sorted(backends()):
        with contextlib.suppress(ImportError):
            yield name, load(name)


def get_backend(name: str) -> Backend:
    """The backend of this name, made at the first call.

    Raises ValueError for an unknown name, ImportError if its library is missing (the message has
    the line that installs it) and RuntimeError if it has no usable device (the message has the
    driver's reason).
    """
    found = _instances.get(name)
    if found is not None:
        return found
    cls = load(name)
    if name not in _classes:  # an alias
        name = next(known for known, its in _classes.items() if its is cls)
    with _making:  # one instance, whichever thread comes first
        if name not in _instances:
            _instances[name] = _make(name, cls)
    return _instances[name]


def _make(name: str, cls: type[Backend]) -> Backend:
    usable = cls.is_available()
    if not usable:
        reason = usable if isinstance(usable, Unavailable) else Unavailable("it is not available")
        raise reason.error(f"backend {name!r} cannot be used: {reason:s}")
    backend = cls()
    complete(backend, backend if name == HOST else get_backend(HOST))
    for check in checks:
        check(name, backend)
    BY_TYPE[backend.array_type] = backend
    if backend.device_count() > 1:
        SEVERAL.append(backend)
    return backend


def backend_of(array: Any) -> Backend:
    """The backend that owns an array."""
    try:
        return BY_TYPE[type(array)]
    except KeyError:
        pass
    if isinstance(array, np.ndarray):
        return get_backend(HOST)
    module = type(array).__module__.partition(".")[0]
    found = backend_for(lambda cls: module in cls.array_modules)  # its first array
    if found is not None:
        return found
    kind = f"{type(array).__module__}.{type(array).__qualname__}"
    raise TypeError(f"no backend owns arrays of type {kind}: "
                    f"convert it first, for example with gpuprop.tensor(...)")


def backend_for(wanted: Callable[[type[Backend]], bool]) -> Backend | None:
    """The first backend whose class is `wanted`, or None."""
    name = next((name for name, cls in _loadable() if wanted(cls)), None)
    return None if name is None else get_backend(name)


def usable_backends() -> dict[str, Backend]:
    """Every backend that works here.

    A third-party one that is broken is left out with a warning.
    """
    found = {}
    for name in sorted(backends()):
        try:
            found[name] = get_backend(name)
        except Exception as e:
            known = _classes.get(name)
            missing = isinstance(e, ImportError | RuntimeError) and known and known.install
            if not missing:
                what = f"{type(e).__name__}: {e}"
                warnings.warn(f"gpuprop leaves out backend {name!r}: {what}", stacklevel=2)
    return found


# ---- where new arrays are made -------------------------------------------------------------------

_of_context: ContextVar[Backend | None] = ContextVar("gpuprop_backend", default=None)
_of_process: Backend | None = None


def default_backend() -> Backend:
    """Where new arrays are made.

    It is the choice of the context, else of the process, else GPUPROP_BACKEND's, else "auto".
    """
    return chosen_backend() or set_default_backend(os.environ.get("GPUPROP_BACKEND") or "auto")


def chosen_backend() -> Backend | None:
    """Where new arrays are made if that has been chosen yet, by hand or automatically."""
    return _of_context.get() or _of_process


def set_default_backend(name: str, device: int | None = None) -> Backend:
    """Make new arrays on this backend from now on, in all threads without a choice of their own."""
    global _of_process
    backend, index = parse(name, device)
    if index is not None:
        backend.use_device(index)
    _of_process = backend
    return backend


class use:
    """Make new arrays on a backend: as a statement from now on, in every thread; or in a block.

    `name` is that of a backend or one of its aliases, such as "cpu" and "cuda"; "cuda:1" names a
    device too, and "auto" is the best that is usable.  A block holds for its own context only:
    other threads never see its choice.

    >>> import gpuprop
    >>> with gpuprop.use("numpy"):
    ...     gpuprop.zeros(2).device
    'numpy'
    """

    def __init__(self, name: str, device: int | None = None) -> None:
        self._pending = False
        self.backend, index = parse(name, device)
        self._before = _of_context.get(), self.backend.device()
        if index is not None:
            self.backend.use_device(index)
        _of_context.set(self.backend)
        self._pending = True  # until a block is entered, or the object is dropped

    def __enter__(self) -> Backend:
        self._pending = False
        _of_context.set(self._before[0])
        self._token = _of_context.set(self.backend)
        return self.backend

    def __exit__(self, *_: object) -> None:
        _of_context.reset(self._token)
        self.backend.use_device(self._before[1])

    def _choose_for_process(self) -> None:
        """Called when the object is dropped or shown: so the call was a statement, and no block."""
        global _of_process
        if self._pending:
            self._pending = False
            _of_process = self.backend
            _of_context.set(None)

    __del__ = _choose_for_process

    def __repr__(self) -> str:
        self._choose_for_process()
        return f"<new arrays are made on {self.backend.name!r}>"


@contextlib.contextmanager
def making_on(name: str) -> Iterator[Backend]:
    """Make new arrays on a backend or device, named as for `use`, inside the block.

    Only this context sees it.
    """
    backend, device = parse(name)
    token = _of_context.set(backend)
    try:
        with backend.on_device(device):
            yield backend
    finally:
        _of_context.reset(token)


def on_host() -> contextlib.AbstractContextManager[Backend]:
    """Make new arrays in host memory inside the block."""
    return making_on(HOST)


def parse(name: str, device: int | None = None) -> tuple[Backend, int | None]:
    """The backend and the device number, or None, of "cupy", "cuda:1" or "auto" for example."""
    if not isinstance(name, str):
        raise TypeError(f"a backend is chosen by its name, a str, not by {type(name).__name__}")
    word, colon, number = name.partition(":")
    if colon:
        if not re.fullmatch(r"\d+", number) or device not in (None, int(number)):
            raise ValueError(f"{name!r}: expected the number of one device after the colon, "
                             f"as in 'cuda:1'")
        device = int(number)
    backend = _best() if word == "auto" else get_backend(word)
    count = 0 if device is None else backend.device_count()
    if device is not None and not 0 <= device < count:
        raise RuntimeError(f"backend {backend.name!r} has {count} device(s); "
                           f"there is no number {device}")
    return backend, device


_reported: set[str] = set()  # automatic choices, once a process each


def _best() -> Backend:
    """The usable backend with the highest priority, which the log names with the reason."""
    import logging  # 5 ms that `import gpuprop` does not need

    logger, level, reasons = logging.getLogger("gpuprop"), logging.INFO, []
    for name, cls in sorted(_loadable(), key=lambda pair: -pair[1].priority):
        if cls.priority < 0:
            continue
        try:
            backend = get_backend(name)
        except Exception as e:
            reasons.append(str(e))
            if not isinstance(e, ImportError):  # its library is installed, so it should work
                level = logging.WARNING
            continue
        if name not in _reported:
            _reported.add(name)
            why = "; ".join(reasons) or "the first choice"
            logger.log(level, "gpuprop uses %s (%s)", name, why)
        return backend
    raise RuntimeError(f"no backend is usable: {'; '.join(reasons)}")
