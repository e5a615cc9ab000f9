"""A training run written down, step by step."""

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
from gpuprop.nn._module import Module
from gpuprop.optim import Optimizer
from gpuprop.random import manual_seed
from gpuprop.verification._recorder import Recorder, Step


class Run(NamedTuple):
    """Parameters and buffers as they were made, the steps, and, to be followed, the optimizers' states before each."""

    dtype: str
    start: dict[str, np.ndarray]
    steps: list[Step]
    states: list[list[dict]]


def record(make_run: Callable, backend: str, seed: int, steps: int, dtype: str, **how: Any) -> Run:
    """The first steps of a run on a backend, in a dtype; see `_train` for `how`."""
    try:
        with making_on(backend) as b:
            manual_seed(seed)
            model, step, batches = make_run()
            if any(backend_of(p.data) is not b for p in model.parameters()):
                raise RuntimeError(f"make_run was to make its model on {backend!r}, and made it elsewhere: it must not "
                                   f"choose a backend itself")
            run = Run(dtype, model.state_dict(), [], [])
            if any(p.dtype != dtype for p in model.parameters()):
                model.to(dtype=dtype)
            with contextlib.closing(_first(batches, steps)) as first:
                _train(run, b, model, step, first, **how)
    except Exception as error:
        error.add_note(f"in the run on {backend!r}, in {dtype}")
        raise
    return run


def _train(run: Run, backend: Backend, model: Module, step: Callable, batches: Iterable, again: int = 0,
           rows: bool = True, follow: Run | None = None, guide: Run | None = None) -> None:
    """Train on these batches and write it down in `run`.

    `again`, a number, has all of it added up in another order; with `follow` each step starts where that run's did, and
    with `guide` each layer's output is replaced by that run's.
    """
    optimizers: dict[Optimizer, None] = {}
    for i, batch in enumerate(batches):
        if follow is None:
            run.states.append([o.state_dict() for o in optimizers])
        elif i < len(follow.steps):
            _load(model, follow.steps[i].start, optimizers, follow.states[i])
        with optimizer_stepped.collect() as stepped:
            recorder = Recorder(model, backend, run.dtype, guide.steps[i] if guide and i < len(guide.steps) else None)
            run.steps.append(recorder.record(step, batch, again, rows))
        optimizers |= dict.fromkeys(stepped.values())


def _load(model: Module, values: dict[str, np.ndarray], optimizers: Iterable[Optimizer], states: list[dict]) -> None:
    for name, tensor in model._state().items():
        tensor.data[...] = backend_of(tensor.data).asarray(values[name], tensor.dtype)
        if isinstance(tensor, Parameter):
            tensor.touch()
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)


def _first(batches: Iterable, steps: int) -> Generator[Any, None, None]:
    """So many batches, and then an end to what makes them."""
    source = iter(batches)
    try:
        yield from itertools.islice(source, steps)
    finally:
        if source is not batches and hasattr(source, "close"):  # the workers of a loader
            source.close()
