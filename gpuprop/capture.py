"""Make a whole training step replayable: its Python runs while it is recorded, and no more."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from gpuprop.autograd import Tensor, raw
from gpuprop.backend import backend_of, default_backend
from gpuprop.mode import current
from gpuprop.nn import module as modules
from gpuprop.optim import optimizer as optimizers


def capture(step: Callable) -> Callable:
    """`step` made replayable where a backend can: for each signature it runs once as it is, is recorded, then replayed.

    `step` takes arrays, Tensors and hashable constants, and returns Tensors, arrays, or a list, tuple or dict of them;
    results are fresh copies without history.  A signature is the shapes and dtypes of the arrays, the constants, train
    or eval of every module called, the modes in force, and which parameters of the optimizers stepped have a gradient;
    another one is recorded anew.  A step whose two consecutive recordings differ, by a Python number that changes, say,
    is run as it is from then on, with a warning that names the call.  Raises CaptureError where the step waits for the
    device.  On NumPy the step itself is run.
    """
    known: dict[Any, _Captured] = {}

    @functools.wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        arrays: list[Any] = []
        _map(arrays.append, (args, kwargs))
        backend = backend_of(raw(arrays[0])) if arrays else default_backend()
        if not backend.records:
            return step(*args, **kwargs)
        key = (backend.name, backend.device(), current.get(), _signature(args), _signature(kwargs))
        if key not in known:
            known[key] = _Captured(step, backend)
        return known[key](args, kwargs, arrays)

    return run


class _Captured:
    """One step for arguments of one signature: the recordings of it, by the state of what it touches."""

    def __init__(self, step: Callable, backend: Any) -> None:
        self.step, self.backend = step, backend
        self.recordings: dict[Any, _Replay] = {}
        self.modules: list[Any] | None = None  # what the step calls and steps, known once it has run
        self.optimizers: list[Any] = []
        self.eager = False

    def __call__(self, args: tuple, kwargs: dict, arrays: list) -> Any:
        if self.eager:
            return self.step(*args, **kwargs)
        if self.modules is None:  # what is made at first use is made now: state, kernels, plans
            with modules.watch() as called, optimizers.watch() as stepped:
                result = self.step(*args, **kwargs)
            self.modules, self.optimizers = list(called), list(stepped)
            return result
        state = self._state()
        if state not in self.recordings:
            replay = self._record(args, kwargs, arrays)
            if replay is None:
                return self.step(*args, **kwargs)
            self.recordings[state] = replay
        return self.recordings[state](arrays)

    def _state(self) -> tuple:
        """What a recording is bound to beyond its arguments: host-side reads only."""
        return tuple(m.training for m in self.modules or ()), tuple(o.capture_key() for o in self.optimizers)

    def _record(self, args: tuple, kwargs: dict, arrays: list) -> _Replay | None:
        slots = [Tensor(self.backend.xp.copy(raw(a))) for a in arrays]
        rest = iter(slots)
        inputs = _map(lambda a: next(rest) if isinstance(a, Tensor) else next(rest).data, (args, kwargs))
        gradients = [(p, p.grad) for o in self.optimizers for group in o.param_groups for p in group["params"]]
        recordings = []
        for _ in range(2):
            for p, g in gradients:
                p.grad = g
            with self.backend.record() as recording:
                result = self.step(*inputs[0], **inputs[1])
            recordings.append(recording)
        difference = recordings[0].difference(recordings[1])
        if difference is not None:
            for p, g in gradients:
                p.grad = g
            self.eager = True
            name = getattr(self.step, "__name__", "the step")
            warnings.warn(f"{name} is run as it is, not captured: {difference}", stacklevel=4)
            return None
        return _Replay(self.backend, recordings[1], slots, result,
                       [(p, p.grad) for p, _ in gradients])


class _Replay:
    """A recording, the slots its arguments go to, and what it leaves behind."""

    def __init__(self, backend: Any, recording: Any, slots: list, result: Any, gradients: list) -> None:
        self.backend, self.recording, self.slots = backend, recording, slots
        self.result, self.gradients = result, gradients

    def __call__(self, arrays: list) -> Any:
        for slot, a in zip(self.slots, arrays, strict=True):
            slot.data[...] = raw(a)
        self.recording.replay()
        for p, g in self.gradients:
            p.grad = g
        fresh = lambda a: Tensor(self.backend.xp.copy(raw(a))) if isinstance(a, Tensor) else self.backend.xp.copy(a)
        return _map(fresh, self.result)


def _map(f: Callable, value: Any) -> Any:
    """`f` of every array and Tensor in nested tuples, lists and dicts."""
    if isinstance(value, dict):
        return {k: _map(f, v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map(f, v) for v in value)
    return f(value) if hasattr(value, "shape") and hasattr(value, "dtype") else value


def _signature(value: Any) -> Any:
    """A value as part of a key: arrays by kind, shape and dtype, the rest by itself."""
    if isinstance(value, dict):
        return tuple((k, _signature(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_signature, value))
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return isinstance(value, Tensor), value.shape, value.dtype.name
    return type(value), value
