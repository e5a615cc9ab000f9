"""How far a run is: a bar in terminals and notebooks, lines where tqdm is missing, nothing where nobody looks."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from gpuprop.training._callbacks import Callback
from gpuprop.training._history import ASIDE, describe

if TYPE_CHECKING:
    from gpuprop.training._trainer import Trainer

REDRAW = 0.1  # seconds between drawings
FORMAT = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"  # the figures have their place in 100 columns
READ = 2.0  # seconds between readings of the loss amid an epoch, for which the device is waited for


def progress() -> list[Callback]:
    """The callback that shows progress here, if any should."""
    notebook = _in_notebook()
    if not notebook and not sys.stderr.isatty():
        return []
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return [Lines()]
    return [Bar(tqdm)]


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and "IPKernelApp" in getattr(shell.get_ipython(), "config", {})


class Lines(Callback):
    """A line an epoch."""

    def write(self, line: str) -> None:
        print(line, file=sys.stderr)

    def on_fit_end(self, trainer: Trainer) -> None:
        if trainer.history.interrupted:
            self.write("stopped by ctrl-C: the model keeps what it has learnt")

    def on_epoch_end(self, trainer: Trainer) -> None:
        row = trainer.history[-1]
        self.write(f"epoch {row['epoch']}/{trainer.last_epoch}: {describe(row)} ({row['seconds']:.1f} s)")


class Bar(Lines):
    """One bar for all epochs, in steps, with the figures of the epoch before; in long epochs the loss is this one's."""

    def __init__(self, tqdm: Any) -> None:
        self.tqdm: Any = tqdm
        self.bar: Any = None

    def on_fit_start(self, trainer: Trainer) -> None:
        epochs, steps = trainer.last_epoch - len(trainer.history), trainer.steps_per_epoch
        self.bar = self.tqdm(total=steps and steps * epochs, dynamic_ncols=True, bar_format=FORMAT)
        self.done, self.next, self.read = 0, 0.0, time.perf_counter()
        self.shown: dict[str, float] = {}

    def on_epoch_start(self, trainer: Trainer) -> None:
        self.bar.set_description(f"epoch {len(trainer.history) + 1}/{trainer.last_epoch}", refresh=False)

    def on_step_end(self, trainer: Trainer) -> None:
        self.done += 1
        now = time.perf_counter()
        if now >= self.next:
            self.next = now + REDRAW
            if now >= self.read + READ:
                self.read = now
                self.shown["loss"] = trainer.running_loss()
            self._draw()

    def on_epoch_end(self, trainer: Trainer) -> None:
        row = trainer.history[-1]
        self.read = time.perf_counter()
        self.shown = {n: v for n, v in row.items() if n not in ASIDE and isinstance(v, int | float)}

    def on_fit_end(self, trainer: Trainer) -> None:
        self._draw()
        super().on_fit_end(trainer)

    def write(self, line: str) -> None:
        self.bar.write(line, file=sys.stderr)  # above the bar

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def _draw(self) -> None:
        self.bar.set_postfix(self.shown, refresh=False)
        self.bar.update(self.done - self.bar.n)
