"""Backends by name, and the choice of the default backend, on which new arrays are made."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.backend import BY_TYPE, MULTI_DEVICE, Backend, Unavailable, forget_choices
from gpuprop._core.extras import complete
from gpuprop._core.locks import new_rlock
from gpuprop._core.mode import Block, Setting, current_recorder
from gpuprop._core.warnings import warn_once

GROUP = "gpuprop.backends"
HOST = "numpy"  # the backend whose arrays are in host memory; it is always usable

_classes: dict[str, type[Backend]] = {}
_instances: dict[str, Backend] = {}
_by_alias: dict[str, Backend] = {}  # to find one by its alias reads the files of all packages
_creation_lock = new_rlock()
backend_checks: list[Callable[[str, Backend], None]] = []  # called as check(name, new backend)


def register(name: str, cls: type[Backend]) -> None:
    """Register a backend under a name in this process.

    An installed package uses an entry point instead.  Another class of the same name replaces the
    backend; arrays of the old one belong to none then.  The names of gpuprop's own backends cannot
    be registered.
    """
    owner = _own_names().get(name)
    if owner is not None and cls is not load(owner):
        raise ValueError(f"register: the name {name!r} belongs to gpuprop's own backend {owner!r}: "
                         f"choose another one")
    _add(name, cls)


def _add(name: str, cls: type[Backend]) -> None:
    if not isinstance(cls, type):
        raise TypeError(f"backend {name!r}: expected a class, got {cls!r}")
    required = "asarray", "to_numpy", "_to_numpy"
    missing = [method for method in required if not callable(getattr(cls, method, None))]
    if missing:
        raise TypeError(f"{cls.__name__} is not a backend: it lacks {', '.join(missing)}; "
                        f"derive it from gpuprop.Backend")
    if ":" in name or not isinstance(cls.priority, int):
        raise TypeError(f"backend {name!r}: its name must not contain ':', and its priority must "
                        f"be an int")
    for attribute in ("aliases", "array_modules", "dlpack_devices"):
        if not isinstance(getattr(cls, attribute), tuple):
            raise TypeError(f"backend {name!r}: {attribute} must be a tuple, got "
                            f"{getattr(cls, attribute)!r}")
    with _creation_lock:
        if _classes.get(name, cls) is not cls:
            _forget(name)
        _classes[name] = cls
        _by_alias.clear()  # the name may have been an alias


def _forget(name: str) -> None:
    """Drop the instance of a backend whose class is replaced."""
    backend = _instances.pop(name, None)
    own = [backend, backend and backend.recorder]
    for array_type in [kind for kind, owner in BY_TYPE.items() if owner in own]:
        del BY_TYPE[array_type]
    if backend in MULTI_DEVICE:
        MULTI_DEVICE.remove(backend)
    forget_choices()


def backends() -> dict[str, Any]:
    """All installed and registered backends by name.

    A value is the backend's class if that has been loaded, else its entry point.  A package that
    claims a name of gpuprop's own backends, or one that another package has, is left out with a
    warning.
    """
    found: dict[str, Any] = {}
    points = _entry_points()
    own = _own_names() if points and not _is_own(points[-1]) else {}
    for point in points:
        if found.setdefault(point.name, point) is not point:
            _warn_of_claim(point, f"{found[point.name].value} has that name")
        elif not _is_own(point) and point.name in own:
            del found[point.name]
            _warn_of_claim(point, f"it is an alias of {own[point.name]!r}")
    return {**found, **_classes}


def _entry_points() -> list[Any]:
    """The entry points of all backends, gpuprop's own first."""
    from importlib.metadata import entry_points  # 15 ms that `import gpuprop` does not need

    return sorted(entry_points(group=GROUP),
                  key=lambda point: (not _is_own(point), point.name, _source(point)))


def _is_own(point: Any) -> bool:
    return _package(point) == "gpuprop"


def _package(point: Any) -> str:
    """The name of the installed package that an entry point is from, or ""."""
    return getattr(getattr(point, "dist", None), "name", "")


def _own_names() -> dict[str, str]:
    """The names and aliases of the backends that come with gpuprop: {name or alias: name}."""
    names: dict[str, str] = {}
    for point in _entry_points():
        if _is_own(point):
            names |= dict.fromkeys((point.name, *point.load().aliases), point.name)
    return names


