"""Find, save and restore what a captured step may read and change other than its arguments."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterable, Iterator
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.backend import Recording
from gpuprop._core.graph import extent, raw
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor, mark_changed
from gpuprop._core.tree import tree_leaves, tree_map
from gpuprop.nn import Module
from gpuprop.nn.utils._reparametrization import ComputedWeight
from gpuprop.optim.lr_scheduler import LRScheduler
from gpuprop.random import Generator

# ---- arguments and results ----------------------------------------------------------------------


def is_array(value: Any) -> bool:
    """True for arrays and Tensors, not for NumPy scalars."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic)


def map_arrays(f: Callable, tree: Any) -> Any:
    """The tree with `f(a)` for every array and Tensor `a`."""
    return tree_map(lambda leaf: f(leaf) if is_array(leaf) else leaf, tree)


def arrays_in(tree: Any) -> list:
    """The arrays and Tensors of a tree."""
    if type(tree) is tuple and all([isinstance(leaf, Tensor) for leaf in tree]):  # the usual case
        return list(tree)
    return [leaf for leaf in tree_leaves(tree) if is_array(leaf)]


def detached_copy(tree: Any) -> Any:
    """The tree with copies of its arrays and Tensors, the Tensors without history."""
    def copy(a: Any) -> Any:
        copied = backend_of(raw(a)).xp.copy(raw(a))
        return Tensor(copied) if isinstance(a, Tensor) else copied

    return map_arrays(copy, tree)


def arrays_like(template: Any, tree: Any) -> Any:
    """The tree with an array in place of each NumPy scalar for which `template` has an array.

    NumPy's arithmetic returns scalars in place of 0-d arrays.
    """
    leaves = list(tree_leaves(template))
    if len(leaves) != sum(1 for _ in tree_leaves(tree)):
        return tree
    rest = iter(leaves)

    def like(leaf: Any) -> Any:
        wants_array = is_array(next(rest))
        return np.asarray(leaf) if wants_array and isinstance(leaf, np.generic) else leaf

    return tree_map(like, tree)


def order_of(a: Any) -> int:
    """The memory order of an argument, on which the order of sums may depend."""
    flags = getattr(raw(a), "flags", None)
    return 0 if flags is None else 2 * flags.c_contiguous + flags.f_contiguous


