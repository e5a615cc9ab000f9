"""What a captured step can see and change beside its arguments, as far as it can be known, and what a replay leaves."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Iterator
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor
from gpuprop._core.tree import tree_leaves, tree_map
from gpuprop.nn._module import Module
from gpuprop.nn.utils._computed import Computed
from gpuprop.optim.lr_scheduler import LRScheduler
from gpuprop.random import Generator

# ---- values ---------------------------------------------------------------------------------------------------------


def is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic)


def map_arrays(f: Callable, value: Any) -> Any:
    """The same tree with `f` of every array and Tensor in it."""
    return tree_map(lambda leaf: f(leaf) if is_array(leaf) else leaf, value)


def arrays_in(value: Any) -> list:
    """The arrays and Tensors in a tree."""
    return [leaf for leaf in tree_leaves(value) if is_array(leaf)]


def fresh(value: Any) -> Any:
    """A value with copies of its arrays, which no later step writes to, without history."""
    def of(a: Any) -> Any:
        copied = backend_of(raw(a)).xp.copy(raw(a))
        return Tensor(copied) if isinstance(a, Tensor) else copied

    return map_arrays(of, value)


def signature(value: Any) -> Any:
    """A value as part of a key: arrays by kind, shape and dtype, numbers by their bits, the rest by itself."""
    if isinstance(value, dict):
        return type(value), *((k, signature(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return type(value), *map(signature, value)
    if is_array(value):
        return isinstance(value, Tensor), value.shape, value.dtype.name
    if isinstance(value, float):  # 0.0 == -0.0, and nan != nan
        return type(value), math.copysign(1, value), repr(value)
    if isinstance(value, np.generic):
        return type(value), value.dtype.name, value.tobytes()
    return type(value), repr(value) if isinstance(value, complex) else value


def not_returned(value: Any, array_type: type) -> str | None:
    """The type of what of a result cannot be made anew by a replay, or None."""
    if isinstance(value, dict):
        return next(filter(None, (not_returned(v, array_type) for v in value.values())), None)
    if isinstance(value, list | tuple):
        return next(filter(None, (not_returned(v, array_type) for v in value)), None)
    if is_array(value):
        return None if type(raw(value)) is array_type else f"a {type(raw(value)).__module__} array"
    plain = value is None or isinstance(value, bool | int | float | complex | str | np.generic)
    return None if plain else f"a {type(value).__name__}"


# ---- places ---------------------------------------------------------------------------------------------------------


class Places:
    """Where a step may keep arrays, and what is there now.

    These are the attributes of modules, what a step's closure and its globals name, `self` of a method, and the lists
    and dicts directly in these.  Functions of the same file that it calls are looked at too.
    """

    def __init__(self, step: Callable, modules: Iterable[Module]) -> None:
        self._saved: list[tuple[Any, Any, list]] = []  # a place, a copy of it, and the arrays in it
        self._seen: set[int] = set()
        self._epochs: list[tuple[Any, int]] = []  # schedules, and how far they are
        self._scope = getattr(step, "__globals__", None)
        for module in list(modules):
            self._object(module)
        self._value(step)

    def rebound(self) -> bool:
        """Is another array in one of them now?"""
        return any(_differ(arrays, _arrays(place)) for place, _, arrays in self._saved)

    def scheduled(self) -> str | None:
        """The name of a learning rate schedule among them that has gone on since, or None."""
        return next((type(s).__name__ for s, epoch in self._epochs if s.last_epoch != epoch), None)

    def restore(self) -> None:
        """Have what was there: all attributes of modules, and elsewhere what has arrays."""
        for place, was, arrays in self._saved:
            if arrays or _arrays(place) or (type(place) is _Attributes and place.module):
                _restore(place, was)
            for _, value, data in arrays:
                if isinstance(value, Tensor):
                    value.data = data

    def _save(self, place: Any) -> None:
        self._saved.append((place, _copied(place), _arrays(place)))

    def _object(self, value: Any) -> None:
        """An object's attributes, and the lists and dicts among them."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        place = _Attributes(value)
        self._save(place)
        if isinstance(value, LRScheduler):
            self._epochs.append((value, value.last_epoch))
        for inner in list(place.values.values()):
            if isinstance(inner, list | dict):
                self._container(inner)
            elif isinstance(inner, Module):
                self._object(inner)

    def _container(self, value: Any) -> None:
        if id(value) not in self._seen:
            self._seen.add(id(value))
            self._save(value)

    def _value(self, value: Any) -> None:
        if isinstance(value, list | dict):
            self._container(value)
        elif isinstance(value, MethodType):
            self._value(value.__self__)
            self._value(value.__func__)
        elif isinstance(value, FunctionType):
            self._function(value)
        elif hasattr(value, "__dict__") and not isinstance(value, type | ModuleType):
            self._object(value)

    def _function(self, function: FunctionType) -> None:
        self._value(getattr(function, "__wrapped__", None))
        if id(function) in self._seen or function.__globals__ is not self._scope:
            return
        self._seen.add(id(function))
        for cell in function.__closure__ or ():
            self._save(cell)
            self._value(_content(cell))
        names = [name for name in function.__code__.co_names if name in function.__globals__]
        self._save(_Names(function.__globals__, names))
        for name in names:
            self._value(function.__globals__[name])