def _source(point: Any) -> str:
    """Where an entry point is from, for messages."""
    package = _package(point)
    return f"{point.value} of the package {package!r}" if package else point.value


def _warn_of_claim(point: Any, why: str) -> None:
    warn_once(f"backend {point.name!r}, {_source(point)}, is left out, because {why}: uninstall "
              f"that package, or let its authors choose another name")


def load(name: str) -> type[Backend]:
    """The class of a backend, by its name or one of its aliases.

    Raises ValueError for an unknown name, and ImportError if its package cannot be imported.
    """
    if name in _classes:
        return _classes[name]
    known = backends()
    if name in _classes:  # another thread has loaded it meanwhile
        return _classes[name]
    if name not in known:
        return _class_with_alias(name, known)
    point = known[name]
    try:
        _add(name, point.load())
    except (Exception, SystemExit) as e:
        what = f"{type(e).__name__}: {e}"
        raise ImportError(
            f"backend {name!r} ({_source(point)}) cannot be imported: {what}") from e
    return _classes[name]


def _class_with_alias(alias: str, known: Iterable[str]) -> type[Backend]:
    owner = _own_names().get(alias)
    if owner is not None:
        return load(owner)
    names = set(known)
    for _, cls in _loadable():
        if alias in cls.aliases:
            return cls
        names.update(cls.aliases)
    raise ValueError(f"unknown backend {alias!r}: expected one of {', '.join(sorted(names))}, auto")


def _loadable() -> Iterator[tuple[str, type[Backend]]]:
    """(name, class) of every backend whose class can be imported."""
    for name in sorted(backends()):
        with contextlib.suppress(ImportError):
            yield name, load(name)


def get_backend(name: str) -> Backend:
    """The backend with this name or alias; the first call creates it.

    Raises ValueError for an unknown name, ImportError if its library is missing (the message
    contains the command that installs it), and RuntimeError if it has no usable device (the message
    contains the driver's reason).
    """
    found = _instances.get(name) or _by_alias.get(name)
    if found is not None:
        return found
    cls = load(name)
    alias = None if name in _classes else name
    if alias is not None:
        name = next(registered for registered, c in _classes.items() if c is cls)
    with _creation_lock:  # threads share one instance
        if name not in _instances:
            _instances[name] = _make(name, cls)
        if alias is not None and alias not in _classes and _classes.get(name) is cls:
            _by_alias[alias] = _instances[name]
    return _instances[name]


def _make(name: str, cls: type[Backend]) -> Backend:
    usable = cls.is_available()
    if not usable:
        reason = usable if isinstance(usable, Unavailable) else Unavailable("it is not available")
        raise reason.error(f"backend {name!r} cannot be used: {reason:s}")
    backend = cls()
    complete(backend, backend if name == HOST else get_backend(HOST))
    for check in backend_checks:
        check(name, backend)
    has_devices = backend.device_count() > 1
    owner = BY_TYPE.setdefault(backend.array_type, backend)
    if owner is not backend:
        raise TypeError(f"backend {name!r}: its array_type {backend.array_type.__name__} belongs "
                        f"to backend {owner.name!r}")
    if backend.recorder is not None:
        BY_TYPE[backend.recorder.array_type] = backend.recorder
    if has_devices:
        MULTI_DEVICE.append(backend)
    forget_choices()  # its array type may have been used before
    return backend


def backend_of(array: Any) -> Backend:
    """The backend that owns an array; while a step is recorded, perhaps the recording's."""
    recorder = current_recorder()
    if recorder is not None and type(array) in recorder.guests:
        return recorder
    try:
        return BY_TYPE[type(array)]
    except KeyError:
        pass
    if isinstance(array, np.ndarray):
        return get_backend(HOST)
    module = type(array).__module__.partition(".")[0]
    found = backend_for(lambda cls: module in cls.array_modules)  # a backend not yet in use
    if found is not None:
        return found
    kind = f"{type(array).__module__}.{type(array).__qualname__}"
    raise TypeError(f"no backend owns arrays of type {kind}: "
                    f"convert it first, for example with gpuprop.tensor(...)")


