"""`capture`: record a training step, then replay it without running its Python again."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from gpuprop._capture_reach import HostState, no_other_thread_runs, reachable
from gpuprop._capture_state import (
    ModelSnapshot,
    Replay,
    VariableSnapshot,
    arrays_in,
    arrays_like,
    computed_weights,
    detached_copy,
    kept_array,
    map_arrays,
    module_key,
    order_of,
    signature_of,
    unsupported_type,
)
from gpuprop._core.backend import BackendMismatchError, CaptureError
from gpuprop._core.checks import as_callable
from gpuprop._core.dialects import dialects
from gpuprop._core.graph import raw
from gpuprop._core.instances import instances
from gpuprop._core.instruments import collect_modules, leaf_reached, optimizer_stepped
from gpuprop._core.locks import new_rlock
from gpuprop._core.mode import Mode, Switch, current
from gpuprop._core.registry import backend_of, default_backend
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop._core.warnings import warn

MAX_STATES = 32  # per signature; a step with more states will hardly repeat one
MAX_SIGNATURES = 16  # a captured step keeps the recordings of this many signatures
NOT_CAPTURED = object()  # returned instead of results: the caller then runs the step itself
IN_PLACE = "update state that persists between steps in place, with `x[...] = value`"

_inside_captured: ContextVar[bool] = ContextVar("gpuprop_inside_captured_step", default=False)


def capture(step: Callable) -> Callable:
    """Return a function that records `step` and then replays it without running its Python.

    >>> import gpuprop
    >>> double = gpuprop.capture(lambda x: 2 * x)
    >>> double(gpuprop.tensor([1.0, 2.0])).tolist()
    [2.0, 4.0]

    For each signature of its arguments, the step runs once as usual, is recorded twice, and is
    replayed from then on.  The first replay is compared, bit for bit, with a run of the step from
    the same state; this waits for the device.

    The arguments of a step are arrays, Tensors and hashable constants.  Its results are Tensors,
    arrays, None, bools, numbers and strings.  Both may be nested in lists, tuples and dicts.

    - A step must not write into its arguments: a replay would write into copies of them.
    - Returned arrays and Tensors are copies without history.  Returned numbers and strings are
      those of the recording.
    - All steps store a parameter's gradient in the same array: copy a gradient to keep its values.
    - State that persists between steps must be updated in place (``state[...] = ``).

    A step is recorded again when one of these changes:

    - the shapes and dtypes of the arguments' arrays, or the constants among the arguments;
    - modes such as `no_grad` and `autocast`;
    - the mode (train or eval), parameters, buffers, submodules or hooks of a module that it calls;
    - the memory, hooks or `requires_grad` of a parameter or other Tensor that it uses, or whether
      that Tensor has a gradient.

    Other attributes of modules, such as a dropout's p, are read only while recording.  The
    recordings of the 16 most recently used combinations of shapes and constants are kept.

    A step warns, is not captured and always runs as usual if it

    - keeps a reference to an array that it created, or assigns a different array to a variable;
    - differs between two consecutive recordings, for example in a Python number;
    - steps a learning rate schedule;
    - gives results that differ from those of its first replay;
    - returns objects of other types.

    CaptureError is raised if the step waits for the device or computes on two devices.  Modules,
    variables in the step's closure and globals, and lists and dicts in these variables then refer
    to the same arrays as before the call.  On NumPy, where nothing waits, a step that reads values
    is not captured: it warns, and runs as usual, as does one that changes arrays of NumPy's which
    are neither in Tensors nor in its variables.  Such arrays are read only while recording.

    The Python code of a step that is not captured in the end has run up to three times by then.

    The step also runs as usual on backends that cannot record; on NumPy, if it trains more than
    2 MB of weights, where a replay would not be faster, and is not recorded while other threads
    run; if an argument requires a gradient; and inside `grad`, where results keep their history.
    Inside another captured step, it is recorded as a part of that step.  Threads that call a
    captured step take turns, and each gets its own results.
    """
    as_callable("capture: step", step)
    captured_steps: OrderedDict[Any, _CapturedStep] = OrderedDict()
    lock = new_rlock()

    def captured_for(args: tuple, kwargs: dict, arrays: list, backend: Any,
                     mode: Mode) -> _CapturedStep:
        key = (backend, backend.device(), backend.conditions(), mode, signature_of(args),
               signature_of(kwargs), *map(order_of, arrays))
        try:
            found = captured_steps.get(key)
        except TypeError as e:
            raise TypeError(
                f"a captured step takes arrays, Tensors and hashable constants, alone or in "
                f"lists, tuples and dicts: {e}") from None
        if found is None:
            found = captured_steps[key] = _CapturedStep(step, backend)
            if len(captured_steps) > MAX_SIGNATURES:
                captured_steps.popitem(last=False)
        captured_steps.move_to_end(key)
        return found

    @functools.wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        mode = current.get()
        if mode.depth > 1:  # inside grad()
            return step(*args, **kwargs)
        arrays = arrays_in((args, kwargs) if kwargs else args)
        backend = backend_of(raw(arrays[0])) if arrays else default_backend()
        if not _can_capture(backend, mode, arrays):
            return detached_copy(step(*args, **kwargs))
        _check_one_backend(backend, arrays)
        device = backend.at(raw(arrays[0])) if arrays else contextlib.nullcontext()
        with device:
            with lock:
                captured = captured_for(args, kwargs, arrays, backend, mode)
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
    """A step for arguments of one signature, and its recordings.

    There is one recording per *state*, a key that `_state` computes from the modules, optimizers
    and tensors that the step uses.
    """

    def __init__(self, step: Callable, backend: Any) -> None:
        self.step = step
        self.backend = backend
        self.recordings: dict[Any, Replay] = {}  # by state
        self.modules: dict[Any, None] = {}  # called by the step, an ordered set
        self.optimizers: dict[Any, None] = {}  # stepped by the step, an ordered set
        self.tensors: list[Tensor] = []  # of modules and optimizers, and others that the step uses
        self.seen_states: set[tuple | None] = set()  # states from which the step has run
        self.rebinding_runs = 0  # consecutive runs that assigned different arrays to variables
        self.gave_up = False

    def __call__(self, args: tuple, kwargs: dict, arrays: list) -> Any:
        """The results of a run or a replay of the step, or NOT_CAPTURED."""
        if self.gave_up:
            return NOT_CAPTURED
        for t in self.tensors if dialects else ():
            t._reclaim_gradient()  # a replay writes there without running Python code
        state = self._state()
        if state is None or state not in self.seen_states:
            return self._run_eagerly(args, kwargs, state)
        if state not in self.recordings:
            return self._record(args, kwargs, arrays)
        return self.recordings[state](arrays)

    def _state(self) -> tuple | None:
        """A key of all that a recording depends on, other than the arguments.

        Reads no values from the device.  None if parameters are not in their optimizer's arena:
        either another optimizer owns them now, or running the step will copy them into the arena.
        """
        if not all(optimizer._is_bound() for optimizer in self.optimizers):
            return None
        optimizers = tuple([optimizer._capture_key() for optimizer in self.optimizers])
        modules = tuple(map(module_key, self.modules))
        tensors = tuple([
            (id(t.array), id(t.gradient), t.requires_grad,
             tuple(map(id, t.hooks)) if t.hooks else None)
            for t in self.tensors])
        return optimizers, modules, tensors

    def _run_step(self, args: tuple, kwargs: dict) -> Any:
        """Run the step; captured steps that it calls also run as usual."""
        token = _inside_captured.set(True)
        try:
            return self.step(*args, **kwargs)
        finally:
            _inside_captured.reset(token)

    def _run_as_usual(self) -> None:
        """Capture this step no more."""
        self.gave_up = True
        self.recordings.clear()
        self.modules.clear()
        self.optimizers.clear()
        self.tensors.clear()
        self.seen_states.clear()

    def _give_up(self, reason: str) -> None:
        self._run_as_usual()
        name = getattr(self.step, "__name__", "the step")
        warn(f"{name} is not captured and runs as usual: {reason}")

    def _name(self, tensor: Any) -> str:
        for module in self.modules:
            for name, t in (*module.named_parameters(), *module.named_buffers()):
                if t is tensor:
                    return name
        return f"a tensor of shape {tensor.shape}"

    # ---- a normal run

    def _run_eagerly(self, args: tuple, kwargs: dict, state: tuple | None) -> Any:
        """Run the step, and find the modules, optimizers and tensors that it uses.

        The run also creates what only a first use creates: optimizer states, kernels and plans.
        """
        if len(self.seen_states) >= MAX_STATES:
            self._give_up(f"in {MAX_STATES} calls with one signature, its parameters or gradients "
                          f"were in different memory each time")
            return NOT_CAPTURED
        previous_counts = len(self.modules), len(self.tensors)
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
        if previous_counts != (len(self.modules), len(self.tensors)):
            self.seen_states.add(self._state())  # the state also depends on the new ones
        trained = [raw(t) for t in self.tensors if self.optimizers or t.gradient is not None]
        given = [raw(a) for a in arrays_in((args, kwargs))]
        if not self.backend.pays_to_record([*trained, *given]):
            self._run_as_usual()
            return detached_copy(result)
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
        # An optimizer that was not stepped, and whose parameters are no longer in its arena, has
        # been replaced by another one: drop it.
        self.optimizers = {optimizer: None for optimizer in self.optimizers | stepped
                           if optimizer in stepped or optimizer._is_bound()}
        self._watch_tensors(p for optimizer in self.optimizers
                            for group in optimizer.param_groups for p in group["params"])

    def _watch_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Make `_state` depend on these tensors, too."""
        by_id = {id(t): t for t in (*self.tensors, *tensors)}
        self.tensors = list(by_id.values())

    def _fix_gradient_memory(self) -> None:
        """Allocate a `grad_buffer` for every parameter without one: all steps will use it."""
        for p in self.tensors:
            if not isinstance(p, Parameter) or p.grad_buffer is not None:
                continue
            with self.backend.at(p.array):
                p.grad_buffer = self.backend.xp.empty_like(p.array)
            if p.gradient is not None:
                p.grad_buffer[...] = p.gradient
                p.gradient = p.grad_buffer

    def _reason_not_to_record(self, result: Any, variables: VariableSnapshot) -> str | None:
        schedule = variables.stepped_schedule()
        if schedule is not None:
            return (f"it steps {schedule}, which computes on the host: call its step() after the "
                    f"captured step")
        waiting = [o for o in self.optimizers if o.waits_for_device]
        if waiting:
            return f"a step of {type(waiting[0]).__name__} waits for the device"
        unsupported = unsupported_type(result, self.backend.array_type)
        if unsupported is not None:
            return (f"it returns {unsupported}, but a captured step returns Tensors and arrays of "
                    f"{self.backend.name}, None, bools, numbers and strings, or lists, tuples and "
                    f"dicts of these")
        if self.rebinding_runs > 1:
            return f"it assigns a different array to a variable: {IN_PLACE}"
        return None

    # ---- recording

    def _record(self, args: tuple, kwargs: dict, arrays: list) -> Any:
        """Record the step twice and compare the recordings.

        Returns the results of the first replay, or NOT_CAPTURED.
        """
        if self.backend.recorder is not None and not no_other_thread_runs():
            return NOT_CAPTURED
        self._check_one_device(arrays)
        slots = [Tensor(self.backend.xp.copy(raw(a))) for a in arrays]
        inputs = _with_slots((args, kwargs), slots)
        variables = VariableSnapshot(self.step, self.modules)
        before = ModelSnapshot.take(self.modules, self.tensors)
        host = None
        if self.backend.recorder is not None:
            reached = reachable([self.step, *self.modules, *self.optimizers, args, kwargs])
            if reached is None:
                self._run_as_usual()
                return NOT_CAPTURED
            host = HostState(reached, self.optimizers)
        replays: list[Replay] = []
        recording = None
        try:
            for _ in range(2):
                before.restore_gradients_and_modes()
                with self._recording(slots, variables) as recording:
                    # The result is copied, so that only arrays that the step keeps are referenced.
                    result = detached_copy(self._run_step(*map_arrays(recording.inner, inputs)))
                result = map_arrays(functools.partial(_outer, recording), result)
                changed = None if host is None else host.restore()
                if host is not None and recording.error:  # the step has caught it
                    raise CaptureError(recording.error)
                if changed is not None:
                    raise CaptureError(f"it changes {changed}")
                after = ModelSnapshot.take(self.modules, self.tensors)
                replay = Replay(recording, slots, inputs, result, before, after)
                kept = self._kept_array(replay)
                if kept or before.data_is_rebound() or variables.rebound():
                    return self._replay_once(replay, arrays, kept)
                replays.append(replay)
        except MemoryError:
            replays.clear()
        except BaseException as error:
            before.restore()
            variables.restore()
            if recording is not None:
                recording.release()
            if host is None or not isinstance(error, Exception):
                raise
            host.restore()
            return self._run_after_error(error, args, kwargs)
        before.restore()  # arrays created while recording have no values until a replay
        difference = _difference_of_recordings(replays)
        if difference is not None:
            variables.restore()
            if not replays:
                self._check_nothing_kept(recording)
            self._give_up(difference)
            return NOT_CAPTURED
        self._watch_other_tensors(replays[1])
        return self._compare_first_replay(replays[1], variables, arrays)

    def _run_after_error(self, error: Exception, args: tuple, kwargs: dict) -> Any:
        """Run the step as usual: either it raises the error, too, or it cannot be recorded."""
        what = "" if isinstance(error, CaptureError) else "while it is recorded, it raises "
        reason = f"{what}{error}"
        result = detached_copy(self._run_step(args, kwargs))
        self._give_up(reason)
        return result

    @contextlib.contextmanager
    def _recording(self, slots: list[Tensor], variables: VariableSnapshot) -> Iterator[Any]:
        """Record inside the block, in which Tensors and variables have arrays of the recording."""
        tensors = {id(t): t for t in (*slots, *self.tensors, *variables.tensors())}
        with (self.backend.record(tensors.values()) as recording,
              Switch(recorded_in=None if recording.backend is None else recording),
              variables.recorded_by(recording)):
            for slot in slots:
                slot.array = recording.inner(slot.array)
            yield recording
        for weight in computed_weights(self.modules):
            _outer(recording, weight)

    def _check_one_device(self, arrays: list) -> None:
        by_device = {}  # one tensor per device
        for t in (*arrays, *self.tensors):
            if type(raw(t)) is self.backend.array_type:
                by_device[self.backend.device_of(raw(t))] = t
        if len(by_device) > 1:
            first, second, *_ = sorted(by_device)
            raise CaptureError(
                f"a captured step must compute on one device, but uses "
                f"{self._name(by_device[first])} on cuda:{first} and "
                f"{self._name(by_device[second])} on cuda:{second}: move them to one device")

    def _kept_array(self, replay: Replay) -> str | None:
        """The line of code that created an array that the step keeps, or None."""
        expected = (replay.result, [t.gradient for t in self.tensors],
                    [slot.array for slot in replay.slots], computed_weights(self.modules))
        return kept_array(replay.recording, expected)

    def _check_nothing_kept(self, recording: Any) -> None:
        """Raise if the step keeps an array of a recording that ran out of memory."""
        kept = None if recording is None else kept_array(recording, ())
        if kept:
            raise CaptureError(f"out of memory while recording this step, and it keeps an array "
                               f"that it created in {kept}, which has no values: {IN_PLACE}")

    def _replay_once(self, replay: Replay, arrays: list, kept: str | None) -> Any:
        """Give up on a step that keeps or assigns arrays of its recording.

        Replay the recording first, which gives these arrays their values.  The step's Python has
        then run exactly once for this call.
        """
        result = replay(arrays)
        replay.recording.release()
        if kept:
            self._give_up(f"it keeps an array that it created in {kept}: {IN_PLACE}")
        else:
            self._give_up(f"it assigns a different array to a variable: {IN_PLACE}")
        return result

    def _watch_other_tensors(self, replay: Replay) -> None:
        """Watch the Tensors that belong to no module and that a run does not report.

        A user may assign another array to their `data`, too.
        """
        slots = {id(slot) for slot in replay.slots}

        def is_used(t: Tensor) -> bool:
            if id(t) in slots or not hasattr(t, "array"):  # another thread may be building it
                return False
            return type(t.array) is self.backend.array_type and replay.recording.uses(t.array)

        with instances(Tensor) as tensors:
            self._watch_tensors([t for t in tensors if is_used(t)])

    # ---- the first replay

    def _compare_first_replay(self, replay: Replay, variables: VariableSnapshot,
                              arrays: list) -> Any:
        """Run the step, replay it from the same state, and compare results and memory.

        The state is all memory that the recording uses and did not allocate.  If the two differ,
        the results and the memory are those of the run, and the step is no longer captured.  The
        step's Python runs once.
        """
        state = self._state()
        used = replay.recording.outside()
        saved = self._copies_to_exchange(used)
        if saved is None:
            return NOT_CAPTURED
        try:
            # The slots hold this call's arguments.  Copy the results: the replay overwrites them.
            result = detached_copy(self._run_step(*replay.inputs))
            result = arrays_like(replay.result, result)
        except MemoryError:
            for a, value in zip(used, saved, strict=True):
                a[...] = value
            replay.before.restore()
            variables.restore()
            self._give_up("out of memory for a run of the step in addition to its recording")
            return NOT_CAPTURED
        after_run = ModelSnapshot.take(self.modules, self.tensors)
        self._exchange(used, saved)  # now `saved` has the values after the run
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
        if not difference.startswith("result"):  # report the name of a tensor, if one differs
            difference = self._first_unequal(replayed_tensors) or difference
        self._give_up(f"its first replay and a run of the step from the same state differ in "
                      f"{difference}")
        return result

    def _copies_to_exchange(self, used: list) -> list | None:
        """Copies of these arrays, or None if there is no memory to make and exchange them."""
        try:
            saved = [self.backend.xp.copy(a) for a in used]
            self._exchange(used, saved)  # changes no values, but shows that memory suffices
        except MemoryError:
            size = sum(a.nbytes for a in used)
            self._give_up(f"out of memory for copies of the {size} bytes that it uses, which are "
                          f"needed to check its first replay")
            return None
        return saved

    def _exchange(self, arrays: list, others: list) -> None:
        """Exchange the values of two lists of arrays, one pair at a time to save memory."""
        for i, a in enumerate(arrays):
            values = self.backend.xp.copy(a)
            a[...] = others[i]
            others[i] = values

    def _difference(self, result: Any, replayed: Any, after_run: ModelSnapshot) -> str | None:
        """The name of a result, or of a gradient in separate memory, that differs, or None."""
        if signature_of(result) != signature_of(replayed):
            return "results other than arrays, or the shapes of arrays"
        returned = zip(arrays_in(result), arrays_in(replayed), strict=True)
        pairs = [(f"result {i}", raw(a), raw(b)) for i, (a, b) in enumerate(returned)]
        for state in after_run.tensors:
            t = state.tensor
            if t.gradient is state.grad:
                continue
            if t.gradient is None or state.grad is None:
                return f"whether {self._name(t)} has a gradient"
            pairs.append((f"the gradient of {self._name(t)}", t.gradient, state.grad))
        return self._first_unequal(pairs)

    def _different_memory(self, replayed: list, run: list) -> str | None:
        return self._first_unequal([
            (f"an array of {a.nbytes} bytes that belongs to no tensor", a, b)
            for a, b in zip(replayed, run, strict=True)])

    def _tensor_values(self) -> list[tuple[str, Any, Any]]:
        """(name, array, copy of the array) for the tensors and their gradients."""
        arrays = []
        for t in self.tensors:
            arrays.append((self._name(t), t.array))
            if t.gradient is not None:
                arrays.append((f"the gradient of {self._name(t)}", t.gradient))
        return [(name, a, self.backend.xp.copy(a)) for name, a in arrays]

    def _first_unequal(self, pairs: Iterable[tuple[str, Any, Any]]) -> str | None:
        """The name in the first of (name, array, array) whose arrays differ, or None.

        Waits for the device.
        """
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


def _outer(recording: Any, a: Any) -> Any:
    """A result of a recording, with the array to which replays write."""
    if not isinstance(a, Tensor):
        return recording.outer(a)
    a.array = recording.outer(a.array)
    return a


def _with_slots(arguments: Any, slots: list[Tensor]) -> Any:
    """The arguments, with slots in place of Tensors and the data of slots in place of arrays."""
    rest = iter(slots)

    def replace(a: Any) -> Any:
        slot = next(rest)
        return slot if isinstance(a, Tensor) else slot.array

    return map_arrays(replace, arguments)


def _difference_of_recordings(replays: list[Replay]) -> str | None:
    """What differs between two recordings of a step, or None.

    An empty list means that recording ran out of memory.
    """
    if not replays:
        return "out of memory for a recording in addition to what the step itself uses"
    first, second = replays
    difference = first.recording.difference(second.recording)
    if difference is None and signature_of(first.result) != signature_of(second.result):
        return "its results other than arrays differ between two recordings"
    return difference
