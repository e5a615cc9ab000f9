"""Flat memory for parameters, their gradients and an optimizer's state: a step is a few calls, whatever the model.

`p.data` and `p.grad` are the truth; an arena is where they usually live.  What a user assigned to either is copied home
at the next step, so nothing a user writes is lost.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from gpuprop._core.backend import BackendMismatchError
from gpuprop._core.dtypes import compute_dtype
from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Parameter, Tensor, asnumpy

ALIGNMENT = 256  # bytes: where a device's widest loads and copies may start, and more than a cache line of any host
PLANS = 64  # of stretches remembered; a model whose gradients come and go at random has no use for more

_serials = itertools.count()
_homes: WeakValueDictionary[int, Arena] = WeakValueDictionary()  # the arena by the id of each of its gradients


def kind(a: Any) -> tuple:
    """What the arrays of one arena have in common."""
    return type(a), a.dtype, backend_of(a).device_of(a)


def on(backend: Any, value: Any) -> Any:
    """`value`, an array of any backend or what NumPy makes one of, on the current device of `backend`."""
    if type(value) is backend.array_type:
        return backend.asarray(value)
    return backend.asarray(asnumpy(value) if hasattr(value, "shape") else np.asarray(value))


def bring(moves: Iterable[tuple[Any, Any]]) -> None:
    """Copy each source to its target, as if all at once: a source may be a view of any target."""
    for target, source in [(target, apart(source)) for target, source in moves]:
        backend = backend_of(target)
        with backend.at(target):
            target[...] = on(backend, source)


def apart(a: Any) -> Any:
    """An array that is no view of another: itself, or a copy."""
    if getattr(a, "base", a) is None:
        return a
    with backend_of(a).at(a):
        return a.copy()


class Stretch:
    """Neighbours in an arena that have always been stepped together: one count, one kernel."""

    def __init__(self, arena: Arena, first: int, last: int, states: Sequence[str]) -> None:
        cut = slice(arena.starts[first], arena.starts[last])
        self.xp, self.params = arena.xp, arena.params[first:last]
        self.data, self.grad = arena.data[cut], arena.grad[cut]
        self.states = [arena.states[name][cut] for name in states]
        self.counts = arena.counts[first:last]  # steps taken, one a parameter, all equal
        self.count = arena.counts[first:first + 1].reshape(())


class Arena:
    """One flat array each for the values, the gradients and every state of parameters of one dtype and device.

    Every parameter starts at a multiple of 256 bytes.  The padding between them is zero and every rule keeps it so:
    where p, g and state are 0 an update is a multiple of 0, or ``0 / (sqrt(0) + eps)``, with `TINY` for eps = 0.
    """

    def __init__(self, params: Sequence[Parameter], names: Sequence[str], options: int) -> None:
        first = params[0].data
        self.params, self.names, self.serial = list(params), list(names), next(_serials)
        self.kind, self.dtype, self.backend = kind(first), first.dtype, backend_of(first)
        self.xp, self.compute_dtype = self.backend.xp, compute_dtype(first.dtype)
        unit, n = ALIGNMENT // first.dtype.itemsize, len(params)
        self.starts = [0, *itertools.accumulate(-(-p.data.size // unit) * unit for p in params)]
        self.data, self.grad, self.states = self._zeros(), self._zeros(), {}  # type: ignore[var-annotated]
        self.counts = self.xp.zeros(n, "int64")
        self.options = [self.xp.zeros((), "float64") for _ in range(options)]  # the rule's numbers: lr, betas ...
        self.history = [0] * n  # parameters with equal entries have taken the same steps
        self.begun = [False] * n  # has it state?
        self.present: tuple[bool, ...] = ()  # had it a gradient at the last look?
        self.plans: dict[tuple, list[Stretch]] = {}
        self.places = [(p, self.view(self.data, i), self.view(self.grad, i)) for i, p in enumerate(params)]
        self.index = {id(home): i for i, (_, _, home) in enumerate(self.places)}
        for p, data, home in self.places:
            data[...] = p.data
            p.grad = None if p.grad is None else on(self.backend, raw(p.grad))  # the next look brings it home
            p.data, p.grad_buffer = data, home
            _homes[id(home)] = self

    def at_home(self) -> Any:
        """A context in which this thread computes on the arena's device."""
        return self.backend.at(self.data)

    def _zeros(self) -> Any:
        spare = ALIGNMENT // self.dtype.itemsize
        flat = self.xp.zeros(self.starts[-1] + spare, self.dtype)
        memory = getattr(flat, "__array_interface__", None)  # on the host; devices align by themselves
        skip = -memory["data"][0] % ALIGNMENT // self.dtype.itemsize if memory else 0
        return flat[skip:skip + self.starts[-1]]

    def view(self, flat: Any, i: int) -> Any:
        """A parameter's own part of a flat array, in its shape."""
        p = self.params[i]
        return flat[self.starts[i]:self.starts[i] + p.data.size].reshape(p.data.shape)

    # ---- which parameters are stepped

    def look(self, away: list) -> None:
        """Note which parameters have a gradient; those whose gradient lives elsewhere go to `away`, with their home."""
        present = []
        for p, _, home in self.places:
            g = p.grad
            if g is not None and g is not home:
                self._check_gradient(p, raw(g), self.names[self.index[id(home)]])
                away.append((p, home))
            p.grad_buffer = home
            present.append(g is not None)
        self.present = tuple(present)

    def _check_gradient(self, p: Parameter, g: Any, name: str) -> None:
        if g.shape != p.data.shape:
            raise ValueError(f"{name} has shape {p.data.shape}, and the gradient assigned to it {g.shape}")
        if type(g) is not self.backend.array_type and not isinstance(g, np.generic):  # p.grad * 2 of a 0-d parameter
            own, other = self.backend.name, backend_of(g).name
            raise BackendMismatchError(f"{name} is on backend {own!r}, and the gradient assigned to it on {other!r}: "
                                       f"bring it there first, with gpuprop.get_backend({own!r}).asarray(...)")

    def stretches(self, states: tuple[str, ...]) -> list[Stretch]:
        """What to step: a parameter without a gradient keeps its value, state and count, as in PyTorch."""
        return self.plans.get((self.present, states)) or self._plan(states)

    def _plan(self, states: tuple[str, ...]) -> list[Stretch]:
        pairs: Sequence = [(here, 0) for here in self.present]
        if states:
            pairs = list(zip(self.present, self.history, strict=True))
            if len(set(pairs)) > len(set(self.history)):  # from here on their counts differ
                self.diverge(pairs)
            self.begun = [begun or here for begun, here in zip(self.begun, self.present, strict=True)]
            self.need(states)
        if len(self.plans) >= PLANS:
            self.plans.clear()
        runs = [(here, len(list(run))) for (here, _), run in itertools.groupby(pairs)]
        ends = itertools.accumulate(length for _, length in runs)
        plan = [Stretch(self, end - n, end, states) for (here, n), end in zip(runs, ends, strict=True) if here]
        self.plans[self.present, states] = plan
        return plan

    def diverge(self, histories: Sequence) -> None:
        """Tell parameters apart whose histories differ."""
        numbers: dict[Any, int] = {}
        self.history = [numbers.setdefault(h, len(numbers)) for h in histories]
        self.plans.clear()

    def need(self, states: Iterable[str]) -> None:
        """Make the states that are not there yet."""
        for name in states:
            if name not in self.states:
                self.states[name] = self._zeros()

    # ---- state

    def state(self, i: int) -> dict[str, Any]:
        """Views of one parameter's state."""
        return {name: self.view(flat, i) for name, flat in self.states.items()}

    def inherit(self, old: dict[int, tuple[Arena, int]]) -> None:
        """Take over the state of parameters, by id, from the arenas they lived in before."""
        for i, p in enumerate(self.params):
            if id(p) in old:
                arena, k = old[id(p)]
                self.need(arena.states)
                self.begun[i] = arena.begun[k]
                self.counts[i:i + 1] = on(self.backend, arena.counts[k:k + 1])
                for name, was in arena.state(k).items():
                    self.view(self.states[name], i)[...] = on(self.backend, was)
        places = [old.get(id(p)) for p in self.params]
        self.diverge([place and (place[0].serial, place[0].history[place[1]]) for place in places])

    def load(self, entries: Sequence[dict[str, Any]]) -> None:
        """Replace all state by that of a `state_dict`, one entry a parameter: an empty one for what took no step."""
        arrays = [{name: v for name, v in e.items() if name != "step" and v is not None} for e in entries]
        self.need(name for given in arrays for name in given)
        for flat in self.states.values():
            flat[...] = 0
        for i, given in enumerate(arrays):
            for name, value in given.items():
                self.view(self.states[name], i)[...] = on(self.backend, value)
        self.begun = [bool(given) for given in arrays]
        counts = [int(e.get("step", bool(given))) for e, given in zip(entries, arrays, strict=True)]
        self.counts[...] = self.backend.asarray(np.array(counts))
        self.diverge(counts)

    # ---- gradients as a whole

    def runs(self, members: set[int]) -> list[Any]:
        """The gradients of these parameters, by number, in stretches of neighbours."""
        if len(members) == len(self.params):
            return [self.grad]
        first = [i for i in members if i - 1 not in members]
        last = [i + 1 for i in members if i + 1 not in members]
        return [self.grad[self.starts[a]:self.starts[b]] for a, b in zip(sorted(first), sorted(last), strict=True)]

    def clear_padding(self) -> None:
        """Make the gradients' padding zero again, after they were multiplied with what may be NaN."""
        with self.at_home():
            positions, zero = self._padding
            if positions.size:
                self.grad[positions] = zero

    @functools.cached_property
    def _padding(self) -> tuple[Any, Any]:
        """The positions between parameters, and the zero that belongs there, both on the device."""
        used = np.zeros(self.starts[-1], bool)
        for start, p in zip(self.starts, self.params, strict=False):
            used[start:start + p.data.size] = True
        return self.backend.asarray(np.flatnonzero(~used)), self.xp.zeros((), self.dtype)


def gradients(parameters: Iterable[Tensor], whole: bool = True) -> tuple[list[Any], list[Arena]]:
    """The gradients, to be changed in place, in as few arrays as they come in, padding included; and their arenas.

    If not `whole`, they come one by one, without padding.
    """
    found, members, arena = [], {}, None  # type: ignore[var-annotated]
    for g in [p.grad for p in parameters if p.grad is not None]:
        if arena is None or id(g) not in arena.index:
            arena = _homes.get(id(g)) if whole else None
        if arena is None:
            found.append(g)
        else:
            members.setdefault(arena, set()).add(arena.index[id(g)])
    return found + [g for arena, numbers in members.items() for g in arena.runs(numbers)], list(members)
