"""Callbacks of the Trainer: early stopping, checkpoints, history files, and the base class."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuprop.io import save

if TYPE_CHECKING:
    from gpuprop.training._trainer import Trainer

logger = logging.getLogger("gpuprop")


class Callback:
    """Base class of callbacks: `Trainer.fit` calls these methods with the trainer.

    ``trainer.history[-1]`` is the row of the last completed epoch.  ``trainer.stop()`` ends
    training after the current step or epoch.  An exception in a callback ends training at once.

    >>> from gpuprop.training import Callback
    >>> class PrintLoss(Callback):
    ...     def on_epoch_end(self, trainer):
    ...         print(trainer.history[-1]["loss"])
    """

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

    def on_epoch_end(self, trainer: Trainer) -> None:
        self.function(trainer)


def best_epoch(trainer: Trainer, monitor: str, min_delta: float = 0.0) -> int:
    """The number of the epoch with the best value in a column of the history; 0 if there is none.

    An epoch is better only if it improves on the best value so far by more than `min_delta`.  NaN
    is never better.  Raises KeyError if the last epoch has no such column.
    """
    last = trainer.history[-1]
    if monitor not in last:
        hint = ": call fit with validation=..." if monitor.startswith("val_") else ""
        raise KeyError(f"cannot monitor {monitor!r}: the history has the columns "
                       f"{', '.join(last)}{hint}")
    sign = 1 if trainer.higher_is_better(monitor) else -1
    best = -math.inf
    epoch = 0
    for row in trainer.history:
        value = sign * row.get(monitor, math.nan)
        if value > best + min_delta:
            best = value
            epoch = row["epoch"]
    return epoch


class EarlyStopping(Callback):
    """Stop training if a column of the history has not improved for `patience` epochs.

    Only a change of more than `min_delta` is an improvement.  With `restore_best`, the model gets
    the weights of its best epoch at the end, whatever ended training.  The attribute `best` is the
    number of that epoch.
    """

    def __init__(self, monitor: str = "val_loss", patience: int = 10, min_delta: float = 0.0,
                 restore_best: bool = True) -> None:
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.restore_best = restore_best

    def on_fit_start(self, trainer: Trainer) -> None:
        self._start = len(trainer.history)
        self.best = 0  # no epoch yet
        self._best_weights: dict | None = None

    def on_epoch_end(self, trainer: Trainer) -> None:
        epoch = trainer.history[-1]["epoch"]
        self.best = best_epoch(trainer, self.monitor, self.min_delta)
        if self.best == epoch and self.restore_best:
            self._best_weights = trainer.model.state_dict()
        if epoch - max(self.best, self._start) >= self.patience:
            logger.info("EarlyStopping: stopped after epoch %d: no improvement of %s in %d epochs",
                        epoch, self.monitor, self.patience)
            trainer.stop()

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._best_weights is not None:
            logger.info("EarlyStopping: restored the weights of epoch %d", self.best)
            trainer.model.load_state_dict(self._best_weights)


class Checkpoint(Callback):
    """Save the trainer's state to `path` after each epoch, and when ctrl-C interrupts an epoch.

    With `monitor`, save only after an epoch that is the best so far in this column of the history.
    ``trainer.load_state_dict(gpuprop.load(path))`` resumes from the file.
    """

    def __init__(self, path: str | os.PathLike, monitor: str | None = None) -> None:
        self.path = path
        self.monitor = monitor

    def on_epoch_end(self, trainer: Trainer) -> None:
        epoch = trainer.history[-1]["epoch"]
        if self.monitor is None or best_epoch(trainer, self.monitor) == epoch:
            save(self.path, trainer.state_dict())

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.monitor is None and trainer.history.interrupted:
            save(self.path, trainer.state_dict())


class HistoryLogger(Callback):
    """Write the history to a ``.csv`` or ``.jsonl`` file after each epoch."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        suffix = Path(path).suffix
        if suffix not in (".csv", ".jsonl"):
            raise ValueError(f"the path of a history must end in .csv or .jsonl, got "
                             f"{os.fspath(path)!r}")
        self._is_csv = suffix == ".csv"

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self._is_csv:
            trainer.history.to_csv(self.path)
        else:
            trainer.history.to_jsonl(self.path)
