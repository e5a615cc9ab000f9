"""The training loop: what every script repeats, without what makes it go wrong."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gpuprop._array.shape import concatenate
from gpuprop._capture import capture as captured
from gpuprop._core.arena import gradients
from gpuprop._core.backend import SEVERAL
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.mode import no_grad
from gpuprop._core.placement import place, place_of
from gpuprop._core.registry import backend_of, making_on
from gpuprop._core.tensor import Tensor
from gpuprop.nn import Module
from gpuprop.nn.utils import clip_grad_norm_
from gpuprop.optim import Optimizer
from gpuprop.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from gpuprop.random import default_generator
from gpuprop.training._callbacks import EVENTS, Callback, EachEpoch
from gpuprop.training._feed import batches, length
from gpuprop.training._history import History
from gpuprop.training._loss import backward, in_parts, nonzero
from gpuprop.training._progress import progress as to_be_shown
from gpuprop.training._running_metrics import Figures
from gpuprop.training.metrics import Metric, metric

PLAIN = (bool, int, float, str, list, tuple, dict, type(None))  # what of a scheduler's state goes to files


class Trainer:
    """Trains a model, and knows how far it is: `fit`, `evaluate`, `predict`, `history`, `state_dict`.

    `loss` is a loss of gpuprop, function or module, or any ``loss(output, target)`` that returns the mean over the rows
    of a batch, or a pair (sum, count).  `metrics` are names, such as "accuracy", or Metrics.  The scheduler steps after
    every "epoch" or "step", as `schedule` says.  A step takes `accumulate` batches together, with the gradient of one
    large batch; `clip_grad_norm` bounds the norm of the gradients; with `capture` the step is replayed on devices.

    Data is a DataLoader, another iterable of batches ``(*inputs, target)``, or a tuple of arrays in this order.  What
    is not there yet goes to the model's backend, and floats to its dtype.
    """

    def __init__(self, model: Module, loss: Callable, optimizer: Optimizer, metrics: Iterable[str | Metric] = (),
                 scheduler: LRScheduler | None = None, *, schedule: str = "epoch", accumulate: int = 1,
                 clip_grad_norm: float | None = None, capture: bool = False) -> None:
        if schedule not in ("epoch", "step"):
            raise ValueError(f"schedule is 'epoch' or 'step', not {schedule!r}")
        if accumulate < 1:
            raise ValueError(f"accumulate is a number of batches, at least 1, not {accumulate}")
        self.model, self.loss, self.optimizer, self.scheduler = model, loss, optimizer, scheduler
        own = {id(p) for p in model.parameters()}
        if not any(id(p) in own for p in self._parameters()):
            raise ValueError("the optimizer steps none of the model's parameters: make it of model.parameters()")
        self.metrics = [metric(m) for m in ([metrics] if isinstance(metrics, str | Metric) else metrics)]
        self.schedule, self.accumulate = schedule, accumulate
        self.clip_grad_norm, self.capture = clip_grad_norm, capture
        self.history, self.last_epoch = History(), 0
        self.steps_per_epoch: int | None = None  # where the data says it
        self._part, self._stopping = in_parts(loss), False

    def fit(self, train: Any, validation: Any = None, epochs: int = 1, batch_size: int = 32,
            callbacks: Sequence[Callback | Callable] = (), progress: bool = True) -> History:
        """Train for so many epochs more, and return the history of all.

        `batch_size` is for arrays, which are shuffled for training.  A function among the callbacks is called with the
        trainer after each epoch.  ctrl-C ends the training after the step under way; a second one raises
        KeyboardInterrupt at once.  Whatever happens, all modules come back in the mode they were in.
        """
        watching = [*(to_be_shown() if progress else ()),
                    *(c if isinstance(c, Callback) else EachEpoch(c) for c in callbacks)]
        dtype = self._values().dtype
        train = batches(train, batch_size, dtype, shuffle=True)
        validation = None if validation is None else batches(validation, batch_size, dtype)
        self._stopping = self.history.interrupted = False
        self.last_epoch = len(self.history) + epochs
        count = length(train)
        self.steps_per_epoch = None if count is None else -(-count // self.accumulate)
        self._hooks = {event: [c for c in watching if getattr(type(c), event) is not getattr(Callback, event)]
                       for event in EVENTS}
        with contextlib.ExitStack() as stack:
            for callback in watching:
                stack.callback(callback.close)
            stack.enter_context(self._at_home(training=True))
            stack.enter_context(_interruptible(self._interrupt))
            self._learn = captured(self._step) if self.capture else self._step
            self._tell("on_fit_start")
            while len(self.history) < self.last_epoch and not self._stopping:
                self._epoch(train, validation)
            self._tell("on_fit_end")
        return self.history

    def evaluate(self, data: Any, batch_size: int = 256) -> dict[str, Any]:
        """The loss and the metrics by name, floats but for the confusion matrix, with the model in eval mode."""
        return self._test(batches(data, batch_size, self._values().dtype))

    def predict(self, data: Any, batch_size: int = 256) -> Tensor:
        """The model's output for all rows, in eval mode, a Tensor on the model's backend.

        Beside what `evaluate` takes, whose targets are left out, data may be one array, or an iterable of such.
        """
        source = batches(data, batch_size, self._values().dtype, targets=False)
        inputs = lambda batch: (batch[:-1] or batch) if isinstance(batch, tuple | list) else (batch,)
        with self._at_home(training=False), no_grad():
            outputs = [self.model(*map(self._here, inputs(batch))) for batch in source]
        if not outputs:
            raise ValueError("predict: there is no data: the iterable came to its end without a batch")
        return concatenate(outputs)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on: model, optimizer, scheduler, random numbers and history."""
        schedule = {} if self.scheduler is None else self.scheduler.state_dict()
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "scheduler": {name: value for name, value in schedule.items() if type(value) in PLAIN},
                "generator": default_generator.get_state(), "history": [dict(row) for row in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called, with a trainer made in the same way; an error leaves this as it was."""
        before = self.state_dict()
        if state.keys() != before.keys():
            raise ValueError(f"this is no state of a Trainer, which has {', '.join(before)}, but of {', '.join(state)}")
        try:
            self._restore(state)
        except BaseException:
            self._restore(before)
            raise

    def _restore(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.model.load_state_dict(state["model"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        default_generator.set_state(state["generator"])
        self.history.rows[:] = state["history"]

    # ---- for callbacks

    def stop(self) -> None:
        """End the training after the step under way, or, if the epoch's steps are done, after the epoch."""
        self._stopping = True

    def running_loss(self) -> float:
        """The mean loss of this epoch so far; waits for the device."""
        return self._progress.loss()

    def more_is_better(self, column: str) -> bool:
        """Is a larger value the better one in this column of the history?"""
        return any(m.more_is_better for m in self.metrics if m.name == column.removeprefix("val_"))

    # ---- the loop

    def _epoch(self, train: Iterable, validation: Any) -> None:
        """Train for an epoch and note it, unless it is stopped amid its steps."""
        start = time.perf_counter()
        self._tell("on_epoch_start")
        self._progress, rewind = self._figures(), self._bookmark()
        found = self._run(self._until_stopped(train), self._train, self._progress, self.accumulate)
        lr = float(self.optimizer.param_groups[0]["lr"])
        if self._stopping:
            return rewind()  # who goes on trains this epoch anew
        if validation is not None:
            found |= {f"val_{name}": value for name, value in self._test(validation).items()}
        row = {"epoch": len(self.history) + 1, "seconds": time.perf_counter() - start, "lr": lr, **found}
        self.history.rows.append({n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in row.items()})
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(row.get("val_loss", row["loss"]))
        elif self.scheduler is not None and self.schedule == "epoch":
            self.scheduler.step()
        self._tell("on_epoch_end")

    def _bookmark(self) -> Callable[[], None]:
        """What sets the schedule, and the options that it changes, back to where they are now."""
        scheduler, groups = self.scheduler, self.optimizer.param_groups
        if scheduler is None:
            return lambda: None
        state = scheduler.state_dict()
        before = [{name: value for name, value in group.items() if name != "params"} for group in groups]

        def rewind() -> None:
            scheduler.load_state_dict(state)
            for group, options in zip(groups, before, strict=True):
                group.update(options)

        return rewind

    def _test(self, data: Iterable) -> dict[str, Any]:
        with self._at_home(training=False), no_grad():
            return self._run(data, lambda batch: [self._forward(*batch)], self._figures())

    def _figures(self) -> Figures:
        return Figures(self._backend, self.metrics)

    def _run(self, data: Iterable, step: Callable, figures: Figures, size: int = 1) -> dict[str, Any]:
        """Call ``step(*batches)``, which returns what `_forward` does of each, with `size` batches at a time."""
        source, some = iter(data), False
        try:
            while group := [self._ready(batch) for batch in itertools.islice(source, size)]:
                some = True
                for found, batch in zip(step(*group), group, strict=True):
                    figures.add(found, batch[-1])
        finally:
            if hasattr(source, "close"):  # a loader's threads end here
                source.close()
        if not some:
            raise ValueError("the data ended without a batch: is it an iterator, which can be gone through once?")
        return figures.read()

    def _forward(self, *batch: Tensor) -> tuple:
        """What is found of a batch: the output, if there are metrics of it, and the loss in three parts."""
        output = self.model(*batch[:-1])
        return output if self.metrics else None, *self._part(output, batch[-1])

    def _until_stopped(self, data: Iterable) -> Iterator:
        for batch in data:
            yield batch
            if self._stopping:
                return

    def _train(self, *group: tuple) -> list:
        done = self._learn(*group)
        if self.scheduler is not None and self.schedule == "step":
            self.scheduler.step()
        self._tell("on_step_end")
        return done

    def _step(self, *group: tuple) -> list:
        """One update of the weights, by the mean loss of these batches together."""
        self.optimizer.zero_grad()
        done = []
        for batch in group:
            found = self._forward(*batch)
            backward(found, alone=len(group) == 1)
            done.append(found)
        if len(group) > 1:
            share = 1 / nonzero(sum(found[-1] for found in done))
            for g in gradients(self._parameters())[0]:
                g *= share
        if self.clip_grad_norm is not None:
            clip_grad_norm_(self._parameters(), self.clip_grad_norm)
        self.optimizer.step()
        return done

    def _parameters(self) -> list:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _tell(self, event: str) -> None:
        for callback in self._hooks[event]:
            try:
                getattr(callback, event)(self)
            except Exception as error:
                error.add_note(f"raised by {type(callback).__name__}.{event}, {len(self.history)} epochs done; the "
                               f"model keeps what it has learnt")
                raise

    def _interrupt(self) -> None:
        self.history.interrupted = True
        self.stop()

    # ---- where the model is

    def _values(self) -> Any:
        """The first of the model's parameters, for its backend and dtype."""
        return next(self.model.parameters()).data

    @contextlib.contextmanager
    def _at_home(self, training: bool) -> Iterator[None]:
        """New arrays are made on the model's backend, and its modules are in one mode; afterwards each in its own."""
        self._backend, self._dtype = backend_of(self._values()), self._values().dtype
        self._place = place_of(self._values())
        self._array_type: Any = self._backend.array_type
        if isinstance(self.loss, Module):  # its weights of classes
            self.loss.to(self._place, self._dtype)
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.train(training)
        try:
            with making_on(self._place):
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def _ready(self, batch: Any) -> tuple:
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            raise TypeError(f"a batch is a tuple (*inputs, target), not {type(batch).__name__}"
                            + f" of {len(batch)}" * isinstance(batch, list | tuple))
        return tuple(map(self._here, batch))

    def _here(self, value: Any) -> Tensor:
        """A Tensor on the model's backend, in its dtype if it is floating."""
        if type(value) is Tensor:
            data = value.data
            if (type(data) is self._array_type and (data.dtype is self._dtype or data.dtype.kind in "iub")
                    and (not SEVERAL or place_of(data) == self._place)):
                return value
        data = raw(value)
        if not hasattr(data, "shape"):
            data = np.asarray(data)
        return Tensor(place(data, self._place, self._dtype if is_float(data.dtype) else None))


@contextlib.contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """ctrl-C calls `stop`, the second time it raises KeyboardInterrupt; a handler of the program's own stays."""
    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return

    def handle(*_: Any) -> None:
        signal.signal(signal.SIGINT, usual)
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
