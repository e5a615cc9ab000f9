"""Flat memory for parameters, their gradients and an optimizer's state.

An arena stores parameters of one dtype and device in one flat array, their gradients in a second,
and each state of the optimizer in one more.  A step is then a few calls on flat arrays, whatever
the number of parameters.

`p.data` and `p.grad` are usually views of an arena.  A user may assign other arrays to them; the
optimizer copies these into the arena at its next step.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from gpuprop._core.backend import BackendMismatchError
from gpuprop._core.dtypes import compute_dtype, is_real
from gpuprop._core.graph import extent, raw, written
from gpuprop._core.registry import backend_of, of_recording
from gpuprop._core.tensor import Parameter, Tensor, asnumpy

ALIGNMENT = 256  # bytes: enough for a device's widest loads and for a cache line of any host
MAX_CACHED_PLANS = 64  # more would not help if the set of parameters with gradients is random

_serials = itertools.count()
_arena_by_grad: WeakValueDictionary[int, Arena] = WeakValueDictionary()  # by id(grad view)


def storage_key(a: Any) -> tuple:
    """(array type, dtype, device): arrays with equal keys can share an arena."""
    return type(a), a.dtype, backend_of(a).device_of(a)


def to_backend(backend: Any, value: Any) -> Any:
    """`value`, an array of any backend or anything NumPy accepts, on `backend`'s current device."""
    if type(value) is backend.array_type:
        return backend.asarray(value)
    return backend.asarray(asnumpy(value) if hasattr(value, "shape") else np.asarray(value))


def copy_all(pairs: Iterable[tuple[Any, Any]]) -> None:
    """Copy each source to its target, for (target, source) pairs.

    Sources may be views of targets: all views are copied before any target is written.
    """
    pairs = [(target, _copy_if_view(source)) for target, source in pairs]
    for target, source in pairs:
        backend = backend_of(target)
        with backend.at(target):
            target[...] = to_backend(backend, source)


def _copy_if_view(a: Any) -> Any:
    if getattr(a, "base", a) is None:  # the array owns its memory
        return a
    with backend_of(a).at(a):
        return a.copy()


