"""Find the arrays that a step can reach, and those of them that it changes by itself.

A recording whose arrays have a type of their own does not see what a step does with other arrays of
NumPy's, in ``self.counter.n += 1`` for example.
"""

from __future__ import annotations

import functools
import gc
import pickle
import random
import sys
import sysconfig
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.backend import owner_of
from gpuprop._core.tensor import Tensor
from gpuprop.optim import Optimizer
from gpuprop.random import Generator, default_generator

MAX_OBJECTS = 200_000  # a step that reaches more runs as usual: to search takes too long
MAX_BYTES = 1 << 29  # likewise, of arrays
MAX_COPIES = 1 << 26  # bytes of arrays that are restored; larger ones are only compared
ATOMS = int, float, complex, str, bytes, np.dtype, np.generic, CodeType, FrameType, range
GENERATORS = Generator, random.Random, np.random.Generator, np.random.RandomState
LIBRARIES = tuple(filter(None, (
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))))
OWN = "gpuprop", "gpuprop_numpy"


class HostState:
    """What a step may change on the host by itself, to find it out and to take it back.

    These are arrays of NumPy's, options of optimizers, and generators of random numbers.
    """

    def __init__(self, reached: Reached, optimizers: Iterable[Any]) -> None:
        owners = map(owner_of, reached.arrays)
        memories = {id(owner): owner for owner in owners if owner.flags.writeable}
        self._contents: list[tuple[np.ndarray, Any]] = []
        room = MAX_COPIES
        for memory in memories.values():
            room -= memory.nbytes
            self._contents.append((memory, memory.copy() if room >= 0 else _checksum(memory)))
        self._options = [(group, dict(group)) for o in optimizers for group in o.param_groups]
        self._random = [(get, put, get()) for get, put in map(_state_of, (
            random, np.random, default_generator, *reached.generators))]

    def restore(self) -> str | None:
        """Take back all changes, except of large arrays; returns what a change was, or None."""
        found = None if no_other_thread_runs() else "data in another thread, which it has started"
        for memory, before in self._contents:
            has_copy = isinstance(before, np.ndarray)
            now = memory.tobytes() if has_copy else _checksum(memory)
            if now != (before.tobytes() if has_copy else before):
                if has_copy and memory.base is None:  # else another process may have written it
                    memory[...] = before
                found = (f"an array of shape {memory.shape} of NumPy's, which is in no variable of "
                         f"the step: keep it in a Tensor")
        for group, options in self._options:
            changed = {name: v for name, v in options.items() if group.get(name) is not v}
            if changed:
                group.assign(changed)
                found = f"{' and '.join(changed)} of an optimizer: change it after the step"
        for get, put, state in self._random:
            if pickle.dumps(get()) != pickle.dumps(state):
                put(state)
                found = "a generator of random numbers on the host: draw noise on the device"
        return found


def _state_of(generator: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The functions that get and set the state of a generator."""
    if isinstance(generator, Generator):
        def put(state: Any) -> None:
            generator._draws[:] = state

        return lambda: generator._draws[:], put
    if generator is np.random or isinstance(generator, np.random.RandomState):
        return generator.get_state, generator.set_state
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return lambda: bits.state, lambda state: setattr(bits, "state", state)
    return generator.getstate, generator.setstate


def no_other_thread_runs() -> bool:
    """Whether all other threads are those of products, which compute for their callers only."""
    own = threading.current_thread()
    return all(t is own or t.name == "gpuprop" for t in threading.enumerate())


def _checksum(memory: np.ndarray) -> int:
    contents: Any = np.ascontiguousarray(memory).reshape(-1).view("uint8")
    return zlib.crc32(contents)


class Reached(NamedTuple):
    """Arrays and generators that code can reach."""

    arrays: list[np.ndarray]
    generators: list[Any]  # of random numbers


def reachable(roots: Iterable[Any]) -> Reached | None:
    """What code in these objects can reach, or None if there are too many objects or arrays.

    Functions and classes of users reach the globals that they name, those of libraries do not.
    Arrays of Tensors and optimizers do not count: a recording sees the changes of these.
    """
    stack = list(roots)
    seen: set[int] = set()
    found = Reached([], [])
    keep: list[Any] = []  # ids are unique while objects live
    size = 0
    while stack:
        x = stack.pop()
        if id(x) in seen or isinstance(x, ATOMS):
            continue
        seen.add(id(x))
        keep.append(x)
        if isinstance(x, np.ndarray):
            found.arrays.append(x)
            size += x.nbytes
            if x.dtype != object:
                continue
        if isinstance(x, GENERATORS):
            found.generators.append(x)
        if len(seen) > MAX_OBJECTS or size > MAX_BYTES:
            return None
        stack += _contents(x)
    return found


def _contents(x: Any) -> Iterable[Any]:
    if isinstance(x, FunctionType):
        cells = [cell for cell in x.__closure__ or ()]
        named = _named_globals(x) if _is_users(x.__module__) else ()
        return (*cells, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values(),
                *vars(x).values(), *named)
    if isinstance(x, ModuleType):
        return list(vars(x).values()) if _is_users(x.__name__) else ()
    if isinstance(x, type):
        return (*vars(x).values(), *x.__bases__) if _is_users(x.__module__) else ()
    if isinstance(x, BuiltinFunctionType):  # a method of an object
        return (x.__self__,)
    if isinstance(x, Tensor):  # its arrays are recorded, and other threads may change them
        return (x.node, x.hooks)
    if isinstance(x, Optimizer):
        return [dict(group) for group in x.param_groups]
    return (*gc.get_referents(x), type(x))


def _named_globals(function: FunctionType) -> Iterator[Any]:
    scope = function.__globals__
    codes = [function.__code__]
    for code in codes:  # the loop also visits the codes that it appends
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
        for name in code.co_names:
            if name in scope:
                yield scope[name]


@functools.cache
def _is_users(module: Any) -> bool:
    """Whether a module is the user's: not gpuprop's, of Python or an installed package."""
    if not isinstance(module, str) or module.partition(".")[0] in (*OWN, "builtins"):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module not in sys.builtin_module_names and (
            module == "__main__" or module not in sys.modules)
    return not file.startswith(LIBRARIES)
