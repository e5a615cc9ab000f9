"""`Draws`: a function that runs again draws the same random numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from gpuprop._core.mode import Setting

# How a key is taken: None, or a function of the one that takes the next key.
_taking: ContextVar[Callable[[Callable], Any] | None] = ContextVar("gpuprop_draws", default=None)


def taken(take: Callable[[], Any]) -> Any:
    """The next key."""
    how = _taking.get()
    return take() if how is None else how(take)


class Draws:
    """The keys that generators give to a function, so that it can draw the same numbers again."""

    def __init__(self) -> None:
        self._keys: list[Any] = []

    def noted(self) -> Setting:
        """A block in which the keys are noted."""
        outer = _taking.get()

        def note(take: Callable) -> Any:
            key = take() if outer is None else outer(take)
            self._keys.append(key)
            return key

        return Setting(_taking, note)

    def repeated(self) -> Setting:
        """A block in which the same keys are given, in the same order; no generator moves."""
        keys = iter(self._keys)

        def repeat(take: Callable) -> Any:
            for key in keys:
                return key
            raise RuntimeError("a function that was run again drew more random numbers than the "
                               "first time: it must do the same both times")

        return Setting(_taking, repeat)