def of_recording(array: Any) -> Any:
    """The array itself, or while a step is recorded, the recording's array for it."""
    recorder = current_recorder()
    if recorder is not None and type(array) in recorder.guests:
        return recorder.asarray(array)
    return array


def stored(array: Any) -> Any:
    """The array to store in a Tensor: that from before the recording, if `array` stands for it."""
    recorder = current_recorder()
    return array if recorder is None else recorder.stored(array)


def backend_for(accepts: Callable[[type[Backend]], bool]) -> Backend | None:
    """The first backend with ``accepts(its class)``, or None."""
    name = next((name for name, cls in _loadable() if accepts(cls)), None)
    return None if name is None else get_backend(name)


def usable_backends() -> dict[str, Backend]:
    """All backends that can be used on this machine, by name.

    A backend whose library or device is missing is left out; one that fails for another reason is
    left out with a warning.
    """
    found = {}
    for name in sorted(backends()):
        try:
            found[name] = get_backend(name)
        except Exception as e:
            cls = _classes.get(name)
            missing = isinstance(e, ImportError | RuntimeError) and cls and cls.install
            if not missing:
                what = f"{type(e).__name__}: {e}"
                warnings.warn(f"gpuprop leaves out backend {name!r}: {what}", stacklevel=2)
    return found


# ---- the default backend -------------------------------------------------------------------------

_context_backend: ContextVar[Backend | None] = ContextVar("gpuprop_backend", default=None)
_process_choice: Choice | None = None
_automatic = "auto"  # the choice where nothing else has been chosen
_thread = threading.local()  # `choice`: whose device is the current one of this thread


class Choice:
    """The default backend of the process, and the device that its threads make current.

    `number` is its place in the order of the calls.
    """

    def __init__(self, backend: Backend, device: int | None, number: int) -> None:
        self.backend = backend
        self.device = device
        self.number = number


UNASKED = -1  # the number of a choice that the user did not make
_choice_lock = new_rlock()
_numbers = itertools.count()


def default_backend() -> Backend:
    """The backend on which new arrays are made.

    It is the context's choice, else the process's, else that of GPUPROP_BACKEND, else "auto".
    """
    found = chosen_backend()
    if found is None:
        backend, index = parse_backend(os.environ.get("GPUPROP_BACKEND") or _automatic)
        _choose_for_process(Choice(backend, index, UNASKED))
        found = chosen_backend() or backend
    recorder = current_recorder()
    return recorder if recorder is not None and recorder.host is found else found


def chosen_backend() -> Backend | None:
    """The default backend, or None if neither the user nor `default_backend` has chosen one yet."""
    found = _context_backend.get()
    choice = _process_choice
    if found is None and choice is not None:
        found = choice.backend
    if found is None or BY_TYPE.get(found.array_type) is not found:  # replaced by `register`
        return found and get_backend(found.name)
    if choice is None or _context_backend.get() is not None:
        return found
    if choice.device is not None and getattr(_thread, "choice", None) is not choice:
        _thread.choice = choice
        choice.backend.use_device(choice.device)
    return choice.backend


def set_default_backend(name: str, device: int | None = None) -> Backend:
    """Set the default backend of the process: of every thread without a choice of its own."""
    backend, index = parse_backend(name, device)
    if index is not None:
        backend.use_device(index)
    _choose_for_process(Choice(backend, index, next(_numbers)))
    return backend


def set_automatic(name: str) -> None:
    """Set the backend that is used where neither the user nor the environment has chosen one."""
    global _automatic
    _automatic = name


def _choose_for_process(choice: Choice) -> None:
    """Set the choice of the process, unless a later one has been made."""
    global _process_choice
    with _choice_lock:
        if _process_choice is None or _process_choice.number < choice.number:
            _process_choice = _thread.choice = choice


class _DeviceOf(NamedTuple):
    """The current device of this thread, as a variable for `Setting`."""

    backend: Backend

    def get(self) -> int:
        return self.backend.device()

    def set(self, index: int) -> None:
        self.backend.use_device(index)


