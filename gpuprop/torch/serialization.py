"""Files, as `torch.serialization`: `load` and `save`, and the classes that `load` may create."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from gpuprop.torch._serialization import allowed, load, save

__all__ = ["add_safe_globals", "clear_safe_globals", "get_safe_globals", "load", "safe_globals",
           "save"]


def _by_name(classes: Any) -> dict[str, Any]:
    """The classes, or pairs of a class and its name in the file, by their names."""
    named = (c if isinstance(c, tuple) else (c, f"{c.__module__}.{c.__qualname__}")
             for c in classes)
    return {name: c for c, name in named}


def add_safe_globals(safe_globals: Any) -> None:
    """Let `load` create objects of these classes, in this context."""
    allowed.set({**allowed.get(), **_by_name(safe_globals)})


def get_safe_globals() -> list[Any]:
    return list(allowed.get().values())


def clear_safe_globals() -> None:
    allowed.set({})


@contextlib.contextmanager
def safe_globals(safe_globals: Any) -> Iterator[None]:
    """`add_safe_globals` for a block."""
    token = allowed.set({**allowed.get(), **_by_name(safe_globals)})
    try:
        yield
    finally:
        allowed.reset(token)
