"""Make a whole training step replayable: its Python runs while it is recorded, and no more."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop import autograd
from gpuprop.autograd import Parameter, Tensor, raw, tree_map
from gpuprop.backend import BackendMismatchError, backend_of, default_backend
from gpuprop.mode import current
from gpuprop.nn import module as modules
from gpuprop.ops import is_inspected
from gpuprop.optim import optimizer as optimizers

MANY = 32  # states of one signature, after which it will hardly settle


def capture(step: Callable) -> Callable:
    """`step` made replayable where a backend can: for each signature it runs once as it is, is recorded, then replayed.

    `step` takes arrays, Tensors and hashable constants, and returns Tensors, arrays, or a list, tuple or dict of them;
    results are fresh copies without history, and what it writes into an argument stays in a copy.  A signature is the
    shapes and dtypes of the arrays, the constants, train or eval of every module called, the modes in force, and of
    every parameter where it lies, whether it is trained and whether it has a gradient; another one is recorded anew.
    Attributes of modules, like a dropout's p, are read while recording and no more.
    A step whose two consecutive recordings differ, by a Python number that changes, say, is run as it is from then on,
    with a warning that names the call.  Raises CaptureError where the step waits for the device.  The step itself is
    run on NumPy, for arguments that want a gradient, and inside `grad`, where results have their history.
    """
    known: dict[Any, _Captured] = {}

    @functools.wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        mode, arrays = current.get(), []  # type: ignore[var-annotated]
        if mode.depth > 1:
            return step(*args, **kwargs)
        _map(arrays.append, (args, kwargs))
        backend = backend_of(raw(arrays[0])) if arrays else default_backend()
        if not backend.records or is_inspected() or any(isinstance(a, Tensor) and a.requires_grad for a in arrays):
            return _map(_fresh, step(*args, **kwargs))
        for a in arrays:
            if type(raw(a)) is not backend.array_type:
                raise BackendMismatchError(
                    f"a captured step was given arrays of {backend.name!r} and {backend_of(raw(a)).name!r}: bring them "
                    f"together before the call, for example with gpuprop.tensor(...)")
        key = (backend.name, backend.device(), mode, _signature(args), _signature(kwargs))
        try:
            found = known.get(key)
        except TypeError as e:
            raise TypeError(f"a captured step takes arrays, Tensors and constants that can be hashed, alone or in "
                            f"lists, tuples and dicts: {e}") from None
        if found is None:
            found = known[key] = _Captured(step, backend)
        return _map(_fresh, found(args, kwargs, arrays))

    return run


class _Captured:
    """One step for arguments of one signature: the recordings of it, by the state of what it touches."""

    def __init__(self, step: Callable, backend: Any) -> None:
        self.step, self.backend = step, backend
        self.recordings: dict[Any, _Replay] = {}
        self.modules: dict[Any, None] = {}  # what the step calls, steps and trains, known once it has run
        self.optimizers: dict[Any, None] = {}
        self.tensors: list[Tensor] = []
        self.ran: set[tuple] = set()  # in which states
        self.eager = False

    def __call__(self, args: tuple, kwargs: dict, arrays: list) -> Any:
        if self.eager:
            return self.step(*args, **kwargs)
        state = self._state()
        if state not in self.ran:  # what is made at first use is made now: state, kernels, plans
            return self._run(args, kwargs, state)
        if state not in self.recordings:
            replay = self._record(args, kwargs, arrays)
            if replay is None:
                return self.step(*args, **kwargs)
            self.recordings[state] = replay
        return self.recordings[state](arrays)

    def _run(self, args: tuple, kwargs: dict, state: tuple) -> Any:
        """The step as it is, watched."""
        if len(self.ran) >= MANY:
            self._give_up(f"in {MANY} calls of one signature its parameters and gradients lay elsewhere each time")
        known = len(self.modules), len(self.tensors)
        with modules.watch() as called, optimizers.watch() as stepped, autograd.watch() as reached:
            result = self.step(*args, **kwargs)
        self.modules |= called
        self.optimizers |= stepped
        held = (t for m in self.modules for t in (*m.parameters(), *m.buffers()))
        trained = (p for o in self.optimizers for group in o.param_groups for p in group["params"])
        self.tensors = list({id(t): t for t in (*self.tensors, *held, *trained, *reached.values())}.values())
        for t in self.tensors:
            if isinstance(t, Parameter) and t.home is None:  # its gradient shall lie in one place from step to step
                t.home = self.backend.xp.empty_like(t.data)
                if t.grad is not None:
                    t.home[...] = t.grad
                    t.grad = t.home
        self.ran.add(state)
        if known != (len(self.modules), len(self.tensors)):
            self.ran.add(self._state())
        return result

    def _give_up(self, why: str) -> None:
        self.eager = True
        name = getattr(self.step, "__name__", "the step")
        warnings.warn(f"{name} is run as it is, not captured: {why}", stacklevel=5)

    def _state(self) -> tuple:
        """What a recording is bound to beyond its arguments: host-side reads only."""
        kept = tuple(o.capture_key() for o in self.optimizers)  # brings home what was assigned
        modes = tuple(m.training for m in self.modules)
        return modes, kept, tuple((id(t.data), id(t.grad), t.requires_grad) for t in self.tensors)

    def _record(self, args: tuple, kwargs: dict, arrays: list) -> _Replay | None:
        slots = [Tensor(self.backend.xp.copy(raw(a))) for a in arrays]
        rest = iter(slots)
        inputs = _map(lambda a: next(rest) if isinstance(a, Tensor) else next(rest).data, (args, kwargs))
        before = [(t, t.data, t.grad, t.changed) for t in self.tensors]
        recordings, results = [], []
        try:
            for _ in range(2):
                for t, _data, g, _clock in before:
                    t.grad = g
                with self.backend.record() as recording:
                    results.append(self.step(*inputs[0], **inputs[1]))
                recordings.append(recording)
            after = [(t, t.grad, t.changed != clock) for t, _data, _g, clock in before]
        finally:  # a recording computes nothing: what it left behind is undefined until the first replay
            for t, data, g, _clock in before:
                t.data, t.grad = data, g
        difference = recordings[0].difference(recordings[1])
        if difference is None and _signature(results[0]) != _signature(results[1]):
            difference = "what it returns beside arrays was something else each time"
        if difference is not None:
            self._give_up(difference)
            return None
        return _Replay(recordings[1], slots, results[1], before, after)


class _Replay:
    """A recording, the slots its arguments go to, and what it leaves behind."""

    def __init__(self, recording: Any, slots: list, result: Any, before: list, after: list) -> None:
        self.recording, self.slots, self.result, self.after = recording, slots, result, after
        self._held = before  # the key names arrays by id: no other may get it

    def __call__(self, arrays: list) -> Any:
        for slot, a in zip(self.slots, arrays, strict=True):
            slot.data[...] = raw(a)
        self.recording.replay()
        for t, g, touched in self.after:
            t.grad = g
            if touched:
                t.touch()
        return self.result


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic)


def _map(f: Callable, value: Any) -> Any:
    """`f` of every array and Tensor in nested tuples, lists and dicts."""
    return tree_map(lambda v: f(v) if _is_array(v) else v, value)


def _fresh(a: Any) -> Any:
    """A copy that no later step writes to, without history."""
    copy = backend_of(raw(a)).xp.copy(raw(a))
    return Tensor(copy) if isinstance(a, Tensor) else copy


def _signature(value: Any) -> Any:
    """A value as part of a key: arrays by kind, shape and dtype, the rest by itself."""
    if isinstance(value, dict):
        return tuple((k, _signature(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return type(value), *map(_signature, value)
    if _is_array(value):
        return isinstance(value, Tensor), value.shape, value.dtype.name
    return type(value), value
