"""The training data of a `fit`, and the position from which an interrupted epoch continues."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gpuprop._core.checks import as_integer
from gpuprop._core.loading import as_entries
from gpuprop.data import DataLoader
from gpuprop.data._generators import generator_states, named_generators, prepare_generators
from gpuprop.random import DATA, default_generator
from gpuprop.training._batches import length

REMEDY = ("pass the data that the epoch began with, or call reset_data() first, to begin a new "
          "epoch with other data")


class Source:
    """The batches of epochs, each of which can be interrupted and continued.

    The state of a DataLoader is its `state_dict`.  Any other iterable is read again from its start,
    with the draws of the default generator and of those that it holds as at the epoch's start.  An
    iterator cannot be read again: if an earlier `fit` has `read` from it, its next batch is due.
    """

    def __init__(self, data: Iterable, read: Iterator | None = None) -> None:
        self.data = data
        self._is_due = data is read
        self.generators = named_generators(data)
        self._loader = data if isinstance(data, DataLoader) else None
        self._batches = 0  # how many of the epoch have been used
        self._start: dict | None = None  # the state at the start of the epoch, None between epochs

    def batches(self) -> Iterator[Any]:
        """The batches that are left in the epoch; a new epoch begins if none is under way."""
        if self._loader is not None:
            batches = iter(self._loader)
            if self._start is None:
                self._start = self._loader.state_dict()
                self._batches = self._start["batch"]
            return batches
        if self._start is None:
            self._start = self._draws()
            return iter(self.data)
        return iter(self.data) if self._is_due else self._continued(self._start)

    def iterator(self) -> Iterator | None:
        """The data, if they are an iterator, which later fits may read further."""
        return self.data if isinstance(self.data, Iterator) else None

    def _draws(self) -> dict[str, Any]:
        return {"default": default_generator._draws[DATA],
                "generators": generator_states(self.generators)}

    def _set_draws(self, state: dict[str, Any]) -> None:
        default_generator._draws[DATA] = state["default"]
        prepare_generators("data", self.generators, state["generators"])()

    def _continued(self, start: dict[str, Any]) -> Iterator[Any]:
        now = self._draws()
        self._set_draws(start)
        batches = iter(self.data)
        found = sum(1 for _ in itertools.islice(batches, self._batches))
        if found < self._batches:
            raise ValueError(f"Trainer.fit: the epoch is to continue after batch {self._batches}, "
                             f"but the data have only {found} batches now; {REMEDY}")
        self._set_draws(now)
        return batches

    def advance(self, count: int) -> None:
        """Note that this number of batches has been used."""
        self._batches += count

    def end_epoch(self) -> None:
        """Note that the epoch has ended."""
        self._start = None
        self._batches = 0

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch, and the states of the generators."""
        if self._loader is None:
            return {"batch": self._batches, "batches": length(self.data), "start": self._start,
                    "now": self._draws()}
        now = self._loader.state_dict()
        if self._start is None:
            return {**now, "epoch": None, "batch": 0}
        rng = {name: now[name] for name in ("seed", "draws")}
        return {**self._start, **rng, "batch": self._batches}

    def prepare_load(self, state: Any) -> Callable[[], None]:
        """Check a state; returns the function that continues from it."""
        try:
            if self._loader is not None:
                write = self._loader._prepare_load(state)
                start = None if state["epoch"] is None else state
            else:
                entries = as_entries("data", state, ("batch", "batches", "start", "now"), ())
                if entries["batches"] != length(self.data):
                    raise ValueError(f"batches is {entries['batches']!r} in the state, but there "
                                     f"are {length(self.data)} now")
                start = entries["start"]
                write = self._prepare_draws("now", entries["now"])
                if start is not None:
                    self._prepare_draws("start", start)
                as_integer("data: batch", entries["batch"], 0, 0 if start is None else None)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Trainer.fit: the data do not continue the run: {error}; "
                              f"{REMEDY}") from error

        def load() -> None:
            write()
            self._batches = state["batch"]
            self._start = start

        return load

    def _prepare_draws(self, name: str, state: Any) -> Callable[[], None]:
        entries = as_entries(f"data: {name}", state, ("default", "generators"), ())
        as_integer(f"data: {name}: default", entries["default"], 0)
        prepare_generators(f"data: {name}: generators", self.generators, entries["generators"])
        return lambda: self._set_draws(entries)
