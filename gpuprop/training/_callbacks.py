"""Callbacks of the Trainer: early stopping, checkpoints, history files, and the base class."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuprop._core.checks import (
    as_bool,
    as_callable,
    as_instance,
    as_integer,
    as_number,
    as_path,
)
from gpuprop._core.dtypes import is_float, widened
from gpuprop._core.loading import as_entries
from gpuprop._core.warnings import warn
from gpuprop.io import save
from gpuprop.io._state import checked_path
from gpuprop.nn import Module

if TYPE_CHECKING:
    from gpuprop.training._trainer import Trainer

logger = logging.getLogger("gpuprop")


class Callback:
    """Base class of callbacks: `Trainer.fit` calls these methods with the trainer.

    ``trainer.history[-1]`` is the row of the last completed epoch.  ``trainer.stop()`` ends
    training after the current step or epoch.  An exception in a callback ends training at once;
    the next `fit` calls the callbacks that have not been called yet, and goes on.

    A callback with a state of its own, such as a counter, defines `state_dict` and
    `load_state_dict`, so that a resumed run continues with it.  A Generator among its attributes is
    saved without that.  A callback that adds columns to the rows of the history names them in
    `columns`.

    >>> from gpuprop.training import Callback
    >>> class PrintLoss(Callback):
    ...     def on_epoch_end(self, trainer):
    ...         print(trainer.history[-1]["loss"])
    """

    columns: Sequence[str] = ()

    @property
    def state_key(self) -> str:
        """The name of the callback's state in the state of a Trainer."""
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: numbers, texts, arrays, and lists and dicts of them.

        Tensors and arrays of a device are saved, and given to `load_state_dict`, as NumPy arrays.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with a `state_dict`: called at the start of a `fit` that resumes a run."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """Called before the first epoch of `fit`."""

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Called before each epoch."""

    def on_step_end(self, trainer: Trainer) -> None:
        """Called after each optimizer step; `trainer.running_loss` includes that step."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Called after each epoch and its validation."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Called when training ends: normally or by ctrl-C, but not by an error."""

    def close(self) -> None:
        """Called at the end of `fit`, also after an error: close files, free other resources."""


EVENTS = ("on_fit_start", "on_epoch_start", "on_step_end", "on_epoch_end", "on_fit_end")


