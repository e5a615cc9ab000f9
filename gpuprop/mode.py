"""How ops run in the context: recorded or not, definitions only, in which precision."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np


def as_dtype(dtype: Any) -> np.dtype:
    """`dtype` as NumPy's; bfloat16 by its name too, which NumPy knows once ml_dtypes is imported."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise ImportError("bfloat16 needs the package ml_dtypes: pip install ml_dtypes") from None
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


HALF = "eE"  # the characters of float16 and bfloat16, as their dtypes have them


def widened(a: Any) -> Any:
    """An array of a half type in float32, to be summed for example; every other array as it is."""
    return a.astype("float32") if a.dtype.char in HALF else a


def largest(dtype: Any) -> float:
    """The largest finite number of a floating dtype; NumPy does not know bfloat16's."""
    return 3.3895313892515355e38 if dtype.name == "bfloat16" else float(np.finfo(dtype).max)


def wide(dtype: Any) -> str:
    """The type in which arrays of `dtype` are computed, and which their coefficients have: half types use float32."""
    return "float64" if dtype.itemsize == 8 else "float32"


class Mode(NamedTuple):
    """What the context says of how ops run."""

    recording: bool = True
    generic: bool = False
    low: Any = None  # the low-precision dtype inside autocast
    depth: int = 1  # of Tensors within Tensors


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
    """Run the definitions only, no faster version and no backend's twin."""
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


class Watch:
    """What this thread does inside ``with watch() as noted:``; `noted` is None elsewhere.

    Blocks may be nested: what the inner one notes is the outer one's too, once it ends.
    """

    def __init__(self) -> None:
        self._noted: ContextVar[dict | None] = ContextVar("gpuprop_watch", default=None)

    @property
    def noted(self) -> dict | None:
        return self._noted.get()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[dict]:
        outer, inner = self.noted, {}  # type: ignore[var-annotated]
        token = self._noted.set(inner)
        try:
            yield inner
        finally:
            self._noted.reset(token)
            if outer is not None:
                outer.update(inner)
