"""Make a whole training step replayable: its Python runs while it is recorded, and no more."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from gpuprop._capture_state import (
    Model,
    Places,
    Replay,
    arrays_in,
    computed_in,
    fresh,
    kept_by_others,
    map_arrays,
    not_returned,
    shape_of,
)
from gpuprop._capture_state import signature as signature_of
from gpuprop._core.backend import BackendMismatchError, CaptureError
from gpuprop._core.graph import raw
from gpuprop._core.instances import instances
from gpuprop._core.instruments import collect_modules, leaf_reached, optimizer_stepped
from gpuprop._core.mode import current
from gpuprop._core.registry import backend_of, default_backend
from gpuprop._core.tensor import Parameter, Tensor

MANY = 32  # states of one signature, after which it will hardly settle
KEPT = 16  # signatures
AS_IT_IS = object()  # in place of results: the step is to be run as it is

_watched: ContextVar[bool] = ContextVar("gpuprop_watched", default=False)  # does a captured step run around this?


def capture(step: Callable) -> Callable:
    """`step` made replayable where a backend can: for each signature it runs once as it is, is recorded, then replayed.

    `step` takes arrays, Tensors and hashable constants, and returns Tensors, arrays, None, bools, numbers and strings,
    or lists, tuples and dicts of them; results are fresh copies without history, and what it writes into an argument
    stays in a copy.  Python numbers and strings among the results are those of the recording.  A parameter's gradient
    has one memory from step to step: who keeps it keeps a copy.

    A signature is the shapes and dtypes of the arrays, the constants, the modes in force, and of the modules called
    train or eval, what belongs to them and their hooks; of every parameter, and every Tensor used, where it lies,
    whether it is trained, its hooks and whether it has a gradient; another one is recorded anew.  Other attributes of
    modules, like a dropout's p, are read while recording and no more.  The recordings of 16 combinations of shapes and
    constants are kept, those used last.

    What lasts from step to step must be written in place (``state[...] = ``).  A step is run as it is from then on,
    with a warning that says why, where it keeps an array it made or puts another where one was; where two consecutive
    recordings differ, by a Python number that changes, say; where it steps a learning rate schedule; where its first
    replay is not, bit for bit, what the step itself computes from the same state, which is looked at once and waits for
    the device; and where its results are of other types.  Raises CaptureError where the step waits for the device or
    computes on two devices; then modules, what the step's closure and globals name, and lists and dicts in these have
    the arrays they had before.

    The step itself is run on NumPy, for arguments that want a gradient, inside another captured step, which has it in
    its own recording, and inside `grad`, where results have their history.  Several threads may call it: they take
    turns, and each has results of its own.
    """
    known: OrderedDict[Any, _Captured] = OrderedDict()
    lock = threading.RLock()

    def of_signature(args: tuple, kwargs: dict, backend: Any, mode: Any) -> _Captured:
        key = (backend.name, backend.device(), mode, signature_of(args), signature_of(kwargs))
        try:
            found = known.get(key)
        except TypeError as e:
            raise TypeError(f"a captured step takes arrays, Tensors and constants that can be hashed, alone or in "
                            f"lists, tuples and dicts: {e}") from None
        if found is None:
            found = known[key] = _Captured(step, backend)
            if len(known) > KEPT:
                known.popitem(last=False)
        known.move_to_end(key)
        return found

    @functools.wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        mode = current.get()
        if mode.depth > 1:
            return step(*args, **kwargs)
        arrays = arrays_in((args, kwargs))
        backend = backend_of(raw(arrays[0])) if arrays else default_backend()
        wanted = any(isinstance(a, Tensor) and a.requires_grad for a in arrays)
        if not backend.records or mode.inspect or _watched.get() or wanted:
            return fresh(step(*args, **kwargs))
        for a in arrays:
            if type(raw(a)) is not backend.array_type:
                raise BackendMismatchError(
                    f"a captured step was given arrays of {backend.name!r} and {backend_of(raw(a)).name!r}: bring them "
                    f"together before the call, for example with gpuprop.tensor(...)")
        with backend.at(raw(arrays[0])) if arrays else contextlib.nullcontext():
            with lock:
                captured = of_signature(args, kwargs, backend, mode)
                result = captured(args, kwargs, arrays)
            return fresh(step(*args, **kwargs)) if result is AS_IT_IS else result

    return run


class _Captured:
    """One step for arguments of one signature: the recordings of it, by the state of what it touches."""

    def __init__(self, step: Callable, backend: Any) -> None:
        self.step, self.backend = step, backend
        self.recordings: dict[Any, Replay] = {}
        self.modules: dict[Any, None] = {}  # what the step calls, steps and trains, known once it has run
        self.optimizers: dict[Any, None] = {}
        self.tensors: list[Tensor] = []
        self.ran: set[tuple | None] = set()  # in which states
        self.rebinding = 0  # so many runs in a row
        self.eager = False

    def __call__(self, args: tuple, kwargs: dict, arrays: list) -> Any:
        """Results of a run or a replay, or AS_IT_IS."""
        if self.eager:
            return AS_IT_IS
        state = self._state()
        if state is None or state not in self.ran:  # what is made at first use is made now: state, kernels, plans
            return self._run(args, kwargs, state)
        if state not in self.recordings:
            return self._record(args, kwargs, arrays)
        return self.recordings[state](arrays)

    def _step(self, args: tuple, kwargs: dict) -> Any:
        """The step, in which other captured steps are no more than themselves."""
        token = _watched.set(True)
        try:
            return self.step(*args, **kwargs)
        finally:
            _watched.reset(token)

    def _run(self, args: tuple, kwargs: dict, state: tuple | None) -> Any:
        """The step as it is, watched."""
        if len(self.ran) >= MANY:
            self._give_up(f"in {MANY} calls of one signature its parameters and gradients lay elsewhere each time")
            return AS_IT_IS
        known = len(self.modules), len(self.tensors)
        places = Places(self.step, self.modules)
        with collect_modules() as called, optimizer_stepped.collect() as stepped, leaf_reached.collect() as reached:
            result = self._step(args, kwargs)
        self.rebinding = self.rebinding + 1 if state and self.ran and places.rebound() else 0
        self.modules |= {inner: None for module in called for inner in module.modules()}
        now = dict.fromkeys(stepped.values())
        self.optimizers = {o: None for o in self.optimizers | now if o in now or _at_home(o)}
        trained = (p for o in self.optimizers for group in o.param_groups for p in group["params"])
        self._watch((*(t for m in self.modules for t in (*m.parameters(False), *m.buffers(False))), *trained,
                     *reached.values()))
        for t in self.tensors:
            if isinstance(t, Parameter) and t.grad_buffer is None:  # its gradient shall lie in one place from step to step
                with self.backend.at(t.data):
                    t.grad_buffer = self.backend.xp.empty_like(t.data)
                if t.grad is not None:
                    t.grad_buffer[...] = t.grad
                    t.grad = t.grad_buffer
        self.ran.add(state)
        if known != (len(self.modules), len(self.tensors)):
            self.ran.add(self._state())
        refused, schedule = not_returned(result, self.backend.array_type), places.scheduled()
        if schedule:
            self._give_up(f"it steps {schedule}, which computes on the host: step it after the call")
        elif refused:
            self._give_up(f"it returns {refused}, and a captured step returns Tensors and arrays of {self.backend.name}"
                          f", None, bools, numbers, strings, and lists, tuples and dicts of them")
        elif self.rebinding > 1:
            self._give_up(f"it puts another array where one was: {IN_PLACE}")
        return fresh(result)

    def _watch(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list({id(t): t for t in (*self.tensors, *tensors)}.values())

    def _give_up(self, why: str) -> None:
        self.eager = True
        for held in (self.recordings, self.modules, self.optimizers, self.tensors, self.ran):
            held.clear()
        name = getattr(self.step, "__name__", "the step")
        warnings.warn(f"{name} is run as it is, not captured: {why}", stacklevel=5)

    def _state(self) -> tuple | None:
        """What a recording is bound to beyond its arguments: host-side reads only.

        None where parameters have left an optimizer's memory: another optimizer may have them, and be the one that
        steps.  If not, the step itself brings them home.
        """
        if not all(map(_at_home, self.optimizers)):
            return None
        kept = tuple([o.capture_key() for o in self.optimizers])
        return kept, tuple(map(shape_of, self.modules)), tuple([
            (id(t.data), id(t.grad), t.requires_grad, tuple(map(id, t.hooks)) if t.hooks else None)
            for t in self.tensors])

    def _record(self, args: tuple, kwargs: dict, arrays: list) -> Any:
        """Record the step twice and compare; the results of its first replay, or AS_IT_IS."""
        self._refuse_devices(arrays)
        slots = [Tensor(self.backend.xp.copy(raw(a))) for a in arrays]
        rest = iter(slots)
        inputs = map_arrays(lambda a: next(rest) if isinstance(a, Tensor) else next(rest).data, (args, kwargs))
        places, before = Places(self.step, self.modules), Model.of(self.modules, self.tensors)
        found: list[Replay] = []
        recording = None
        try:
            for _ in range(2):
                before.grads()
                with self.backend.record() as recording:
                    # Copies: an array that is held then by others than us is one that the step keeps.
                    result = fresh(self._step(*inputs))
                after = Model.of(self.modules, self.tensors)
                kept = kept_by_others(recording, (result, [t.grad for t in after.tensors], [s.data for s in slots],
                                                  computed_in(self.modules)))
                moved = any(t.data is not data for t, data, *_ in before.rows)
                replay = Replay(recording, slots, inputs, result, before, after)
                if kept or moved or places.rebound():
                    return self._once(replay, arrays, kept)
                found.append(replay)
        except MemoryError:
            found.clear()
        except BaseException:
            before.restore()
            places.restore()
            raise
        before.restore()  # a recording computes nothing: what it left behind is undefined until the first replay
        difference = "there is no memory for a recording beside what the step itself has used"
        if found:
            difference = found[0].recording.difference(found[1].recording)
            if difference is None and signature_of(found[0].result) != signature_of(found[1].result):
                difference = "what it returns beside arrays was something else each time"
        if difference is not None:
            places.restore()
            if not found and recording is not None and (made := kept_by_others(recording, ())):
                raise CaptureError(f"there was no memory to record this step, and it keeps an array that it made in "
                                   f"{made}, which has no values: {IN_PLACE}")
            self._give_up(difference)
            return AS_IT_IS
        # A Tensor that belongs to no module and has no gradient may be given other memory, too.
        used, own = found[1].recording.uses, {id(s) for s in slots}
        with instances(Tensor) as every:
            self._watch([t for t in every if id(t) not in own and hasattr(t, "data")
                         and type(t.data) is self.backend.array_type and used(t.data)])
        del every
        return self._first(found[1], places, arrays)

    def _refuse_devices(self, arrays: list) -> None:
        of = self.backend.device_of
        named = {of(raw(t)): t for t in (*arrays, *self.tensors) if type(raw(t)) is self.backend.array_type}
        if len(named) > 1:
            a, b, *_ = sorted(named)
            raise CaptureError(f"a captured step computes on one device: it has {self._name(named[a])} on cuda:{a} and "
                               f"{self._name(named[b])} on cuda:{b}")

    def _once(self, replay: Replay, arrays: list, kept: str | None) -> Any:
        """Give up a step that keeps arrays of its recording: a replay computes them, and Python has run once for it."""
        result = replay(arrays)
        self._give_up(f"it keeps an array that it made in {kept}: {IN_PLACE}" if kept else
                      f"it puts another array where one was: {IN_PLACE}")
        return result

    def _first(self, replay: Replay, places: Places, arrays: list) -> Any:
        """The step as it is, then its replay from the same state; if they differ, the step's own results remain.

        That state is what the recording uses and did not make, whoever it belongs to.  What the step does beyond it is
        done once.
        """
        xp, used = self.backend.xp, replay.recording.outside()
        state = self._state()
        try:
            other = [xp.copy(a) for a in used]
            _exchange(xp, used, other)  # of equal values, but there must be memory for it later
        except MemoryError:
            size = sum(a.nbytes for a in used)
            self._give_up(f"its first replay cannot be compared: there is no memory for copies of what it uses, "
                          f"{size} bytes")
            return AS_IT_IS
        try:  # with the slots, which hold the values of this call; copies, for the replay writes where the step wrote
            result = fresh(self._step(*replay.inputs))
        except MemoryError:
            for a, b in zip(used, other, strict=True):
                a[...] = b
            replay.before.restore()
            places.restore()
            self._give_up("there is no memory for the step itself beside its recording")
            return AS_IT_IS
        stepped = Model.of(self.modules, self.tensors)
        gradients = [t.grad for t in self.tensors]
        _exchange(xp, used, other)
        replayed = replay(arrays)
        differing = self._difference(result, replayed, gradients) or self._unequal(
            (f"an array of {a.nbytes} bytes that is no tensor's", a, b) for a, b in zip(used, other, strict=True))
        if differing is None:
            self.ran.add(state)
            self.recordings[state] = replay
            return replayed
        known = [(what, a, xp.copy(a)) for what, a in self._known()]
        _exchange(xp, used, other)
        stepped.restore()
        if not differing.startswith("result"):
            differing = self._unequal(known) or differing
        self._give_up(f"its first replay and the step itself, from the same state, differ in {differing}")
        return result

    def _difference(self, result: Any, replayed: Any, gradients: list) -> str | None:
        """In which of their results, or gradients in memory of their own, the step and its replay differ."""
        if signature_of(result) != signature_of(replayed):
            return "results beside arrays, or the shapes of arrays"
        returned = zip(arrays_in(result), arrays_in(replayed), strict=True)
        pairs = [(f"result {i}", raw(a), raw(b)) for i, (a, b) in enumerate(returned)]
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
        found = self.backend._read_flags(xp.stack(flags)) if flags else ()
        return next((what for what, unequal in zip(names, found, strict=True) if unequal), None)

    def _known(self) -> Iterator[tuple[str, Any]]:
        for t in self.tensors:
            yield self._name(t), t.data
            if t.grad is not None:
                yield f"the gradient of {self._name(t)}", t.grad

    def _name(self, tensor: Any) -> str:
        named = ((n, t) for m in self.modules for n, t in (*m.named_parameters(), *m.named_buffers()))
        return next((name for name, t in named if t is tensor), f"a tensor of shape {tensor.shape}")


IN_PLACE = "what lasts from step to step must be written in place, `x[...] = `"


def _at_home(optimizer: Any) -> bool:
    return all(group.settled() for group in optimizer.param_groups)


def _exchange(xp: Any, arrays: list, others: list) -> None:
    """Exchange the values of arrays with those of as many others, one by one."""
    for i, a in enumerate(arrays):
        values = xp.copy(a)
        a[...], others[i] = others[i], values


def _unequal(xp: Any, a: Any, b: Any) -> Any:
    """Do the bits of two arrays of one shape and dtype differ?  Answered on the device."""
    x, y = (xp.ascontiguousarray(v).reshape(-1).view("uint8") for v in (a, b))
    return (x != y).any()