class EpochFunction(Callback):
    """Call a function with the trainer after every epoch."""

    def __init__(self, function: Callable[[Trainer], Any]) -> None:
        self.function = function

    @property
    def state_key(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def on_epoch_end(self, trainer: Trainer) -> None:
        self.function(trainer)


def checked_callbacks(callbacks: Any) -> list[Callback]:
    """The callbacks of a `fit`; those that save the state of the run come last.

    Raises TypeError for other objects.
    """
    what = "Trainer.fit: callbacks"
    if isinstance(callbacks, str) or not isinstance(callbacks, Iterable):
        raise TypeError(f"{what} must be a list of callbacks, got {callbacks!r}")
    checked = []
    for i, callback in enumerate(callbacks):
        if isinstance(callback, type):
            raise TypeError(f"{what}[{i}] is a class: construct it, as in {callback.__name__}(...)")
        if not isinstance(callback, Callback):
            callback = EpochFunction(as_callable(f"{what}[{i}]", callback))
        checked.append(callback)
    return sorted(checked, key=lambda callback: isinstance(callback, Checkpoint))


def check_monitors(callbacks: Iterable[Callback], columns: Sequence[str]) -> None:
    """Raise KeyError if a callback monitors none of the columns that the history is going to have.
    """
    for callback in callbacks:
        if isinstance(callback, EarlyStopping | Checkpoint) and callback.monitor is not None:
            monitor = callback.monitor
            if monitor not in columns:
                hint = "call fit with validation=..., or " if monitor.startswith("val_") else ""
                raise KeyError(
                    f"{type(callback).__name__}: cannot monitor {monitor!r}: the history is going "
                    f"to have the columns {', '.join(columns)}: {hint}name the column in `columns` "
                    f"of the callback that adds it")


def best_epoch(trainer: Trainer, monitor: str, min_delta: float = 0.0, first: int = 1) -> int:
    """The number of the epoch with the best value in a column of the history; 0 if there is none.

    An epoch is better only if it improves on the best value so far by more than `min_delta`.  NaN
    is never better.  Epochs before number `first` do not count.
    """
    sign = 1 if trainer.higher_is_better(monitor) else -1
    best = -math.inf
    epoch = 0
    for row in trainer.history.rows[first - 1:]:
        value = sign * row.get(monitor, math.nan)
        if value > best + min_delta:
            best = value
            epoch = row["epoch"]
    return epoch


class EarlyStopping(Callback):
    """Stop training if a column of the history has not improved for `patience` epochs.

    Only a change of more than `min_delta` is an improvement.  With `restore_best`, the model gets
    the weights of its best epoch at the end of each `fit`, whatever ended it.  The attribute `best`
    is the number of that epoch.

    Several calls of `fit` are one run: the best epoch is that of the whole run since the callback
    was given to the trainer, and a further `fit` with the callback goes on from the weights of the
    last epoch.  After it has stopped the training, the patience of a further `fit` begins anew.
    """

    def __init__(self, monitor: str = "val_loss", patience: int = 10, min_delta: float = 0.0,
                 restore_best: bool = True) -> None:
        self.monitor = as_instance("EarlyStopping: monitor", monitor, str, "the name of a column")
        self.patience = as_integer("EarlyStopping: patience", patience, 1)
        self.min_delta = as_number("EarlyStopping: min_delta", min_delta, "[0, inf)")
        self.restore_best = as_bool("EarlyStopping: restore_best", restore_best)
        self._history: Any = None  # of the run
        self._is_loaded = False  # True until the next `fit`
        self._begin(0)

    def _begin(self, epochs: int) -> None:
        """Begin with a run that has this number of epochs."""
        self.best = 0  # no epoch yet
        self._first = epochs + 1
        self._waiting_since = epochs  # the patience counts from this epoch
        self._best_weights: dict | None = None
        self._last_weights: dict | None = None  # of the last step, while the best are restored

    @property
    def state_key(self) -> str:
        return f"EarlyStopping({self.monitor})"

    def state_dict(self) -> dict[str, Any]:
        """The best epoch and its weights; the weights of the last step if the best are restored."""
        return {"best": self.best, "first": self._first, "waiting_since": self._waiting_since,
                "best_weights": self._best_weights, "last_weights": self._last_weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        what = "EarlyStopping"
        names = ("best", "first", "waiting_since", "best_weights", "last_weights")
        entries = as_entries(f"{what}: the state", state, names, ())
        first = as_integer(f"{what}: first", entries["first"], 1)
        best = as_integer(f"{what}: best", entries["best"], 0)
        waiting = as_integer(f"{what}: waiting_since", entries["waiting_since"], 0)
        for name in names[3:]:
            if entries[name] is not None:
                as_instance(f"{what}: {name}", entries[name], Mapping, "a state of the model")
        self.best, self._first, self._waiting_since = best, first, waiting
        self._best_weights = entries["best_weights"]
        self._last_weights = entries["last_weights"]
        self._is_loaded = True

    def on_fit_start(self, trainer: Trainer) -> None:
        if self._history is not trainer.history and not self._is_loaded:
            self._begin(len(trainer.history))
        self._history = trainer.history
        self._is_loaded = False
        if self._last_weights is not None and _has_weights(trainer.model, self._best_weights):
            trainer.model.load_state_dict(self._last_weights)
        self._last_weights = None

    def on_epoch_end(self, trainer: Trainer) -> None:
        epoch = trainer.history[-1]["epoch"]
        self.best = best_epoch(trainer, self.monitor, self.min_delta, self._first)
        if self.best == epoch and self.restore_best:
            self._best_weights = trainer.model.state_dict()
        if epoch - max(self.best, self._waiting_since) >= self.patience:
            logger.info("EarlyStopping: stopped after epoch %d: no improvement of %s in %d epochs",
                        epoch, self.monitor, self.patience)
            self._waiting_since = epoch
            trainer.stop()

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._best_weights is not None:
            logger.info("EarlyStopping: restored the weights of epoch %d", self.best)
            self._last_weights = trainer.model.state_dict()
            trainer.model.load_state_dict(self._best_weights)


def _has_weights(model: Module, weights: Mapping | None) -> bool:
    """True if the model has these weights, bit for bit."""
    own = model.state_dict()
    return weights is not None and own.keys() == weights.keys() and all(
        np.array_equal(own[name], weights[name], equal_nan=True) for name in own)


class Checkpoint(Callback):
    """Save the trainer's state to `path` after each epoch, and when a `fit` ends within an epoch.

    ``trainer.load_state_dict(gpuprop.load(path))`` resumes from the file: the run continues exactly
    as if it had not been interrupted, also within an epoch.  The file is written after all other
    callbacks have been called.

    With `monitor`, save only after an epoch that is the best so far in this column of the history.

    A run that has diverged does not replace the file: nothing is saved after an epoch whose loss is
    NaN or infinite, or while the model, the loss or the optimizer's state has such values.  Buffers
    may be infinite, as masks are.  A warning says so once.
    """

    def __init__(self, path: str | os.PathLike, monitor: str | None = None) -> None:
        if monitor is not None:
            as_instance("Checkpoint: monitor", monitor, str, "the name of a column or None")
        self.path = checked_path("Checkpoint", path)
        self.monitor = monitor
        self._has_warned = False

    def on_epoch_end(self, trainer: Trainer) -> None:
        epoch = trainer.history[-1]["epoch"]
        if self.monitor is None or best_epoch(trainer, self.monitor) == epoch:
            self._save(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.monitor is None and trainer.is_within_epoch:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        state = trainer.state_dict()
        reason = _divergence(trainer, state)
        if reason is None:
            save(self.path, state)
        elif not self._has_warned:
            self._has_warned = True
            warn(f"Checkpoint: {str(self.path)!r} is not written any more: the run has "
                 f"diverged, {reason}")


def _divergence(trainer: Trainer, state: Mapping[str, Any]) -> str | None:
    """Where a run has NaN or infinite values: in its loss or its state; None if nowhere."""
    loss = 0.0
    if trainer.steps_done:
        loss = trainer.running_loss()
    elif trainer.history.rows:
        loss = trainer.history[-1]["loss"]
    if not math.isfinite(loss):
        return f"its loss is {loss}"
    for part, module in trainer._modules().items():
        buffers = {name for name, _ in module.named_buffers()}
        for name, value in state[part].items():
            if not _is_sound(value, may_be_infinite=name in buffers):
                return f"{name} of the {part} has values that are NaN or infinite"
    for i, entry in state["optimizer"]["state"].items():
        for name, value in entry.items():
            if isinstance(value, np.ndarray) and not _is_sound(value):
                return (f"{name} of parameter {i} in the optimizer has values that are NaN or "
                        f"infinite")
    return None


def _is_sound(value: np.ndarray, may_be_infinite: bool = False) -> bool:
    if not is_float(value.dtype):
        return True
    wide = widened(value)
    return not np.isnan(wide).any() if may_be_infinite else bool(np.isfinite(wide).all())


class HistoryLogger(Callback):
    """Write the history to a ``.csv`` or ``.jsonl`` file after each epoch."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = as_path("HistoryLogger: path", path)
        if self.path.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"HistoryLogger: the path of a history must end in .csv or .jsonl, "
                             f"got {str(path)!r}")
        self._is_csv = self.path.suffix == ".csv"

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self._is_csv:
            trainer.history.to_csv(self.path)
        else:
            trainer.history.to_jsonl(self.path)
