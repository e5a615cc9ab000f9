"""A training run written down, step by step."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

import numpy as np

from gpuprop.autograd import Parameter
from gpuprop.backend import backend_of, use
from gpuprop.nn.module import Module
from gpuprop.optim import Optimizer
from gpuprop.optim.optimizer import watch
from gpuprop.random import manual_seed
from gpuprop.verification.recorder import Recorder, Step


class Run(NamedTuple):
    """The parameters and buffers as they were made, the steps, and the optimizers' states before each."""

    start: dict[str, np.ndarray]
    steps: list[Step]
    states: list[list[dict]]


def record(make_run: Callable, backend: str, seed: int, steps: int, dtype: str, *, again: int = 0, rows: bool = True,
           follow: Run | None = None, guide: Run | None = None) -> Run:
    """The first steps of a run on a backend, in a dtype.

    `again`, a number, has all of it added up in another order; with `follow` each step starts where that run's did, and
    with `guide` each layer's output is replaced by that run's.
    """
    try:
        with use(backend) as b:
            manual_seed(seed)
            model, step, batches = make_run()
            if any(backend_of(p.data) is not b for p in model.parameters()):
                raise RuntimeError(f"make_run was to make its model on {backend!r}, and made it elsewhere: it must not "
                                   f"choose a backend itself")
            run = Run(model.state_dict(), [], [])
            if any(p.dtype != dtype for p in model.parameters()):
                model.to(dtype=dtype)
            optimizers: dict[Optimizer, None] = {}
            with contextlib.closing(_first(batches, steps)) as first:
                for i, batch in enumerate(first):
                    if follow is not None and i < len(follow.steps):
                        _load(model, follow.steps[i].start, optimizers, follow.states[i])
                    run.states.append([o.state_dict() for o in optimizers])
                    recorder = Recorder(model, b, dtype, guide.steps[i] if guide and i < len(guide.steps) else None)
                    with watch() as stepped:
                        run.steps.append(recorder.record(step, batch, again, rows))
                    optimizers |= stepped
            return run
    except Exception as error:
        error.add_note(f"in the run on {backend!r}, in {dtype}")
        raise


def _first(batches: Iterable, steps: int) -> Generator[Any, None, None]:
    """So many batches, and then an end to what makes them."""
    source = iter(batches)
    try:
        yield from itertools.islice(source, steps)
    finally:
        if source is not batches and hasattr(source, "close"):  # the workers of a loader
            source.close()


def _load(model: Module, values: dict[str, np.ndarray], optimizers: Iterable[Optimizer], states: list[dict]) -> None:
    for name, tensor in model._state().items():
        tensor.data[...] = backend_of(tensor.data).asarray(values[name], tensor.dtype)
        if isinstance(tensor, Parameter):
            tensor.touch()
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
