"""ctrl-C during a `fit`: the first one ends it after the current step, the second one at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Interrupt:
    """What ctrl-C does within `handled`: the first one calls `stop`, the next KeyboardInterrupt.

    While `is_updating`, the second one waits for `end_update`, so that no update is torn.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._presses = 0
        self.is_updating = False

    def end_update(self) -> None:
        """Note that the update is whole; raises a KeyboardInterrupt that came during it."""
        self.is_updating = False
        if self._presses > 1:
            raise KeyboardInterrupt

    def _handle(self, *_: Any) -> None:
        self._presses += 1
        if self._presses == 1:
            self._stop()
        elif not self.is_updating or self._presses > 2:
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
