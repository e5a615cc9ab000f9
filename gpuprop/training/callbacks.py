"""What is done beside the training: stopping early, checkpoints, logs, and whatever a user subclasses `Callback` for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuprop.training.trainer import Trainer


class Callback:
    """Base of all callbacks: `fit` calls these with the trainer; ``trainer.history[-1]`` is the row of the epoch that ended.

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


class Best:
    """The best value so far of a column of the history: less is better for losses and errors, more for the like of accuracy."""

    def __init__(self, monitor: str, least_change: float = 0.0) -> None:
        self.monitor, self.least_change = monitor, least_change
        self.value = math.nan

    def improved(self, trainer: Trainer) -> bool:
        """Is the epoch that ended better than all before?  NaN never is."""
        row = trainer.history[-1]
        if self.monitor not in row:
            hint = ": give fit(validation=...)" * self.monitor.startswith("val_")
            raise KeyError(f"there is no {self.monitor!r} to watch among {', '.join(row)}{hint}")
        value, sign = row[self.monitor], 1 if trainer.more_is_better(self.monitor) else -1
        better = not math.isnan(value) and not sign * (value - self.value) <= self.least_change
        self.value = value if better else self.value
        return better


class EarlyStopping(Callback):
    """Stop when a column of the history was not better by more than `least_change` for `patience` epochs in a row.

    With `restore_best` the model then gets back the weights of its best epoch, and so it does whenever training ends.
    """

    def __init__(self, monitor: str = "val_loss", patience: int = 10, least_change: float = 0.0,
                 restore_best: bool = True) -> None:
        self.monitor, self.patience, self.least_change, self.restore_best = monitor, patience, least_change, restore_best

    def on_fit_start(self, trainer: Trainer) -> None:
        self.best, self.waited, self.best_epoch = Best(self.monitor, self.least_change), 0, 0
        self.weights: dict[str, Any] | None = None

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self.best.improved(trainer):
            self.waited, self.best_epoch = 0, trainer.history[-1]["epoch"]
            self.weights = trainer.model.state_dict() if self.restore_best else None
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.stop()

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.weights is not None and self.best_epoch != trainer.history[-1]["epoch"]:
            trainer.model.load_state_dict(self.weights)


class Checkpoint(Callback):
    """Save the trainer (``Trainer.save``) after each epoch, or, given a column of the history, when that is at its best.

    The last checkpoint is also written when training ends amid an epoch.
    """

    def __init__(self, path: str | os.PathLike, monitor: str | None = None) -> None:
        self.path, self.best = path, None if monitor is None else Best(monitor)

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self.best is None or self.best.improved(trainer):
            trainer.save(self.path)

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.best is None and trainer.history.interrupted:
            trainer.save(self.path)


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
