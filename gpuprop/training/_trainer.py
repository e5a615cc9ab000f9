"""The Trainer: the training loop and its continuation."""

from __future__ import annotations

import contextlib
import copy
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gpuprop._capture import capture as captured
from gpuprop._core.arena import gradient_arrays
from gpuprop._core.checks import as_bool, as_choice, as_instance, as_integer, as_number
from gpuprop._core.loading import as_entries
from gpuprop._core.registry import HOST, get_backend
from gpuprop.amp import GradScaler
from gpuprop.data._generators import generator_states, named_generators, prepare_generators
from gpuprop.nn import Module
from gpuprop.nn._module import prepare_load
from gpuprop.nn.utils import clip_grad_norm_
from gpuprop.optim import Optimizer
from gpuprop.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from gpuprop.random import Generator, default_generator
from gpuprop.training._batches import as_batches, close, length, no_data
from gpuprop.training._callbacks import Callback, check_monitors, checked_callbacks
from gpuprop.training._evaluation import Evaluator
from gpuprop.training._events import Event, Events
from gpuprop.training._history import NOT_MEASURED, History, checked_rows, plain
from gpuprop.training._interrupt import Interrupt
from gpuprop.training._loss import safe_divisor
from gpuprop.training._progress import progress_callbacks
from gpuprop.training._run_state import (
    ENTRIES,
    NO_FIT,
    Epoch,
    Fit,
    by_key,
    checked_fit_state,
    host_state,
    naming,
    prepare_schedule,
    schedule_state,
)
from gpuprop.training._running_metrics import RunningMetrics
from gpuprop.training._source import Source
from gpuprop.training.metrics import Metric


