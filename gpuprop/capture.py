"""Make a whole training step replayable: its Python runs while it is recorded, and no more."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
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
    with a warning that names the call; so is one whose first replay is not, bit for bit, what the step itself computes
    from the same state, which is looked at once and waits for the device.  Raises CaptureError where the step waits for
    the device.  The step itself is run on NumPy, for arguments that want a gradient, and inside `grad`, where results
    have their history.
    """
    known: dict[Any, _Captured] = {}

    def of_signature(args: tuple, kwargs: dict, backend: Any, mode: Any) -> _Captured:
        key = (backend.name, backend.device(), mode, _signature(args), _signature(kwargs))
        try:
            found = known.get(key)
        except TypeError as e:
            raise TypeError(f"a captured step takes arrays, Tensors and constants that can be hashed, alone or in "
                            f"lists, tuples and dicts: {e}") from None
        if found is None:
            found = known[key] = _Captured(step, backend)
        return found

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
        with backend.at(raw(arrays[0])) if arrays else contextlib.nullcontext():
            return _map(_fresh, of_signature(args, kwargs, backend, mode)(args, kwargs, arrays))

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
            return self.step(*args, **kwargs) if replay is None else self._first(replay, state, arrays)
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
        except MemoryError:
            recordings.clear()
        finally:  # a recording computes nothing: what it left behind is undefined until the first replay
            for t, data, g, _clock in before:
                t.data, t.grad = data, g
        if not recordings:
            self._give_up("there is no memory for a recording beside what the step itself has used")
            return None
        difference = recordings[0].difference(recordings[1])
        if difference is None and _signature(results[0]) != _signature(results[1]):
            difference = "what it returns beside arrays was something else each time"
        if difference is not None:
            self._give_up(difference)
            return None
        return _Replay(recordings[1], slots, inputs, results[1], before, after)

    def _first(self, replay: _Replay, state: tuple, arrays: list) -> Any:
        """The step as it is, then its replay from the same state; if they differ, the step's own results remain.

        That state is what the recording uses and did not make, whoever it belongs to.  What the step does beyond it is
        done once.
        """
        xp, used = self.backend.xp, replay.recording.outside()
        args, kwargs = replay.inputs  # which hold the values of this call
        try:
            other = [xp.copy(a) for a in used]
            _exchange(xp, used, other)  # of equal values, but there must be memory for it later
        except MemoryError:
            size = sum(a.nbytes for a in used)
            self._give_up(f"its first replay cannot be compared: there is no memory for copies of what it uses, "
                          f"{size} bytes")
            return self.step(*args, **kwargs)
        result = _map(_fresh, self.step(*args, **kwargs))  # copies: the replay writes where the step wrote
        gradients = [t.grad for t in self.tensors]
        _exchange(xp, used, other)
        replayed = replay(arrays)
        differing = self._difference(result, replayed, gradients) or self._unequal(
            (f"an array of {a.nbytes} bytes that is no tensor's", a, b) for a, b in zip(used, other, strict=True))
        if differing is None:
            self.recordings[state] = replay
            return replayed
        known = [(what, a, xp.copy(a)) for what, a in self._known()]
        _exchange(xp, used, other)
        for t, g in zip(self.tensors, gradients, strict=True):
            t.grad = g
        if not differing.startswith("result"):
            differing = self._unequal(known) or differing
        self._give_up(f"its first replay and the step itself, from the same state, differ in {differing}")
        return result

    def _difference(self, result: Any, replayed: Any, gradients: list) -> str | None:
        """In which of their results, or gradients in memory of their own, the step and its replay differ."""
        if _signature(result) != _signature(replayed):
            return "results beside arrays, or the shapes of arrays"
        returned: list[list] = [[], []]
        for found, value in zip(returned, (result, replayed), strict=True):
            _map(lambda a, found=found: found.append(raw(a)), value)
        pairs = [(f"result {i}", a, b) for i, (a, b) in enumerate(zip(*returned, strict=True))]
        for t, g in zip(self.tensors, gradients, strict=True):
            if t.grad is not g:
                if t.grad is None or g is None:
                    return f"whether {self._name(t)} has a gradient"
                pairs.append((f"the gradient of {self._name(t)}", t.grad, g))
        return self._unequal(pairs)

    def _unequal(self, pairs: Iterable[tuple[str, Any, Any]]) -> str | None:
        """The first of named pairs of arrays that are not the same bit for bit; waits for the device."""
        xp = self.backend.xp
        names, flags = [], []
        for what, a, b in pairs:
            names.append(what)
            flags.append(_unequal(xp, a, b))
        found = self.backend._read(xp.stack(flags)) if flags else ()
        return next((what for what, unequal in zip(names, found, strict=True) if unequal), None)

    def _known(self) -> Iterator[tuple[str, Any]]:
        for t in self.tensors:
            yield self._name(t), t.data
            if t.grad is not None:
                yield f"the gradient of {self._name(t)}", t.grad

    def _name(self, tensor: Tensor) -> str:
        named = ((n, t) for m in self.modules for n, t in (*m.named_parameters(), *m.named_buffers()))
        return next((name for name, t in named if t is tensor), f"a tensor of shape {tensor.shape}")


class _Replay:
    """A recording, the slots its arguments go to, and what it leaves behind."""

    def __init__(self, recording: Any, slots: list, inputs: tuple, result: Any, before: list, after: list) -> None:
        self.recording, self.slots, self.inputs, self.result, self.after = recording, slots, inputs, result, after
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


def _exchange(xp: Any, arrays: list, others: list) -> None:
    """Exchange the values of arrays with those of as many others, one by one."""
    for i, a in enumerate(arrays):
        values = xp.copy(a)
        a[...], others[i] = others[i], values


def _unequal(xp: Any, a: Any, b: Any) -> Any:
    """Do the bits of two arrays of one shape and dtype differ?  Answered on the device."""
    x, y = (xp.ascontiguousarray(v).reshape(-1).view("uint8") for v in (a, b))
    return (x != y).any()


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
