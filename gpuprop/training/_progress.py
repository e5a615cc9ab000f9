"""Progress output on stderr: a tqdm bar, or one line per epoch if tqdm is missing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from gpuprop.training._callbacks import Callback
from gpuprop.training._history import describe, measured_numbers

if TYPE_CHECKING:
    from gpuprop.training._trainer import Trainer

REDRAW_INTERVAL = 0.1  # seconds between updates of the bar
LOSS_INTERVAL = 2.0  # seconds between reads of the running loss, which wait for the device
# no counts and rates, so that the loss and the metrics fit into 100 columns
BAR_FORMAT = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def progress_callbacks() -> list[Callback]:
    """The callback that shows progress; none outside of terminals and notebooks."""
    if not _in_notebook() and not sys.stderr.isatty():
        return []
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return [ProgressLines()]
    return [ProgressBar(tqdm)]


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return False
    return "IPKernelApp" in getattr(ipython.get_ipython(), "config", {})


class ProgressLines(Callback):
    """Print one line for each epoch."""

    def _write(self, line: str) -> None:
        print(line, file=sys.stderr)

    def on_fit_end(self, trainer: Trainer) -> None:
        if trainer.history.interrupted:
            self._write("stopped by ctrl-C: the model keeps its parameters")

    def on_epoch_end(self, trainer: Trainer) -> None:
        row = trainer.history[-1]
        self._write(f"epoch {row['epoch']}/{trainer.last_epoch}: {describe(row)} "
                    f"({row['seconds']:.1f} s)")


class ProgressBar(ProgressLines):
    """One tqdm bar for all steps of all epochs.

    The bar shows the losses and metrics of the previous epoch.  In an epoch of more than
    LOSS_INTERVAL seconds, the training loss is the running loss.
    """

    def __init__(self, tqdm: Any) -> None:
        self._tqdm: Any = tqdm
        self._bar: Any = None

    def on_fit_start(self, trainer: Trainer) -> None:
        epochs = trainer.last_epoch - len(trainer.history)
        steps = trainer.steps_per_epoch
        total = None if steps is None else steps * epochs - trainer.steps_done
        self._bar = self._tqdm(total=total, dynamic_ncols=True, bar_format=BAR_FORMAT)
        self._steps_done = 0
        self._next_redraw = 0.0
        self._last_read = time.perf_counter()
        self._shown: dict[str, float] = {}
        if trainer.is_within_epoch:  # which began in an earlier fit
            self.on_epoch_start(trainer)

    def on_epoch_start(self, trainer: Trainer) -> None:
        epoch = len(trainer.history) + 1
        self._bar.set_description(f"epoch {epoch}/{trainer.last_epoch}", refresh=False)

    def on_step_end(self, trainer: Trainer) -> None:
        self._steps_done += 1
        now = time.perf_counter()
        if now >= self._next_redraw:
            self._next_redraw = now + REDRAW_INTERVAL
            if now >= self._last_read + LOSS_INTERVAL:
                self._last_read = now
                self._shown["loss"] = trainer.running_loss()
            self._draw()

    def on_epoch_end(self, trainer: Trainer) -> None:
        self._last_read = time.perf_counter()
        self._shown = measured_numbers(trainer.history[-1])

    def on_fit_end(self, trainer: Trainer) -> None:
        self._draw()
        super().on_fit_end(trainer)

    def _write(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)  # above the bar

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _draw(self) -> None:
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(self._steps_done - self._bar.n)
