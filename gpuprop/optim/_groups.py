"""Parameter groups: the options of an optimizer, and the arenas of its parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpuprop._core.arena import Arena, Segment, storage_key, to_backend
from gpuprop._core.backend import BY_TYPE
from gpuprop._core.dtypes import epsilon, is_float
from gpuprop._core.graph import raw
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Parameter, Tensor, become_parameter
from gpuprop.optim._fixed import PARAMS_STAY, Params
from gpuprop.optim._options import as_tuple, checked_options

Coefficients = Callable[[Arena, Segment], tuple]


class _FloatMath(SimpleNamespace):
    """A namespace like `xp` that computes with Python floats."""

    def __getattr__(self, name: str) -> Callable:
        f = getattr(np, name)
        return lambda *args: f(*args).item()


_FLOAT_MATH = _FloatMath(exp=math.exp, log=math.log, expm1=math.expm1, sqrt=math.sqrt,
                         maximum=max, minimum=min,
                         where=lambda condition, a, b: a if condition else b)


def coefficient_function(formula: Callable) -> Coefficients:
    """Turn ``formula(xp, step, *scalar_options)`` into a function of an arena and a segment.

    The formula is computed in float64.  On a device it is one kernel that reads 0-d arrays, so that
    a captured step follows changed options, and casts its results to the arena's compute dtype,
    except for the new values of scalar states.  On the host it computes with Python floats, which
    are ten times faster than 0-d arrays.
    """
    @pointwise
    @functools.wraps(formula)
    def kernel(xp: Any, *numbers: Any, dtype: str, n_states: int) -> tuple:
        results = formula(xp, *numbers)
        n = len(results) - n_states
        return *[c.astype(dtype) for c in results[:n]], *results[n:]

    @functools.wraps(formula)
    def coefficients(arena: Arena, segment: Segment) -> tuple:
        numbers = segment.step, *arena.scalars, *segment.numbers
        if type(segment.step) is np.ndarray:
            return formula(_FLOAT_MATH, *[n.item() for n in numbers])
        return kernel(arena.xp, *numbers, dtype=arena.compute_dtype,
                      n_states=len(segment.numbers))

    return coefficients


class Group(dict):
    """A parameter group: a dict of options, as in PyTorch.  `rule` is the Optimizer's class.

    An assigned option is checked, and the group's parameters and the options that it was made with
    stay.  The rule's `scalar_options` are also stored in 0-d float64 arrays, `Arena.scalars`.  A
    captured step reads these at each replay, so it follows changed options.
    """

    __slots__ = ("arenas", "fixed", "frozen", "kernel_constants", "rule", "state_names",
                 "tensor_options")

    def __init__(self, options: dict[str, Any], rule: Any) -> None:
        super().__init__({**options, "params": Params(options["params"])})
        for p in options["params"]:
            become_parameter(p)
        self.rule = rule
        self.fixed = {*options}
        self.arenas: list[Arena] = []
        self.frozen: list[Parameter] = []  # parameters that are in no arena
        self.build_arenas()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in Group.__slots__:
            raise AttributeError(f"the options of a parameter group are items: write "
                                 f"group[{name!r}] = value")
        super().__setattr__(name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def update(self, *args: Any, **kwargs: Any) -> None:
        options = dict(*args, **kwargs)
        params = options.pop("params", self["params"])
        if list(map(id, params)) != list(map(id, self["params"])):
            raise TypeError(PARAMS_STAY)
        self.assign(checked_options(self.rule, options, self))

    def __ior__(self, other: Any) -> Group:  # type: ignore[misc]
        self.update(other)
        return self

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def __delitem__(self, name: str) -> None:
        if name in self.fixed:
            raise TypeError(f"{self.rule.__name__}: the option {name!r} of a parameter group "
                            f"cannot be removed: assign another value")
        super().__delitem__(name)

    def pop(self, name: str, *default: Any) -> Any:
        value = self.get(name, *default) if default else self[name]
        if name in self:
            del self[name]
        return value

    def popitem(self) -> tuple:
        name = next(reversed(self))
        return name, self.pop(name)

    def clear(self) -> None:
        for name in list(self):
            del self[name]

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return dict, (dict(self),)  # a copy belongs to no optimizer

    def assign(self, options: dict[str, Any]) -> None:
        """Assign options that have been checked."""
        self._derive({**self, **options})  # a rule may refuse them
        super().update(options)
        for name in self.rule.scalar_options:
            if name in options:
                self.write_scalars(name)

    def _derive(self, options: dict[str, Any]) -> None:
        """Derive the kernel's constants and the names of the states from the options."""
        constants, state_names = self.rule.kernel_constants(options), self.rule.state_names(options)
        if constants != getattr(self, "kernel_constants", None):  # else the kernel has been tried
            self.kernel_constants = constants
        self.state_names = state_names
        self.tensor_options = [name for name in self.rule.scalar_options
                               if any(isinstance(v, Tensor) for v in as_tuple(options[name]))]

    def write_scalars(self, name: str) -> None:
        """Write an option to its 0-d arrays in every arena."""
        names = list(self.rule.scalar_options)
        first = sum(len(as_tuple(self[other])) for other in names[:names.index(name)])
        values = as_tuple(self[name])
        for arena in self.arenas:
            with arena.on_device():
                for scalar, value in zip(arena.scalars[first:], values, strict=False):
                    data = raw(value)
                    if type(data) is type(scalar):
                        scalar[...] = to_backend(arena.backend, data).reshape(())
                    else:
                        scalar[...] = epsilon(arena.dtype) if value is None else float(value)

    # ---- arenas

    def build_arenas(self, stateful: Iterable[int] = ()) -> None:
        """Make arenas for the parameters' current dtypes and devices, and copy the states to them.

        Frozen parameters get no memory for gradients and states, unless they were in an arena
        before or their id is in `stateful`.
        """
        previous = {id(p): (arena, i) for arena in self.arenas for i, p in enumerate(arena.params)}
        keep = {*previous, *stateful}
        names = self.get("param_names")
        if not names:
            names = [f"parameter {i}" for i in range(len(self["params"]))]
        by_storage: dict[tuple, list[tuple[Parameter, str]]] = {}
        self.frozen = []
        for p, name in zip(self["params"], names, strict=True):
            if p.requires_grad or p.gradient is not None or id(p) in keep:
                by_storage.setdefault(storage_key(p.array), []).append((p, name))
            else:
                self.frozen.append(p)
        self._derive(self)
        n_scalars = sum(len(as_tuple(self[name])) for name in self.rule.scalar_options)
        self.arenas = []
        for members in by_storage.values():
            first = members[0][0].array
            with backend_of(first).at(first):
                arena = Arena([p for p, _ in members], [name for _, name in members], n_scalars,
                              self.rule.state_shape, self.rule.scalar_states)
                arena.copy_state_from(previous)
            self.arenas.append(arena)
        for name in self.rule.scalar_options:
            self.write_scalars(name)

    def is_bound(self) -> bool:
        """True if every `p.data` is a view of its arena and all frozen parameters still are."""
        for arena in self.arenas:
            for p, view, _ in arena.views:
                if p.array is not view:
                    return False
        return not self._has_unfrozen()

    def _has_unfrozen(self) -> bool:
        return any(p.requires_grad or p.gradient is not None for p in self.frozen)

    def check_data(self) -> None:
        """Raise if a parameter's data cannot be trained; make NumPy scalars arrays again."""
        for arena in self.arenas:
            for (p, view, _), name in zip(arena.views, arena.names, strict=True):
                if isinstance(p.array, np.generic):  # such as p.data * 2 of a 0-d parameter
                    p.array = arena.backend.own(p.array)
                if type(p.array) not in BY_TYPE or not is_float(p.array.dtype):
                    raise TypeError(f"{name}: its .data must be a floating-point array, got "
                                    f"{getattr(p.array, 'dtype', type(p.array).__name__)}")
                if p.array.shape != view.shape:
                    raise ValueError(
                        f"{name} had shape {view.shape} when the optimizer was created, but has "
                        f"shape {p.array.shape} now: create a new optimizer")

    def rebuild_if_moved(self) -> None:
        """Make new arenas if a parameter was cast, moved or unfrozen."""
        is_moved = any(storage_key(p.array) != arena.storage_key
                       for arena in self.arenas for p in arena.params)
        if is_moved or self._has_unfrozen():
            self.build_arenas()

    def unbound(self) -> list[tuple[Parameter, Any]]:
        """(parameter, data view) for each `p.data` that is not in the arena's memory."""
        return [(p, view) for arena in self.arenas for p, view, _ in arena.views
                if p.array is not view]
