"""`capture`: record a training step once and replay it without running its Python again."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

from gpuprop._capture_state import (
    ModelSnapshot,
    Replay,
    VariableSnapshot,
    arrays_in,
    computed_arrays,
    detached_copy,
    kept_array,
    map_arrays,
    module_key,
    signature_of,
    unsupported_type,
)
from gpuprop._core.backend import BackendMismatchError, CaptureError
from gpuprop._core.graph import raw
from gpuprop._core.instances import instances
from gpuprop._core.instruments import collect_modules, leaf_reached, optimizer_stepped
from gpuprop._core.mode import Mode, current
from gpuprop._core.registry import backend_of, default_backend
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop._core.warnings import warn

MAX_STATES = 32  # states seen with one signature; after so many, the step will hardly settle
MAX_SIGNATURES = 16  # whose recordings a captured step keeps
NOT_CAPTURED = object()  # returned in place of results: the caller runs the step itself
IN_PLACE = "write what lasts from step to step in place, `x[...] = `"

_inside_captured: ContextVar[bool] = ContextVar("gpuprop_inside_captured_step", default=False)


def capture(step: Callable) -> Callable:
    """Make a step replayable: its Python runs only while it is recorded, on backends that can.

    >>> import gpuprop
    >>> double = gpuprop.capture(lambda x: 2 * x)
    >>> double(gpuprop.tensor([1.0, 2.0])).tolist()
    [2.0, 4.0]

    For each signature of its arguments, the step runs once as usual, is recorded twice, and is
    replayed from then on.  The first replay is compared, bit for bit, with a run of the step from
    the same state; this waits for the device.

    A step takes arrays, Tensors and hashable constants, and returns Tensors, arrays, None, bools,
    numbers and strings, all of them alone or in lists, tuples and dicts.  Results are copies
    without history, and numbers and strings among them are those of the recording.  What the step
    writes into an argument changes a copy.  A parameter keeps one array for its gradient from step
    to step: copy a gradient to keep its values.

    A step is recorded again when one of these changes:

    - shapes and dtypes of the arguments' arrays, and the constants among the arguments;
    - modes such as `no_grad` and `autocast`;
    - the mode (train or eval), parameters, buffers, submodules or hooks of a module that it calls;
    - the memory, hooks or `requires_grad` of a parameter or other Tensor that it uses, and whether
      that has a gradient.

    Other attributes of modules, such as a dropout's p, are read only while recording.  The
    recordings of the 16 combinations of shapes and constants used last are kept.

    State that lasts from step to step must be written in place (``state[...] = ``).

    A step is not captured, but runs as usual from then on and warns why, if it

    - keeps an array that it made, or assigns a different array to a variable;
    - differs between two consecutive recordings, for example in a Python number;
    - steps a learning rate schedule;
    - gives other results than its first replay;
    - returns objects of other types.

    CaptureError is raised if the step waits for the device or computes on two devices.  Modules,
    the variables that the step's closure and globals name, and lists and dicts in these then have
    the arrays that they had before.

    The step runs as usual on NumPy, if an argument requires a gradient, inside another captured
    step, which records it as a part of its own, and inside `grad`, where results keep their
    history.  Threads that call a captured step take turns, and each gets results of its own.
    """
    known: OrderedDict[Any, _CapturedStep] = OrderedDict()
    lock = threading.RLock()

    def captured_for(args: tuple, kwargs: dict, backend: Any, mode: Mode) -> _CapturedStep:
        key = (backend.name, backend.device(), mode, signature_of(args), signature_of(kwargs))
        try:
            found = known.get(key)
        except TypeError as e:
            raise TypeError(
                f"a captured step takes arrays, Tensors and hashable constants, alone or in "
                f"lists, tuples and dicts: {e}") from None
        if found is None:
            found = known[key] = _CapturedStep(step, backend)
            if len(known) > MAX_SIGNATURES:
                known.popitem(last=False)
        known.move_to_end(key)
        return found

    @functools.wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        mode = current.get()
        if mode.depth > 1:  # inside grad()
            return step(*args, **kwargs)
        arrays = arrays_in((args, kwargs))
        backend = backend_of(raw(arrays[0])) if arrays else default_backend()
        if not _can_capture(backend, mode, arrays):
            return detached_copy(step(*args, **kwargs))
        _check_one_backend(backend, arrays)
        with backend.at(raw(arrays[0])) if arrays else contextlib.nullcontext():
            with lock:
                captured = captured_for(args, kwargs, backend, mode)
                result = captured(args, kwargs, arrays)
            if result is NOT_CAPTURED:
                result = detached_copy(step(*args, **kwargs))
            return result

    return run


def _can_capture(backend: Any, mode: Mode, arrays: list) -> bool:
    if not backend.records or mode.inspect or _inside_captured.get():
        return False
    return not any(isinstance(a, Tensor) and a.requires_grad for a in arrays)


def _check_one_backend(backend: Any, arrays: list) -> None:
    for a in arrays:
        if type(raw(a)) is not backend.array_type:
            raise BackendMismatchError(
                f"a captured step got arrays of {backend.name!r} and {backend_of(raw(a)).name!r}: "
                f"move them to one backend before the call, for example with gpuprop.tensor(...)")


class _CapturedStep:
    """A step for arguments of one signature.

    Its recordings are kept by *state*, the key that `_state` makes of the modules, optimizers and
    tensors it uses.
    """

    def __init__(self, step: Callable, backend: Any) -> None:
        self.step = step
        self.backend = backend
        self.recordings: dict[Any, Replay] = {}  # by state
        self.modules: dict[Any, None] = {}  # those that runs of the step called
        self.optimizers: dict[Any, None] = {}  # those that runs of the step stepped
        self.tensors: list[Tensor] = []  # those of modules and optimizers, and others used
        self.seen_states: set[tuple | None] = set()  # states from which the step has run
        self.rebinding_runs = 0  # consecutive runs that assigned different arrays to variables
        self.gave_up = False

    def __call__(self, args: tuple, kwargs: dict, arrays: list) -> Any:
        """The results of a run or a replay, or NOT_CAPTURED."""
        if self.gave_up:
            return NOT_CAPTURED
        state = self._state()
        if state is None or state not in self.seen_states:
            return self._run_eagerly(args, kwargs, state)
        if state not in self.recordings:
            return self._record(args, kwargs, arrays)
        return self.recordings[state](arrays)

    def _state(self) -> tuple | None:
        """What a recording depends on besides the arguments; reads no values from the device.

        None if parameters are not in their optimizer's arena.  Another optimizer may own them now
        and be the one that steps; if not, running the step copies them into the arena.
        """
        if not all(optimizer._is_bound() for optimizer in self.optimizers):
            return None
        optimizers = tuple([optimizer._capture_key() for optimizer in self.optimizers])
        modules = tuple(map(module_key, self.modules))
        tensors = tuple([
            (id(t.data), id(t.grad), t.requires_grad, tuple(map(id, t.hooks)) if t.hooks else None)
            for t in self.tensors])
        return optimizers, modules, tensors

    def _run_step(self, args: tuple, kwargs: dict) -> Any:
        """Run the step; captured steps that it calls run as usual."""
        token = _inside_captured.set(True)
        try:
            return self.step(*args, **kwargs)
        finally:
            _inside_captured.reset(token)

    def _give_up(self, reason: str) -> None:
        self.gave_up = True
        self.recordings.clear()
        self.modules.clear()
        self.optimizers.clear()
        self.tensors.clear()
        self.seen_states.clear()
        name = getattr(self.step, "__name__", "the step")
        warn(f"{name} is not captured and runs as usual: {reason}")

    def _name(self, tensor: Any) -> str:
        for module in self.modules:
            for name, t in (*module.named_parameters(), *module.named_buffers()):
                if t is tensor:
                    return name
        return f"a tensor of shape {tensor.shape}"

    # ---- a run as usual

    def _run_eagerly(self, args: tuple, kwargs: dict, state: tuple | None) -> Any:
        """Run the step and find out what it uses.

        This also creates what is created at first use: optimizer state, kernels, plans.
        """
        if len(self.seen_states) >= MAX_STATES:
            self._give_up(f"its parameters or gradients were in different memory in each of "
                          f"{MAX_STATES} calls of one signature")
            return NOT_CAPTURED
        n_known = len(self.modules), len(self.tensors)
        variables = VariableSnapshot(self.step, self.modules)
        with (collect_modules() as called, optimizer_stepped.collect() as stepped,
              leaf_reached.collect() as reached):
            result = self._run_step(args, kwargs)
        if state and self.seen_states and variables.rebound():
            self.rebinding_runs += 1
        else:
            self.rebinding_runs = 0
        self._watch_modules(called)
        self._watch_optimizers(stepped.values())
        self._watch_tensors(reached.values())
        self._fix_gradient_memory()
        self.seen_states.add(state)
        if n_known != (len(self.modules), len(self.tensors)):
            self.seen_states.add(self._state())
        reason = self._reason_not_to_record(result, variables)
        if reason is not None:
            self._give_up(reason)
        return detached_copy(result)

    def _watch_modules(self, called: Iterable) -> None:
        for module in called:
            self.modules |= dict.fromkeys(module.modules())
        self._watch_tensors(t for module in self.modules
                            for t in (*module.parameters(False), *module.buffers(False)))

    def _watch_optimizers(self, stepped: Iterable) -> None:
        stepped = dict.fromkeys(stepped)
        # An optimizer that was not stepped and whose parameters left its arena was replaced.
        self.optimizers = {optimizer: None for optimizer in self.optimizers | stepped
                           if optimizer in stepped or optimizer._is_bound()}
        self._watch_tensors(p for optimizer in self.optimizers
                            for group in optimizer.param_groups for p in group["params"])

    def _watch_tensors(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list({id(t): t for t in (*self.tensors, *tensors)}.values())

    def _fix_gradient_memory(self) -> None:
        """Allocate one array for the gradient of every parameter that has none."""
        for p in self.tensors:
            if not isinstance(p, Parameter) or p.grad_buffer is not None:
                continue
            with self.backend.at(p.data):
                p.grad_buffer = self.backend.xp.empty_like(p.data)
            if p.grad is not None:
                p.grad_buffer[...] = p.grad
                p.grad = p.grad_buffer

    def _reason_not_to_record(self, result: Any, variables: VariableSnapshot) -> str | None:
        schedule = variables.stepped_schedule()
        if schedule is not None:
            return f"it steps {schedule}, which computes on the host: step it after the call"
        unsupported = unsupported_type(result, self.backend.array_type)
        if unsupported is not None:
            return (f"it returns {unsupported}, but a captured step returns Tensors and arrays of "
                    f"{self.backend.name}, None, bools, numbers, strings, and lists, tuples and "
                    f"dicts of them")
        if self.rebinding_runs > 1:
            return f"it assigns a different array to a variable: {IN_PLACE}"
        return None

    # ---- recording

    def _record(self, args: tuple, kwargs: dict, arrays: list) -> Any:
        """Record the step twice and compare the recordings.

        Returns the results of the first replay, or NOT_CAPTURED.
        """
        self._check_one_device(arrays)
        slots = [Tensor(self.backend.xp.copy(raw(a))) for a in arrays]
        inputs = _with_slots((args, kwargs), slots)
        variables = VariableSnapshot(self.step, self.modules)
        before = ModelSnapshot.take(self.modules, self.tensors)
        replays: list[Replay] = []
        recording = None
        try:
            for _ in range(2):
                before.restore_gradients_and_modes()
                with self.backend.record() as recording:
                    # A copy: arrays of the step that are still referenced are those that it keeps.
                    result = detached_copy(self._run_step(*inputs))
                after = ModelSnapshot.take(self.modules, self.tensors)
                replay = Replay(recording, slots, inputs, result, before, after)
                kept = self._kept_array(replay)
                if kept or before.data_is_rebound() or variables.rebound():
                    return self._replay_once(replay, arrays, kept)
                replays.append(replay)
        except MemoryError:
            replays.clear()
        except BaseException:
            before.restore()
            variables.restore()
            raise
        before.restore()  # arrays that were made while recording have no values before a replay
        difference = _difference_of_recordings(replays)
        if difference is not None:
            variables.restore()
            if not replays:
                self._check_nothing_kept(recording)
            self._give_up(difference)
            return NOT_CAPTURED
        self._watch_other_tensors(replays[1])
        return self._compare_first_replay(replays[1], variables, arrays)

    def _check_one_device(self, arrays: list) -> None:
        by_device = {}
        for t in (*arrays, *self.tensors):
            if type(raw(t)) is self.backend.array_type:
                by_device[self.backend.device_of(raw(t))] = t
        if len(by_device) > 1:
            a, b, *_ = sorted(by_device)
            raise CaptureError(f"a captured step computes on one device, but uses "
                               f"{self._name(by_device[a])} on cuda:{a} and "
                               f"{self._name(by_device[b])} on cuda:{b}")

    def _kept_array(self, replay: Replay) -> str | None:
        """The code that made an array that the step keeps, or None."""
        ours = (replay.result, [t.grad for t in self.tensors], [slot.data for slot in replay.slots],
                computed_arrays(self.modules))
        return kept_array(replay.recording, ours)

    def _check_nothing_kept(self, recording: Any) -> None:
        """After a recording that ran out of memory: raise if the step keeps an array of it."""
        made = None if recording is None else kept_array(recording, ())
        if made:
            raise CaptureError(f"out of memory while recording this step, and it keeps an array "
                               f"that it made in {made}, which has no values: {IN_PLACE}")

    def _replay_once(self, replay: Replay, arrays: list, kept: str | None) -> Any:
        """Give up on a step that keeps arrays of its recording.

        The replay computes their values; the step's Python has run once for this call.
        """
        result = replay(arrays)
        if kept:
            self._give_up(f"it keeps an array that it made in {kept}: {IN_PLACE}")
        else:
            self._give_up(f"it assigns a different array to a variable: {IN_PLACE}")
        return result

    def _watch_other_tensors(self, replay: Replay) -> None:
        """Watch Tensors of no module and without gradient: their memory may change, too."""
        uses = replay.recording.uses
        slots = {id(slot) for slot in replay.slots}
        with instances(Tensor) as every:
            self._watch_tensors([
                t for t in every
                if id(t) not in slots and hasattr(t, "data")
                and type(t.data) is self.backend.array_type and uses(t.data)])

    # ---- the first replay

    def _compare_first_replay(self, replay: Replay, variables: VariableSnapshot,
                              arrays: list) -> Any:
        """Run the step, then replay it from the same state; if they differ, the run counts.

        The state is all memory that the recording uses and did not make.  What the step changes
        beyond that, it changes once.
        """
        state = self._state()
        used = replay.recording.outside()
        saved = self._copies_to_exchange(used)
        if saved is None:
            return NOT_CAPTURED
        try:
            # The slots hold this call's arguments.  The replay overwrites the results: copy them.
            result = detached_copy(self._run_step(*replay.inputs))
        except MemoryError:
            for a, value in zip(used, saved, strict=True):
                a[...] = value
            replay.before.restore()
            variables.restore()
            self._give_up("out of memory for a run of the step in addition to its recording")
            return NOT_CAPTURED
        after_run = ModelSnapshot.take(self.modules, self.tensors)
        self._exchange(used, saved)  # `used` has the state before the run, `saved` that after it
        replayed = replay(arrays)
        difference = (self._difference(result, replayed, after_run)
                      or self._different_memory(used, saved))
        if difference is None:
            self.seen_states.add(state)
            self.recordings[state] = replay
            return replayed
        replayed_tensors = self._tensor_values()
        self._exchange(used, saved)
        after_run.restore()
        if not difference.startswith("result"):  # name a tensor, if one differs
            difference = self._first_unequal(replayed_tensors) or difference
        self._give_up(f"its first replay and a run of the step from the same state differ in "
                      f"{difference}")
        return result

    def _copies_to_exchange(self, used: list) -> list | None:
        """Copies of these arrays, or None if there is no memory to make and exchange them."""
        try:
            saved = [self.backend.xp.copy(a) for a in used]
            self._exchange(used, saved)  # changes nothing, but needs the memory that it needs later
        except MemoryError:
            size = sum(a.nbytes for a in used)
            self._give_up(f"out of memory for copies of the {size} bytes that it uses, with which "
                          f"its first replay is compared")
            return None
        return saved

    def _exchange(self, arrays: list, others: list) -> None:
        """Exchange the values of arrays, one pair at a time."""
        for i, a in enumerate(arrays):
            values = self.backend.xp.copy(a)
            a[...] = others[i]
            others[i] = values

    def _difference(self, result: Any, replayed: Any, after_run: ModelSnapshot) -> str | None:
        """The result, or gradient in memory of its own, that differs between run and replay."""
        if signature_of(result) != signature_of(replayed):
            return "results other than arrays, or the shapes of arrays"
        returned = zip(arrays_in(result), arrays_in(replayed), strict=True)
        pairs = [(f"result {i}", raw(a), raw(b)) for i, (a, b) in enumerate(returned)]
        for t, _, grad, *_ in after_run.tensors:
            if t.grad is grad:
                continue
            if t.grad is None or grad is None:
                return f"whether {self._name(t)} has a gradient"
            pairs.append((f"the gradient of {self._name(t)}", t.grad, grad))
        return self._first_unequal(pairs)

    def _different_memory(self, replayed: list, run: list) -> str | None:
        return self._first_unequal([
            (f"an array of {a.nbytes} bytes that belongs to no tensor", a, b)
            for a, b in zip(replayed, run, strict=True)])

    def _tensor_values(self) -> list[tuple[str, Any, Any]]:
        """(name, array, copy of its values) for the tensors and their gradients."""
        arrays = []
        for t in self.tensors:
            arrays.append((self._name(t), t.data))
            if t.grad is not None:
                arrays.append((f"the gradient of {self._name(t)}", t.grad))
        return [(name, a, self.backend.xp.copy(a)) for name, a in arrays]

    def _first_unequal(self, pairs: Iterable[tuple[str, Any, Any]]) -> str | None:
        """The first name of (name, array, array) whose arrays differ; waits for the device."""
        xp = self.backend.xp
        names = []
        flags = []
        for name, a, b in pairs:
            names.append(name)
            flags.append((_bytes(xp, a) != _bytes(xp, b)).any())
        if not flags:
            return None
        unequal = self.backend._read_flags(xp.stack(flags))
        return next((name for name, flag in zip(names, unequal, strict=True) if flag), None)


def _bytes(xp: Any, a: Any) -> Any:
    return xp.ascontiguousarray(a).reshape(-1).view("uint8")


def _with_slots(arguments: Any, slots: list[Tensor]) -> Any:
    """The arguments with the slots for their Tensors, and the slots' data for their arrays."""
    rest = iter(slots)

    def replace(a: Any) -> Any:
        slot = next(rest)
        return slot if isinstance(a, Tensor) else slot.data

    return map_arrays(replace, arguments)


def _difference_of_recordings(replays: list[Replay]) -> str | None:
    """What differs between two recordings of a step, or None; no recordings: out of memory."""
    if not replays:
        return "out of memory for a recording in addition to what the step itself uses"
    first, second = replays
    difference = first.recording.difference(second.recording)
    if difference is None and signature_of(first.result) != signature_of(second.result):
        return "its results other than arrays differ between two recordings"
    return difference
