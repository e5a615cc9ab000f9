"""ctrl-C during a `fit`: the first one ends it after the current step, the second one at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Interrupt:
    """What ctrl-C does within `handled`: the first one calls `stop`, the next KeyboardInterrupt.

    The KeyboardInterrupt waits until it is `allowed`, so that it tears nothing that must be whole,
    such as an update of the parameters.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._presses = 0
        self.is_allowed = False

    def _handle(self, *_: Any) -> None:
        self._presses += 1
        if self._presses == 1:
            self._stop()
        elif self.is_allowed:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at once within this block; the block may forbid it again."""
        self.is_allowed = True
        try:
            yield
        finally:
            self.is_allowed = False

    @contextlib.contextmanager
    def forbidden(self) -> Iterator[None]:
        """Raise no KeyboardInterrupt within this block."""
        before, self.is_allowed = self.is_allowed, False
        try:
            yield
        finally:
            self.is_allowed = before

    def raise_pending(self) -> None:
        """Raise a KeyboardInterrupt that came when it was not allowed."""
        if self._presses > 1:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle ctrl-C, unless the program has a handler of its own or this is another thread."""
        default = signal.default_int_handler
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) is not default:
            yield
            return
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, default)
        self.raise_pending()
