"""A parameter group: options that a captured step sees change, and the arenas its parameters live in."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuprop._core.arena import Arena, Stretch, kind, on
from gpuprop._core.graph import raw
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor

if TYPE_CHECKING:
    from gpuprop.optim._optimizer import Optimizer

TINY = 1e-36  # stands for eps = 0: what never had a gradient, padding among it, is updated by 0 / TINY, not 0 / 0

_HOST = SimpleNamespace(log=math.log, expm1=math.expm1, sqrt=math.sqrt, maximum=max,
                        where=lambda condition, a, b: a if condition else b)


def scalars(formula: Callable) -> Callable:
    """Lift ``formula(xp, count, *options) -> coefficients``, a rule's small kernel in float64, to an arena's numbers.

    The large kernel sees the coefficients only, in the arena's type.  In host memory they are Python's own floats,
    which cost a tenth of 0-d arrays.
    """
    @pointwise
    @functools.wraps(formula)
    def kernel(xp: Any, *numbers: Any, dtype: str) -> tuple:
        return tuple(c.astype(dtype) for c in formula(xp, *numbers))

    @functools.wraps(formula)
    def coefficients(arena: Arena, stretch: Stretch) -> tuple:
        numbers = stretch.count, *arena.options
        if type(stretch.count) is np.ndarray:
            return formula(_HOST, *[n.item() for n in numbers])
        return kernel(arena.xp, *numbers, dtype=arena.compute_dtype)

    return coefficients


class Group(dict):
    """PyTorch's parameter group.  Its numbers also stand in 0-d float64 arrays: a captured step sees them change."""

    def __init__(self, options: dict[str, Any], rule: type[Optimizer]) -> None:
        super().__init__(options)
        self.rule, self.arenas, self.outside = rule, [], []  # type: ignore[var-annotated]
        self.build()

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self.rule.live:
            _numbers(value)  # raises before anything changes
        super().__setitem__(name, value)
        if name == "params":
            self.build()
        self._understand()
        if name in self.rule.live:
            self.write(name)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __ior__(self, other: Any) -> Group:  # type: ignore[misc]
        self.update(other)
        return self

    def _understand(self) -> None:
        """What the options say of the rule's kernel: constants baked into it, and the states it updates."""
        self.constants = self.rule.constants(self)
        self.states = self.rule.states(self)
        self.tensors = [name for name in self.rule.live if any(isinstance(v, Tensor) for v in _flat(self[name]))]

    def write(self, name: str) -> None:
        """Set the 0-d arrays of an option."""
        start = sum(len(_flat(self[n])) for n in itertools.takewhile(lambda n: n != name, self.rule.live))
        for arena in self.arenas:
            with arena.at_home():
                for option, value in zip(arena.options[start:], _flat(self[name]), strict=False):
                    data = raw(value)
                    same = type(data) is type(option)
                    option[...] = on(arena.backend, data).reshape(()) if same else float(value)

    # ---- where the parameters live

    def build(self, stateful: Iterable[int] = ()) -> None:
        """Make arenas for the parameters where and as they are now; state is carried over.

        What is frozen stays outside: it needs no memory for gradients and state, unless its id is in `stateful`.
        """
        old = {id(p): (arena, i) for arena in self.arenas for i, p in enumerate(arena.params)}
        inside = {*old, *stateful}
        names = self.get("param_names") or [f"parameter {i}" for i in range(len(self["params"]))]
        kinds: dict[tuple, list] = {}
        self.outside = []
        for p, name in zip(self["params"], names, strict=True):
            if p.requires_grad or p.grad is not None or id(p) in inside:
                kinds.setdefault(kind(p.data), []).append((p, name))
            else:
                self.outside.append(p)
        self._understand()
        options = sum(len(_flat(self[name])) for name in self.rule.live)
        self.arenas = []
        for both in kinds.values():
            first = both[0][0].data
            with backend_of(first).at(first):
                self.arenas.append(Arena([p for p, _ in both], [name for _, name in both], options))
                self.arenas[-1].inherit(old)
        for name in self.rule.live:
            self.write(name)

    def settled(self) -> bool:
        """Are all values at home?"""
        for arena in self.arenas:
            for p, data, _ in arena.places:
                if p.data is not data:
                    return False
        return not any(p.requires_grad or p.grad is not None for p in self.outside)

    def check(self) -> None:
        """Refuse parameters that changed their shape."""
        for arena in self.arenas:
            for (p, data, _), name in zip(arena.places, arena.names, strict=True):
                p.data = arena.backend.own(p.data) if isinstance(p.data, np.generic) else p.data
                if p.data.shape != data.shape:
                    raise ValueError(f"{name} had shape {data.shape} when the optimizer was made and has "
                                     f"{p.data.shape} now: make a new optimizer")

    def settle(self) -> list[tuple[Any, Any]]:
        """Follow a model cast, moved or thawed; the parameters whose values live elsewhere, and their homes."""
        moved = any(kind(p.data) != arena.kind for arena in self.arenas for p in arena.params)
        if moved or any(p.requires_grad or p.grad is not None for p in self.outside):
            self.build()
        return [(p, data) for arena in self.arenas for p, data, _ in arena.places if p.data is not data]


def used(option: Any) -> bool:
    """Is the option there at all?  A kernel without it is shorter; a Tensor may become anything."""
    return isinstance(option, Tensor) or option != 0


def _flat(value: Any) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _numbers(value: Any) -> list[float]:
    return [float(v) if not isinstance(v, Tensor) else math.nan for v in _flat(value)]
