"""The parts of a run's state that are neither model nor optimizer: epoch, data, callbacks."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuprop._core.checks import as_instance, as_integer, as_number
from gpuprop._core.loading import as_entries
from gpuprop._core.tensor import asnumpy
from gpuprop._core.tree import tree_map
from gpuprop.data._generators import generator_states, named_generators, prepare_generators
from gpuprop.optim.lr_scheduler import LRScheduler
from gpuprop.optim.lr_scheduler._base import PLAIN
from gpuprop.random import Generator
from gpuprop.training._callbacks import Callback
from gpuprop.training._running_metrics import RunningMetrics, checked_sums
from gpuprop.training._source import Source
from gpuprop.training.metrics import Metric

# the states of what a `fit` was given, before the first one
NO_FIT: dict[str, Any] = {"data": None, "validation": {}, "callbacks": {}}
# the names of the entries of a state
ENTRIES = ("model", "loss", "parameters", "optimizer", "scheduler", "scaler", "generator",
           "generators", "history", "epoch", "event", *NO_FIT)


@contextlib.contextmanager
def naming(entry: str) -> Iterator[None]:
    """Name the entry of the Trainer's state in the errors of this block."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"Trainer: {entry}: {error}") from error


@dataclass
class Epoch:
    """An epoch that has begun and not ended."""

    metrics: Any  # RunningMetrics, or their state
    steps: int = 0
    seconds: float = 0.0
    results: list[tuple] = field(default_factory=list)  # of the last step, not yet in the metrics

    def state_dict(self) -> dict[str, Any]:
        metrics = self.metrics
        if isinstance(metrics, RunningMetrics):
            metrics = metrics.state_dict()
        return {"steps": self.steps, "seconds": self.seconds, "metrics": metrics}

    @classmethod
    def from_state(cls, what: str, state: Any, metrics: Iterable[Metric]) -> Epoch | None:
        """The epoch of a state, None for None; raises if the state is wrong."""
        if state is None:
            return None
        entries = as_entries(what, state, ("steps", "seconds", "metrics"), ())
        return cls(copy.deepcopy(checked_sums(f"{what}: metrics", entries["metrics"], metrics)),
                   as_integer(f"{what}: steps", entries["steps"], 0),
                   as_number(f"{what}: seconds", entries["seconds"], "[0, inf)"))


def by_key(callbacks: Iterable[Callback]) -> dict[str, Callback]:
    """The callbacks by `state_key`; equal keys are numbered."""
    found: dict[str, Callback] = {}
    for callback in callbacks:
        key = callback.state_key
        number = 2
        while key in found:
            key = f"{callback.state_key} {number}"
            number += 1
        found[key] = callback
    return found


@dataclass
class Fit:
    """What a `fit` was given."""

    source: Source
    validation_generators: dict[str, Generator]
    callbacks: dict[str, Callback]

    def state_dict(self, previous: dict[str, Any]) -> dict[str, Any]:
        """The states of the data and callbacks; those of absent callbacks are the previous ones."""
        own = {key: {"state": host_state(f"Trainer: the state of {key}", callback.state_dict()),
                     "generators": generator_states(named_generators(callback))}
               for key, callback in self.callbacks.items()}
        kept = {key: state for key, state in own.items() if any(state.values())}
        return {"data": self.source.state_dict(),
                "validation": generator_states(self.validation_generators),
                "callbacks": {**previous["callbacks"], **kept}}

    def prepare_data(self, state: dict[str, Any]) -> Callable[[], None]:
        """Check the states of the data; returns the function that continues from them."""
        if state["data"] is None:
            return lambda: None
        load = self.source.prepare_load(state["data"])
        own = self.validation_generators if state["validation"] else {}
        write = prepare_generators("Trainer.fit: the validation data do not continue the run",
                                   own, state["validation"] if own else {})

        def load_all() -> None:
            load()
            write()

        return load_all

    def load_callback(self, key: str, states: Mapping[str, Any]) -> None:
        """Give its state to a callback, if there is one.

        Generators that a callback held only during a `fit`, such as those of a model, are left out.
        """
        if key in states:
            callback = self.callbacks[key]
            saved = states[key]["generators"]
            own = {name: g for name, g in named_generators(callback).items() if name in saved}
            write = prepare_generators(f"Trainer.fit: {key}", own, {name: saved[name]
                                                                     for name in own})
            if states[key]["state"]:
                callback.load_state_dict(states[key]["state"])
            write()


def host_state(what: str, state: Any) -> Any:
    """A state with NumPy arrays in place of Tensors and arrays of a device.

    Raises TypeError for what a file cannot hold.
    """
    def leaf(value: Any) -> Any:
        if hasattr(value, "shape") and not isinstance(value, np.ndarray):
            value = asnumpy(value)
        as_instance(what, value, (bool, int, float, str, type(None), np.ndarray),
                    "a state of numbers, texts and arrays")
        if getattr(value, "dtype", np.dtype(bool)).hasobject:
            raise TypeError(f"{what} has an array of objects: convert it to an array of numbers")
        return value

    return tree_map(leaf, state)


def checked_fit_state(what: str, state: dict[str, Any]) -> dict[str, Any]:
    """A copy of the states of data and callbacks; raises if their form is wrong.

    The next `fit` checks whether they match its data and callbacks.
    """
    if state["data"] is not None:
        as_entries(f"{what}: data", state["data"], ["batch"])
    as_entries(f"{what}: validation", state["validation"], ())
    for key, entry in as_entries(f"{what}: callbacks", state["callbacks"], ()).items():
        as_entries(f"{what}: callbacks: {key}", entry, ("state", "generators"), ())
    return copy.deepcopy({name: host_state(f"{what}: {name}", entry)
                          for name, entry in state.items()})


def schedule_state(scheduler: LRScheduler | None) -> dict[str, Any]:
    """What a state can hold of a scheduler's state; functions, for example, are left out."""
    state = {} if scheduler is None else scheduler.state_dict()
    return {name: value for name, value in state.items() if type(value) in PLAIN}


def prepare_schedule(scheduler: LRScheduler | None, state: Any) -> Callable[[], None]:
    """Check the state of a scheduler; returns the function that writes it."""
    if scheduler is not None:
        return scheduler._prepare_load(state)
    if state != {}:
        raise ValueError(f"expected {{}}, since the Trainer has no scheduler, got {state!r}")
    return lambda: None
