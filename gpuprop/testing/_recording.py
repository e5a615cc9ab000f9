"""Array calls written down as they are made, and made again on the same memory: what a CUDA graph does, on a laptop."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.backend import CaptureError
from gpuprop._core.instances import instances


class Call(NamedTuple):
    """One array call: its name, the code that made it, and its arguments in words, arrays by the place they lie at."""

    name: str
    where: str
    arguments: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.name} in {self.where}"


class Recording:
    """The array calls of one step.

    As with a CUDA graph, recording computes nothing that stays: when it ends, memory that was there before is as it
    was, and what the calls made is poison until the first `replay`.  A Python number among the arguments is baked in.
    """

    def __init__(self, wrap: Callable[[np.ndarray], Any], array_type: type) -> None:
        self.calls: list[Call] = []
        self.refused: list[str] = []  # what cannot be replayed: values read by the host, and the like
        self._wrap, self._array_type = wrap, array_type  # memory as the device's array
        self._steps: list[Callable[[], None]] = []
        self._before: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # memory that was there, and a copy of it
        self._made: dict[int, tuple[np.ndarray, int]] = {}  # memory of results, and the number of the call

    def replay(self) -> None:
        """Make every call again: on the same arrays, into the same results, with the numbers of the recording."""
        if self.refused:
            raise CaptureError(f"nothing to replay: {self.refused[0]}")
        for step in self._steps:
            step()

    def difference(self, other: Recording) -> str | None:
        """What another recording of the same step did otherwise, in words, or None: a replay would get it wrong."""
        for mine, its in zip(self.calls, other.calls, strict=False):
            if mine.name != its.name:
                return f"a call of {mine} became one of {its}"
            for (label, before), (_, after) in zip_longest(mine.arguments, its.arguments, fillvalue=("", "nothing")):
                if before != after:
                    return f"{mine}: {label} {_change(before, after)}"
        was, now = len(self.calls), len(other.calls)
        return None if was == now else f"{was} array calls became {now}"

    def outside(self) -> list:
        """What the calls use and did not make, as arrays of whole memories: the state that a replay depends on."""
        return [self._wrap(memory) for memory, _ in self._before.values() if memory.flags.writeable]

    def uses(self, array: Any) -> bool:
        """Do the calls use the memory of an array that was there before?"""
        return id(owner(array._a)) in self._before

    def held(self, ours: Iterable[Any]) -> str | None:
        """The code that made an array, other than `ours`, that somebody still holds, or None."""
        known = {id(owner(a._a)) for a in ours}
        with instances(self._array_type) as arrays:
            found = [id(owner(a._a)) for a in arrays if hasattr(a, "_a")]
        call = min((self._made[i][1] for i in found if i in self._made and i not in known), default=None)
        return None if call is None else self.calls[call].where

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """Nothing: the host waits for every call, so that replays are in order."""
        return contextlib.nullcontext()

    # ---- used by the machine while recording ----

    def before(self, arrays: Iterable[np.ndarray]) -> None:
        """Keep what memory holds before its first use."""
        for memory in map(owner, arrays):
            if id(memory) not in self._made and id(memory) not in self._before:
                self._before[id(memory)] = memory, memory.copy()

    def write(self, name: str, fn: Callable, args: tuple, kwargs: dict, made: dict[int, np.ndarray],
              computed: bool) -> None:
        """Log a call that was made; `made` are its new arrays, by their position among its results."""
        labels = [*(f"argument {i}" for i in range(len(args))), *kwargs]
        words = map(self._word, (*args, *kwargs.values()))
        self.calls.append(Call(name, caller(), tuple(zip(labels, words, strict=True))))
        for array in made.values():
            memory = owner(array)
            self._made[id(memory)] = memory, len(self.calls) - 1
        if computed:
            self._steps.append(lambda: _again(fn, args, kwargs, made))

    def end(self) -> None:
        """Leave memory as a capture does: unchanged where it was there before, undefined where it is new."""
        for memory, copy in self._before.values():
            if memory.flags.writeable:
                memory[...] = copy
        for memory, _ in self._made.values():
            poison(memory)

    def _word(self, value: Any) -> str:
        if isinstance(value, tuple | list):
            return f"({', '.join(map(self._word, value))})"
        if not isinstance(value, np.ndarray):
            return repr(value)
        memory = owner(value)
        _, maker = self._made.get(id(memory), (None, None))
        place = (f"at {_address(value):#x}" if maker is None else
                 f"of call {maker}, byte {_address(value) - _address(memory)}")
        return f"the {value.dtype.name} array {place}, shape {value.shape}, strides {value.strides}"


def _again(fn: Callable, args: tuple, kwargs: dict, made: dict[int, np.ndarray]) -> None:
    with np.errstate(all="ignore"):
        results = list(leaves(fn(*args, **kwargs)))
    for i, array in made.items():
        array[...] = results[i]


def _change(was: str, now: str) -> str:
    if was.startswith("the ") and now.startswith("the "):
        return f"was {was}, then {now}: what lasts from step to step must change in place, in one shape"
    return f"was {was}, then {now}: what changes from step to step must be a 0-d array"


def leaves(result: Any) -> Iterator[np.ndarray]:
    """The arrays of a result; NumPy's scalars as the 0-d arrays a device gives."""
    if isinstance(result, tuple | list):
        for r in result:
            yield from leaves(r)
    elif isinstance(result, np.ndarray | np.generic | bool):
        yield np.asarray(result)


def owner(a: np.ndarray) -> np.ndarray:
    """The array whose memory this is; as_strided puts an object that is none between them."""
    found, base = a, a.base
    while base is not None:
        found, base = base if isinstance(base, np.ndarray) else found, getattr(base, "base", None)
    return found


def _address(a: np.ndarray) -> int:
    return a.__array_interface__["data"][0]


def poison(a: np.ndarray) -> np.ndarray:
    """Fill with what nobody means: memory that was not written yet."""
    kind = a.dtype.kind
    a.fill(True if kind == "b" else np.iinfo(a.dtype).max - 76 if kind in "iu" else np.nan)
    return a


_PASSED_OVER = ("gpuprop.testing.", "gpuprop_cupy", "cupy", "numpy", "contextlib")


def caller() -> str:
    """The code that made the array call: ``adam_update (adam.py:31)``."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PASSED_OVER):
        frame = frame.f_back
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename.rpartition('/')[2]}:{frame.f_lineno})"