class _Attributes:
    """The attributes of an object."""

    def __init__(self, owner: Any) -> None:
        self.values, self.module = vars(owner), isinstance(owner, Module)


class _Names:
    """Some of a file's global variables."""

    def __init__(self, scope: dict, names: list[str]) -> None:
        self.scope, self.names = scope, names

    @property
    def values(self) -> dict:
        return {name: self.scope[name] for name in self.names if name in self.scope}


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _copied(place: Any) -> Any:
    if isinstance(place, CellType):
        return _content(place)
    return list(place) if isinstance(place, list) else dict(place if isinstance(place, dict) else place.values)


def _arrays(place: Any) -> list[tuple[Any, Any, Any]]:
    """The arrays in a place: its key, itself, and the memory that it has."""
    if isinstance(place, CellType):
        items: Iterable = [("", _content(place))]
    elif isinstance(place, list):
        items = enumerate(place)
    else:
        items = (place if isinstance(place, dict) else place.values).items()
    return [(key, v, raw(v)) for key, v in list(items) if is_array(v) and not isinstance(v, Computed)]


def _differ(before: list, after: list) -> bool:
    return len(before) != len(after) or any(
        key != its or value is not other or data is not changed
        for (key, value, data), (its, other, changed) in zip(before, after, strict=True))


def _restore(place: Any, was: Any) -> None:
    if isinstance(place, CellType):
        place.cell_contents = was
    elif isinstance(place, list):
        place[:] = was
    else:
        values = place if isinstance(place, dict) else place.scope if isinstance(place, _Names) else place.values
        if not isinstance(place, _Names):
            for key in values.keys() - was.keys():
                del values[key]
        values.update(was)


# ---- models ---------------------------------------------------------------------------------------------------------


class _Parts(dict[type, bool]):
    """Do attributes of a type belong to a model?  Asked at each replay."""

    def __missing__(self, cls: type) -> bool:
        self[cls] = issubclass(cls, Module | Tensor | Generator) and not issubclass(cls, Computed)
        return self[cls]


_is_part = _Parts()


def shape_of(module: Module) -> tuple:
    """What of a module a captured step depends on: its mode, what belongs to it, and its hooks."""
    inside = tuple([id(value) for value in vars(module).values() if _is_part[type(value)]])
    hooks = module._hooks
    return module.training, inside, tuple([id(h) for named in hooks.values() for h in named]) if hooks else ()


def computed_in(modules: Iterable[Module]) -> list[Any]:
    """The arrays of weights that modules compute anew in each forward: nothing lasts in them."""
    return [raw(value) for module in modules for value in vars(module).values() if isinstance(value, Computed)]


def hooks_of(modules: Iterable[Module], tensors: Iterable[Tensor]) -> Iterator[Any]:
    """All hooks, to be kept where their ids are part of a key."""
    for module in modules:
        for hooks in module._hooks.values():
            yield from hooks
    for tensor in tensors:
        yield from tensor.hooks or ()


class Model(NamedTuple):
    """What Tensors and modules hold at some moment."""

    tensors: list[Tensor]
    rows: list[tuple]  # a tensor, its data, its gradient, whether it is trained, and when it was changed
    training: list[tuple]  # a module, and whether it trains
    hooks: list  # which the key names by id

    @classmethod
    def of(cls, called: Iterable, tensors: list[Tensor]) -> Model:
        rows = [(t, t.data, t.grad, t.requires_grad, t.changed) for t in tensors]
        return cls(list(tensors), rows, [(m, m.training) for m in called], list(hooks_of(called, tensors)))

    def restore(self) -> None:
        for t, data, *_ in self.rows:
            t.data = data
        self.grads()

    def grads(self) -> None:
        """Have the gradients and modes of that moment."""
        for t, _data, g, trained, _changed in self.rows:
            t.grad, t.requires_grad = g, trained
        for module, training in self.training:
            if module.training != training:
                module.training = training


class Replay:
    """A recording, the slots its arguments go to, and what it leaves behind."""

    def __init__(self, recording: Any, slots: list, inputs: tuple, result: Any, before: Model, after: Model) -> None:
        self.recording, self.slots, self.inputs, self.result = recording, slots, inputs, result
        self.before, self.after = before, after  # the key names arrays by id: no other may get it
        self._touched = [t for (t, *_, was), (*_, now) in zip(before.rows, after.rows, strict=True) if now != was]

    def __call__(self, arrays: list) -> Any:
        with self.recording.turn():
            for slot, a in zip(self.slots, arrays, strict=True):
                slot.data[...] = raw(a)
            self.recording.replay()
            result = fresh(self.result)
        self.after.grads()
        for t in self._touched:
            t.touch()
        return result


def kept_by_others(recording: Any, ours: Any) -> str | None:
    """The code that made an array which somebody other than we holds when the step has ended, or None."""
    arrays = [raw(a) for a in arrays_in(ours)]
    found = recording.held(arrays)
    if found is not None:  # or it waits in a cycle to be collected
        gc.collect()
        found = recording.held(arrays)
    return found
