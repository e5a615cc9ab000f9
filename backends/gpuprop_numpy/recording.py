"""The array calls of a step, as a Python function that replays it without its other Python.

While a step is recorded, its arrays are `Recorded` ones.  Each call with them becomes a line of the
function.  Overrides, elementwise bodies and updates of optimizers are one call each.
"""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpuprop.backend import (
    Backend,
    CaptureError,
    Into,
    Recording,
    instances,
    not_recorded,
    owner_of,
)
from gpuprop_numpy.recorded import (
    OPERATORS,
    SEQUENCES,
    Recorded,
    active,
    caller,
    current_recording,
    plain,
    refuse_read,
)
from gpuprop_numpy.recorded_calls import (
    DIRECTLY,
    IN_PLACE,
    NO_WRITERS,
    OF_SHAPES,
    PLAIN,
    READ,
    CallOutside,
    WithErrors,
    are_one,
    change,
    is_same,
    refuse_changing_shape,
)


class Line(NamedTuple):
    """A statement of the replay: ``target = expression``, or an expression alone."""

    target: str
    expression: str
    used: tuple[str, ...]  # variables and constants
    name: str  # of the call
    where: str  # the code that made it


class CpuRecording(Recording):
    """The array calls of a step, as lines of a function.

    Variables ``v0``, ``v1`` ... are made by the lines.  Constants ``c0``, ``c1`` ... are functions,
    numbers, and arrays from before the recording ("older").
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.error: str | None = None
        self.has_ended = False
        self._lines: list[Line] = []
        self._variables = 0
        self._constants: dict[Any, tuple[str, Any]] = {}  # by id, or type and text
        self._older: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by id: owner, copy of it
        self._used: set[int] = set()  # ids of the owners of older arrays
        self._inner: dict[int, Recorded] = {}  # by id of the older array
        self._outputs: dict[str, np.ndarray] = {}  # by variable: where a replay writes it
        self._tensors: list[Any] = []
        self._tuples: dict[int, tuple[tuple, str]] = {}  # by id: the tuple and its variable
        self._errstate = dict(np.geterr())
        self._function: Callable[[], None] | None = None

    # ---- used by capture

    def replay(self) -> None:
        if self.error:
            raise CaptureError(f"the recording failed and cannot be replayed: {self.error}")
        if self._function is None:
            self._function = self._compiled()
        self._function()

    def difference(self, other: Any) -> str | None:
        for mine, theirs in zip(self._lines, other._lines, strict=False):
            if mine.name != theirs.name:
                return f"the call {mine.name} in {mine.where} became {theirs.name}"
        pairs = zip(self._constants.values(), other._constants.values(), strict=False)
        for (name, before), (_, after) in pairs:
            if not is_same(before, after):
                line = next((line for line in self._lines if name in line.used), None)
                call = f"{line.name} in {line.where}: " if line else ""
                return f"{call}an argument {change(before, after)}"
        for mine, theirs in zip(self._lines, other._lines, strict=False):
            if mine.expression != theirs.expression:
                return f"the call {mine.name} in {mine.where} has other arguments"
        count, other_count = len(self._lines), len(other._lines)
        return None if count == other_count else f"{count} array calls became {other_count}"

    def outside(self) -> list[np.ndarray]:
        return [memory for memory, _ in self._older.values()]

    def uses(self, array: np.ndarray) -> bool:
        return id(owner_of(array)) in self._used

    def held(self, ours: Iterable[Any]) -> str | None:
        # arrays among `ours` are not recorded any more: see `outer`
        with instances(Recorded) as arrays:
            return next((a.where for a in arrays if getattr(a, "recording", None) is self), None)

    def inner(self, array: Any) -> Any:
        if type(array) is not np.ndarray or array.dtype.hasobject:
            return array
        found = self._inner.get(id(array))
        if found is None:
            found = Recorded(self, self._constant(array), array, "the caller")
            self._inner[id(array)] = found
        return found

    def outer(self, array: Any) -> Any:
        if type(array) is not Recorded or array.recording is not self:
            return array
        if array.name.startswith("c"):
            return array.value
        if array.name not in self._outputs:
            self._outputs[array.name] = np.asarray(array.value)
        return self._outputs[array.name]

    def release(self) -> None:
        with instances(Recorded) as arrays:
            own = {id(a): a.value for a in arrays if getattr(a, "recording", None) is self}
            for holder in gc.get_referrers(*[a for a in arrays if id(a) in own]) if own else ():
                if holder is not arrays:
                    _replace_in(holder, own)

    # ---- while recording

    @contextlib.contextmanager
    def of(self, tensors: Iterable[Any]) -> Iterator[CpuRecording]:
        """Record this context's calls inside the block.

        These Tensors have NumPy's arrays again at its end.
        """
        if current_recording() is not None:
            raise CaptureError("this thread is recording already")
        self._tensors = list(tensors)
        try:
            active.set(self)
            yield self
        finally:
            self.has_ended = True
            active.set(None)
            self._leave()
            self._inner.clear()
            self._tuples.clear()
            for memory, contents in self._older.values():
                memory[...] = contents
            self._older = {key: (memory, memory) for key, (memory, _) in self._older.items()}

    def _leave(self) -> None:
        """Give the Tensors NumPy's arrays in place of recorded ones."""
        for t in self._tensors:
            for name in ("array", "gradient", "grad_buffer"):
                value = getattr(t, name, None)
                if type(value) is Recorded:
                    setattr(t, name, self.outer(value))

    def _may_write(self, arrays: Iterable[Any]) -> None:
        """Keep the contents of older arrays, into which a call may write."""
        for a in arrays:
            is_older = isinstance(a, np.ndarray)
            if type(a) is Recorded:
                is_older = a.name.startswith("c") or a.recording is not self
                a = a.value
            if not is_older and not isinstance(a, np.ndarray):
                continue
            memory = owner_of(a)
            is_older = (is_older or id(memory) in self._used) and not memory.dtype.hasobject
            if is_older and memory.flags.writeable and id(memory) not in self._older:
                self._older[id(memory)] = memory, memory.copy()

    def call(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """A call whose results are new arrays, views, None, or arguments."""
        name = getattr(function, "__name__", type(function).__name__)
        refuse_changing_shape(name, args, kwargs)
        out = kwargs.get("out")
        self._may_write(out if isinstance(out, tuple) else [out])
        if isinstance(function, np.ufunc):
            self._may_write(args[function.nin:])
        elif name not in NO_WRITERS:
            self._may_write(args[:1])
        return self._call(function, name, args, kwargs)

    def call_writing(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """A call that may write into all arguments."""
        self._may_write(args)
        return self._call(function, function.__name__, args, kwargs)

    def _call(self, function: Callable, name: str, args: tuple, kwargs: dict) -> Any:
        if (len(args) > 1 or "axis" in kwargs) and not kwargs.keys() - {"axis", "keepdims"}:
            function = DIRECTLY.get(function, function)
        function = self._with_errors(function)
        text, inputs, used = self._called(self._constant(function), args, kwargs)
        result = self._run(function, args, kwargs)
        if type(result) in READ and inputs and name not in OF_SHAPES:
            refuse_read(f"{name}()")
        return self._bound(result, text, inputs, used, OPERATORS.get(name, name))

    def _with_errors(self, function: Callable) -> Callable:
        """The function, with the np.errstate that a block of the step has set."""
        errors = dict(np.geterr())
        return function if errors == self._errstate else WithErrors(function, errors)

    def _run(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        token = active.set(None)
        try:
            with not_recorded():
                return function(*plain(args), **plain(kwargs))
        finally:
            active.reset(token)

    def call_op(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """A call of an op's override, which returns its output and pullbacks."""
        name = getattr(function, "__name__", type(function).__name__)
        function = self._with_errors(function)
        text, inputs, used = self._called(self._constant(function), args, kwargs)
        result = self._run(function, args, kwargs)
        is_op = type(result) is tuple and len(result) == 2 and (
            result[1] is None or callable(result[1]) or _are_functions(result[1]))
        if not is_op:
            return self._bound(result, text, inputs, used, name)
        target = self._add(text, used, name)
        out, pullback = result
        bound = self._bound(out, f"{target}[0]", inputs, (target,), name)
        if type(pullback) is tuple:
            return bound, tuple(f and self._pullback(f, f"{target}[1][{i}]", target)
                                for i, f in enumerate(pullback))
        return bound, pullback and self._pullback(pullback, f"{target}[1]", target)

    def call_outside(self, function: Callable, args: tuple, writes: Iterable[np.ndarray]) -> Any:
        name = getattr(function, "__qualname__", "a function")
        # gradients outside of older memory: the function reads and writes their places outside
        made = [(t, t.gradient) for t in self._tensors
                if type(t.gradient) is Recorded and t.gradient.name.startswith("v")]
        self._leave()
        for _, g in made:
            self._copy(self._place(g.name), g.name, (g.name,), name)
        self._may_write([a for t in self._tensors for a in (t.array, t.gradient)])
        self._may_write(writes)
        new = {id(t) for t, _ in made}
        again = CallOutside(function, args, [(t, t.gradient, id(t) in new) for t in self._tensors])
        constant = self._constant(again)
        result = self._run(again, (), {})
        bound = self._bound(result, f"{constant}()", {}, (constant,), name)
        for t, g in made:
            if t.gradient is self._outputs[g.name]:  # the function may have written into it
                self._copy(g.name, self._place(g.name), (g.name,), name)
                t.gradient = g
        return bound

    def _copy(self, target: str, source: str, used: tuple, name: str) -> None:
        write = self._constant(_write)
        self._add(f"{write}({target}, {source})", (write, *used), name)

    def _place(self, variable: str) -> str:
        """The name of an output."""
        return f"o{list(self._outputs).index(variable)}"

    def _pullback(self, function: Any, text: str, target: str) -> Any:
        """A pullback of an override, which is called from variable `target`."""
        if isinstance(function, Into):
            return Into(_Pullback(self, function.function, f"{text}.function", target))
        return _Pullback(self, function, text, target)

    def call_pullback(self, pullback: _Pullback, args: tuple) -> Any:
        self._may_write(args[1:])  # the memory of a gradient
        text, inputs, used = self._called(pullback.text, args, {})
        result = self._run(pullback.function, args, {})
        bound = self._bound(result, text, inputs, (pullback.target, *used), "backward")
        return args[1] if len(args) > 1 and result is plain(args[1]) else bound

    def _called(self, function: str, args: tuple, kwargs: dict) -> tuple[str, dict, tuple]:
        """The text of a call, its recorded arrays by id, and the names that it uses."""
        inputs: dict[int, Recorded] = {}
        used: list[str] = [function] if function.startswith("c") else []
        parts = [self._text(a, inputs, used) for a in args]
        parts += [f"{key}={self._text(a, inputs, used)}" for key, a in kwargs.items()]
        return f"{function}({', '.join(parts)})", inputs, tuple(used)

    def _text(self, value: Any, inputs: dict, used: list[str]) -> str:
        kind = type(value)
        if kind is np.ndarray:
            value = self.inner(value)
        elif kind is Recorded and value.recording is not self:
            value = self.inner(value.value)
        if type(value) is Recorded:
            if value.name.startswith("c"):
                self._used.add(id(owner_of(value.value)))
            inputs[id(value.value)] = value
            used.append(value.name)
            return value.name
        if kind is tuple and any(type(item) is Recorded for item in value):
            return self._tuple(value, inputs, used)
        if isinstance(value, SEQUENCES):
            items = "".join(f"{self._text(item, inputs, used)}, " for item in value)
            return f"({items})" if kind is tuple else f"[{items}]"
        if kind is slice and Recorded in map(type, (value.start, value.stop, value.step)):
            refuse_read("slicing by an array")
        if kind is dict:
            items = ", ".join(f"{self._constant(key)}: {self._text(item, inputs, used)}"
                              for key, item in value.items())
            return f"{{{items}}}"
        name = self._constant(value)
        used.append(name)
        return name

    def _tuple(self, value: tuple, inputs: dict, used: list[str]) -> str:
        """The variable of a tuple: pullbacks know by its identity what they have computed."""
        names: list[str] = []
        items = "".join([f"{self._text(item, inputs, names)}, " for item in value])
        if id(value) not in self._tuples:
            self._tuples[id(value)] = value, self._add(f"({items})", tuple(names), "tuple")
        _, name = self._tuples[id(value)]
        used.append(name)
        return name

    def _constant(self, value: Any) -> str:
        kind = type(value)
        key = (kind, repr(value)) if kind in PLAIN else id(value)
        found = self._constants.get(key)
        if found is None:
            found = self._constants[key] = f"c{len(self._constants)}", value
        return found[0]

    def _add(self, expression: str, used: tuple, name: str) -> str:
        target = f"v{self._variables}"
        self._variables += 1
        self._lines.append(Line(target, expression, used, name, caller()))
        return target

    def _bound(self, result: Any, text: str, inputs: dict, used: tuple, name: str) -> Any:
        """The recorded arrays in place of a result's arrays."""
        if isinstance(result, np.ndarray):
            known = inputs.get(id(result))
            if known is not None:
                target = self._add(text, used, name)
                if name in IN_PLACE:
                    return known
                write = self._constant(_write)
                self._add(f"{target} is {known.name} or {write}({known.name}, {target})",
                          (write, target, known.name), name)
                return known
            if name == "reshape" and any(are_one(result, a.value) for a in inputs.values()):
                alias, = inputs.values()
                return Recorded(self, alias.name, result, alias.where)
            if inputs and all(a.name.startswith("c") for a in inputs.values()):
                owners = {id(owner_of(a.value)) for a in inputs.values()}
                if id(owner_of(result)) in owners:  # a view of an older array
                    return Recorded(self, self._constant(result), result, caller())
            target = self._add(text, used, name)
            return Recorded(self, target, result, self._lines[-1].where)
        if isinstance(result, np.generic):
            return Recorded(self, self._add(text, used, name), result, self._lines[-1].where)
        if result is None:
            self._add(text, used, name)
            return None
        if isinstance(result, tuple | list) and _has_arrays(result):
            target = self._add(text, used, name)
            items = [self._bound(item, f"{target}[{i}]", inputs, (target,), name)
                     if _has_arrays(item) else item for i, item in enumerate(result)]
            is_named = hasattr(result, "_fields")
            return type(result)(*items) if is_named else type(result)(items)
        return result

    # ---- the function

    def _compiled(self) -> Callable[[], None]:
        """The function that repeats the calls; variables are deleted after their last use."""
        last: dict[str, int] = {}
        for i, line in enumerate(self._lines):
            last |= dict.fromkeys((line.target, *line.used), i)
        dead: dict[int, list[str]] = {}
        for name, i in last.items():
            if name.startswith("v") and name not in self._outputs:
                dead.setdefault(i, []).append(name)
        body = []
        for i, line in enumerate(self._lines):
            body.append(f"{line.target} = {line.expression}")
            if i in dead:
                body.append(f"del {', '.join(dead[i])}")
        constants = dict(self._constants.values())
        for i, (variable, output) in enumerate(self._outputs.items()):
            constants[f"o{i}"] = output
            body.append(f"o{i}[...] = {variable}")
        source = (f"def make({', '.join(constants)}):\n    def replay():\n        "
                  + "\n        ".join(body or ["pass"]) + "\n    return replay\n")
        scope: dict[str, Any] = {}
        exec(compile(source, "<a captured step>", "exec"), scope)
        return scope["make"](**constants)


def _replace_in(holder: Any, values: dict[int, Any]) -> None:
    """Replace the items or attributes of an object whose ids are keys of `values`."""
    if isinstance(holder, dict):
        holder.update({key: values[id(v)] for key, v in holder.items() if id(v) in values})
    elif isinstance(holder, list | deque):
        for i, value in enumerate(holder):
            if id(value) in values:
                holder[i] = values[id(value)]
    elif hasattr(holder, "gradient"):  # a Tensor
        for name in ("array", "gradient", "grad_buffer"):
            value = getattr(holder, name, None)
            if id(value) in values:
                setattr(holder, name, values[id(value)])


class _Pullback:
    """A pullback of an override: item `text` of variable `target`, the override's result."""

    def __init__(self, recording: CpuRecording, function: Callable, text: str,
                 target: str) -> None:
        self.recording = recording
        self.function = function
        self.text = text
        self.target = target
        self.read_in_backward = [function]

    def __call__(self, *args: Any) -> Any:
        return self.recording.call_pullback(self, args)


def _write(array: np.ndarray, values: Any) -> None:
    array[...] = values


def _has_arrays(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_has_arrays, value))
    return isinstance(value, np.ndarray | np.generic)


def _are_functions(value: Any) -> bool:
    return type(value) is tuple and all(f is None or callable(f) for f in value)
