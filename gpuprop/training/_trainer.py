"""The Trainer: the training loop, evaluation, prediction and resuming."""

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
from gpuprop._core.arena import gradient_arrays
from gpuprop._core.backend import MULTI_DEVICE
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
from gpuprop.training._batches import as_batches, length
from gpuprop.training._callbacks import EVENTS, Callback, EpochFunction
from gpuprop.training._history import History
from gpuprop.training._loss import BatchLoss, batch_loss, safe_divisor
from gpuprop.training._progress import progress_callbacks
from gpuprop.training._running_metrics import RunningMetrics
from gpuprop.training.metrics import Metric, metric

# the types of a scheduler's attributes that a state can hold; functions, for example, are left out
STATE_TYPES = (bool, int, float, str, list, tuple, dict, type(None))


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
        capture: bool = False,
    ) -> None:
        if schedule not in ("epoch", "step"):
            raise ValueError(f"schedule must be 'epoch' or 'step', got {schedule!r}")
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1 batch, got {accumulate}")
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        of_model = {id(p) for p in model.parameters()}
        if not any(id(p) in of_model for p in self._parameters()):
            raise ValueError("the optimizer has none of the model's parameters: construct it with "
                             "model.parameters()")
        if isinstance(metrics, str | Metric):
            metrics = [metrics]
        self.metrics = [metric(m) for m in metrics]
        self.schedule = schedule
        self.accumulate = accumulate
        self.clip_grad_norm = clip_grad_norm
        self.capture = capture
        self.history = History()
        self.last_epoch = 0  # the number of the last epoch of `fit`
        self.steps_per_epoch: int | None = None  # None if the data have no length
        self._batch_loss = batch_loss(loss)
        self._running: RunningMetrics | None = None  # of the current epoch
        self._is_stopping = False

    def fit(
        self, train: Any, validation: Any = None, epochs: int = 1, batch_size: int = 32,
        callbacks: Sequence[Callback | Callable] = (), progress: bool = True,
    ) -> History:
        """Train for `epochs` more epochs and return the history, which holds all epochs.

        Arrays and datasets are divided into batches of `batch_size`, and shuffled for training.  A
        function in `callbacks` is called with the trainer after each epoch.  ctrl-C ends training
        after the current step; a second ctrl-C raises KeyboardInterrupt at once.  At the end each
        module returns to the mode, training or eval, that it had before.
        """
        active = progress_callbacks() if progress else []
        active += [c if isinstance(c, Callback) else EpochFunction(c) for c in callbacks]
        dtype = self._first_parameter().dtype
        train = as_batches(train, batch_size, dtype, shuffle=True)
        if validation is not None:
            validation = as_batches(validation, batch_size, dtype)
        self._is_stopping = False
        self.history.interrupted = False
        self.last_epoch = len(self.history) + epochs
        batch_count = length(train)
        self.steps_per_epoch = None if batch_count is None else -(-batch_count // self.accumulate)
        self._hooks = {
            event: [c for c in active if getattr(type(c), event) is not getattr(Callback, event)]
            for event in EVENTS
        }
        with contextlib.ExitStack() as stack:
            for callback in active:
                stack.callback(callback.close)
            stack.enter_context(self._on_model_device(training=True))
            stack.enter_context(_interruptible(self._interrupt))
            self._captured_step = captured(self._step) if self.capture else self._step
            self._call("on_fit_start")
            while len(self.history) < self.last_epoch and not self._is_stopping:
                self._train_epoch(train, validation)
            self._call("on_fit_end")
        return self.history

    def evaluate(self, data: Any, batch_size: int = 256) -> dict[str, Any]:
        """Return the loss and the metrics by name, computed with the model in eval mode.

        Values are floats, or arrays such as the confusion matrix.
        """
        return self._evaluate(as_batches(data, batch_size, self._first_parameter().dtype))

    def predict(self, data: Any, batch_size: int = 256) -> Tensor:
        """Return the outputs for all samples, in eval mode, as one Tensor on the model's device.

        `data` is a single array, an iterable of arrays, or data as for `evaluate`, whose targets
        are ignored.
        """
        source = as_batches(data, batch_size, self._first_parameter().dtype, targets=False)

        def inputs(batch: Any) -> tuple | list:
            if isinstance(batch, tuple | list):
                return batch[:-1] or batch
            return (batch,)

        with self._on_model_device(training=False), no_grad():
            outputs = [self.model(*map(self._as_input, inputs(batch))) for batch in source]
        if not outputs:
            raise ValueError("predict: no data: the iterable has no batches")
        return concatenate(outputs)

    def state_dict(self) -> dict[str, Any]:
        """The state of the run: model, optimizer, scheduler, random generator and history."""
        scheduler = {} if self.scheduler is None else self.scheduler.state_dict()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {n: v for n, v in scheduler.items() if type(v) in STATE_TYPES},
            "generator": default_generator.get_state(),
            "history": [dict(row) for row in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of a trainer that was constructed in the same way.

        If the state does not fit, raises an error and leaves the trainer unchanged.
        """
        before = self.state_dict()
        if state.keys() != before.keys():
            raise ValueError(f"not the state of a Trainer: expected the keys {', '.join(before)}, "
                             f"got {', '.join(state)}")
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

    # ---- for callbacks ---------------------------------------------------------------------------

    def stop(self) -> None:
        """End training after the current step, without adding its epoch to the history.

        If it is called during validation or in `on_epoch_end`, training ends after that epoch.
        """
        self._is_stopping = True

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

    def _train_epoch(self, train: Iterable, validation: Any) -> None:
        """Train for one epoch and add it to the history, unless it is stopped before its end."""
        start = time.perf_counter()
        self._call("on_epoch_start")
        self._running = self._new_metrics()
        rewind = self._schedule_snapshot()
        batches = self._until_stopped(train)
        results = self._run(
            batches, self._captured_step, self._running, self.accumulate, self._after_step)
        lr = float(self.optimizer.param_groups[0]["lr"])
        if self._is_stopping:
            rewind()  # a resumed run trains this epoch again
            return
        if validation is not None:
            validated = self._evaluate(validation)
            results |= {f"val_{name}": value for name, value in validated.items()}
        seconds = time.perf_counter() - start
        row = {"epoch": len(self.history) + 1, "seconds": seconds, "lr": lr, **results}
        self.history.rows.append(
            {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in row.items()})
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(row.get("val_loss", row["loss"]))
        elif self.scheduler is not None and self.schedule == "epoch":
            self.scheduler.step()
        self._call("on_epoch_end")

    def _schedule_snapshot(self) -> Callable[[], None]:
        """A function that restores the scheduler and the optimizer's options as they are now."""
        scheduler = self.scheduler
        groups = self.optimizer.param_groups
        if scheduler is None:
            return lambda: None
        state = scheduler.state_dict()
        saved = [{n: v for n, v in group.items() if n != "params"} for group in groups]

        def rewind() -> None:
            scheduler.load_state_dict(state)
            for group, options in zip(groups, saved, strict=True):
                group.update(options)

        return rewind

    def _evaluate(self, data: Iterable) -> dict[str, Any]:
        with self._on_model_device(training=False), no_grad():
            return self._run(data, lambda batch: [self._forward(*batch)], self._new_metrics())

    def _new_metrics(self) -> RunningMetrics:
        return RunningMetrics(self._backend, self.metrics)

    def _run(
        self, data: Iterable, step: Callable, metrics: RunningMetrics, group_size: int = 1,
        after_step: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Call ``step(*batches)`` for groups of batches; return the loss and the metrics by name.

        The step returns the result of `_forward` for each batch.  `after_step` is called once
        `metrics` include the step.
        """
        source = iter(data)
        empty = True
        try:
            while group := [self._as_batch(b) for b in itertools.islice(source, group_size)]:
                empty = False
                for (output, loss), batch in zip(step(*group), group, strict=True):
                    metrics.add(output, loss, batch[-1])
                if after_step is not None:
                    after_step()
        finally:
            if hasattr(source, "close"):  # a DataLoader's iterator then stops its workers
                source.close()
        if empty:
            raise ValueError("no data: the iterable has no batches; note that an iterator can be "
                             "used only once")
        return metrics.compute()

    def _forward(self, *batch: Tensor) -> tuple[Tensor | None, BatchLoss]:
        """The output (None if there are no metrics, which need it) and the loss of a batch."""
        output = self.model(*batch[:-1])
        return output if self.metrics else None, self._batch_loss(output, batch[-1])

    def _until_stopped(self, data: Iterable) -> Iterator:
        for batch in data:
            yield batch
            if self._is_stopping:
                return

    def _after_step(self) -> None:
        if self.scheduler is not None and self.schedule == "step":
            self.scheduler.step()
        self._call("on_step_end")

    def _step(self, *group: tuple) -> list:
        """Update the parameters once, with the gradient of the mean loss of all batches."""
        self.optimizer.zero_grad()
        results = []
        for batch in group:
            output, loss = self._forward(*batch)
            loss.backward(mean=len(group) == 1)
            results.append((output, loss))
        if len(group) > 1:
            scale = 1 / safe_divisor(sum(loss.count for _, loss in results))
            for gradient in gradient_arrays(self._parameters())[0]:
                gradient *= scale
        if self.clip_grad_norm is not None:
            clip_grad_norm_(self._parameters(), self.clip_grad_norm)
        self.optimizer.step()
        return results

    def _parameters(self) -> list:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _call(self, event: str) -> None:
        """Call the method of this name of each callback that defines it."""
        for callback in self._hooks[event]:
            try:
                getattr(callback, event)(self)
            except Exception as error:
                error.add_note(f"raised by {type(callback).__name__}.{event} after "
                               f"{len(self.history)} epochs; the model keeps its parameters")
                raise

    def _interrupt(self) -> None:
        self.history.interrupted = True
        self.stop()

    # ---- the model's device ----------------------------------------------------------------------

    def _first_parameter(self) -> Any:
        """The array of the first parameter; its device and dtype are the model's."""
        return next(self.model.parameters()).data

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
            data = value.data
            dtype_fits = data.dtype is self._dtype or data.dtype.kind in "iub"
            if (type(data) is self._array_type and dtype_fits
                    and (not MULTI_DEVICE or place_of(data) == self._place)):
                return value
        data = raw(value)
        if not hasattr(data, "shape"):
            data = np.asarray(data)
        return Tensor(place(data, self._place, self._dtype if is_float(data.dtype) else None))


@contextlib.contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Make ctrl-C call `stop`, and a second ctrl-C raise KeyboardInterrupt.

    If the program has its own SIGINT handler, or this is not the main thread, nothing changes.
    """
    default = signal.default_int_handler
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) is not default:
        yield
        return

    def handle(*_: Any) -> None:
        signal.signal(signal.SIGINT, default)
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, default)
