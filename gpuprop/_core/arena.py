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
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from gpuprop._core.backend import BackendMismatchError
from gpuprop._core.dtypes import compute_dtype, is_real
from gpuprop._core.graph import extent, raw
from gpuprop._core.registry import backend_of
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


class Segment:
    """Adjacent parameters of an arena with equal step counts, which one kernel call updates.

    `data`, `grad` and each of `states` are flat arrays that include the padding.  `step` is the
    common step count, a 0-d array.
    """

    def __init__(self, arena: Arena, first: int, last: int, state_names: Sequence[str]) -> None:
        part = slice(arena.starts[first], arena.starts[last])
        self.xp = arena.xp
        self.params = arena.params[first:last]
        self.data = arena.data[part]
        self.extent = extent(self.data)
        self.grad = arena.grad[part]
        self.states = [arena.states[name][part] for name in state_names]
        self.step_counts = arena.step_counts[first:last]  # one per parameter, all equal
        self.step = arena.step_counts[first:first + 1].reshape(())
        self.tried: dict[str, Any] | None = None  # the constants with which the kernel was tried


class Arena:
    """Flat arrays for the values, gradients and states of parameters of one dtype and device.

    Every parameter starts at a multiple of 256 bytes.  The padding between parameters is zero, and
    every update rule keeps it zero: where p, g and the states are 0, an update is a multiple of 0,
    or ``0 / (sqrt(0) + eps)`` with eps > 0.
    """

    def __init__(self, params: Sequence[Parameter], names: Sequence[str], n_scalars: int) -> None:
        first = params[0].array
        n = len(params)
        self.params = list(params)
        self.names = list(names)
        self.shapes = [p.array.shape for p in params]
        self.serial = next(_serials)
        self.storage_key = storage_key(first)
        self.dtype = first.dtype
        self.compute_dtype = compute_dtype(first.dtype)
        self.backend = backend_of(first)
        self.xp = self.backend.xp

        unit = ALIGNMENT // first.dtype.itemsize
        self.starts = [0, *itertools.accumulate(-(-p.array.size // unit) * unit for p in params)]
        self.data = self._zeros()
        self.grad = self._zeros()
        self.states: dict[str, Any] = {}
        self.step_counts = self.xp.zeros(n, "int64")
        self.scalars = [self.xp.zeros((), "float64") for _ in range(n_scalars)]  # lr, betas, ...

        # Parameters with equal numbers were updated by the same steps.
        self.histories: list[int] = [0] * n
        self.has_state = [False] * n
        self.has_grad: tuple[bool, ...] = ()  # as of the last `scan_gradients`
        self._plans: dict[tuple, list[Segment]] = {}  # by `has_grad` and the states' names

        self.views = [(p, self.view(self.data, i), self.view(self.grad, i))
                      for i, p in enumerate(params)]
        self.index_of_grad = {id(grad): i for i, (_, _, grad) in enumerate(self.views)}
        for p, data, grad in self.views:
            data[...] = p.array
            if p.gradient is not None:  # the next step copies the gradient into the arena
                p.gradient = to_backend(self.backend, raw(p.gradient))
            p.array = data
            p.grad_buffer = grad
            _arena_by_grad[id(grad)] = self

    def on_device(self) -> Any:
        """A context manager: this thread computes on the arena's device."""
        return self.backend.at(self.data)

    def _zeros(self) -> Any:
        unit = ALIGNMENT // self.dtype.itemsize
        flat = self.xp.zeros(self.starts[-1] + unit, self.dtype)
        host_memory = getattr(flat, "__array_interface__", None)
        skip = 0
        if host_memory:  # device allocators align by themselves
            skip = -host_memory["data"][0] % ALIGNMENT // self.dtype.itemsize
        return flat[skip:skip + self.starts[-1]]

    def view(self, flat: Any, i: int) -> Any:
        """The elements of a flat array that belong to parameter `i`, in the parameter's shape."""
        shape = self.shapes[i]
        start = self.starts[i]
        return flat[start:start + math.prod(shape)].reshape(shape)

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
                self.states[name] = self._zeros()

    # ---- state

    def state_of(self, i: int) -> dict[str, Any]:
        """Views of the state of parameter `i`."""
        return {name: self.view(flat, i) for name, flat in self.states.items()}

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
            self.add_states(arena.states)
            for name, value in arena.state_of(k).items():
                self.view(self.states[name], i)[...] = to_backend(self.backend, value)
        self.set_histories(histories)

    def load_state(self, entries: Sequence[dict[str, Any]]) -> None:
        """Replace all states and step counts.

        `entries` has one dict per parameter, of host arrays in its shape and dtype and the number
        "step", which is 1 by default; empty for a parameter that no step has updated.
        """
        self.add_states(name for entry in entries for name in entry if name != "step")
        for name, flat in self.states.items():
            flat[...] = 0
            for i, entry in enumerate(entries):
                if name in entry:
                    self.view(flat, i)[...] = self.backend.asarray(entry[name])
        self.has_state = [bool(entry) for entry in entries]
        steps = [entry.get("step", int(bool(entry))) for entry in entries]
        self.step_counts[...] = self.backend.asarray(np.array(steps))
        self.set_histories(steps)

    # ---- gradients as flat arrays

    def grad_runs(self, indices: set[int]) -> list[Any]:
        """The gradients of these parameters, one flat array per run of adjacent parameters."""
        if len(indices) == len(self.params):
            return [self.grad]
        firsts = sorted(i for i in indices if i - 1 not in indices)
        ends = sorted(i + 1 for i in indices if i + 1 not in indices)
        return [self.grad[self.starts[first]:self.starts[end]]
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
        used = np.zeros(self.starts[-1], bool)
        for start, p in zip(self.starts, self.params, strict=False):
            used[start:start + p.array.size] = True
        return self.backend.asarray(np.flatnonzero(~used)), self.xp.zeros((), self.dtype)


def gradient_arrays(parameters: Iterable[Tensor],
                    flat: bool = True) -> tuple[list[Any], list[Arena]]:
    """The gradients in as few arrays as possible, to be modified in place, and their arenas.

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
    return arrays, list(indices)
