"""Instruments: how verification, debugging and capture observe what runs.

All state of this module is context-local: what one thread switches on does not affect another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from gpuprop._core.mode import Setting, Switch, current

Listeners = tuple[Callable[[Any], None], ...]


class Event:
    """A kind of event that happens to an object, such as a step of an optimizer.

    ``event(subject)`` calls the listeners of the current context with the object.
    """

    __slots__ = ("_listeners",)

    def __init__(self, name: str) -> None:
        self._listeners: ContextVar[Listeners] = ContextVar(f"gpuprop_{name}", default=())

    def __call__(self, subject: Any) -> None:
        for listener in self._listeners.get():
            listener(subject)

    @contextlib.contextmanager
    def listen(self, listener: Callable[[Any], None]) -> Iterator[None]:
        """Call `listener(subject)` for each event inside the block."""
        token = self._listeners.set((*self._listeners.get(), listener))
        try:
            yield
        finally:
            self._listeners.reset(token)

    @contextlib.contextmanager
    def collect(self) -> Iterator[dict[int, Any]]:
        """Collect the objects of all events inside the block, by id, each at its first event."""
        subjects: dict[int, Any] = {}
        with self.listen(lambda subject: subjects.setdefault(id(subject), subject)):
            yield subjects

    @property
    def is_watched(self) -> bool:
        """True if there are listeners in this context."""
        return bool(self._listeners.get())


leaf_reached = Event("leaf_reached")  # a leaf Tensor receives a gradient in backward
parameter_changed = Event("parameter_changed")  # the values of a Parameter were changed in place
optimizer_stepped = Event("optimizer_stepped")  # an optimizer has taken a step


# ---- calls of ops and modules --------------------------------------------------------------------


def inspect_ops(inspect: Callable) -> Switch:
    """A context manager that replaces the function `run` of each op by another one.

    ``inspect(spec, backend, run)`` returns that function.  Like the body of an op, it takes
    ``(xp, *arrays, **constants)`` and returns (out, pullbacks).  No step is captured inside the
    block.
    """
    outer = current.get().inspect
    if outer is None:
        return Switch(inspect=inspect)

    def nested(spec: Any, backend: Any, run: Callable) -> Callable:
        return inspect(spec, backend, outer(spec, backend, run))

    return Switch(inspect=nested)


_module_call: ContextVar[Callable | None] = ContextVar("gpuprop_module_call", default=None)
module_call = _module_call.get  # returns the `call` of `around_modules`, or None


@contextlib.contextmanager
def around_modules(call: Callable) -> Iterator[None]:
    """Replace each call of a module inside the block by ``call(module, args, kwargs, run)``.

    ``run(module, args, kwargs)`` makes the original call and returns its output.
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
    """Collect the modules that are called inside the block, in the order of their first calls."""
    called: dict[Any, None] = {}

    def record_call(module: Any, args: tuple, kwargs: dict, run: Callable) -> Any:
        called[module] = None
        return run(module, args, kwargs)

    with around_modules(record_call):
        yield called


# ---- waiting for a device ------------------------------------------------------------------------

# True inside gpuprop.debug()
check_at_once: ContextVar[bool] = ContextVar("gpuprop_check_at_once", default=False)
_no_sync: ContextVar[bool] = ContextVar("gpuprop_no_sync", default=False)


def no_sync() -> Setting:
    """Raise RuntimeError when this thread would wait for a device inside the block.

    It waits when the host reads a value of a Tensor, and in `synchronize`.  On NumPy nothing waits,
    but the same calls raise, because they would wait on a device.  Methods of a device array
    itself, such as CuPy's `.get()`, are not checked.
    """
    return Setting(_no_sync, True)


def waits(what: str) -> None:
    """Declare that `what` waits for a device: raises RuntimeError inside `no_sync()`."""
    if _no_sync.get():
        raise RuntimeError(f"{what} makes the host wait for the device inside gpuprop.no_sync(): "
                           f"read values after the block, or keep them on the device")