class use(Block):
    """Choose the default backend, on which new arrays are made.

    As a statement, `use` chooses for the process, so every thread follows.  As a context manager or
    decorator it chooses for its block and its context; other threads do not see the choice.

    `name` is the name or an alias of a backend, such as "numpy", "cpu" and "cuda"; "cuda:1" also
    names a device, and "auto" is the usable backend with the highest priority.

    >>> import gpuprop
    >>> with gpuprop.use("numpy"):
    ...     gpuprop.zeros(2).device
    'numpy'
    """

    def __init__(self, name: str, device: int | None = None) -> None:
        self._pending = False
        self._number = next(_numbers)
        self.backend, self._device = parse_backend(name, device)
        self._backend_before = _context_backend.get()
        self._device_before = self.backend.device()
        self._settings = (Setting(_context_backend, self.backend),
                          _DeviceSetting(_DeviceOf(self.backend), self._device))
        if self._device is not None:
            self.backend.use_device(self._device)
        _context_backend.set(self.backend)
        self._pending = True  # until a block is entered, or the object is deleted

    def __enter__(self) -> Backend:
        self._take_back()
        for setting in self._settings:
            setting.__enter__()
        return self.backend

    def __exit__(self, *error: object) -> None:
        for setting in reversed(self._settings):
            setting.__exit__()

    def __call__(self, fn: Any) -> Any:
        self._take_back()
        return super().__call__(fn)

    def _take_back(self) -> None:
        """Undo what the constructor has chosen: it was no statement."""
        if self._pending:
            self._pending = False
            _context_backend.set(self._backend_before)
            self.backend.use_device(self._device_before)

    def _finish_statement(self) -> None:
        """Runs when the object is deleted or displayed: without a block, it is a statement."""
        if self._pending:
            self._pending = False
            _choose_for_process(Choice(self.backend, self._device, self._number))
            if _context_backend.get() is self.backend:
                _context_backend.set(None)

    __del__ = _finish_statement

    def __repr__(self) -> str:
        self._finish_statement()
        return f"<new arrays are made on {self.backend.name!r}>"


class _DeviceSetting(Setting):
    """A block in which a device is the current one; with None, one that restores the device."""

    def _changed(self, before: int) -> int:
        return before if self._value is None else self._value


@contextlib.contextmanager
def making_on(name: str) -> Iterator[Backend]:
    """Make new arrays on a backend or device inside the block, in this context only.

    `name` is as for `use`.
    """
    backend, device = parse_backend(name)
    with Setting(_context_backend, backend), backend.on_device(device):
        yield backend


def on_host() -> contextlib.AbstractContextManager[Backend]:
    """Make new arrays in host memory inside the block."""
    return making_on(HOST)


def parse_backend(name: str, device: int | None = None) -> tuple[Backend, int | None]:
    """The backend and the device index, if any, that a name such as "cuda:1" or "auto" means."""
    if not isinstance(name, str):
        raise TypeError(f"a backend or device must be a name, such as 'cpu' or 'cuda:0', "
                        f"got {name!r}")
    if device is not None and type(device) is not int:
        raise TypeError(f"expected the number of a device, an int, got {device!r}")
    backend_name, colon, number = name.partition(":")
    if colon:
        if not re.fullmatch(r"\d+", number) or device not in (None, int(number)):
            raise ValueError(f"{name!r}: expected the number of one device after the colon, "
                             f"as in 'cuda:1'")
        device = int(number)
    backend = _best() if backend_name == "auto" else get_backend(backend_name)
    if device is not None:
        count = backend.device_count()
        if not 0 <= device < count:
            raise RuntimeError(f"backend {backend.name!r} has {count} device(s), numbered from 0: "
                               f"there is no number {device}")
    return backend, device


_logged_choices: set[str] = set()  # each automatic choice is logged once per process


def _best() -> Backend:
    """The usable backend with the highest priority; the choice and its reason are logged."""
    import logging  # 5 ms that `import gpuprop` does not need

    level = logging.INFO
    reasons: list[str] = []  # why backends with a higher priority cannot be used
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
        if name not in _logged_choices:
            _logged_choices.add(name)
            why = "; ".join(reasons) or "the first choice"
            logging.getLogger("gpuprop").log(level, "gpuprop uses %s (%s)", name, why)
        return backend
    raise RuntimeError(f"no backend is usable: {'; '.join(reasons)}")
