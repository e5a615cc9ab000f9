"""The Trainer: the training loop, evaluation, prediction and resuming."""

from __future__ import annotations

import contextlib
import copy
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gpuprop._array.shape import concatenate
from gpuprop._capture import capture as captured
from gpuprop._core.arena import gradient_arrays
from gpuprop._core.backend import MULTI_DEVICE, NO_SWITCH
from gpuprop._core.checks import as_bool, as_choice, as_instance, as_integer, as_number
from gpuprop._core.dtypes import as_dtype, is_float
from gpuprop._core.graph import raw
from gpuprop._core.loading import as_entries
from gpuprop._core.mode import autocast, no_grad
from gpuprop._core.placement import place, place_of
from gpuprop._core.registry import backend_of, making_on
from gpuprop._core.tensor import Tensor
from gpuprop.amp import GradScaler
from gpuprop.data._generators import generator_states, named_generators, prepare_generators
from gpuprop.nn import Module
from gpuprop.nn._module import prepare_load
from gpuprop.nn.utils import clip_grad_norm_
from gpuprop.optim import Optimizer
from gpuprop.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from gpuprop.random import Generator, default_generator
from gpuprop.training._batches import as_batches, length
from gpuprop.training._callbacks import EVENTS, Callback, check_monitors, checked_callbacks
from gpuprop.training._history import NOT_MEASURED, History, checked_rows, plain
from gpuprop.training._interrupt import Interrupt
from gpuprop.training._loss import BatchLoss, batch_loss, safe_divisor
from gpuprop.training._progress import progress_callbacks
from gpuprop.training._run_state import (
    NO_FIT,
    Epoch,
    Event,
    Fit,
    by_key,
    checked_fit_state,
    naming,
)
from gpuprop.training._running_metrics import RunningMetrics
from gpuprop.training._source import Source
from gpuprop.training.metrics import Metric, metric

# the types of a scheduler's attributes that a state can hold; functions, for example, are left out
STATE_TYPES = (bool, int, float, str, list, tuple, dict, type(None))


# the names of the entries of a state
ENTRIES = ("model", "loss", "parameters", "optimizer", "scheduler", "scaler", "generator",
           "generators", "history", "epoch", "event", *NO_FIT)


