"""How ops run in the context: recorded or not, definitions only, in which precision."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar, cast

from gpuprop._core.dtypes import as_dtype

F = TypeVar("F", bound=Callable)


class Mode(NamedTuple):
    """How ops run in this context."""

    recording: bool = True  # False inside no_grad()
    generic: bool = False  # True inside generic()
    low: Any = None  # the low-precision dtype inside autocast
    depth: int = 1  # of Tensors within Tensors
    inspect: Callable | None = None  # (spec, backend, run) -> run: see `instruments.inspect_ops`


current: ContextVar[Mode] = ContextVar("gpuprop_mode", default=Mode())  # noqa: B039 (immutable)


# The modes around the blocks entered; not in a Switch, which several threads may enter at once.
_outer: ContextVar[tuple[Mode, ...]] = ContextVar("gpuprop_outer_modes", default=())


class Switch(contextlib.ContextDecorator):
    """A context manager, and a decorator, that changes the mode inside."""

    def __init__(self, **change: Any) -> None:
        self._change = change

    def _recreate_cm(self) -> Switch:  # a decorated function may run in many threads at once
        return Switch(**self._change)

    def __call__(self, fn: F) -> F:
        if not _is_generator_function(fn):
            return super().__call__(fn)

        @functools.wraps(fn)
        def steps(*args: Any, **kwargs: Any) -> Iterator:
            rest = fn(*args, **kwargs)
            while True:
                with self._recreate_cm():  # between the steps the caller's mode holds
                    try:
                        value = next(rest)
                    except StopIteration as end:
                        return end.value
                yield value

        return cast(F, steps)

    def __enter__(self) -> None:
        mode = current.get()
        _outer.set((*_outer.get(), mode))
        current.set(mode._replace(**self._change))

    def __exit__(self, *_: object) -> None:
        *outer, mode = _outer.get()
        _outer.set(tuple(outer))
        current.set(mode)


CO_GENERATOR = 0x20  # inspect's; importing it takes 15 ms


def _is_generator_function(fn: Any) -> bool:
    while isinstance(fn, functools.partial):
        fn = fn.func
    code = getattr(fn, "__code__", None)
    return code is not None and bool(code.co_flags & CO_GENERATOR)


def no_grad() -> Switch:
    """Record nothing inside the block, or the decorated function."""
    return Switch(recording=False)


def enable_grad() -> Switch:
    """Record inside the block, although a no_grad() surrounds it."""
    return Switch(recording=True)


def generic() -> Switch:
    """Run only the definitions of ops: no faster versions and no backend's overrides."""
    return Switch(generic=True)


def autocast(dtype: Any = "float16", enabled: bool = True) -> Switch:
    """Run products in a low precision, and what needs range in float32; the engine casts.

    Parameters keep their own dtype and so do their gradients.  float64 is left alone.
    """
    return Switch(low=as_dtype(dtype) if enabled else None)


def is_grad_enabled() -> bool:
    return current.get().recording


def is_generic() -> bool:
    return current.get().generic
