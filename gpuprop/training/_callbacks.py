"""What is done beside the training: stopping early, checkpoints, logs, and what users derive from `Callback`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuprop.io import save

if TYPE_CHECKING:
    from gpuprop.training._trainer import Trainer


class Callback:
    """Base of all callbacks: `fit` calls these with the trainer, whose ``history[-1]`` is the epoch that ended last.

    ``trainer.stop()`` ends the training after the step, or epoch, under way.  What a callback raises ends it at once.
    """

    def on_fit_start(self, trainer: Trainer) -> None: ...

    def on_epoch_start(self, trainer: Trainer) -> None: ...

    def on_step_end(self, trainer: Trainer) -> None: ...

    def on_epoch_end(self, trainer: Trainer) -> None: ...

    def on_fit_end(self, trainer: Trainer) -> None:
        """Called when training came to its end, by ctrl-C too, but not after an error."""

    def close(self) -> None:
        """Let go of files and the like; called in any case."""


EVENTS = ("on_fit_start", "on_epoch_start", "on_step_end", "on_epoch_end", "on_fit_end")


class EachEpoch(Callback):
    """A function of the trainer, called after every epoch."""

    def __init__(self, function: Callable[[Trainer], Any]) -> None:
        self.function = function

    def on_epoch_end(self, trainer: Trainer) -> None:
        self.function(trainer)


def best_epoch(trainer: Trainer, monitor: str, least_change: float = 0.0) -> int:
    """The number of the best epoch by a column of the history, 0 if there is none: a better one exceeds `least_change`.

    NaN is never better.  Raises KeyError where the last epoch has no such column.
    """
    last, sign = trainer.history[-1], 1 if trainer.more_is_better(monitor) else -1
    if monitor not in last:
        hint = ": give fit(validation=...)" * monitor.startswith("val_")
        raise KeyError(f"there is no {monitor!r} to watch among {', '.join(last)}{hint}")
    best, epoch = -math.inf, 0
    for row in trainer.history:
        value = sign * row.get(monitor, math.nan)
        if value > best + least_change:
            best, epoch = value, row["epoch"]
    return epoch


class EarlyStopping(Callback):
    """Stop when a column of the history was not better by more than `least_change` for `patience` epochs in a row.

    With `restore_best` the model gets back the weights of its best epoch, however training comes to its end.
    """

    def __init__(self, monitor: str = "val_loss", patience: int = 10, least_change: float = 0.0,
                 restore_best: bool = True) -> None:
        self.monitor, self.patience, self.least_change = monitor, patience, least_change
        self.restore_best = restore_best

    def on_fit_start(self, trainer: Trainer) -> None:
        self.first, self.best, self.weights = len(trainer.history), 0, None  # type: int, int, dict | None

    def on_epoch_end(self, trainer: Trainer) -> None:
        epoch = trainer.history[-1]["epoch"]
        self.best = best_epoch(trainer, self.monitor, self.least_change)
        if self.best == epoch and self.restore_best:
            self.weights = trainer.model.state_dict()
        if epoch - max(self.best, self.first) >= self.patience:
            trainer.stop()

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.weights is not None:
            trainer.model.load_state_dict(self.weights)


class Checkpoint(Callback):
    """Save the trainer after each epoch, and when ctrl-C ends one; or when a column of the history is at its best.

    ``trainer.load_state_dict(gpuprop.load(path))`` goes on from there.
    """

    def __init__(self, path: str | os.PathLike, monitor: str | None = None) -> None:
        self.path, self.monitor = path, monitor

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self.monitor is None or best_epoch(trainer, self.monitor) == trainer.history[-1]["epoch"]:
            save(self.path, trainer.state_dict())

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.monitor is None and trainer.history.interrupted:
            save(self.path, trainer.state_dict())


class Log(Callback):
    """Keep a file of the history up to date after each epoch: a ``.csv`` table or ``.jsonl``, an object a line."""

    def __init__(self, path: str | os.PathLike) -> None:
        kinds = {".csv": "to_csv", ".jsonl": "to_jsonl"}
        self.path, kind = path, Path(path).suffix
        if kind not in kinds:
            raise ValueError(f"a log is a .csv or .jsonl file, not {os.fspath(path)!r}")
        self.method = kinds[kind]

    def on_epoch_end(self, trainer: Trainer) -> None:
        getattr(trainer.history, self.method)(self.path)
