"""The base class of optimizers, which applies an update rule to the arenas of all parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gpuprop._core.arena import Arena, Segment, copy_all
from gpuprop._core.backend import BY_TYPE
from gpuprop._core.checks import as_bool, as_callable, as_instance, as_integer
from gpuprop._core.dtypes import widened
from gpuprop._core.graph import extent, raw, written
from gpuprop._core.instruments import as_one_call, optimizer_stepped
from gpuprop._core.loading import as_array, as_entries
from gpuprop._core.mode import enable_grad
from gpuprop._core.placement import write
from gpuprop._core.tensor import Parameter, Tensor, asnumpy, check_floating, mark_changed
from gpuprop.optim._fixed import Groups, State
from gpuprop.optim._groups import Coefficients, Group, coefficient_function
from gpuprop.optim._options import ADDED_LATER, SCHEDULED, checked_options


class Optimizer:
    """Base class of all optimizers.

    `params` is an iterable of Parameters, of (name, Parameter) pairs, or of parameter groups: dicts
    such as ``{"params": [...], "lr": 0.1}``.  A leaf Tensor among them becomes a Parameter.
    `defaults` are the options of groups that do not set them.

    The arrays ``p.data`` and ``p.grad`` are the optimizer's memory, which it writes into: copy them
    to keep their values, also before another array is assigned to ``p.data``.

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
        where p and g are 0 in every step, p must stay 0.
    ``per_parameter``
        If True, `update_kernel` is called for each parameter, with arrays in its shape, and may be
        any function of arrays, with norms and products of matrices; half types are given as
        float32 copies.  Default False.
    ``scalar_options``
        The options that are numbers or tuples of numbers, with their intervals: a dict such as
        ``{"lr": "[0, inf)", "betas": ("[0, 1)", "[0, 1)")}``, or only a tuple of their names;
        default ``{"lr": "[0, inf)"}``.  Their values may change between steps, even if the step is
        captured.  "None or [0, inf)" also allows None, which stands for the machine epsilon of the
        parameters' dtype.
    ``flags``
        The names of options that are True or False; default ``()``.
    ``choices``
        Other options with their values: a dict such as ``{"line_search": (None, "wolfe"), "order":
        range(1, 9)}``; default ``{}``.
    ``kernel_coefficients(xp, step, *scalar_options, *scalar_states)``
        Returns the coefficients of the kernel as a tuple, computed in float64, followed by the new
        values of the scalar states.  `step` is 1 in a parameter's first step, and always 0 for
        rules without states.  By default, the coefficients are the options.
    ``state_names(group)``
        The names of the states that are arrays; default ``()``.  They start as zeros: a rule that
        needs another value writes it in the first step, where `step` is 1.
    ``state_shape(name, shape)``
        The shape of a state of a parameter with this shape, or None if it has no such state, for
        rules with `per_parameter`; default `shape`.  The kernel gets None for an absent state.
    ``scalar_states``
        The names of the states that are one float64 number for each parameter, from 0; default
        ``()``.
    ``kernel_constants(group)``
        The keyword arguments of the kernel, such as ``{"maximize": group["maximize"]}``; default
        ``{}``.  A captured step is recorded again when they change.
    ``saves_step``
        True (the default) if `state_dict` includes each parameter's number of steps.
    ``update_segment(segment, coefficients, constants)``
        Calls the kernel.

    All but `update_segment` are class attributes or static methods.
    """

    scalar_options: dict[str, Any] | tuple[str, ...] = {"lr": "[0, inf)"}
    flags: tuple[str, ...] = ()
    choices: dict[str, tuple | range] = {}
    scalar_states: tuple[str, ...] = ()
    per_parameter = False
    saves_step = True
    waits_for_device = False  # a step of a rule that waits is not captured
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

    @staticmethod
    def state_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return shape

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kernel_coefficients" in vars(cls):
            cls._coefficients = staticmethod(coefficient_function(cls.kernel_coefficients))

    def __init__(self, params: Iterable, defaults: dict[str, Any]) -> None:
        rule = type(self)
        what = f"{rule.__name__}: params"
        if isinstance(params, Tensor):
            raise TypeError(f"{what} must be an iterable of Parameters or dicts, not one Tensor: "
                            f"write [p]")
        groups = _as_list(what, params)
        if not groups:
            raise ValueError(f"{what}: the optimizer got an empty parameter list: either the model "
                             f"has no parameters, or an iterator was already exhausted")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        as_instance(f"{rule.__name__}: defaults", defaults, dict, "a dict")
        missing = [option for option in rule.scalar_options if option not in defaults]
        if missing:
            raise ValueError(f"{rule.__name__}: defaults must have a value for each of the "
                             f"scalar_options, and has none for {', '.join(missing)}")
        self.defaults = checked_options(rule, defaults, defaults)
        checked: list[dict] = []
        for group in groups:
            checked.append(self._checked_group(group, checked))
        self._groups: list[Group] = Groups(Group(options, rule) for options in checked)

    @property
    def param_groups(self) -> list[Group]:
        """The parameter groups: dicts of "params" and options, whose values can be assigned."""
        return self._groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group ``{"params": [...], "lr": ...}``; `defaults` supply its missing options."""
        options = self._checked_group(param_group, self._groups)
        list.append(self._groups, Group(options, type(self)))

    def _checked_group(self, group: Any, others: Sequence[dict]) -> dict[str, Any]:
        """The options of a new group, with its "params" as a list."""
        name = type(self).__name__
        as_instance(f"{name}: a parameter group", group, dict, "a dict")
        if "params" not in group:
            raise ValueError(f"{name}: a parameter group needs 'params', as in "
                             f"{{'params': [...], 'lr': 0.1}}, got the options {[*group]}")
        unknown = group.keys() - {"params", "param_names", *self.defaults, *SCHEDULED}
        if unknown:
            raise ValueError(f"{name}: a parameter group has no option {sorted(unknown)}, only "
                             f"{', '.join(self.defaults)}: assign values of your own later, as in "
                             f"optimizer.param_groups[0]['name'] = value")
        options = checked_options(type(self), {**self.defaults, **group}, self.defaults)
        given = group["params"]
        params: list = [given] if isinstance(given, Tensor) else _as_list(f"{name}: params", given)
        names = [p[0] for p in params if isinstance(p, tuple) and len(p) == 2]
        if names:
            if len(names) < len(params):
                raise ValueError(f"all optimizer params should be with/without names, but "
                                 f"{len(params) - len(names)} of {len(params)} have none")
            options["param_names"] = names
            params = [p[1] for p in params]
        is_named = "param_names" in options
        if is_named:
            check_names(f"{name}: param_names", options["param_names"], len(params))
        if any(is_named != ("param_names" in other) for other in others):
            raise ValueError(f"all optimizer param groups should be with/without names, but this "
                             f"group has {'names' if is_named else 'none'}, unlike the others")
        for p in params:
            _check_parameter(p)
        check_no_ties([p for other in (*others, {"params": params}) for p in other["params"]])
        self._check_new_group(options, params)
        return {**options, "params": params}

    @staticmethod
    def _check_new_group(options: dict[str, Any], params: list[Parameter]) -> None:
        """Raise ValueError for options or parameters that are not possible together."""

    def _params(self) -> Iterator[Parameter]:
        return (p for group in self._groups for p in group["params"])

    def _arenas(self) -> Iterator[Arena]:
        return (arena for group in self._groups for arena in group.arenas)

    # ---- a step

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set every gradient to None, or fill it with zeros if `set_to_none` is False."""
        if set_to_none is not True:
            set_to_none = as_bool(f"{type(self).__name__}.zero_grad: set_to_none", set_to_none)
        for p in self._params():
            if set_to_none:
                p.gradient = None
            elif p.gradient is not None:
                write(p.gradient, 0)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        `closure` is called first, with gradients enabled, and its result is returned.
        """
        loss = None
        if closure is not None:
            as_callable(f"{type(self).__name__}.step: closure", closure)
            with enable_grad():
                loss = closure()
        optimizer_stepped(self)
        self._update()
        return loss

    def _written(self) -> list[Any]:
        """The arrays that an update changes."""
        return [a for arena in self._arenas() for a in arena.written_by_a_step().values()]

    @as_one_call(_written)
    def _update(self) -> None:
        """Update every parameter that has a gradient."""
        self._sync_arenas()
        updates = self._updates()
        try:
            for arena, group, segment, coefficients, numbers in updates:
                with arena.on_device():
                    self.update_segment(segment, coefficients, group.kernel_constants)
                    if numbers:
                        segment.write_numbers(numbers)
                mark_changed(segment.params, segment.extent)
        except BaseException:
            mark_changed(segment.params, segment.extent)  # some may have been updated
            first = next(i for i, update in enumerate(updates) if update[2] is segment)
            self._uncount(s for _, g, s, *_ in updates[first:] if g.state_names)
            raise

    def _updates(self) -> list[tuple[Arena, Group, Segment, tuple, tuple]]:
        """What a step updates, with coefficients and new scalar states; counts the step.

        If a coefficient cannot be computed, or a kernel not be called, nothing is counted.
        """
        updates = []
        counted = []
        try:
            for group in self._groups:
                for name in group.tensor_options:
                    group.write_scalars(name)
                for arena in group.arenas:
                    with arena.on_device():
                        for segment in arena.segments(group.state_names):
                            if group.state_names:
                                segment.step_counts += 1
                                counted.append(segment)
                            coefficients = type(self)._coefficients(arena, segment)
                            numbers: tuple = ()
                            if segment.numbers:
                                n = len(coefficients) - len(segment.numbers)
                                coefficients, numbers = coefficients[:n], coefficients[n:]
                            if segment.tried is not group.kernel_constants:
                                self._try(segment, coefficients, group.kernel_constants)
                            updates.append((arena, group, segment, coefficients, numbers))
        except BaseException:
            self._uncount(counted)
            raise
        return updates

    def _try(self, segment: Segment, coefficients: tuple, constants: dict[str, Any]) -> None:
        """Call the kernel with no elements: an error in it comes before any group is updated."""
        cls = type(self)
        if cls.update_segment is Optimizer.update_segment and not cls.per_parameter:
            arrays = [a[:0] for a in (segment.data, segment.grad, *segment.states)]
            cls.update_kernel(segment.xp, *arrays[:2], *coefficients, *arrays[2:], **constants)
        segment.tried = constants

    def _uncount(self, segments: Iterable[Segment]) -> None:
        """Take back the count of a step in segments that it did not update."""
        for segment in segments:
            segment.step_counts -= 1
        for arena in self._arenas():
            arena.forget_unstepped()

    def update_segment(self, segment: Segment, coefficients: tuple,
                       constants: dict[str, Any]) -> None:
        """Update the flat `segment.data` and `segment.states`, given `segment.grad`."""
        kernel = type(self).update_kernel
        xp = segment.xp
        if not self.per_parameter:
            kernel(xp, segment.data, segment.grad, *coefficients, *segment.states, **constants)
            return
        for arrays in segment.members:
            p, g, *states = wide = [a if a is None else widened(a) for a in arrays]
            kernel(xp, p, g, *coefficients, *states, **constants)
            if p is not arrays[0]:
                for narrow, a in zip(arrays, wide, strict=True):
                    if narrow is not None and a is not g:
                        narrow[...] = a

    def _is_bound(self) -> bool:
        """True if every `p.data` is a view of its arena."""
        return all(group.is_bound() for group in self._groups)

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
            copy_all((view, raw(p.gradient)) for p, view in outside)
            for p, view in outside:
                p.gradient = view

    def _sync_values(self) -> None:
        for group in self._groups:
            group.check_data()
        check_no_ties(list(self._params()))
        outside: list[tuple[Parameter, Any]] = []
        for group in self._groups:
            group.rebuild_if_moved()
            outside += group.unbound()
        copy_all((view, p.array) for p, view in outside)
        for p, view in outside:
            p._move_to(view)
            written(extent(view))

    def _capture_key(self) -> tuple:
        """A key that changes when a recorded step is no longer valid.

        It has the arenas, which parameters have gradients and states, and the kernels' constants.
        """
        self._sync_arenas()
        return tuple([
            (tuple(group.kernel_constants.items()), group.state_names,
             *[(arena.serial, arena.has_grad, tuple(arena.histories), tuple(arena.has_state))
               for arena in group.arenas])
            for group in self.param_groups])

    # ---- state

    @property
    def state(self) -> dict[Parameter, dict[str, Any]]:
        """The states of each parameter that has any, as arrays that can be written in place.

        The number of steps is a NumPy number: to change it, use `load_state_dict`.
        """
        found = {}
        for arena in self._arenas():
            numbers = arena.counted_states()
            for i, p in enumerate(arena.params):
                if arena.has_state[i] and numbers["step"][i]:
                    entry = {name: values[i] for name, values in numbers.items()
                             if name != "step" or self.saves_step}
                    found[p] = State({**entry, **arena.state_of(i)})
        return State(found)

    def state_dict(self) -> dict[str, Any]:
        """The states and options in PyTorch's layout, as Python numbers and NumPy arrays.

        Parameters are represented by their indices, counted across all groups.
        """
        number = {id(p): n for n, p in enumerate(self._params())}
        state: dict[int, dict[str, Any]] = {}
        for group in self._groups:
            for arena in group.arenas:
                numbers = arena.counted_states()
                if any(arena.has_state):  # an option may have changed since the last step
                    with arena.on_device():
                        arena.add_states(group.state_names)
                for i, p in enumerate(arena.params):
                    # the step is 0 if GradScaler skipped the first one
                    if arena.has_state[i] and numbers["step"][i]:
                        entry = {name: values[i].item() for name, values in numbers.items()
                                 if name != "step" or self.saves_step}
                        for name, value in arena.state_of(i).items():
                            entry[name] = arena.backend.to_numpy(value)
                        state[number[id(p)]] = entry
        groups = []
        for group in self._groups:
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
            for group, options in zip(self._groups, groups, strict=True):
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
        if len(saved_groups) != len(self._groups):
            raise ValueError(f"the state dict has {len(saved_groups)} parameter groups, but the "
                             f"optimizer has {len(self._groups)}")
        loaded = []
        first = 0
        for i, (group, saved) in enumerate(zip(self._groups, saved_groups, strict=True)):
            what = f"{rule.__name__}: param_groups[{i}]"
            required = ["params", *(name for name in self.defaults if name not in ADDED_LATER)]
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
            if "param_names" in options:
                check_names(f"{what}['param_names']", options["param_names"], n)
            absent = {name: False for name in ADDED_LATER if name in self.defaults}
            loaded.append(checked_options(rule, {**absent, **options}, group))
            first += n
        return loaded

    def _loaded_entries(self, state: Mapping, groups: list[dict]) -> dict[int, dict[str, Any]]:
        """{id(parameter): its states and step, converted}, for parameters that have any."""
        rule = type(self).__name__
        owners = [(p, options) for group, options in zip(self._groups, groups, strict=True)
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
            numbers = [*self.scalar_states, *["step"] * self.saves_step]
            shapes = {name: shape for name in self._possible_states(options)
                      if (shape := self.state_shape(name, p.shape)) is not None}
            required = [name for name in self.state_names(options) if name in shapes]
            as_entries(what, saved, [*required, *numbers], shapes)
            entry: dict[str, Any] = {}
            for name, value in saved.items():
                here = f"{what}[{name!r}]"
                if name in shapes:
                    entry[name] = as_array(here, value, shapes[name], p.dtype)
                elif name == "step":
                    entry[name] = as_integer(here, as_array(here, value, (), "int64").item(), 0)
                else:
                    entry[name] = as_array(here, value, (), "float64").item()
            if entry.get("step") != 0:  # PyTorch's Adagrad has states before the first step
                entries[id(p)] = entry
        return entries

    def _possible_states(self, options: dict[str, Any]) -> tuple[str, ...]:
        """The names of all states that the rule has with some flags and numbers.

        A state stays when a flag is changed during a run, and no longer needs it.
        """
        numbers = {n: 0.5 for n in self.scalar_options if not isinstance(options[n], tuple)}
        return self.state_names({**options, **dict.fromkeys(self.flags, True), **numbers})

    def __getstate__(self) -> dict[str, Any]:
        groups = [dict(group) for group in self._groups]
        return {**vars(self), "_groups": groups, "saved": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("saved")
        groups = Groups(Group(options, type(self)) for options in state["_groups"])
        vars(self).update(state, _groups=groups)
        self.load_state_dict(saved)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self._groups):
            lines.append(f"Parameter Group {i}")
            for name in sorted(group):
                if name != "params":
                    lines.append(f"    {name}: {group[name]}")
        return "\n".join([*lines, ")"])


Optimizer._coefficients = staticmethod(coefficient_function(Optimizer.kernel_coefficients))


def _check_parameter(p: Any) -> None:
    if isinstance(p, Parameter):
        return
    if type(p) is Tensor and p.node is None and type(p.data) in BY_TYPE:
        check_floating(p.data)
        return
    hint = ""
    if isinstance(p, Tensor):
        hint = (" that an op made: give its leaf, x.detach().requires_grad_() or "
                "gpuprop.Parameter(x), and compute with that")
    elif hasattr(p, "parameters"):
        hint = ": write model.parameters()"
    raise TypeError(f"optimizer can only optimize Parameters and leaf Tensors, but one of the "
                    f"params is a {type(p).__name__}{hint}")


def _as_list(what: str, params: Any) -> list:
    """The items of an iterable of Parameters, of names and Parameters, or of groups."""
    if isinstance(params, set | frozenset):
        raise TypeError(f"{what} must be ordered, because state_dict refers to them by index: "
                        f"give a list, not a set")
    if isinstance(params, str | Mapping) or not isinstance(params, Iterable):
        hint = ": write model.parameters()" if hasattr(params, "parameters") else ""
        raise TypeError(f"{what} must be an iterable of Parameters or of groups, got a "
                        f"{type(params).__name__}{hint}")
    return list(params)


def check_names(what: str, names: Any, n: int) -> None:
    """Raise ValueError unless `names` is a list of n strings."""
    if not isinstance(names, list) or [type(name) for name in names] != [str] * n:
        raise ValueError(f"{what} must be a list of {n} names, got {names!r}")


def check_no_ties(params: Iterable[Parameter]) -> None:
    """Raise ValueError if two entries share a Parameter or an array: it would be updated twice."""
    seen: set[int] = set()
    for p in params:
        for value, name in ((p, "a Parameter"), (p.array, "the array of a Parameter")):
            if id(value) in seen:
                raise ValueError(f"optimizer got {name} twice: to tie weights, use one Parameter "
                                 f"in both modules, and pass it to the optimizer once")
            seen.add(id(value))


def _plain(value: Any) -> Any:
    """An option as Python numbers and NumPy arrays; Tensors with one element are numbers."""
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    if not hasattr(value, "shape"):
        return value
    array = asnumpy(value)
    is_number = array.size == 1 if isinstance(value, Tensor) else not array.ndim
    return array.item() if is_number else array