class Trainer(Evaluator):
    """Trains and evaluates a model, predicts with it, and keeps the history of the run.

    - `loss`: a loss function or module of gpuprop, or any callable ``loss(output, target)`` that
      returns the mean over the samples of a batch, or a pair (sum, count).  If the loss has a
      method ``sum_and_count(output, target)``, as gpuprop's losses do, the Trainer calls that
      instead, and the mean over several batches is exact.  A module with forward hooks or with a
      forward of its own is called as usual.
    - `optimizer`: if it has the methods `train` and `eval`, as AdamWScheduleFree has, it is in
      train mode during the steps of an epoch, and in eval mode in evaluation, in a state, in
      `on_epoch_end` and after `fit`.
    - `metrics`: names such as "accuracy", or Metric objects.
    - `schedule`: when the scheduler steps, after every "epoch" or every "step".
    - `accumulate`: the number of batches per step; the gradient equals that of one large batch.
    - `clip_grad_norm`: the maximum norm of the gradients, as in `nn.utils.clip_grad_norm_`.
    - `capture`: capture and replay the step on devices that can; see `gpuprop.capture`.
    - `autocast`: "float16" or "bfloat16" runs the model and the loss inside `gpuprop.autocast`.
      With "float16", `scaler` scales the loss: steps whose gradients overflow are skipped.

    Data are a DataLoader, another iterable of batches ``(*inputs, target)``, a dataset of such
    samples, or a tuple of arrays ``(*inputs, target)``.  Arrays are moved to the model's device;
    floating-point arrays are cast to its dtype.

    >>> import numpy as np
    >>> from gpuprop import nn, optim
    >>> from gpuprop.training import Trainer
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> model = nn.Linear(1, 1)
    >>> trainer = Trainer(model, nn.MSELoss(), optim.Adam(model.parameters(), lr=0.1), ["mae"])
    >>> history = trainer.fit((x, 2 * x + 1), epochs=50)
    >>> len(history), round(trainer.evaluate((x, 2 * x + 1))["mae"], 2)
    (50, 0.0)
    >>> trainer.predict(np.ones((1, 1))).shape
    (1, 1)
    """

    def __init__(
        self, model: Module, loss: Callable, optimizer: Optimizer,
        metrics: Iterable[str | Metric] = (), scheduler: LRScheduler | None = None, *,
        schedule: str = "epoch", accumulate: int = 1, clip_grad_norm: float | None = None,
        capture: bool = False, autocast: str | None = None,
    ) -> None:
        super().__init__(model, loss, metrics, autocast)
        what = "Trainer"
        self._loss_module = loss if isinstance(loss, Module) else Module()  # it may have a state
        self.optimizer = as_instance(f"{what}: optimizer", optimizer, Optimizer,
                                     "an optimizer of gpuprop.optim")
        of_model = {id(p) for p in model.parameters()}
        if not any(id(p) in of_model for p in self._parameters()):
            raise ValueError("Trainer: the optimizer has none of the model's parameters: construct "
                             "it with model.parameters()")
        self.scheduler = scheduler
        if scheduler is not None:
            as_instance(f"{what}: scheduler", scheduler, LRScheduler,
                        "a schedule of gpuprop.optim.lr_scheduler or None")
            if scheduler.optimizer is not optimizer:
                raise ValueError("Trainer: the scheduler has another optimizer: construct it with "
                                 "the optimizer of the Trainer")
        self.schedule = as_choice(f"{what}: schedule", schedule, ("epoch", "step"))
        self.accumulate = as_integer(f"{what}: accumulate", accumulate, 1)
        if clip_grad_norm is not None:
            clip_grad_norm = as_number(f"{what}: clip_grad_norm", clip_grad_norm, "[0, inf]")
        self.clip_grad_norm = clip_grad_norm
        self.capture = as_bool(f"{what}: capture", capture)
        self.scaler = GradScaler(enabled=autocast == "float16")
        self.history = History()
        self.last_epoch = 0  # the number of the last epoch of `fit`
        self.steps_per_epoch: int | None = None  # None if the data have no length
        # evaluation draws nothing from the default generator
        self._validation_rng = Generator()
        self._is_stopping = False
        self._interrupt = Interrupt(self._stop_by_interrupt)  # of the current `fit`
        self._trains = True  # False in the optimizer's eval mode
        self._running: RunningMetrics | None = None  # of the current epoch
        self._epoch: Epoch | None = None  # that has begun and not ended
        self._events = Events()
        self._fit: Fit | None = None  # what the running `fit` was given
        self._last_fit = NO_FIT  # the states of what the last `fit` was given, or loaded ones
        self._is_loaded = False  # True if `_last_fit` has been loaded and not been used
        self._last_callbacks: dict[str, Callback] = {}
        self._last_iterator: Iterator | None = None  # the training data, if they are an iterator

    def fit(
        self, train: Any, validation: Any = None, epochs: int = 1, batch_size: int = 32,
        callbacks: Sequence[Callback | Callable] = (), progress: bool = True,
    ) -> History:
        """Train for `epochs` more epochs and return the history, which holds all epochs.

        Arrays and datasets are divided into batches of `batch_size`, and shuffled for training.  A
        function in `callbacks` is called with the trainer after each epoch.  ctrl-C ends training
        after the current step; a second ctrl-C raises KeyboardInterrupt at once, or as soon as an
        update that has begun is whole.  At the end each module returns to the mode, training or
        eval, that it had before.

        If the last `fit` ended within an epoch, by ctrl-C, `stop` or an error, that epoch is
        continued, as the first of the `epochs`, and the run is the same, bit for bit, as one
        without the interruption.  So it is if the state of such a run has been loaded.  This needs
        the same data: those that are no DataLoader must yield the same batches when they are read
        again.  `reset_data` gives the epoch up.  One thing is not taken back: on a device, the
        running statistics of normalization that a step updated before an error in it.
        """
        epochs = as_integer("Trainer.fit: epochs", epochs, 0)
        as_bool("Trainer.fit: progress", progress)
        own = checked_callbacks(callbacks)
        if self._fit is not None:
            raise RuntimeError("Trainer.fit: a fit of this Trainer is running: construct another "
                               "Trainer to train inside of a callback")
        dtype = self._first_parameter().dtype
        train = as_batches(train, batch_size, dtype, rng=None, shuffle=True)
        if validation is not None:
            validation = as_batches(validation, batch_size, dtype, self._validation_rng)
        check_monitors(own, self._future_columns(own, validation is not None))
        fit = Fit(Source(train, self._last_iterator), named_generators(validation), by_key(own))
        self._is_stopping = False
        self._interrupt = Interrupt(self._stop_by_interrupt)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._interrupt.handled())
            self._resume(fit)
            self.history.interrupted = False
            self.last_epoch = len(self.history) + epochs
            batch_count = length(train)
            self.steps_per_epoch = (
                None if batch_count is None else -(-batch_count // self.accumulate))
            active = by_key(progress_callbacks() if progress else []) | fit.callbacks
            self._events.start(active, self._interrupt)
            for callback in active.values():
                stack.callback(callback.close)
            self._fit = fit
            stack.callback(self._end_fit, fit)
            stack.enter_context(self._on_model_device(training=True))
            self._kept_generators = {"": default_generator, **self._generators()}
            self._kept_buffers = [*self.model.buffers(), *self._loss_module.buffers()]
            self._captured_step = captured(self._step) if self.capture else self._step
            self._events.call("on_fit_start", self)
            self._check_savable(fit)
            self._events.tell_remaining(self)
            while len(self.history) < self.last_epoch and not self._is_stopping:
                self._train_epoch(fit, validation)
            self._events.call("on_fit_end", self)
        return self.history

    # ---- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state of the run: all that its continuation depends on, also within an epoch.

        It has the states of the model, the loss, the optimizer, the scheduler, the default
        generator and those of layers, the history, the unfinished epoch with its losses and
        metrics, and the states of the data and the callbacks of the last `fit`, with their
        generators.
        """
        fit = self._last_fit if self._fit is None else self._fit.state_dict(self._last_fit)
        event = self._events.pending
        with self._averaged():  # so that the model's part is of use alone
            values = {name: module.state_dict() for name, module in self._modules().items()}
            optimizer = self.optimizer.state_dict()
        return {
            **values,
            "optimizer": optimizer,
            "scheduler": schedule_state(self.scheduler),
            "scaler": self.scaler.state_dict(),
            "generator": default_generator.get_state(),
            "generators": generator_states(self._generators()),
            "history": [plain(row) for row in self.history],
            "epoch": None if self._epoch is None else self._epoch.state_dict(),
            "event": None if event is None else event.state_dict(),
            **copy.deepcopy(fit),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of a trainer that was constructed in the same way.

        The states of data and callbacks are given to those of the next `fit`, which raises if they
        do not match.  A `state_key` without a callback is kept.

        If an entry is missing or wrong, raises an error that names it, and nothing is changed.
        """
        if self._fit is not None:
            raise RuntimeError("Trainer.load_state_dict: fit is running")
        entries = as_entries("Trainer: the state", state, ENTRIES, ())
        writes = []
        for name, module in self._modules().items():
            with naming(name):
                writes.append(prepare_load(module, entries[name])[0])
        with naming("optimizer"):
            writes.append(self.optimizer._prepare_load(entries["optimizer"]))
        with naming("scheduler"):
            writes.append(prepare_schedule(self.scheduler, entries["scheduler"]))
        with naming("scaler"):
            scaler = as_instance("Trainer: scaler", entries["scaler"], dict, "a dict")
            if scaler and not self.scaler.is_enabled():
                raise ValueError("Trainer: the state was saved with autocast='float16': construct "
                                 "the Trainer with it")
            writes.append(self.scaler._prepare_load(scaler))
        with naming("generator"):
            writes.append(default_generator._prepare_load(entries["generator"]))
        writes.append(prepare_generators(
            "Trainer: generators", self._generators(), entries["generators"]))
        rows = checked_rows("Trainer: history", entries["history"])
        epoch = Epoch.from_state("Trainer: epoch", entries["epoch"], self.metrics)
        event = Event.from_state("Trainer: event", entries["event"])
        fit = checked_fit_state("Trainer", {name: entries[name] for name in NO_FIT})
        for write in writes:
            write()
        self.history.rows[:] = rows
        self._epoch = epoch
        self._events.pending = event
        self._last_fit = fit
        self._is_loaded = True

    def reset_data(self) -> None:
        """Forget the state of the data: the next `fit` begins a new epoch, with any data.

        An epoch that was interrupted is given up; its updates of the model stay.
        """
        self._epoch = None
        self._events.pending = None
        self._last_fit = {**NO_FIT, "callbacks": self._last_fit["callbacks"]}

    def _modules(self) -> dict[str, Module]:
        """The modules in the state; "parameters" has those that only the optimizer knows."""
        known = {id(p) for m in (self.model, self._loss_module) for p in m.parameters()}
        others = Module()
        for i, p in enumerate(self._parameters()):
            if id(p) not in known:
                setattr(others, str(i), p)
        return {"model": self.model, "loss": self._loss_module, "parameters": others}

    def _generators(self) -> dict[str, Generator]:
        """The generators of the layers, besides the default one."""
        return named_generators({"model": self.model, "loss": self.loss})

    def _resume(self, fit: Fit) -> None:
        """Continue with the states of the last `fit`, or with loaded ones; raises if they differ.

        A callback that was given to the last `fit` has its state already.
        """
        writes = []
        if self._is_loaded or self._epoch is not None:
            try:
                writes.append(fit.prepare_data(self._last_fit))
            except (TypeError, ValueError):
                if self._is_loaded or self._epoch is None or self._epoch.steps:
                    raise
                self.reset_data()  # no step of the epoch has been done with the other data
        for key, callback in fit.callbacks.items():
            if self._is_loaded or callback is not self._last_callbacks.get(key):
                fit.load_callback(key, self._last_fit["callbacks"])
        for write in writes:
            write()
        self._is_loaded = False

    def _check_savable(self, fit: Fit) -> None:
        """Raise TypeError if something that users add to the state of a run cannot be saved."""
        fit.state_dict(self._last_fit)
        for i, group in enumerate(self.optimizer.param_groups):
            options = {name: value for name, value in group.items() if name != "params"}
            host_state(f"Trainer: the options of the optimizer's param_groups[{i}]", options)

    def _end_fit(self, fit: Fit) -> None:
        self._fit = None
        self._last_callbacks = fit.callbacks
        self._last_iterator = fit.source.iterator()
        self._last_fit = fit.state_dict(self._last_fit)

    def _future_columns(self, callbacks: list[Callback], has_validation: bool) -> list[str]:
        """The columns that the history is going to have after the next epoch."""
        measured = ["loss", *(m.name for m in self.metrics)]
        if has_validation:
            measured += [f"val_{name}" for name in measured]
        added = [name for callback in callbacks for name in callback.columns]
        return list(dict.fromkeys([*NOT_MEASURED, *measured, *added, *self.history.columns]))

    # ---- for callbacks ---------------------------------------------------------------------------

    def stop(self) -> None:
        """End training after the current step, without adding its epoch to the history.

        If it is called during validation or in `on_epoch_end`, training ends after that epoch.
        """
        self._is_stopping = True

    @property
    def is_within_epoch(self) -> bool:
        """True if an epoch has begun and not ended, also between two calls of `fit`."""
        return self._epoch is not None

    @property
    def steps_done(self) -> int:
        """The number of steps done in the current epoch; 0 between epochs."""
        return 0 if self._epoch is None else self._epoch.steps

    def running_loss(self) -> float:
        """The mean loss of the current epoch so far; waits for the device.

        In `on_step_end` it includes the step that just ended.  Raises RuntimeError before the first
        epoch.
        """
        if self._running is None:
            raise RuntimeError("running_loss: no epoch has started: call it from a callback during "
                               "fit")
        return self._running.loss()

    def higher_is_better(self, column: str) -> bool:
        """True if larger values are better in this column of the history, as for an accuracy."""
        name = column.removeprefix("val_")
        return any(m.higher_is_better for m in self.metrics if m.name == name)

    # ---- the loop --------------------------------------------------------------------------------

    def _train_epoch(self, fit: Fit, validation: Any) -> None:
        """Train for one epoch, or for what is left of it, and add it to the history.

        If it is stopped before its end, it is not added, and the next `fit` continues it.
        """
        if self._epoch is None:
            self._epoch = Epoch(self._new_metrics())
            self._running = self._epoch.metrics
            self._events.tell("on_epoch_start", self)
        epoch = self._epoch
        epoch.metrics = self._running = self._on_device(epoch.metrics)
        start = time.perf_counter() - epoch.seconds
        try:
            self._train_steps(fit.source, epoch)
            if self._is_stopping:
                return
            row = {**epoch.metrics.compute()}
            lr = float(self.optimizer.param_groups[0]["lr"])
            if validation is not None:
                with self._whole(fit.validation_generators):
                    validated = self._evaluate(validation)
                row |= {f"val_{name}": value for name, value in validated.items()}
        finally:
            epoch.seconds = time.perf_counter() - start
        row = {"epoch": len(self.history) + 1, "seconds": epoch.seconds, "lr": lr, **row}
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(row.get("val_loss", row["loss"]))
        elif self.scheduler is not None and self.schedule == "epoch":
            self.scheduler.step()
        self.history.rows.append(
            {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in row.items()})
        self._epoch = None
        fit.source.end_epoch()
        self._events.tell("on_epoch_end", self)

    def _train_steps(self, source: Source, epoch: Epoch) -> None:
        """Do the steps that are left in an epoch, until `stop` is called."""
        with self._in_train_mode():
            if epoch.results:
                self._finish_step(epoch)
            batches = source.batches()
            try:
                while not self._is_stopping and self._update(batches, source, epoch):
                    self._finish_step(epoch)
            finally:
                close(batches)
        if not epoch.steps and not self._is_stopping:
            raise no_data()

    def _update(self, batches: Iterator, source: Source, epoch: Epoch) -> bool:
        """Update the parameters with the next batches; False if there are none.

        After an error, everything is as before, and the next `fit` reads the batches again.
        """
        with self._whole(source.generators):
            group = [self._as_batch(b) for b in itertools.islice(batches, self.accumulate)]
            if not group:
                return False
            self._interrupt.is_allowed = not self.capture
            results = self._captured_step(*group)
        source.advance(len(group))
        epoch.steps += 1
        epoch.results = [(*result, batch[-1]) for result, batch in zip(results, group, strict=True)]
        return True

    def _finish_step(self, epoch: Epoch) -> None:
        """Do what follows an update: the running metrics, the schedule, the callbacks."""
        while epoch.results:
            epoch.metrics.add(*epoch.results[0])
            del epoch.results[0]
        if self.scheduler is not None and self.schedule == "step":
            self.scheduler.step()
        self._events.tell("on_step_end", self)

    @contextlib.contextmanager
    def _whole(self, generators: dict[str, Generator]) -> Iterator[None]:
        """After an error in this block, generators and buffers are as they were before it.

        On a device, copies of all buffers in each step would take too long: there, running
        statistics keep what the failed step added.
        """
        self._interrupt.raise_pending()
        undo = [g._snapshot() for g in {**self._kept_generators, **generators}.values()]
        kept = self._kept_buffers if self._backend is get_backend(HOST) else []
        # without a reference to the arrays, which would mean that a graph may hold them
        buffers = [(b, id(b.array), b.array.copy()) for b in kept]
        try:
            with self._interrupt.allowed():
                yield
        except BaseException:
            self.scaler._optimizers.clear()
            for each in undo:
                each()
            for buffer, number, values in buffers:
                if id(buffer.array) == number:
                    buffer.array[...] = values
                else:  # the step has assigned another array
                    buffer.array = values
            raise

    def _step(self, *group: tuple) -> list:
        """Update the parameters once, with the gradient of the mean loss of all batches."""
        self.optimizer.zero_grad()
        results = []
        for batch in group:
            output, loss = self._forward(*batch)
            loss.backward(self.scaler, mean=len(group) == 1)
            results.append((output, loss))
        self.scaler.unscale_(self.optimizer)
        if len(group) > 1:
            scale = 1 / safe_divisor(sum(loss.count for _, loss in results))
            for gradient in gradient_arrays(self._parameters())[0]:
                gradient *= scale
        if self.clip_grad_norm is not None:
            clip_grad_norm_(self._parameters(), self.clip_grad_norm)
        self._interrupt.is_allowed = False  # the update is whole or not at all
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return results

    @contextlib.contextmanager
    def _in_train_mode(self) -> Iterator[None]:
        """Train mode of an optimizer that has one, and eval mode after this block."""
        self._set_mode(training=True)
        try:
            yield
        finally:
            self._set_mode(training=False)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Eval mode of an optimizer that has one, and its present mode after this block."""
        was_training = self.optimizer.param_groups[0].get("train_mode", self._trains)
        self._set_mode(training=False)
        try:
            yield
        finally:
            if was_training:
                self._set_mode(training=True)

    def _set_mode(self, training: bool) -> None:
        """Call the optimizer's `train` or `eval`, if it has one."""
        change = getattr(self.optimizer, "train" if training else "eval", None)
        if change is not None:
            with self._interrupt.forbidden():
                change()
                self._trains = training

    def _parameters(self) -> list:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _stop_by_interrupt(self) -> None:
        self.history.interrupted = True
        self.stop()