class Trainer:
    """Trains and evaluates a model, predicts with it, and keeps the history of the run.

    - `loss`: a loss function or module of gpuprop, or any callable ``loss(output, target)`` that
      returns the mean over the samples of a batch, or a pair (sum, count).  If the loss has a
      method ``sum_and_count(output, target)``, as gpuprop's losses do, the Trainer calls that
      instead, and the mean over several batches is exact.  A module with forward hooks or with a
      forward of its own is called as usual.
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
        what = "Trainer"
        self.model = as_instance(f"{what}: model", model, Module, "a module of gpuprop.nn")
        self._batch_loss = batch_loss(loss)
        self.loss = loss
        self._loss_module = loss if isinstance(loss, Module) else Module()  # it may have a state
        self.optimizer = as_instance(f"{what}: optimizer", optimizer, Optimizer,
                                     "an optimizer of gpuprop.optim")
        of_model = {id(p) for p in model.parameters()}
        if not any(id(p) in of_model for p in self._parameters()):
            raise ValueError("Trainer: the optimizer has none of the model's parameters: construct "
                             "it with model.parameters()")
        self.metrics = _checked_metrics(metrics)
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
        self.autocast = as_choice(f"{what}: autocast", autocast, (None, "float16", "bfloat16"))
        if autocast is not None:
            as_dtype(autocast)  # raises if bfloat16 needs a package
        self.scaler = GradScaler(enabled=autocast == "float16")
        self.history = History()
        self.last_epoch = 0  # the number of the last epoch of `fit`
        self.steps_per_epoch: int | None = None  # None if the data have no length
        # evaluation draws nothing from the default generator
        self._validation_rng = Generator()
        self._is_stopping = False
        self._running: RunningMetrics | None = None  # of the current epoch
        self._epoch: Epoch | None = None  # that has begun and not ended
        self._event: Event | None = None  # of which not all callbacks have been told
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
            self._hooks = {
                event: [(key, c) for key, c in active.items()
                        if getattr(type(c), event) is not getattr(Callback, event)]
                for event in EVENTS
            }
            for callback in active.values():
                stack.callback(callback.close)
            self._fit = fit
            stack.callback(self._end_fit, fit)
            stack.enter_context(self._on_model_device(training=True))
            self._kept_generators = {"": default_generator, **self._generators()}
            self._kept_buffers = [*self.model.buffers(), *self._loss_module.buffers()]
            self._captured_step = captured(self._step) if self.capture else self._step
            self._call("on_fit_start")
            self._tell_remaining()
            while len(self.history) < self.last_epoch and not self._is_stopping:
                self._train_epoch(fit, validation)
            self._call("on_fit_end")
        return self.history

    def evaluate(self, data: Any, batch_size: int = 256) -> dict[str, Any]:
        """Return the loss and the metrics by name, computed with the model in eval mode.

        Values are floats, or arrays such as the confusion matrix.
        """
        dtype = self._first_parameter().dtype
        return self._evaluate(as_batches(data, batch_size, dtype, Generator()))

    def predict(self, data: Any, batch_size: int = 256) -> Tensor:
        """Return the outputs for all samples, in eval mode, as one Tensor on the model's device.

        `data` is a single array, an iterable of arrays, or data as for `evaluate`, whose targets
        are ignored.
        """
        dtype = self._first_parameter().dtype
        source = as_batches(data, batch_size, dtype, Generator(), targets=False)

        def inputs(batch: Any) -> tuple | list:
            if isinstance(batch, tuple | list):
                return batch[:-1] or batch
            return (batch,)

        with self._on_model_device(training=False), no_grad(), self._precision():
            outputs = [self.model(*map(self._as_input, inputs(batch))) for batch in source]
        if not outputs:
            raise ValueError("predict: no data: the iterable has no batches")
        return concatenate(outputs)

    # ---- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state of the run: all that its continuation depends on, also within an epoch.

        It has the states of the model, the loss, the optimizer, the scheduler, the default
        generator and those of layers, the history, the unfinished epoch with its losses and
        metrics, and the states of the data and the callbacks of the last `fit`, with their
        generators.
        """
        fit = self._last_fit if self._fit is None else self._fit.state_dict(self._last_fit)
        return {
            **{name: module.state_dict() for name, module in self._modules().items()},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": _schedule_state(self.scheduler),
            "scaler": self.scaler.state_dict(),
            "generator": default_generator.get_state(),
            "generators": generator_states(self._generators()),
            "history": [plain(row) for row in self.history],
            "epoch": None if self._epoch is None else self._epoch.state_dict(),
            "event": None if self._event is None else self._event.state_dict(),
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
            writes.append(_prepare_schedule(self.scheduler, entries["scheduler"]))
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
        self._event = event
        self._last_fit = fit
        self._is_loaded = True

    def reset_data(self) -> None:
        """Forget the state of the data: the next `fit` begins a new epoch, with any data.

        An epoch that was interrupted is given up; its updates of the model stay.
        """
        self._epoch = None
        self._event = None
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

    def _end_fit(self, fit: Fit) -> None:
        self._last_fit = fit.state_dict(self._last_fit)
        self._last_callbacks = fit.callbacks
        self._last_iterator = fit.source.iterator()
        self._fit = None

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
            self._tell("on_epoch_start")
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
        self._tell("on_epoch_end")

    def _train_steps(self, source: Source, epoch: Epoch) -> None:
        """Do the steps that are left in an epoch, until `stop` is called."""
        if epoch.results:
            self._finish_step(epoch)
        batches = source.batches()
        try:
            while not self._is_stopping and self._update(batches, source, epoch):
                self._finish_step(epoch)
        finally:
            _close(batches)
        if not epoch.steps and not self._is_stopping:
            raise _no_data()

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
        self._tell("on_step_end")

    @contextlib.contextmanager
    def _whole(self, generators: dict[str, Generator]) -> Iterator[None]:
        """After an error in this block, generators and buffers are as they were before it.

        On a device, copies of all buffers in each step would take too long: there, running
        statistics keep what the failed step added.
        """
        self._interrupt.raise_pending()
        undo = [g._snapshot() for g in {**self._kept_generators, **generators}.values()]
        kept = [] if self._backend.records else self._kept_buffers
        buffers = [(b, b.array, b.array.copy()) for b in kept]
        try:
            with self._interrupt.allowed():
                yield
        except BaseException:
            self.scaler._optimizers.clear()
            for each in undo:
                each()
            for buffer, array, values in buffers:
                array[...] = values
                buffer.array = array
            raise

    def _on_device(self, metrics: RunningMetrics | dict) -> RunningMetrics:
        """Metrics on the model's device, which may be those of an epoch that was interrupted."""
        if isinstance(metrics, RunningMetrics):
            if metrics.backend is self._backend:
                return metrics
            metrics = metrics.state_dict()
        running = self._new_metrics()
        running.load_state_dict(metrics)
        return running

    def _evaluate(self, data: Iterable) -> dict[str, Any]:
        """The loss and the metrics by name."""
        with self._on_model_device(training=False), no_grad():
            metrics = self._new_metrics()
            empty = True
            batches = iter(data)
            try:
                for batch in map(self._as_batch, batches):
                    metrics.add(*self._forward(*batch), batch[-1])
                    empty = False
            finally:
                _close(batches)
            if empty:
                raise _no_data()
            return metrics.compute()

    def _new_metrics(self) -> RunningMetrics:
        return RunningMetrics(self._backend, self.metrics)

    def _forward(self, *batch: Tensor) -> tuple[Tensor | None, BatchLoss]:
        """The output (None if there are no metrics, which need it) and the loss of a batch."""
        with self._precision():
            output = self.model(*batch[:-1])
            return output if self.metrics else None, self._batch_loss(output, batch[-1])

    def _precision(self) -> contextlib.AbstractContextManager:
        return NO_SWITCH if self.autocast is None else autocast(self.autocast)

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

    def _parameters(self) -> list:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _call(self, event: str) -> None:
        """Call the method of this name of each callback that defines it."""
        for _, callback in self._hooks[event]:
            self._call_one(callback, event)

    def _tell(self, event: str) -> None:
        """As `_call`; if a callback raises, the next `fit` calls the ones after it."""
        if self._hooks[event]:
            self._event = Event(event, [])
            self._tell_remaining()

    def _tell_remaining(self) -> None:
        event = self._event
        if event is None:
            return
        remaining = [pair for pair in self._hooks[event.name] if pair[0] not in event.called]
        for key, callback in remaining:
            self._interrupt.raise_pending()
            event.called.append(key)
            if callback is remaining[-1][1]:
                self._event = None
            self._call_one(callback, event.name)
        self._event = None

    def _call_one(self, callback: Callback, event: str) -> None:
        try:
            with self._interrupt.allowed():
                getattr(callback, event)(self)
        except Exception as error:
            error.add_note(f"raised by {type(callback).__name__}.{event} after "
                           f"{len(self.history)} epochs; the model keeps its parameters")
            raise

    def _stop_by_interrupt(self) -> None:
        self.history.interrupted = True
        self.stop()

    # ---- the model's device ----------------------------------------------------------------------

    def _first_parameter(self) -> Any:
        """The array of the first parameter; its device and dtype are the model's."""
        return next(self.model.parameters()).array

    @contextlib.contextmanager
    def _on_model_device(self, training: bool) -> Iterator[None]:
        """Create arrays on the model's device, and set the model to training or eval mode.

        At the end each module returns to its previous mode.
        """
        parameter = self._first_parameter()
        self._backend = backend_of(parameter)
        self._dtype = parameter.dtype
        self._place = place_of(parameter)
        self._array_type: Any = self._backend.array_type
        if isinstance(self.loss, Module):  # it may have buffers, such as class weights
            self.loss.to(self._place, self._dtype)
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.train(training)
        try:
            with making_on(self._place):
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def _as_batch(self, batch: Any) -> tuple:
        """The inputs and the target of a batch as Tensors on the model's device."""
        is_sequence = isinstance(batch, list | tuple)
        if not is_sequence or len(batch) < 2:
            kind = type(batch).__name__
            found = f"a {kind} of length {len(batch)}" if is_sequence else kind
            raise TypeError(f"a batch must be a tuple (*inputs, target), got {found}")
        return tuple(map(self._as_input, batch))

    def _as_input(self, value: Any) -> Tensor:
        """A Tensor on the model's device; floating-point values are cast to the model's dtype."""
        if type(value) is Tensor:
            data = value.array
            dtype_fits = data.dtype is self._dtype or data.dtype.kind in "iub"
            if (type(data) is self._array_type and dtype_fits
                    and (not MULTI_DEVICE or place_of(data) == self._place)):
                return value
        data = raw(value)
        if not hasattr(data, "shape"):
            data = np.asarray(data)
        return Tensor(place(data, self._place, self._dtype if is_float(data.dtype) else None))


def _checked_metrics(metrics: Any) -> list[Metric]:
    """The Metrics of names and Metrics; raises for other objects and for equal names."""
    what = "Trainer: metrics"
    if isinstance(metrics, str | Metric):
        metrics = [metrics]
    as_instance(what, metrics, Iterable, "a list of names and Metrics")
    checked = [metric(as_instance(f"{what}[{i}]", m, (Metric, str), "a name or a Metric"))
               for i, m in enumerate(metrics)]
    names = [m.name for m in checked]
    for name in names:
        if names.count(name) > 1 or name == "loss":
            raise ValueError(f"{what} must have different names, other than 'loss', got "
                             f"{', '.join(names)}")
    return checked


def _no_data() -> ValueError:
    return ValueError("no data: the iterable has no batches; note that an iterator can be used "
                      "only once")


def _close(batches: Any) -> None:
    """Close an iterator that can be closed: that of a DataLoader then stops its workers."""
    if hasattr(batches, "close"):
        batches.close()


def _schedule_state(scheduler: LRScheduler | None) -> dict[str, Any]:
    """What a state can hold of a scheduler's state; functions, for example, are left out."""
    state = {} if scheduler is None else scheduler.state_dict()
    return {name: value for name, value in state.items() if type(value) in STATE_TYPES}


def _prepare_schedule(scheduler: LRScheduler | None, state: Any) -> Callable[[], None]:
    """Check the state of a scheduler; returns the function that writes it."""
    if scheduler is not None:
        return scheduler._prepare_load(state)
    if state != {}:
        raise ValueError(f"expected {{}}, since the Trainer has no scheduler, got {state!r}")
    return lambda: None
