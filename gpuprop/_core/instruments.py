"""Instruments: how verification, debugging and capture observe what runs.

All state of this module is context-local: what one thread switches on does not affect another.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from gpuprop._core.mode import Mode, Setting, Switch, current, current_recording

F = TypeVar("F", bound=Callable)


class Observer(Setting):
    """A setting in which `function` observes something.

    It observes nothing more once its block has ended, even if that was in another context, such as
    the thread that closed the generator with the block.
    """

    def __init__(self, variable: Any, function: Callable) -> None:
        super().__init__(variable, function)
        self._entries: list[None] = []  # one for each open block of this object, in any context

    def __enter__(self) -> None:
        self._entries.append(None)
        super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._entries.pop()
        super().__exit__(*error)

    def has_ended(self) -> bool:
        """True if no block is open; this context then forgets the observer."""
        if not self._entries:
            Setting.__exit__(self)
        return not self._entries


class Flag(Observer):
    """The true value of a variable that is otherwise False."""

    def __init__(self, variable: Any) -> None:
        super().__init__(variable, bool)

    def __bool__(self) -> bool:
        return not self.has_ended()

    def _changed(self, before: Any) -> Any:
        return self


class Listener(Observer):
    """Calls a function for each event of one kind."""

    def notify(self, subject: Any) -> None:
        if not self.has_ended():
            self._value(subject)

    def _changed(self, before: tuple[Listener, ...]) -> tuple[Listener, ...]:
        return (*before, self)


class Event:
    """A kind of event that happens to an object, such as a step of an optimizer.

    ``event(subject)`` calls the listeners of the current context with the object.
    """

    __slots__ = ("_listeners",)

    def __init__(self, name: str) -> None:
        self._listeners: ContextVar[tuple[Listener, ...]] = ContextVar(
            f"gpuprop_{name}", default=())

    def __call__(self, subject: Any) -> None:
        for listener in self._listeners.get():
            listener.notify(subject)

    def of_each(self, subjects: Iterable[Any]) -> None:
        """Report the event for each of these objects."""
        if self._listeners.get():
            for subject in subjects:
                self(subject)

    def listen(self, listener: Callable[[Any], None]) -> Listener:
        """A context manager: call `listener(subject)` for each event inside the block."""
        return Listener(self._listeners, listener)

    @contextlib.contextmanager
    def collect(self) -> Iterator[dict[int, Any]]:
        """Collect the objects of all events inside the block, by id, each at its first event."""
        subjects: dict[int, Any] = {}
        with self.listen(lambda subject: subjects.setdefault(id(subject), subject)):
            yield subjects

    @property
    def is_watched(self) -> bool:
        """True if there are listeners in this context."""
        listeners = self._listeners.get()
        return bool(listeners) and not all([listener.has_ended() for listener in listeners])


leaf_reached = Event("leaf_reached")  # a backward pass reaches a leaf Tensor
parameter_changed = Event("parameter_changed")  # the values of a Parameter were changed in place
optimizer_stepped = Event("optimizer_stepped")  # an optimizer has taken a step


# ---- calls of ops and modules --------------------------------------------------------------------


def inspect_ops(inspect: Callable) -> OpInspector:
    """A context manager that replaces the function `run` of each op by another one.

    ``inspect(spec, backend, run)`` returns that function.  Like the body of an op, it takes
    ``(xp, *arrays, **constants)`` and returns (out, pullbacks).  No step is captured inside the
    block.
    """
    return OpInspector(current, inspect)


class OpInspector(Observer):
    """See `inspect_ops`."""

    def _changed(self, before: Mode) -> Mode:
        outer = before.inspect

        def nested(spec: Any, backend: Any, run: Callable) -> Callable:
            if outer is not None:
                run = outer(spec, backend, run)
            return run if self.has_ended() else self._value(spec, backend, run)

        return before._replace(inspect=nested)


_module_call: ContextVar[Callable | None] = ContextVar("gpuprop_module_call", default=None)
module_call = _module_call.get  # returns the `call` of `around_modules`, or None


def around_modules(call: Callable) -> ModuleObserver:
    """A context manager: each call of a module becomes ``call(module, args, kwargs, run)``.

    ``run(module, args, kwargs)`` makes the original call and returns its output.
    """
    return ModuleObserver(_module_call, call)


class ModuleObserver(Observer):
    """See `around_modules`."""

    def _changed(self, outer: Callable | None) -> Callable:
        def nested(module: Any, args: tuple, kwargs: dict, run: Callable) -> Any:
            inner = run if outer is None else lambda m, a, k: outer(m, a, k, run)
            if self.has_ended():
                return inner(module, args, kwargs)
            return self._value(module, args, kwargs, inner)

        return nested


@contextlib.contextmanager
def collect_modules() -> Iterator[dict[Any, None]]:
    """Collect the modules that are called inside the block, in the order of their first calls."""
    called: dict[Any, None] = {}

    def record_call(module: Any, args: tuple, kwargs: dict, run: Callable) -> Any:
        called[module] = None
        return run(module, args, kwargs)

    with around_modules(record_call):
        yield called


# ---- calls that are recorded as one ------------------------------------------------------------

@contextlib.contextmanager
def not_recorded() -> Iterator[None]:
    """A context manager for what is recorded as one call: ops inside the block run as usual."""
    with Switch(recorded_in=None):
        yield


def as_one_call(writes: Callable[..., Iterable[Any]]) -> Callable[[F], F]:
    """A decorator for functions that use the arrays and gradients of Tensors themselves.

    Such as the update of an optimizer: its arrays are no arguments of ops.  A recording with arrays
    of its own makes one call of it, with the arrays that the Tensors have outside.
    ``writes(*args)`` are arrays that the function may write, beside those of the Tensors that the
    step uses.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any) -> Any:
            recording = current_recording()
            if recording is None:
                return function(*args)
            return recording.call_outside(function, args, writes(*args))

        return cast(F, call)

    return decorate


# ---- waiting for a device ------------------------------------------------------------------------

check_at_once: ContextVar[Flag | bool] = ContextVar("gpuprop_check_at_once", default=False)
_no_sync: ContextVar[Flag | bool] = ContextVar("gpuprop_no_sync", default=False)


def checking_at_once() -> Flag:
    """Inside the block, as in `gpuprop.debug()`, a failed `Backend.check` raises at once."""
    return Flag(check_at_once)


def no_sync() -> Flag:
    """Raise RuntimeError when this thread would wait for a device inside the block.

    It waits when the host reads a value of a Tensor, and in `synchronize`.  On NumPy nothing waits,
    but the same calls raise, because they would wait on a device.  Methods of a device array
    itself, such as CuPy's `.get()`, are not checked.
    """
    return Flag(_no_sync)


def waits(what: str) -> None:
    """Declare that `what` waits for a device: raises RuntimeError inside `no_sync()`."""
    if _no_sync.get():
        raise RuntimeError(f"{what} makes the host wait for the device inside gpuprop.no_sync(): "
                           f"read values after the block, or keep them on the device")
