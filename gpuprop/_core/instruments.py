"""Instruments: how verification, debugging and capture observe what runs.

All state here is context-local: a thread never sees what another one switched on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from gpuprop._core.mode import Switch, current

Listeners = tuple[Callable[[Any], None], ...]


class Event:
    """Something that happens to an object.

    The listeners of the current context are called with this object.
    """

    __slots__ = ("_listeners",)

    def __init__(self, name: str) -> None:
        self._listeners: ContextVar[Listeners] = ContextVar(f"gpuprop_{name}", default=())

    def __call__(self, subject: Any) -> None:
        for listener in self._listeners.get():
            listener(subject)

    @contextlib.contextmanager
    def listen(self, listener: Callable[[Any], None]) -> Iterator[None]:
        """Call `listener(subject)` at each event inside the block."""
        token = self._listeners.set((*self._listeners.get(), listener))
        try:
            yield
        finally:
            self._listeners.reset(token)

    @contextlib.contextmanager
    def collect(self) -> Iterator[dict[int, Any]]:
        """The objects of all events inside the block, by id, in the order of first events."""
        found: dict[int, Any] = {}
        with self.listen(lambda subject: found.setdefault(id(subject), subject)):
            yield found

    @property
    def is_watched(self) -> bool:
        """True where somebody listens in this context."""
        return bool(self._listeners.get())


leaf_reached = Event("leaf_reached")  # a backward hands a gradient to a leaf Tensor
parameter_changed = Event("parameter_changed")  # the values of a Parameter were changed in place
optimizer_stepped = Event("optimizer_stepped")


# ---- calls of ops and modules --------------------------------------------------------------------


def inspect_ops(inspect: Callable) -> Switch:
    """A context manager: what runs each op is ``inspect(spec, backend, run)`` in place of `run`.

    It is called as ``run(xp, *arrays, **constants)`` and returns (out, pullbacks) of arrays, as the
    body of an op does.  No step is captured inside the block.
    """
    outer = current.get().inspect
    if outer is None:
        return Switch(inspect=inspect)
    return Switch(inspect=lambda spec, backend, run: inspect(
        spec, backend, outer(spec, backend, run)))


_module_call: ContextVar[Callable | None] = ContextVar("gpuprop_module_call", default=None)
module_call = _module_call.get  # (module, args, kwargs, run) -> output, or None


@contextlib.contextmanager
def around_modules(call: Callable) -> Iterator[None]:
    """Inside the block a call of a module becomes ``call(module, args, kwargs, run)``.

    ``run(module, args, kwargs)`` does what the call does otherwise.
    """
    outer = module_call()

    def nested(module: Any, args: tuple, kwargs: dict, run: Callable) -> Any:
        inner = run if outer is None else lambda m, a, k: outer(m, a, k, run)
        return call(module, args, kwargs, inner)

    token = _module_call.set(nested)
    try:
        yield
    finally:
        _module_call.reset(token)


@contextlib.contextmanager
def collect_modules() -> Iterator[dict[Any, None]]:
    """The modules that are called inside the block, in the order of their first calls."""
    called: dict[Any, None] = {}

    def note(module: Any, args: tuple, kwargs: dict, run: Callable) -> Any:
        called[module] = None
        return run(module, args, kwargs)

    with around_modules(note):
        yield called


# ---- waiting for a device ------------------------------------------------------------------------

# True inside gpuprop.debug()
check_at_once: ContextVar[bool] = ContextVar("gpuprop_check_at_once", default=False)
_no_sync: ContextVar[bool] = ContextVar("gpuprop_no_sync", default=False)


@contextlib.contextmanager
def no_sync() -> Iterator[None]:
    """Raise RuntimeError inside the block where this thread would wait for a device.

    It would where a value is read on the host, or `synchronize` is called.  NumPy never waits, but
    reading a Tensor raises there too, since a device would.  Methods of a device array itself, such
    as CuPy's `.get()`, are not checked.
    """
    token = _no_sync.set(True)
    try:
        yield
    finally:
        _no_sync.reset(token)


def waits(what: str) -> None:
    """Declare that the host waits for a device here: RuntimeError inside `no_sync()`."""
    if _no_sync.get():
        raise RuntimeError(f"{what} makes the host wait for the device inside "
                           f"gpuprop.no_sync(): "
                           f"read values after the block, or keep them on the device")
