"""Find the random generators that an object holds, by name."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from gpuprop._core.checks import as_instance
from gpuprop._core.tensor import Tensor
from gpuprop.random import Generator, default_generator

MAX_ITEMS = 100  # longer lists and dicts are data


def named_generators(owner: Any) -> dict[str, Generator]:
    """The Generators among the attributes of an object, and of the objects that it holds.

    The names are paths such as "transforms.0.rng".  The default generator is left out.  Functions
    hold the variables of their closure, and the generators among their global variables.  Objects
    with a state of their own, such as optimizers, are not searched, but modules and loaders are.
    """
    found: dict[str, Generator] = {}
    seen: set[int] = {id(default_generator)}
    to_visit = [("", owner)]
    while to_visit:
        path, value = to_visit.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Generator):
            found[path] = value
        elif value is owner or not _has_own_state(value):
            held = [(f"{path}.{name}".lstrip("."), part) for name, part in _held(value)]
            to_visit += reversed(held)  # so that attributes are visited in their order
    return found


def generator_states(generators: dict[str, Generator]) -> dict[str, dict]:
    """The state of each generator."""
    return {name: generator.get_state() for name, generator in generators.items()}


def prepare_generators(
    what: str, generators: dict[str, Generator], states: Any
) -> Callable[[], None]:
    """Check the states of generators; returns the function that writes them.

    Raises if names are missing or unexpected, or a state is wrong.
    """
    as_instance(what, states, Mapping, "a dict of states of generators")
    if states.keys() != generators.keys():
        raise ValueError(f"{what}: expected the states of {', '.join(generators) or 'none'}, got "
                         f"{', '.join(map(str, states)) or 'none'}: construct everything as "
                         f"before, with the same generators")
    writes = []
    for name, generator in generators.items():
        try:
            writes.append(generator._prepare_load(states[name]))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{what}: {name}: {error}") from error

    def write() -> None:
        for each in writes:
            each()

    return write


def _has_own_state(value: Any) -> bool:
    is_searched = hasattr(value, "forward") or hasattr(value, "__iter__")
    return hasattr(value, "state_dict") and not is_searched


def _held(value: Any) -> Iterator[tuple[Any, Any]]:
    """The objects that `value` refers to, with their names."""
    if isinstance(value, type | types.ModuleType | Tensor | np.ndarray):
        return
    if isinstance(value, Mapping | list | tuple):
        if len(value) <= MAX_ITEMS:
            yield from value.items() if isinstance(value, Mapping) else enumerate(value)
    elif isinstance(value, functools.partial):
        yield from {"func": value.func, "args": value.args, "keywords": value.keywords}.items()
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
    elif isinstance(value, types.FunctionType):
        yield from _variables(value)
    else:
        yield from getattr(value, "__dict__", {}).items()


def _variables(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, Generator):
            yield name, value
