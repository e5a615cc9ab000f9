"""The base class of optimizers, which applies an update rule to the arenas of all parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpuprop._core.arena import Arena, Segment, copy_all
from gpuprop._core.checks import as_instance, as_integer
from gpuprop._core.graph import extent, raw, written
from gpuprop._core.instruments import optimizer_stepped
from gpuprop._core.loading import as_array, as_entries
from gpuprop._core.mode import enable_grad
from gpuprop._core.placement import write
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.optim._groups import Coefficients, Group, coefficient_function
from gpuprop.optim._options import ADDED_LATER, checked_options


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
        The options that are numbers or tuples of numbers, with their intervals: a dict such as
        ``{"lr": "[0, inf)", "betas": ("[0, 1)", "[0, 1)")}``, or only a tuple of their names;
        default ``{"lr": "[0, inf)"}``.  Their values may change between steps, even if the step is
        captured.
    ``flags``
        The names of options that are True or False; default ``()``.
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

    scalar_options: dict[str, Any] | tuple[str, ...] = {"lr": "[0, inf)"}
    flags: tuple[str, ...] = ()
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
        self.defaults = checked_options(type(self), defaults, defaults)
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
        options = checked_options(type(self), {**self.defaults, **param_group}, self.defaults)
        self._check_new_group(options)
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

    @staticmethod
    def _check_new_group(options: dict[str, Any]) -> None:
        """Raise ValueError for options that are not possible together."""

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
            written(segment.extent)
            for p in segment.params:
                p._mark_changed()

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
            written(extent(view))

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
        """Load a `state_dict`, of this library or of PyTorch's optimizer of the same name.

        Raises ValueError or TypeError, before anything is changed, if an entry is missing, unknown,
        of a wrong shape or out of its interval.
        """
        self._prepare_load(state_dict)()

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        """Check and convert a whole state dict, and return a function that writes it."""
        if not self._is_bound():
            self._sync_values()
        name = type(self).__name__
        saved = as_entries(f"{name}: the state dict", state_dict, ("state", "param_groups"), ())
        groups = self._loaded_options(
            as_instance(f"{name}: param_groups", saved["param_groups"], (list, tuple), "a list"))
        entries = self._loaded_entries(
            as_instance(f"{name}: state", saved["state"], Mapping, "a dict"), groups)

        def write() -> None:
            for group, options in zip(self.param_groups, groups, strict=True):
                group.assign(options)
                if any(id(p) in entries for p in group.frozen):
                    group.build_arenas(entries)
            for arena in self._arenas():
                with arena.on_device():
                    arena.load_state([entries.get(id(p), {}) for p in arena.params])

        return write

    def _loaded_options(self, saved_groups: Sequence) -> list[dict[str, Any]]:
        """The options of each group in a state dict."""
        rule = type(self)
        if len(saved_groups) != len(self.param_groups):
            raise ValueError(f"the state dict has {len(saved_groups)} parameter groups, but the "
                             f"optimizer has {len(self.param_groups)}")
        loaded = []
        first = 0
        for i, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=True)):
            what = f"{rule.__name__}: param_groups[{i}]"
            required = {"params", *self.defaults} - {*ADDED_LATER}
            options = as_entries(what, saved, required)
            n = len(group["params"])
            params = as_instance(f"{what}['params']", options.pop("params"), (list, tuple),
                                 "a list")
            if len(params) != n:
                raise ValueError(f"{what} has {len(params)} parameters in the state dict, but {n} "
                                 f"in the optimizer")
            if list(params) != list(range(first, first + n)):
                raise ValueError(f"{what}['params'] must be the indices of the parameters, from "
                                 f"{first} to {first + n - 1}, got {params!r}")
            names = options.get("param_names", [""] * n)
            if not isinstance(names, list) or [type(name) for name in names] != [str] * n:
                raise ValueError(f"{what}['param_names'] must be a list of {n} names, got "
                                 f"{names!r}")
            absent = {name: False for name in ADDED_LATER if name in self.defaults}
            loaded.append(checked_options(rule, {**absent, **options}, group))
            first += n
        return loaded

    def _loaded_entries(self, state: Mapping, groups: list[dict]) -> dict[int, dict[str, Any]]:
        """{id(parameter): its states and step, converted}, for parameters that have any."""
        rule = type(self).__name__
        owners = [(p, options) for group, options in zip(self.param_groups, groups, strict=True)
                  for p in group["params"]]
        unknown = [key for key in state if key not in range(len(owners))]
        if unknown:
            raise ValueError(f"{rule}: state has entries of {unknown}, expected indices of the "
                             f"{len(owners)} parameters")
        entries: dict[int, dict[str, Any]] = {}
        for i, (p, options) in enumerate(owners):
            what = f"{rule}: state[{i}]"
            saved = as_instance(what, state.get(i, {}), Mapping, "a dict")
            saved = {name: value for name, value in saved.items() if value is not None}
            if not saved:
                continue
            step = ["step"] if self.saves_step else []
            as_entries(what, saved, [*self.state_names(options), *step],
                       self._possible_states(options))
            entries[id(p)] = {
                name: as_array(f"{what}[{name!r}]", value, p.shape, p.dtype)
                for name, value in saved.items() if name != "step"}
            if step:
                number = as_array(f"{what}['step']", saved["step"], (), "int64").item()
                entries[id(p)]["step"] = as_integer(f"{what}['step']", number, 0)
        return entries

    def _possible_states(self, options: dict[str, Any]) -> tuple[str, ...]:
        """The names of all states that the rule has with some flags and numbers.

        A state stays when a flag is changed during a run, and no longer needs it.
        """
        numbers = {n: 0.5 for n in self.scalar_options if not isinstance(options[n], tuple)}
        return self.state_names({**options, **dict.fromkeys(self.flags, True), **numbers})

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


def _plain(value: Any) -> Any:
    """An option as Python numbers: Tensors, arrays and NumPy scalars are converted."""
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, Tensor | np.generic | np.ndarray) else value
