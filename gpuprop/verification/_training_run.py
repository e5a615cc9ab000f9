"""Record the first steps of a training run."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.backend import Backend
from gpuprop._core.instruments import optimizer_stepped
from gpuprop._core.registry import backend_of, making_on
from gpuprop._core.tensor import Parameter
from gpuprop.nn import Module
from gpuprop.nn._module import state_tensors
from gpuprop.optim import Optimizer
from gpuprop.random import manual_seed
from gpuprop.verification._recorder import StepRecord, StepRecorder


class RunRecord(NamedTuple):
    """The initial state of a model, its steps, and the optimizers' states before each step."""

    dtype: str
    initial_state: dict[str, np.ndarray]  # parameters and buffers
    steps: list[StepRecord]
    optimizer_states: list[list[dict]]


def record_run(make_run: Callable, backend: str, seed: int, steps: int, dtype: str,
               **options: Any) -> RunRecord:
    """Record the first steps of a run on a backend, in a dtype; `_train` describes `options`."""
    try:
        with making_on(backend) as b:
            manual_seed(seed)
            model, step, batches = make_run()
            if any(backend_of(p.array) is not b for p in model.parameters()):
                raise RuntimeError(
                    f"make_run must make its model on the default backend, {backend!r}, but made "
                    f"it on another: it must not choose a backend itself")
            record = RunRecord(dtype, model.state_dict(), [], [])
            if any(p.dtype != dtype for p in model.parameters()):
                model.to(dtype=dtype)
            with contextlib.closing(_take(batches, steps)) as first_batches:
                _train(record, b, model, step, first_batches, **options)
    except Exception as error:
        error.add_note(f"in the run on {backend!r}, in {dtype}")
        raise
    return record


def _train(record: RunRecord, backend: Backend, model: Module, step: Callable, batches: Iterable,
           order_seed: int = 0, permute_samples: bool = True, start_from: RunRecord | None = None,
           activations_from: RunRecord | None = None) -> None:
    """Train on these batches and add each step to `record`.

    If `order_seed` is not 0, it changes the order of all sums; samples are permuted only if
    `permute_samples` is true.  With `start_from`, each step starts from the state that the other
    run had before it.  With `activations_from`, the other run's outputs replace each layer's.
    """
    optimizers: dict[Optimizer, None] = {}
    for i, batch in enumerate(batches):
        if start_from is None:
            record.optimizer_states.append([o.state_dict() for o in optimizers])
        elif i < len(start_from.steps):
            states = start_from.optimizer_states[i]
            _load(model, start_from.steps[i].state, optimizers, states)
        activations = None
        if activations_from is not None and i < len(activations_from.steps):
            activations = activations_from.steps[i]
        with optimizer_stepped.collect() as stepped:
            recorder = StepRecorder(model, backend, record.dtype, activations)
            record.steps.append(recorder.record(step, batch, order_seed, permute_samples))
        optimizers |= dict.fromkeys(stepped.values())


def _load(model: Module, values: dict[str, np.ndarray], optimizers: Iterable[Optimizer],
          states: list[dict]) -> None:
    for name, tensor in state_tensors(model).items():
        tensor.array[...] = backend_of(tensor.array).asarray(values[name], tensor.dtype)
        if isinstance(tensor, Parameter):
            tensor.touch()
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)


def _take(batches: Iterable, count: int) -> Generator[Any, None, None]:
    """The first `count` batches; then close the iterator, which ends the workers of a loader."""
    source = iter(batches)
    try:
        yield from itertools.islice(source, count)
    finally:
        if source is not batches and hasattr(source, "close"):
            source.close()
