"""The events of which a `fit` tells its callbacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuprop._core.checks import as_choice, as_instance
from gpuprop._core.loading import as_entries
from gpuprop.training._callbacks import EVENTS, Callback
from gpuprop.training._interrupt import Interrupt

if TYPE_CHECKING:
    from gpuprop.training._trainer import Trainer


@dataclass
class Event:
    """An event of which some callbacks have been told, by their keys, and others have not."""

    name: str
    called: list[str]

    def state_dict(self) -> dict[str, Any]:
        return {"name": self.name, "called": list(self.called)}

    @classmethod
    def from_state(cls, what: str, state: Any) -> Event | None:
        """The event of a state, None for None; raises if the state is wrong."""
        if state is None:
            return None
        entries = as_entries(what, state, ("name", "called"), ())
        called = as_instance(f"{what}: called", entries["called"], (list, tuple), "a list of names")
        for key in called:
            as_instance(f"{what}: called", key, str, "a list of names")
        return cls(as_choice(f"{what}: name", entries["name"], EVENTS), list(called))


class Events:
    """Tells callbacks of events; `pending` is one of which not all have been told."""

    def __init__(self) -> None:
        self.pending: Event | None = None

    def start(self, callbacks: dict[str, Callback], interrupt: Interrupt) -> None:
        """The callbacks of a `fit` by their keys; each is told of the events that it defines."""
        self._interrupt = interrupt
        self._hooks = {
            event: [(key, c) for key, c in callbacks.items()
                    if getattr(type(c), event) is not getattr(Callback, event)]
            for event in EVENTS
        }

    def call(self, event: str, trainer: Trainer) -> None:
        """Call the method of this name of each callback that defines it."""
        for _, callback in self._hooks[event]:
            self._call_one(callback, event, trainer)

    def tell(self, event: str, trainer: Trainer) -> None:
        """As `call`; if a callback raises, the next `fit` calls the ones after it."""
        if self._hooks[event]:
            self.pending = Event(event, [])
            self.tell_remaining(trainer)

    def tell_remaining(self, trainer: Trainer) -> None:
        event = self.pending
        if event is None:
            return
        remaining = [pair for pair in self._hooks[event.name] if pair[0] not in event.called]
        for key, callback in remaining:
            self._interrupt.raise_pending()
            event.called.append(key)
            if callback is remaining[-1][1]:
                self.pending = None
            self._call_one(callback, event.name, trainer)
        self.pending = None

    def _call_one(self, callback: Callback, event: str, trainer: Trainer) -> None:
        try:
            with self._interrupt.allowed():
                getattr(callback, event)(trainer)
        except Exception as error:
            error.add_note(f"raised by {type(callback).__name__}.{event} after "
                           f"{len(trainer.history)} epochs; the model keeps its parameters")
            raise
