"""What every optimizer is: parameter groups over arenas, and a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpuprop._core.arena import Arena, Stretch, bring
from gpuprop._core.graph import raw
from gpuprop._core.instruments import optimizer_stepped
from gpuprop._core.mode import enable_grad
from gpuprop._core.placement import write
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.optim._groups import Group


class Optimizer:
    """Base of all optimizers: a rule is the six names below, and `step` runs it over the arenas.

    `params` are Parameters, (name, Parameter) pairs, or dicts with ``"params"`` and options of their own.
    """

    live: tuple[str, ...] = ("lr",)  # options that are numbers, in the order in which `coefficients` takes them
    reports_step = True  # does a parameter's state in `state_dict` name its number of steps?
    coefficients: Callable  # (arena, stretch) -> what `kernel` needs of them; see `scalars`
    kernel: Callable  # (xp, p, g, *coefficients, *states, **constants): a pointwise function that updates p and states

    @staticmethod
    def constants(group: dict) -> dict[str, Any]:
        """The keyword constants of `kernel`: what of the options is structure, and part of a captured step's key."""
        return {}

    @staticmethod
    def states(group: dict) -> tuple[str, ...]:
        """The names of the states that `kernel` updates; without any, steps are not counted."""
        return ()

    def __init__(self, params: Iterable, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of Parameters or dicts, not one Tensor: write [p]")
        self.defaults, self.param_groups = defaults, []  # type: ignore[var-annotated]
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list: was a generator used up before, or has the model "
                             "no parameters?")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Step more parameters: ``{"params": [...], "lr": ...}``, with the defaults for what it does not say."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group).__name__}")
        given = param_group["params"]
        if isinstance(given, set):
            raise TypeError("optimizer parameters need an order that is the same in every run: give a list, not a set")
        params: list[Any] = [given] if isinstance(given, Tensor) else list(given)
        options = {**self.defaults, **param_group}
        if options.get("differentiable"):
            raise NotImplementedError("differentiable=True: a step updates in place and records nothing; write the "
                                      "update as an expression inside gpuprop.grad(f)")
        names = [p[0] for p in params if isinstance(p, tuple)]
        if names:
            if len(names) < len(params):
                raise ValueError("all optimizer params should be with/without names. Some param names are missing")
            params, options["param_names"] = [p[1] for p in params], names
        if any(("param_names" in options) != ("param_names" in group) for group in self.param_groups):
            raise ValueError("all optimizer param groups should be with/without names")
        for p in params:
            if not isinstance(p, Parameter):
                kind = type(p).__name__
                raise TypeError(f"optimizer can only optimize Parameters, but one of the params is a {kind}"
                                + ": make it one first, with gpuprop.Parameter(x)" * isinstance(p, Tensor))
        refuse_ties([*self._params(), *params])
        self.param_groups.append(Group({**options, "params": params}, type(self)))

    def _params(self) -> Iterator[Parameter]:
        return (p for group in self.param_groups for p in group["params"])

    def _arenas(self) -> Iterator[Arena]:
        return (arena for group in self.param_groups for arena in group.arenas)

    # ---- a step

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Make every gradient absent, which touches no memory; or zero where there is one."""
        for p in self._params():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                write(p.grad, 0)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the result is that of `closure`, which may compute them first."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        optimizer_stepped(self)
        self._gather()
        for group in self.param_groups:
            for name in group.tensors:
                group.write(name)
            for arena in group.arenas:
                with arena.at_home():
                    self._step(arena, group)
        return loss

    def _step(self, arena: Arena, group: Group) -> None:
        for stretch in arena.stretches(group.states):
            if group.states:
                stretch.counts += 1
            self.update(stretch, type(self).coefficients(arena, stretch), group.constants)
            for p in stretch.params:
                p.touch()

    def update(self, stretch: Stretch, coefficients: tuple, constants: dict[str, Any]) -> None:
        """Step one stretch; rules with norms or matrices of single parameters say here how."""
        type(self).kernel(stretch.xp, stretch.data, stretch.grad, *coefficients, *stretch.states, **constants)

    def _gather(self) -> None:
        """Bring home what the user assigned; what cannot be is an error before anything changed."""
        if not all(group.settled() for group in self.param_groups):
            for group in self.param_groups:
                group.check()
            refuse_ties(list(self._params()))
            moved = [move for group in self.param_groups for move in group.settle()]
            bring((data, p.data) for p, data in moved)
            for p, data in moved:
                p.data = data
        away: list[tuple[Parameter, Any]] = []
        for arena in self._arenas():
            arena.look(away)
        if away:
            bring((home, raw(p.grad)) for p, home in away)
            for p, home in away:
                p.grad = home

    def capture_key(self) -> tuple:
        """What a captured step depends on: where the parameters live, once brought home, and which have gradients."""
        self._gather()
        key = lambda arena: (arena.serial, arena.present, tuple(arena.history), tuple(arena.begun))
        return tuple((tuple(group.constants.values()), group.states, *map(key, group.arenas))
                     for group in self.param_groups)

    # ---- state

    @property
    def state(self) -> dict[Parameter, dict[str, Any]]:
        """The state of every parameter that has any, as views of its arena."""
        return {p: {**({"step": arena.counts[i:i + 1].reshape(())} if self.reports_step else {}), **arena.state(i)}
                for arena in self._arenas() for i, p in enumerate(arena.params) if arena.begun[i]}

    def state_dict(self) -> dict[str, Any]:
        """The state in PyTorch's layout, as plain Python and NumPy: parameters by their number."""
        number = {id(p): n for n, p in enumerate(self._params())}
        state = {}
        for arena in self._arenas():
            host, counts = arena.backend.to_numpy, arena.backend.to_numpy(arena.counts).tolist()
            for i, p in enumerate(arena.params):
                if arena.begun[i]:
                    step = {"step": counts[i]} if self.reports_step else {}
                    state[number[id(p)]] = {**step, **{name: host(a) for name, a in arena.state(i).items()}}
        groups = [{**{name: _plain(value) for name, value in group.items() if name != "params"},
                   "params": [number[id(p)] for p in group["params"]]} for group in self.param_groups]
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a `state_dict`, or PyTorch's with NumPy's arrays for tensors; checked before it is written."""
        groups, state = state_dict["param_groups"], state_dict["state"]
        if len(groups) != len(self.param_groups):
            raise ValueError(f"loaded state dict has {len(groups)} parameter groups, and the optimizer "
                             f"{len(self.param_groups)}")
        for i, (group, saved) in enumerate(zip(self.param_groups, groups, strict=True)):
            if len(group["params"]) != len(saved["params"]):
                raise ValueError(f"parameter group {i} of the loaded state dict has {len(saved['params'])} parameters, "
                                 f"and the optimizer's {len(group['params'])}")
        entries = {id(p): state[n] for group, saved in zip(self.param_groups, groups, strict=True)
                   for p, n in zip(group["params"], saved["params"], strict=True) if state.get(n)}
        for p in self._params():
            for name, value in entries.get(id(p), {}).items():
                if name != "step" and value is not None and np.shape(value) != p.data.shape:
                    raise ValueError(f"{name} has shape {np.shape(value)} in the loaded state dict, and its "
                                     f"parameter {p.data.shape}")
        for group, saved in zip(self.param_groups, groups, strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
            if any(id(p) in entries for p in group.outside):
                group.build(entries)
        for arena in self._arenas():
            with arena.at_home():
                arena.load([entries.get(id(p), {}) for p in arena.params])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "param_groups": [dict(group) for group in self.param_groups], "saved": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("saved")
        vars(self).update(state, param_groups=[Group(options, type(self)) for options in state["param_groups"]])
        self.load_state_dict(saved)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            options = (f"    {name}: {group[name]}" for name in sorted(group) if name != "params")
            lines += [f"Parameter Group {i}", *options]
        return "\n".join([*lines, ")"])


def refuse_ties(params: Iterable[Parameter]) -> None:
    """Raise where a parameter, or an array, comes twice: it would be stepped twice, or once too seldom."""
    seen: set[int] = set()
    for p in params:
        for thing, what in ((p, "a parameter was given"), (p.data, "an array is in two Parameters, and was so given")):
            if id(thing) in seen:
                raise ValueError(f"{what} twice: to tie weights use one Parameter in both places, and give it once")
            seen.add(id(thing))


def refuse_negative(**options: Any) -> None:
    """Raise for options below 0, in PyTorch's words."""
    words = {"lr": "learning rate", "eps": "epsilon value"}
    for name, value in options.items():
        if isinstance(value, Tensor) and value.size != 1:
            raise ValueError(f"Tensor {name} must be 1-element")
        if not float(value) >= 0:
            raise ValueError(f"Invalid {words.get(name, f'{name} value')}: {value}")


def _plain(value: Any) -> Any:
    """An option as plain Python."""
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, Tensor | np.generic | np.ndarray) else value