class Layout:
    """Where arrays of these shapes lie in one flat array: each starts on a 256-byte boundary.

    A shape of None stands for no array.
    """

    def __init__(self, shapes: Sequence[tuple | None], dtype: Any) -> None:
        unit = ALIGNMENT // dtype.itemsize
        sizes = [0 if shape is None else math.prod(shape) for shape in shapes]
        self.shapes = shapes
        self.starts = [0, *itertools.accumulate(-(-size // unit) * unit for size in sizes)]

    def view(self, flat: Any, i: int) -> Any:
        """Array number `i` in a flat array, or None."""
        shape = self.shapes[i]
        if shape is None:
            return None
        start = self.starts[i]
        return flat[start:start + math.prod(shape)].reshape(shape)

    def part(self, flat: Any, first: int, last: int) -> Any:
        """The part of a flat array with the arrays from `first` to before `last`."""
        return flat[self.starts[first]:self.starts[last]]


class Segment:
    """Adjacent parameters of an arena with equal histories, which one kernel call updates.

    `data`, `grad` and each of `states` are flat arrays that include the padding.  `step` is the
    common step count, a 0-d array, and `numbers` has the common values of the scalar states.
    """

    def __init__(self, arena: Arena, first: int, last: int, state_names: Sequence[str]) -> None:
        self.xp = arena.xp
        self.params = arena.params[first:last]
        self._flat = [(arena.layout, arena.data), (arena.layout, arena.grad),
                      *[(arena.layouts[name], arena.states[name]) for name in state_names]]
        self._range = range(first, last)
        self.data, self.grad, *self.states = [
            layout.part(flat, first, last) for layout, flat in self._flat]
        self.extent = extent(self.data)
        self.step_counts = arena.step_counts[first:last]  # one per parameter, all equal
        self.step = arena.step_counts[first:first + 1].reshape(())
        self.tried: dict[str, Any] | None = None  # the constants with which the kernel was tried
        self._numbers = [flat[first:last] for flat in arena.numbers.values()]  # likewise
        self.numbers = [flat[first:first + 1].reshape(()) for flat in arena.numbers.values()]

    @functools.cached_property
    def members(self) -> list[list]:
        """[data, grad, *states] of each parameter that has elements, as views in their shapes."""
        views = [[layout.view(flat, i) for layout, flat in self._flat] for i in self._range]
        return [arrays for arrays in views if arrays[0].size]

    def write_numbers(self, values: Sequence) -> None:
        """Set the scalar states of all parameters."""
        for array, value in zip(self._numbers, values, strict=True):
            array[...] = value


class Arena:
    """Flat arrays for the values, gradients and states of parameters of one dtype and device.

    Every parameter starts at a multiple of 256 bytes.  The padding between parameters is zero, and
    every update rule keeps it zero: where p, g and the states are 0, an update is a multiple of 0,
    or ``0 / (sqrt(0) + eps)`` with eps > 0.  The padding of states may hold any finite number.

    ``state_shape(name, shape)`` is the shape of a state of a parameter, or None if it has none.
    `scalar_states` are the names of states that are one float64 number per parameter.
    """

    def __init__(self, params: Sequence[Parameter], names: Sequence[str], n_scalars: int,
                 state_shape: Callable[[str, tuple], tuple | None] = lambda name, shape: shape,
                 scalar_states: Sequence[str] = ()) -> None:
        first = params[0].array
        n = len(params)
        self.params = list(params)
        self.names = list(names)
        self.serial = next(_serials)
        self.storage_key = storage_key(first)
        self.dtype = first.dtype
        self.compute_dtype = compute_dtype(first.dtype)
        self.backend = backend_of(first)
        self.xp = self.backend.xp

        self.shapes = [p.array.shape for p in params]
        self.layout = Layout(self.shapes, self.dtype)
        self.data = self._zeros(self.layout)
        self.grad = self._zeros(self.layout)
        self.state_shape = state_shape
        self.layouts: dict[str, Layout] = {}
        self.states: dict[str, Any] = {}
        self.step_counts = self.xp.zeros(n, "int64")
        self.numbers = {name: self.xp.zeros(n, "float64") for name in scalar_states}
        self.scalars = [self.xp.zeros((), "float64") for _ in range(n_scalars)]  # lr, betas, ...

        # Parameters with equal numbers were updated by the same steps.
        self.histories: list[int] = [0] * n
        self.has_state = [False] * n
        self.has_grad: tuple[bool, ...] = ()  # as of the last `scan_gradients`
        self._plans: dict[tuple, list[Segment]] = {}  # by `has_grad` and the states' names

        view = self.layout.view
        self.views = [(p, view(self.data, i), view(self.grad, i)) for i, p in enumerate(params)]
        self.index_of_grad = {id(grad): i for i, (_, _, grad) in enumerate(self.views)}
        for p, data, grad in self.views:
            data[...] = p.array
            if p.gradient is not None:  # the next step copies the gradient into the arena
                p.gradient = to_backend(self.backend, raw(p.gradient))
            p._move_to(data)
            p.grad_buffer = grad
            _arena_by_grad[id(grad)] = self

    def on_device(self) -> Any:
        """A context manager: this thread computes on the arena's device."""
        return self.backend.at(self.data)

    def _zeros(self, layout: Layout) -> Any:
        unit = ALIGNMENT // self.dtype.itemsize
        size = layout.starts[-1]
        flat = self.xp.zeros(size + unit, self.dtype)
        host_memory = getattr(flat, "__array_interface__", None)
        skip = 0
        if host_memory:  # device allocators align by themselves
            skip = -host_memory["data"][0] % ALIGNMENT // self.dtype.itemsize
        return flat[skip:skip + size]

    # ---- which parameters a step updates

    def scan_gradients(self) -> list[tuple[Parameter, Any]]:
        """Record which parameters have a gradient, and check gradients outside of the arena.

        Returns (parameter, grad view) for each gradient that is not in the arena's memory.
        """
        outside = []
        has_grad = []
        for p, _, view in self.views:
            g = p.gradient
            if g is not None and g is not view:
                self._check_gradient(p, raw(g), self.names[self.index_of_grad[id(view)]])
                outside.append((p, view))
            p.grad_buffer = view
            has_grad.append(g is not None)
        self.has_grad = tuple(has_grad)
        return outside

    def _check_gradient(self, p: Parameter, g: Any, name: str) -> None:
        if not hasattr(g, "dtype") or not is_real(g.dtype):
            raise TypeError(f"{name}: its .grad must be an array of real numbers, got "
                            f"{getattr(g, 'dtype', type(g).__name__)}")
        if g.shape != p.array.shape:
            raise ValueError(f"{name} has shape {p.array.shape}, but its .grad has shape {g.shape}")
        if type(g) is not self.backend.array_type:
            own, other = self.backend.name, backend_of(g).name
            raise BackendMismatchError(
                f"{name} is on backend {own!r}, but its .grad is on {other!r}: move the gradient "
                f"with gpuprop.backend.get_backend({own!r}).asarray(...)")

    def segments(self, state_names: tuple[str, ...]) -> list[Segment]:
        """The segments that a step updates: all parameters that have a gradient.

        The others keep their values, states and step counts, as in PyTorch.
        """
        return self._plans.get((self.has_grad, state_names)) or self._plan(state_names)

    def _plan(self, state_names: tuple[str, ...]) -> list[Segment]:
        keys: Sequence = [(has_grad, 0) for has_grad in self.has_grad]
        if state_names:
            keys = list(zip(self.has_grad, self.histories, strict=True))
            if len(set(keys)) > len(set(self.histories)):
                # Of parameters with one history, only some are updated by this step.
                self.set_histories(keys)
            self.has_state = [old or new
                              for old, new in zip(self.has_state, self.has_grad, strict=True)]
            self.add_states(state_names)
        if len(self._plans) >= MAX_CACHED_PLANS:
            self._plans.clear()
        plan = []
        first = 0
        for (has_grad, _), run in itertools.groupby(keys):
            last = first + len(list(run))
            if has_grad:
                plan.append(Segment(self, first, last, state_names))
            first = last
        self._plans[self.has_grad, state_names] = plan
        return plan

    def forget_unstepped(self) -> None:
        """Parameters that were planned to be updated, but have made no step, have no state."""
        steps = self.backend.to_numpy(self.step_counts).tolist()
        self.has_state = [old and n > 0 for old, n in zip(self.has_state, steps, strict=True)]
        self._plans.clear()

    def set_histories(self, keys: Sequence) -> None:
        """Number the histories; parameters with equal keys get one number and share segments."""
        numbers: dict[Any, int] = {}
        self.histories = [numbers.setdefault(key, len(numbers)) for key in keys]
        self._plans.clear()

    def add_states(self, names: Iterable[str]) -> None:
        """Allocate the states that do not exist yet."""
        for name in names:
            if name not in self.states:
                shapes = [self.state_shape(name, shape) for shape in self.shapes]
                self.layouts[name] = Layout(shapes, self.dtype)
                self.states[name] = self._zeros(self.layouts[name])

    def drop_state(self, name: str) -> None:
        """Free a state, which no step may use."""
        self.states.pop(name, None)
        self.layouts.pop(name, None)

    # ---- state

    def state_of(self, i: int) -> dict[str, Any]:
        """Views of the states of parameter `i` that are arrays."""
        views = {name: self.layouts[name].view(flat, i) for name, flat in self.states.items()}
        return {name: view for name, view in views.items() if view is not None}

    def counted_states(self) -> dict[str, np.ndarray]:
        """{"step" or a scalar state: its numbers, one per parameter}; waits for the device."""
        return {name: self.backend.to_numpy(flat)
                for name, flat in {"step": self.step_counts, **self.numbers}.items()}

    def written_by_a_step(self) -> dict[Any, Any]:
        """All arrays that a step changes; a step may add states, which start as zeros."""
        return {"data": self.data, "step": self.step_counts,
                **{("number", name): array for name, array in self.numbers.items()},
                **{("state", name): array for name, array in self.states.items()}}

    def copy_state_from(self, previous: dict[int, tuple[Arena, int]]) -> None:
        """Copy the states of parameters that were in other arenas.

        `previous` is {id(parameter): (arena, index in it)}.
        """
        histories: list[Any] = []
        for i, p in enumerate(self.params):
            if id(p) not in previous:
                histories.append(None)
                continue
            arena, k = previous[id(p)]
            histories.append((arena.serial, arena.histories[k]))
            self.has_state[i] = arena.has_state[k]
            self.step_counts[i:i + 1] = to_backend(self.backend, arena.step_counts[k:k + 1])
            for name, flat in self.numbers.items():
                flat[i:i + 1] = to_backend(self.backend, arena.numbers[name][k:k + 1])
            self.add_states(arena.states)
            own = self.state_of(i)
            for name, value in arena.state_of(k).items():
                own[name][...] = to_backend(self.backend, value)
        self.set_histories(histories)

    def load_state(self, entries: Sequence[dict[str, Any]]) -> None:
        """Replace all states and step counts.

        `entries` has one dict per parameter, of host arrays in the states' shapes and dtype and the
        numbers of scalar states and "step", which is 1 by default; empty for a parameter that no
        step has updated.
        """
        numbers = {"step": self.step_counts, **self.numbers}
        self.add_states(name for entry in entries for name in entry if name not in numbers)
        for name, flat in self.states.items():
            flat[...] = 0
            for i, entry in enumerate(entries):
                if name in entry:
                    self.layouts[name].view(flat, i)[...] = self.backend.asarray(entry[name])
        self.has_state = [bool(entry) for entry in entries]
        histories = []
        for name, flat in numbers.items():
            default = int(name == "step")
            values = [entry.get(name, default) if entry else 0 for entry in entries]
            flat[...] = self.backend.asarray(np.array(values, flat.dtype))
            histories.append(values)
        self.set_histories(list(zip(*histories, strict=True)))

    # ---- gradients as flat arrays

    def grad_runs(self, indices: set[int]) -> list[Any]:
        """The gradients of these parameters, one flat array per run of adjacent parameters."""
        if len(indices) == len(self.params):
            return [self.grad]
        firsts = sorted(i for i in indices if i - 1 not in indices)
        ends = sorted(i + 1 for i in indices if i + 1 not in indices)
        return [self.layout.part(self.grad, first, end)
                for first, end in zip(firsts, ends, strict=True)]

    def clear_padding(self) -> None:
        """Reset the padding of the gradients to zero, after scaling by a factor that may be NaN."""
        with self.on_device():
            indices, zero = self._padding
            if indices.size:
                self.grad[indices] = zero

    @functools.cached_property
    def _padding(self) -> tuple[Any, Any]:
        """The indices of the padding, and a 0-d zero to write there, both on the device."""
        used = np.zeros(self.layout.starts[-1], bool)
        for i in range(len(self.params)):
            self.layout.view(used, i)[...] = True
        return self.backend.asarray(np.flatnonzero(~used)), self.xp.zeros((), self.dtype)


def gradient_arrays(parameters: Iterable[Tensor],
                    flat: bool = True) -> tuple[list[Any], list[Arena]]:
    """The gradients in as few arrays as possible, and their arenas.

    The caller modifies the arrays in place: backward through earlier uses of them raises.

    Adjacent gradients of an arena form one flat array, which includes the padding.  With
    ``flat=False`` every gradient is a separate array without padding, and the list of arenas is
    empty.
    """
    arrays: list[Any] = []
    indices: dict[Arena, set[int]] = {}
    arena = None  # the previous gradient's arena, which is often also the next one's
    for p in parameters:
        g = p.gradient
        if g is None:
            continue
        if arena is None or id(g) not in arena.index_of_grad:
            arena = _arena_by_grad.get(id(g)) if flat else None
        if arena is None:
            arrays.append(g)
        else:
            indices.setdefault(arena, set()).add(arena.index_of_grad[id(g)])
    for arena, members in indices.items():
        arrays += arena.grad_runs(members)
    for array in arrays:
        written(extent(raw(array)))
    return list(map(of_recording, arrays)), list(indices)
