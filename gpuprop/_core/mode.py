"""How ops run in the context: recorded or not, definitions only, in which precision."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

from gpuprop._core.dtypes import as_dtype


class Mode(NamedTuple):
    """What the context says of how ops run."""

    recording: bool = True
    generic: bool = False
    low: Any = None  # the low-precision dtype inside autocast
    depth: int = 1  # of Tensors within Tensors
    inspect: Callable | None = None  # (spec, backend, run) -> run: what observes ops, see `instruments`


current: ContextVar[Mode] = ContextVar("gpuprop_mode", default=Mode())  # noqa: B039 (a NamedTuple does not change)


class Switch(contextlib.ContextDecorator):
    """A context manager, and a decorator, that changes the mode inside."""

    def __init__(self, **change: Any) -> None:
        self._change = change
        self._tokens: list = []

    def _recreate_cm(self) -> Switch:  # a decorated function may run in many threads at once
        return Switch(**self._change)

    def __call__(self, fn: Callable) -> Any:
        if not inspect.isgeneratorfunction(fn):
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

        return steps

    def __enter__(self) -> None:
        self._tokens.append(current.set(current.get()._replace(**self._change)))

    def __exit__(self, *_: object) -> None:
        current.reset(self._tokens.pop())


def no_grad() -> Switch:
    """Record nothing inside the block, or the decorated function."""
    return Switch(recording=False)


def enable_grad() -> Switch:
    """Record inside the block though a no_grad() surrounds it."""
    return Switch(recording=True)


def generic() -> Switch:
    """Run only the definitions of ops: no faster versions and no backend's overrides."""
    return Switch(generic=True)


def autocast(dtype: Any = "float16", enabled: bool = True) -> Switch:
    """Run products in a low precision and what needs range in float32; ops say which they are, the engine casts.

    Parameters keep their own dtype and so do their gradients.  float64 is left alone.
    """
    return Switch(low=as_dtype(dtype) if enabled else None)


def is_grad_enabled() -> bool:
    return current.get().recording


def is_generic() -> bool:
    return current.get().generic
