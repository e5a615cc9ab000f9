"""Hooks of modules: functions that a module calls around its forward and its backward."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gpuprop._core.checks import as_bool, as_callable
from gpuprop._core.graph import raw
from gpuprop._core.namespace import Differentiable
from gpuprop._core.ops import make_op
from gpuprop._core.signature import Array
from gpuprop._core.spec import Spec
from gpuprop._core.tensor import Tensor


class Hook(NamedTuple):
    """A function and how it is called."""

    function: Callable
    with_kwargs: bool = False
    always_call: bool = False


CALLS = "before", "after", "backward_before", "backward"
STATE = "saving", "saved", "loading", "loaded"


class Hooks(dict[str, list[Hook]]):
    """The hooks of a module, in lists: those of calls (`CALLS`), or those of its state (`STATE`).

    Deep copies keep them; pickling raises if one is a local function.
    """

    def __deepcopy__(self, memo: dict) -> Hooks:
        return Hooks(copy.deepcopy(dict(self), memo))

    def __reduce__(self) -> tuple:
        for hook in itertools.chain(*self.values()):
            name = getattr(hook.function, "__qualname__", "")
            if "<" in name:  # <lambda> or <locals>
                raise TypeError(
                    f"a module with the hook {name} cannot be pickled: call the function that "
                    f"registering the hook returned, to remove it, or define the hook at the top "
                    f"level of a Python module")
        return Hooks, (dict(self),)


def register_hook(module: Any, when: str, hook: Callable, prepend: bool = False,
                  with_kwargs: bool = False, always_call: bool = False) -> Callable[[], None]:
    """Add a hook to the list `when`; returns a function that removes it."""
    what = type(module).__name__
    as_callable(f"{what}: hook", hook)
    prepend = as_bool(f"{what}: prepend", prepend)
    added = Hook(hook, as_bool(f"{what}: with_kwargs", with_kwargs),
                 as_bool(f"{what}: always_call", always_call))
    attribute, names = ("_hook_lists", CALLS) if when in CALLS else ("_state_hook_lists", STATE)
    if not getattr(module, attribute):
        setattr(module, attribute, Hooks({name: [] for name in names}))
    hooks = getattr(module, attribute)[when]
    hooks.insert(0 if prepend else len(hooks), added)
    return lambda: hooks.remove(added) if added in hooks else None


def forward_with_hooks(module: Any, args: tuple, kwargs: dict) -> Any:
    """Call the hooks of a module and its forward."""
    lists = module._hook_lists
    watch = _Backward(module) if lists["backward"] or lists["backward_before"] else None
    waiting = list(lists["after"])
    output = None
    try:
        for hook in tuple(lists["before"]):
            args, kwargs = _call_before(module, hook, args, kwargs)
        if watch is not None:
            args = watch.of_inputs(args)
        output = module.forward(*args, **kwargs)
        while waiting:
            output = _call_after(module, waiting.pop(0), args, kwargs, output)
    except Exception:
        for hook in waiting:
            if hook.always_call:
                try:
                    output = _call_after(module, hook, args, kwargs, output)
                except Exception as error:
                    warnings.warn(f"a forward hook of {type(module).__name__} with always_call "
                                  f"raised {error!r}, while another error was raised", stacklevel=3)
        raise
    return output if watch is None else watch.of_outputs(output)


def _call_before(module: Any, hook: Hook, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    if not hook.with_kwargs:
        changed = hook.function(module, args)
        if changed is not None:
            args = changed if isinstance(changed, tuple) else (changed,)
        return args, kwargs
    changed = hook.function(module, args, kwargs)
    if changed is None:
        return args, kwargs
    if not isinstance(changed, tuple) or len(changed) != 2:
        raise RuntimeError(f"a forward pre-hook of {type(module).__name__} with_kwargs must return "
                           f"None or (args, kwargs), got {changed!r}")
    return changed


def _call_after(module: Any, hook: Hook, args: tuple, kwargs: dict, output: Any) -> Any:
    given = (args, kwargs) if hook.with_kwargs else (args,)
    changed = hook.function(module, *given, output)
    return output if changed is None else changed


# ---- backward ------------------------------------------------------------------------------------


def _watched(xp, *arrays: Array, call):
    """The arrays; backward calls ``call(gradients)``, which returns the gradients to use."""
    if isinstance(xp, Differentiable):  # gradients of gradients pass through the hooks too
        arrays = watched(arrays, call=call)
    return arrays, call


watched = make_op(Spec(_watched, label="backward hook", registered=False), half="exact")


class _Backward:
    """The backward hooks of a module in one forward."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.n_inputs = 0
        self.has_inputs = False
        self.output_gradients: tuple | None = None

    def of_inputs(self, args: tuple) -> tuple:
        """The arguments; when the gradients of the Tensors among them arrive, the hooks are called.
        """
        self.n_inputs = len(args)
        args, self.has_inputs = _watch(args, self._inputs_done)
        return args

    def of_outputs(self, output: Any) -> Any:
        """The output; the hooks before backward are called with its gradients."""
        if isinstance(output, tuple):
            found, _ = _watch(output, self._outputs_done)
            return type(output)(*found) if hasattr(output, "_fields") else found
        return _watch((output,), self._outputs_done)[0][0]

    def _outputs_done(self, gradients: tuple) -> tuple:
        gradients = self._changed("backward_before", "output", gradients)
        self.output_gradients = gradients
        if not self.has_inputs:
            self._changed("backward", "input", (None,) * self.n_inputs, gradients)
        return gradients

    def _inputs_done(self, gradients: tuple) -> tuple:
        given = self.output_gradients
        if given is None:  # this gradient came from elsewhere than the output
            return gradients
        self.output_gradients = None
        return self._changed("backward", "input", gradients, given)

    def _changed(self, when: str, what: str, gradients: tuple, *others: tuple) -> tuple:
        """The gradients as the hooks return them."""
        for hook in tuple(self.module._hook_lists[when]):
            found = hook.function(self.module, gradients, *others)
            if found is not None:
                gradients = self._checked(what, gradients, found)
        return gradients

    def _checked(self, what: str, gradients: tuple, found: Any) -> tuple:
        name = type(self.module).__name__
        new = found if isinstance(found, tuple | list) else (found,)
        if len(new) != len(gradients):
            raise RuntimeError(f"a backward hook of {name} returned {len(new)} gradients of the "
                               f"{what}, expected {len(gradients)}")
        for g, changed in zip(gradients, new, strict=True):
            if g is None and changed is not None:
                raise RuntimeError(f"a backward hook of {name} returned a gradient of an {what} "
                                   f"that has none: return None in its place")
        return tuple(changed if isinstance(g, Tensor) else raw(changed)
                     for g, changed in zip(gradients, new, strict=True))


def _watch(values: tuple, done: Callable) -> tuple[tuple, bool]:
    """The values, whose Tensors with a gradient are watched, and whether there are such Tensors.

    ``done(gradients)`` gets one gradient for each value, None for those that have none.
    """
    places = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]
    if not places:
        return values, False

    def call(gradients: Sequence) -> tuple:
        full: list[Any] = [None] * len(values)
        for i, g in zip(places, gradients, strict=True):
            full[i] = g
        result = done(tuple(full))
        return tuple(result[i] for i in places)

    new = list(values)
    for i, t in zip(places, watched([values[i] for i in places], call=call), strict=True):
        new[i] = t
    return tuple(new), True
