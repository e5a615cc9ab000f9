"""Evaluation and prediction, on the model's device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpuprop._array.shape import concatenate
from gpuprop._core.backend import MULTI_DEVICE, NO_SWITCH
from gpuprop._core.checks import as_choice, as_instance
from gpuprop._core.dtypes import as_dtype, is_float
from gpuprop._core.graph import raw
from gpuprop._core.mode import autocast, no_grad
from gpuprop._core.placement import place, place_of
from gpuprop._core.registry import backend_of, making_on
from gpuprop._core.tensor import Tensor
from gpuprop.nn import Module
from gpuprop.random import Generator
from gpuprop.training._batches import as_batches, close, no_data
from gpuprop.training._loss import BatchLoss, batch_loss
from gpuprop.training._running_metrics import RunningMetrics
from gpuprop.training.metrics import Metric, metric


class Evaluator:
    """A model with a loss and metrics: evaluation and prediction on the model's device."""

    def __init__(self, model: Module, loss: Callable, metrics: Iterable[str | Metric],
                 autocast: str | None) -> None:
        what = "Trainer"
        self.model = as_instance(f"{what}: model", model, Module, "a module of gpuprop.nn")
        self._batch_loss = batch_loss(loss)
        self.loss = loss
        self.metrics = _checked_metrics(metrics)
        self.autocast = as_choice(f"{what}: autocast", autocast, (None, "float16", "bfloat16"))
        if autocast is not None:
            as_dtype(autocast)  # raises if bfloat16 needs a package

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
                close(batches)
            if empty:
                raise no_data()
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

    def _on_device(self, metrics: RunningMetrics | dict) -> RunningMetrics:
        """Metrics on the model's device, which may be those of an epoch that was interrupted."""
        if isinstance(metrics, RunningMetrics):
            if metrics.backend is self._backend:
                return metrics
            metrics = metrics.state_dict()
        running = self._new_metrics()
        running.load_state_dict(metrics)
        return running

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
            with making_on(self._place), NO_SWITCH if training else self._averaged():
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def _averaged(self) -> contextlib.AbstractContextManager:
        """In this block the parameters hold the values for evaluation."""
        return NO_SWITCH

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
            if not data.ndim:
                raise TypeError(f"a batch must hold arrays, got {value!r}: convert the data, for "
                                f"example with np.asarray(data)")
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
