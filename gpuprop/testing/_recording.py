"""Record array calls and replay them on the same memory, as a CUDA graph does."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core import backend
from gpuprop._core.backend import CaptureError, owner_of
from gpuprop._core.instances import instances
from gpuprop._core.tree import tree_leaves
from gpuprop._core.warnings import calling_line


class Call(NamedTuple):
    """One array call."""

    name: str
    where: str  # the code that made it
    arguments: tuple[tuple[str, str], ...]  # (label, description); arrays by their address

    def __str__(self) -> str:
        return f"{self.name} in {self.where}"


class Recording(backend.Recording):
    """The array calls of one step.

    As with a CUDA graph, recording has no lasting effect: at its end, memory from before the
    recording ("older") gets its contents back, and arrays made during it ("new") are poisoned until
    the first `replay`.  Python numbers among the arguments are constants of the recording.
    """

    def __init__(self, wrap: Callable[[np.ndarray], Any], array_type: type) -> None:
        self.calls: list[Call] = []
        self.errors: list[str] = []  # calls that cannot be replayed, such as reads by the host
        self._wrap = wrap  # turns memory into a device array
        self._array_type = array_type
        self._replays: list[Callable[[], None]] = []
        # By the id of the memory: older memory and a copy of it; new memory and the call's index.
        self._older: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._new: dict[int, tuple[np.ndarray, int]] = {}

    def replay(self) -> None:
        """Repeat every call on the same arrays, with results in the same memory."""
        if self.errors:
            raise CaptureError(f"the recording failed and cannot be replayed: {self.errors[0]}")
        for replay in self._replays:
            replay()

    def difference(self, other: Recording) -> str | None:
        """The first difference of another recording of the same step, or None.

        A replay would not reproduce such a difference.
        """
        for call, other_call in zip(self.calls, other.calls, strict=False):
            if call.name != other_call.name:
                return f"the call {call} became {other_call}"
            pairs = zip_longest(call.arguments, other_call.arguments, fillvalue=("", "absent"))
            for (label, before), (_, after) in pairs:
                if before != after:
                    return f"{call}: {label} {_change(before, after)}"
        count = len(self.calls)
        other_count = len(other.calls)
        return None if count == other_count else f"{count} array calls became {other_count}"

    def outside(self) -> list:
        """The older memory that the calls use, as arrays: the state that a replay depends on."""
        return [self._wrap(memory) for memory, _ in self._older.values() if memory.flags.writeable]

    def uses(self, array: Any) -> bool:
        """True if the calls use the memory of this older array."""
        return id(owner_of(array._a)) in self._older

    def held(self, ours: Iterable[Any]) -> str | None:
        """The code that made a new array, not one of `ours`, that is still referenced, or None."""
        known = {id(owner_of(a._a)) for a in ours}
        with instances(self._array_type) as arrays:
            found = {id(owner_of(a._a)) for a in arrays if hasattr(a, "_a")}
        calls = [self._new[i][1] for i in found - known if i in self._new]
        return self.calls[min(calls)].where if calls else None

    # ---- called by the machine while recording ----

    def before_call(self, arrays: Iterable[np.ndarray]) -> None:
        """Copy older memory before its first use."""
        for memory in map(owner_of, arrays):
            if id(memory) not in self._new and id(memory) not in self._older:
                self._older[id(memory)] = memory, memory.copy()

    def add_call(self, name: str, fn: Callable, args: tuple, kwargs: dict,
                 new: dict[int, np.ndarray], computed: bool) -> None:
        """Record a call; `new` are its new arrays, by their position among its results.

        A call that only makes views is not `computed`: a replay leaves it out.
        """
        labels = [*(f"argument {i}" for i in range(len(args))), *kwargs]
        values = [self._describe(value) for value in (*args, *kwargs.values())]
        self.calls.append(Call(name, caller(), tuple(zip(labels, values, strict=True))))
        for array in new.values():
            memory = owner_of(array)
            self._new[id(memory)] = memory, len(self.calls) - 1
        if computed:
            self._replays.append(lambda: _replay(fn, args, kwargs, new))

    def end(self) -> None:
        """Restore older memory and poison new memory, as a capture leaves them."""
        for memory, copy in self._older.values():
            if memory.flags.writeable:
                memory[...] = copy
        for memory, _ in self._new.values():
            poison(memory)

    def _describe(self, value: Any) -> str:
        if isinstance(value, tuple | list):
            return f"({', '.join(map(self._describe, value))})"
        if not isinstance(value, np.ndarray):
            return repr(value)
        memory = owner_of(value)
        if id(memory) in self._new:
            _, call = self._new[id(memory)]
            where = f"made by call {call}, byte {_address(value) - _address(memory)}"
        else:
            where = f"at {_address(value):#x}"
        return f"the {value.dtype.name} array {where}, shape {value.shape}, strides {value.strides}"


def _replay(fn: Callable, args: tuple, kwargs: dict, new: dict[int, np.ndarray]) -> None:
    with np.errstate(all="ignore"):
        results = list(result_arrays(fn(*args, **kwargs)))
    for i, array in new.items():
        array[...] = results[i]


def _change(before: str, after: str) -> str:
    if before.startswith("the ") and after.startswith("the "):
        fix = "an array that is kept between steps must change in place, with its shape unchanged"
    else:
        fix = "a number that changes between steps must be a 0-d array"
    return f"was {before}, then {after}: {fix}"


def result_arrays(result: Any) -> Iterator[np.ndarray]:
    """The arrays of a result; NumPy's scalars as 0-d arrays, which a device returns."""
    for leaf in tree_leaves(result) if isinstance(result, tuple | list) else (result,):
        if isinstance(leaf, np.ndarray | np.generic | bool):
            yield np.asarray(leaf)


def _address(a: np.ndarray) -> int:
    return a.__array_interface__["data"][0]


def poison(a: np.ndarray) -> np.ndarray:
    """Fill new memory with values that show when they are used: NaN or a large integer."""
    if a.dtype.kind == "b":
        a.fill(True)
    elif a.dtype.kind in "iu":
        a.fill(np.iinfo(a.dtype).max - 76)
    else:
        a.fill(np.nan)
    return a


def caller() -> str:
    """The code that made the array call: ``adam_update (_adam.py:31)``."""
    return calling_line(traceback.walk_stack(sys._getframe(1)), skip=("gpuprop.testing.",))[0]