def signature_of(value: Any) -> Any:
    """A key of an argument or a result.

    It has the shape and dtype of arrays, the bits of numbers, and other values themselves.
    """
    if isinstance(value, Tensor):
        array = value.array
        return True, array.shape, array.dtype
    if isinstance(value, dict):
        return type(value), *((k, signature_of(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return type(value), *map(signature_of, value)
    if is_array(value):
        return False, value.shape, value.dtype
    if isinstance(value, float):  # 0.0 == -0.0, and nan != nan
        return type(value), math.copysign(1, value), repr(value)
    if isinstance(value, np.generic):
        return type(value), value.dtype.name, value.tobytes()
    return type(value), repr(value) if isinstance(value, complex) else value


def unsupported_type(result: Any, array_type: type) -> str | None:
    """The first type in a result that a replay cannot return, such as "a Result", or None."""
    if isinstance(result, dict | list | tuple):
        values = result.values() if isinstance(result, dict) else result
        found = (unsupported_type(value, array_type) for value in values)
        return next(filter(None, found), None)
    if is_array(result):
        array = raw(result)
        return None if type(array) is array_type else f"a {type(array).__module__} array"
    plain = bool | int | float | complex | str | np.generic
    return None if result is None or isinstance(result, plain) else f"a {type(result).__name__}"


# ---- variables ----------------------------------------------------------------------------------


class VariableSnapshot:
    """A copy of the variables in which a step may keep arrays.

    These are the variables in the step's closure, the globals that it names, the attributes of
    their values, of modules and of a method's `self`, and the items of lists and dicts directly in
    any of these.  Functions of the same file that the step calls are searched too.

    Variables are saved by *container*: a list, a dict, a closure cell, `_Attributes` or `_Globals`.
    """

    def __init__(self, step: Callable, modules: Iterable[Module]) -> None:
        self._saved: list[tuple[Any, Any, list]] = []  # (container, copy of its values, its arrays)
        self._seen: set[int] = set()
        self._schedules: list[tuple[LRScheduler, int]] = []  # with their epochs
        self._scope = getattr(step, "__globals__", None)
        for module in list(modules):
            self._add_object(module)
        self._add_value(step)

    def rebound(self) -> bool:
        """True if a variable has a different array now."""
        return any(_differ(arrays, _arrays(container)) for container, _, arrays in self._saved)

    def tensors(self) -> list[Tensor]:
        """The Tensors among the variables."""
        found = {id(value): value for container, *_ in self._saved
                 for _, value, _ in _arrays(container) if isinstance(value, Tensor)}
        return list(found.values())

    @contextlib.contextmanager
    def recorded_by(self, recording: Recording) -> Iterator[None]:
        """Inside the block, the variables have the arrays that a recording computes with."""
        try:
            self._exchange(recording.inner)
            yield
        finally:
            self._exchange(recording.outer)

    def _exchange(self, exchange: Callable[[Any], Any]) -> None:
        for container, *_ in self._saved:
            for key, value, _ in _arrays(container):
                other = value if isinstance(value, Tensor) else exchange(value)
                if other is not value:
                    _assign(container, key, other)

    def stepped_schedule(self) -> str | None:
        """The class name of a learning rate schedule that has been stepped since, or None."""
        for schedule, epoch in self._schedules:
            if schedule.last_epoch != epoch:
                return type(schedule).__name__
        return None

    def restore(self) -> None:
        """Restore all modules, and other containers that have arrays now or had some before."""
        for container, values, arrays in self._saved:
            is_module = isinstance(container, _Attributes) and container.is_module
            if is_module or arrays or _arrays(container):
                _restore(container, values)
            for _, value, data in arrays:
                if isinstance(value, Tensor):
                    value.array = data

    def _save(self, container: Any) -> None:
        self._saved.append((container, _copied(container), _arrays(container)))

    def _is_new(self, value: Any) -> bool:
        is_new = id(value) not in self._seen
        self._seen.add(id(value))
        return is_new

    def _add_value(self, value: Any) -> None:
        if isinstance(value, list | dict):
            self._add_collection(value)
        elif isinstance(value, MethodType):
            self._add_value(value.__self__)
            self._add_value(value.__func__)
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif hasattr(value, "__dict__") and not isinstance(value, type | ModuleType):
            self._add_object(value)

    def _add_object(self, value: Any) -> None:
        """Add an object's attributes, and the lists, dicts and modules among them."""
        if not self._is_new(value):
            return
        attributes = _Attributes(value)
        self._save(attributes)
        if isinstance(value, LRScheduler):
            self._schedules.append((value, value.last_epoch))
        for inner in list(attributes.values.values()):
            if isinstance(inner, list | dict):
                self._add_collection(inner)
            elif isinstance(inner, Module):
                self._add_object(inner)

    def _add_collection(self, value: Any) -> None:
        if self._is_new(value):
            self._save(value)

    def _add_function(self, function: FunctionType) -> None:
        self._add_value(getattr(function, "__wrapped__", None))
        if function.__globals__ is not self._scope or not self._is_new(function):
            return
        for cell in function.__closure__ or ():
            self._save(cell)
            self._add_value(_content(cell))
        names = [name for name in function.__code__.co_names if name in function.__globals__]
        self._save(_Globals(function.__globals__, names))
        for name in names:
            self._add_value(function.__globals__[name])


class _Attributes:
    """The attributes of an object."""

    def __init__(self, owner: Any) -> None:
        self.values = vars(owner)
        self.is_module = isinstance(owner, Module)


class _Globals:
    """Global variables of a file, by name."""

    def __init__(self, scope: dict, names: list[str]) -> None:
        self.scope = scope
        self.names = names

    @property
    def values(self) -> dict:
        return {name: self.scope[name] for name in self.names if name in self.scope}


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is empty
        return None


def _copied(container: Any) -> Any:
    if isinstance(container, CellType):
        return _content(container)
    if isinstance(container, list):
        return list(container)
    return dict(container if isinstance(container, dict) else container.values)


def _arrays(container: Any) -> list[tuple[Any, Any, Any]]:
    """(key, array or Tensor, its raw array) for the arrays in a container."""
    if isinstance(container, CellType):
        items: Iterable = [("", _content(container))]
    elif isinstance(container, list):
        items = enumerate(container)
    else:
        items = (container if isinstance(container, dict) else container.values).items()
    return [(key, value, raw(value)) for key, value in list(items)
            if is_array(value) and not isinstance(value, ComputedWeight)]


def _differ(before: list, after: list) -> bool:
    if len(before) != len(after):
        return True
    return any(
        key != new_key or value is not new_value or data is not new_data
        for (key, value, data), (new_key, new_value, new_data) in zip(before, after, strict=True))


def _assign(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, CellType):
        container.cell_contents = value
    elif isinstance(container, _Globals):
        container.scope[key] = value
    else:
        (container if isinstance(container, list | dict) else container.values)[key] = value


def _restore(container: Any, values: Any) -> None:
    if isinstance(container, CellType):
        container.cell_contents = values
    elif isinstance(container, list):
        container[:] = values
    elif isinstance(container, _Globals):
        container.scope.update(values)
    else:
        current = container if isinstance(container, dict) else container.values
        for key in current.keys() - values.keys():
            del current[key]
        current.update(values)


# ---- tensors and modules ------------------------------------------------------------------------


class _IsPart(dict[type, bool]):
    """A cache, by type: True if an attribute of this type is a part of its module.

    Every replay looks up all attributes, and `issubclass` is slower than a dict.
    """

    def __missing__(self, cls: type) -> bool:
        parts = Module | Tensor | Generator
        self[cls] = issubclass(cls, parts) and not issubclass(cls, ComputedWeight)
        return self[cls]


_is_part = _IsPart()


def module_key(module: Module) -> tuple:
    """A key of what a recording depends on: the module's mode, and the ids of parts and hooks."""
    parts = tuple([id(value) for value in vars(module).values() if _is_part[type(value)]])
    hooks = module._hook_lists
    hook_ids = tuple([id(hook) for named in hooks.values() for hook in named]) if hooks else ()
    return module.training, parts, hook_ids


def computed_weights(modules: Iterable[Module]) -> list[Any]:
    """The weights that modules compute anew in each forward, so that they need not persist."""
    return [value for module in modules for value in vars(module).values()
            if isinstance(value, ComputedWeight)]


def _all_hooks(modules: Iterable[Module], tensors: Iterable[Tensor]) -> Iterator[Any]:
    for module in modules:
        for hooks in module._hook_lists.values():
            yield from hooks
    for tensor in tensors:
        yield from tensor.hooks or ()


class TensorState(NamedTuple):
    """A Tensor and a copy of its attributes."""

    tensor: Tensor
    data: Any
    grad: Any
    requires_grad: bool
    changed: int  # the time of its last change in place


class ModelSnapshot(NamedTuple):
    """A copy of the attributes of tensors and of the modes of modules."""

    tensors: list[TensorState]
    modes: list[tuple[Module, bool]]
    hooks: list  # kept alive, because keys name them by id

    @classmethod
    def take(cls, modules: Iterable[Module], tensors: list[Tensor]) -> ModelSnapshot:
        states = [TensorState(t, t.array, t.gradient, t.requires_grad, getattr(t, "changed", -1))
                  for t in tensors]
        modes = [(module, module.training) for module in modules]
        return cls(states, modes, list(_all_hooks(modules, tensors)))

    def restore(self) -> None:
        """Restore the tensors' `data`, `grad` and `requires_grad`, and the modules' modes."""
        for state in self.tensors:
            state.tensor.array = state.data
        self.restore_gradients_and_modes()

    def restore_gradients_and_modes(self) -> None:
        """Restore the tensors' `grad` and `requires_grad`, and the modules' modes."""
        for t, _, grad, requires_grad, _ in self.tensors:
            t.gradient = grad
            t.requires_grad = requires_grad
        for module, training in self.modes:
            if module.training != training:
                module.training = training

    def data_is_rebound(self) -> bool:
        """True if a tensor has a different array as its data now."""
        return any(state.tensor.array is not state.data for state in self.tensors)


class Replay:
    """A recording of a step, which is called with the arrays of its arguments.

    A call copies these to the `slots`, the Tensors with which the step was recorded, replays the
    recording, and returns copies of its results.
    """

    def __init__(self, recording: Any, slots: list, inputs: tuple, result: Any,
                 before: ModelSnapshot, after: ModelSnapshot) -> None:
        self.recording = recording
        self.slots = slots
        self.inputs = inputs
        self.result = result
        # Both snapshots keep arrays alive that keys name by id.
        self.before = before
        self.after = after
        self._changed: list[Any] = [
            new.tensor for old, new in zip(before.tensors, after.tensors, strict=True)
            if new.changed != old.changed]
        self._extents = [extent(t.array) for t in self._changed]

    def __call__(self, arrays: list) -> Any:
        with self.recording.turn():
            for slot, a in zip(self.slots, arrays, strict=True):
                slot.array[...] = raw(a)
            self.recording.replay()
            result = detached_copy(self.result)
        self.after.restore_gradients_and_modes()
        for t, where in zip(self._changed, self._extents, strict=True):
            mark_changed([t], where)
        return result


def kept_array(recording: Any, expected: Any) -> str | None:
    """The line of code that created an array that the step keeps, or None.

    That is an array of the recording that is still referenced and that is not in the tree
    `expected`.
    """
    arrays = [raw(a) for a in arrays_in(expected)]
    found = recording.held(arrays)
    if found is not None:  # perhaps only a reference cycle refers to it
        gc.collect()
        found = recording.held(arrays)
    return found
