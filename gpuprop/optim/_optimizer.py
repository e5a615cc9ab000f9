"""The base class of optimizers, which applies an update rule to the arenas of all parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpuprop._core.arena import Arena, Segment, copy_all
from gpuprop._core.graph import raw
from gpuprop._core.instruments import optimizer_stepped
from gpuprop._core.mode import enable_grad
from gpuprop._core.placement import write
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.optim._groups import Coefficients, Group, coefficient_function


class Optimizer:
    """Base class of all optimizers.

    `params` is an iterable of Parameters, of (name, Parameter) pairs, or of parameter groups: dicts
    such as ``{"params": [...], "lr": 0.1}``.  `defaults` are the options of groups that do not set
    them.

    A subclass defines an update rule.  A rule needs only an `update_kernel`.  Plain SGD is:

    >>> import gpuprop
    >>> class PlainSGD(gpuprop.optim.Optimizer):
    ...     def __init__(self, params, lr=0.01):
    ...         super().__init__(params, {"lr": lr})
    ...
    ...     @staticmethod
    ...     @gpuprop.pointwise
    ...     def update_kernel(xp, p, g, lr):
    ...         p -= lr * g
    >>> p = gpuprop.Parameter([1.0, 2.0])
    >>> optimizer = PlainSGD([p], lr=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> p.tolist()
    [0.0, 0.0]

    ``update_kernel(xp, p, g, *coefficients, *states, **constants)``
        A `gpuprop.pointwise` function that updates the values `p` and the states in place, given
        the gradient `g`.  Each array is flat and holds many parameters, with padding between them:
        where p, g and the states are 0, the update must be 0.
    ``scalar_options``
        The names of options that are numbers or tuples of numbers; default ``("lr",)``.  Their
        values may change between steps, even if the step is captured.
    ``kernel_coefficients(xp, step, *scalar_options)``
        Returns the coefficients of the kernel as a tuple, computed in float64.  `step` is 1 in a
        parameter's first step, and always 0 for rules without states.  By default, the coefficients
        are the options.
    ``state_names(group)``
        The names of the states, which start as zeros; default ``()``.
    ``kernel_constants(group)``
        The keyword arguments of the kernel, such as ``{"maximize": group["maximize"]}``; default
        ``{}``.  A captured step is recorded again when they change.
    ``saves_step``
        True (the default) if `state_dict` includes each parameter's number of steps.
    ``update_segment(segment, coefficients, constants)``
        Calls the kernel.  Override it in rules that need a parameter's norm or its matrix.

    All but `update_segment` are class attributes or static methods.
    """

    scalar_options: tuple[str, ...] = ("lr",)
    saves_step = True
    update_kernel: Callable
    _coefficients: Coefficients  # made from `kernel_coefficients`

    @staticmethod
    def kernel_coefficients(xp: Any, step: Any, *scalar_options: Any) -> tuple:
        return scalar_options

    @staticmethod
    def kernel_constants(group: dict) -> dict[str, Any]:
        return {}

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kernel_coefficients" in vars(cls):
            cls._coefficients = staticmethod(coefficient_function(cls.kernel_coefficients))

    def __init__(self, params: Iterable, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of Parameters or dicts, not one Tensor: "
                            "write [p]")
        self.defaults = defaults
        self.param_groups: list[Group] = []
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list: either the model has no "
                             "parameters, or an iterator was already exhausted")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group ``{"params": [...], "lr": ...}``; `defaults` supply its missing options."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, got {type(param_group).__name__}")
        given = param_group["params"]
        if isinstance(given, set):
            raise TypeError("params must be ordered, because state_dict refers to them by index: "
                            "give a list, not a set")
        params: list[Any] = [given] if isinstance(given, Tensor) else list(given)
        options = {**self.defaults, **param_group}
        if options.get("differentiable"):
            raise NotImplementedError(
                "differentiable=True is not supported, because a step updates parameters in place: "
                "write the update as an expression inside gpuprop.grad(f)")
        names = [p[0] for p in params if isinstance(p, tuple)]
        if names:
            if len(names) < len(params):
                raise ValueError(f"all optimizer params should be with/without names, but "
                                 f"{len(params) - len(names)} of {len(params)} have none")
            options["param_names"] = names
            params = [p[1] for p in params]
        is_named = "param_names" in options
        if any(is_named != ("param_names" in group) for group in self.param_groups):
            raise ValueError(f"all optimizer param groups should be with/without names, but this "
                             f"group has {'names' if is_named else 'none'}, unlike the others")
        for p in params:
            _check_parameter(p)
        check_no_ties([*self._params(), *params])
        self.param_groups.append(Group({**options, "params": params}, type(self)))

    def _params(self) -> Iterator[Parameter]:
        return (p for group in self.param_groups for p in group["params"])

    def _arenas(self) -> Iterator[Arena]:
        return (arena for group in self.param_groups for arena in group.arenas)

    # ---- a step

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set every gradient to None, or fill it with zeros if `set_to_none` is False."""
        for p in self._params():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                write(p.grad, 0)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        `closure` is called first, with gradients enabled, and its result is returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        optimizer_stepped(self)
        self._sync_arenas()
        for group in self.param_groups:
            for name in group.tensor_options:
                group.write_scalars(name)
            for arena in group.arenas:
                with arena.on_device():
                    self._update_arena(arena, group)
        return loss

    def _update_arena(self, arena: Arena, group: Group) -> None:
        for segment in arena.segments(group.state_names):
            if group.state_names:
                segment.step_counts += 1
            coefficients = type(self)._coefficients(arena, segment)
            self.update_segment(segment, coefficients, group.kernel_constants)
            for p in segment.params:
                p.touch()

    def update_segment(self, segment: Segment, coefficients: tuple,
                       constants: dict[str, Any]) -> None:
        """Update the flat `segment.data` and `segment.states`, given `segment.grad`."""
        kernel = type(self).update_kernel
        kernel(segment.xp, segment.data, segment.grad, *coefficients, *segment.states, **constants)

    def _is_bound(self) -> bool:
        """True if every `p.data` is a view of its arena."""
        return all(group.is_bound() for group in self.param_groups)

    def _sync_arenas(self) -> None:
        """Copy arrays that the user assigned to `p.data` or `p.grad` into the arenas.

        Raises, before anything is changed, if an array does not fit.
        """
        if not self._is_bound():
            self._sync_values()
        outside: list[tuple[Parameter, Any]] = []
        for arena in self._arenas():
            outside += arena.scan_gradients()
        if outside:
            copy_all((view, raw(p.grad)) for p, view in outside)
            for p, view in outside:
                p.grad = view

    def _sync_values(self) -> None:
        for group in self.param_groups:
            group.check_shapes()
        check_no_ties(list(self._params()))
        outside: list[tuple[Parameter, Any]] = []
        for group in self.param_groups:
            group.rebuild_if_moved()
            outside += group.unbound()
        copy_all((view, p.data) for p, view in outside)
        for p, view in outside:
            p.data = view

    def _capture_key(self) -> tuple:
        """A key that changes when a recorded step is no longer valid.

        It has the arenas, which parameters have gradients and states, and the kernels' constants.
        """
        self._sync_arenas()
        return tuple([
            (tuple(group.kernel_constants.values()), group.state_names,
             *[(arena.serial, arena.has_grad, tuple(arena.histories), tuple(arena.has_state))
               for arena in group.arenas])
            for group in self.param_groups])

    # ---- state

    @property
    def state(self) -> dict[Parameter, dict[str, Any]]:
        """The states of each parameter that has any, as views of its arena."""
        found: dict[Parameter, dict[str, Any]] = {}
        for arena in self._arenas():
            for i, p in enumerate(arena.params):
                if not arena.has_state[i]:
                    continue
                found[p] = {}
                if self.saves_step:
                    found[p]["step"] = arena.step_counts[i:i + 1].reshape(())
                found[p] |= arena.state_of(i)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The states and options in PyTorch's layout, as Python numbers and NumPy arrays.

        Parameters are represented by their indices, counted across all groups.
        """
        number = {id(p): n for n, p in enumerate(self._params())}
        state: dict[int, dict[str, Any]] = {}
        for arena in self._arenas():
            to_numpy = arena.backend.to_numpy
            steps = to_numpy(arena.step_counts).tolist()
            for i, p in enumerate(arena.params):
                if arena.has_state[i]:
                    entry = {"step": steps[i]} if self.saves_step else {}
                    for name, value in arena.state_of(i).items():
                        entry[name] = to_numpy(value)
                    state[number[id(p)]] = entry
        groups = []
        for group in self.param_groups:
            options = {name: _plain(value) for name, value in group.items() if name != "params"}
            groups.append({**options, "params": [number[id(p)] for p in group["params"]]})
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a `state_dict`, or one of PyTorch in which NumPy arrays replace the tensors.

        Raises ValueError, before anything is changed, if the groups or shapes do not match.
        """
        saved_groups = state_dict["param_groups"]
        self._check_groups(saved_groups)
        entries = self._entries(state_dict["state"], saved_groups)
        self._check_entries(entries)
        for group, saved in zip(self.param_groups, saved_groups, strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
            if any(id(p) in entries for p in group.frozen):
                group.build_arenas(entries)
        for arena in self._arenas():
            with arena.on_device():
                arena.load_state([entries.get(id(p), {}) for p in arena.params])

    def _check_groups(self, saved_groups: list[dict]) -> None:
        if len(saved_groups) != len(self.param_groups):
            raise ValueError(f"the state dict has {len(saved_groups)} parameter groups, but the "
                             f"optimizer has {len(self.param_groups)}")
        for i, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=True)):
            if len(group["params"]) != len(saved["params"]):
                raise ValueError(
                    f"parameter group {i} has {len(saved['params'])} parameters in the state "
                    f"dict, but {len(group['params'])} in the optimizer")

    def _entries(self, state: dict[int, dict], saved_groups: list[dict]) -> dict[int, dict]:
        """{id(parameter): entry} for the entries of a state dict that are not empty."""
        entries = {}
        for group, saved in zip(self.param_groups, saved_groups, strict=True):
            for p, n in zip(group["params"], saved["params"], strict=True):
                if state.get(n):
                    entries[id(p)] = state[n]
        return entries

    def _check_entries(self, entries: dict[int, dict]) -> None:
        for p in self._params():
            for name, value in entries.get(id(p), {}).items():
                if name == "step" or value is None:
                    continue
                if np.shape(value) != p.data.shape:
                    raise ValueError(f"{name} has shape {np.shape(value)} in the state dict, but "
                                     f"its parameter has shape {p.data.shape}")

    def __getstate__(self) -> dict[str, Any]:
        groups = [dict(group) for group in self.param_groups]
        return {**vars(self), "param_groups": groups, "saved": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("saved")
        groups = [Group(options, type(self)) for options in state["param_groups"]]
        vars(self).update(state, param_groups=groups)
        self.load_state_dict(saved)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            for name in sorted(group):
                if name != "params":
                    lines.append(f"    {name}: {group[name]}")
        return "\n".join([*lines, ")"])


Optimizer._coefficients = staticmethod(coefficient_function(Optimizer.kernel_coefficients))


def _check_parameter(p: Any) -> None:
    if isinstance(p, Parameter):
        return
    hint = ": convert it with gpuprop.Parameter(x)" if isinstance(p, Tensor) else ""
    raise TypeError(f"optimizer can only optimize Parameters, but one of the params is a "
                    f"{type(p).__name__}{hint}")


def check_no_ties(params: Iterable[Parameter]) -> None:
    """Raise ValueError if two entries share a Parameter or an array: it would be updated twice."""
    seen: set[int] = set()
    for p in params:
        for value, name in ((p, "a Parameter"), (p.data, "the array of a Parameter")):
            if id(value) in seen:
                raise ValueError(f"optimizer got {name} twice: to tie weights, use one Parameter "
                                 f"in both modules, and pass it to the optimizer once")
            seen.add(id(value))


def check_not_negative(**options: Any) -> None:
    """Raise PyTorch's errors for options that are negative, NaN or not scalar."""
    names = {"lr": "learning rate", "eps": "epsilon value"}
    for name, value in options.items():
        if isinstance(value, Tensor) and value.size != 1:
            raise ValueError(f"Tensor {name} must be 1-element, got shape {value.shape}")
        if not float(value) >= 0:
            raise ValueError(f"Invalid {names.get(name, f'{name} value')}: {value}")


def _plain(value: Any) -> Any:
    """An option as Python numbers: Tensors, arrays and NumPy scalars are converted."""
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, Tensor | np.generic | np.ndarray) else value
