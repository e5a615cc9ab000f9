"""State dicts of modules: what `state_dict` collects, `load_state_dict` checks, and their hooks.

The functions take the modules of a model with their paths, parents first, as `walk` yields them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.checks import as_bool, as_instance
from gpuprop._core.loading import as_array
from gpuprop._core.placement import write
from gpuprop._core.tensor import Parameter, Tensor, asnumpy

Owners = Iterable[tuple[str, Any]]  # (path, module)


class LoadResult(NamedTuple):
    """The names that differ between a model and its state dict; none if `strict`."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def is_parameter(module: Any, name: str, value: Any) -> bool:
    """True if an attribute of a module is a parameter."""
    return isinstance(value, Parameter)


def is_buffer(module: Any, name: str, value: Any) -> bool:
    """True if an attribute of a module is a buffer; one that became a Parameter is none."""
    return (name in module._buffer_persistence
            and isinstance(value, Tensor) and not isinstance(value, Parameter))


def own_entries(owner: Any) -> dict[str, Tensor]:
    """The parameters and persistent buffers of a module itself."""
    attributes = vars(owner)
    own: dict[str, Any] = {n: v for n, v in attributes.items() if isinstance(v, Parameter)}
    for name, persistent in owner._buffer_persistence.items():
        value = attributes.get(name)
        if persistent and is_buffer(owner, name, value):
            own[name] = value
    return own


def entries(owners: Owners) -> dict[str, Tensor]:
    """Parameters and persistent buffers, shared ones under each of their names."""
    return {f"{path}.{name}".lstrip("."): value
            for path, owner in owners for name, value in own_entries(owner).items()}


def prefix_of(path: str) -> str:
    return f"{path}." if path else ""


def hooks(owner: Any, when: str) -> list[Callable]:
    """The hooks of a module that are called "saving", "saved", "loading" or "loaded" its state."""
    return [hook.function for hook in owner._state_hook_lists.get(when, ())]


def visits(owners: Owners) -> Iterator[tuple[str, Any, bool]]:
    """(path, module, is complete): each module before its submodules, and again after them."""
    inside: list[tuple[str, Any]] = []
    for path, owner in owners:
        while inside and not path.startswith(prefix_of(inside[-1][0])):
            yield *inside.pop(), True
        inside.append((path, owner))
        yield path, owner, False
    while inside:
        yield *inside.pop(), True


def saved(owners: Owners, convert: Callable[[Tensor], Any], state: dict[str, Any] | None = None,
          prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
    """The state dict of a model, whose values are those of `convert`, after all hooks.

    `prefix` precedes the names of entries, which are added to `state`.
    """
    state = {} if state is None else state
    for path, owner, is_complete in visits(owners):
        before = prefix + prefix_of(path)
        if not is_complete:
            for hook in hooks(owner, "saving"):
                hook(owner, before, keep_vars)
            state |= {before + name: convert(value) for name, value in own_entries(owner).items()}
            continue
        for hook in hooks(owner, "saved"):
            _must_be_none("state dict post-hook", owner, hook(owner, state, before, {}))
    return state


def _must_be_none(kind: str, owner: Any, result: Any) -> None:
    if result is not None:
        raise RuntimeError(f"a {kind} of {type(owner).__name__} must change its arguments in place "
                           f"and return None, got a {type(result).__name__}")


def prepare(name: str, owners: Owners, state_dict: Mapping[str, Any], strict: bool,
            may_lack_optional: bool) -> tuple[Callable[[], None], LoadResult]:
    """Check and convert a whole state dict, and return a function that writes it.

    `name` is that of the model's class.  Raises as `Module.load_state_dict`, before anything is
    changed.  Weights may lack optional entries, which keep their values; the state of a run may
    not.
    """
    what = f"{name}.load_state_dict"
    given = as_instance(f"{what}: state_dict", state_dict, Mapping, "a dict")
    strict = as_bool(f"{what}: strict", strict)
    owners = list(owners)
    own = entries(owners)
    result = LoadResult([], [])
    problems: list[str] = []
    given = _after_hooks(owners, given, result, problems)
    minima = {prefix_of(path) + entry: minimum for path, owner in owners
              for entry, minimum in owner._state_minima.items()}
    optional = {prefix_of(path) + entry for path, owner in owners
                for entry in owner._state_optional if may_lack_optional}
    result.missing_keys.extend(n for n in own if n not in given and n not in optional)
    result.unexpected_keys.extend(n for n in given if n not in own)
    values: list[tuple[Tensor, np.ndarray]] = []
    for entry, tensor in own.items():
        if entry in given:
            try:
                value = as_array(entry, given[entry], tensor.shape, tensor.dtype)
                if entry in minima:
                    check_minimum(entry, value, minima[entry])
                values.append((tensor, value))
            except ValueError as error:
                problems.append(str(error))
    ends = [(owner, hook) for _, owner, is_complete in visits(owners) if is_complete
            for hook in hooks(owner, "loaded")]

    def check_names() -> None:
        differing = [f"{kind}: {', '.join(map(str, names))}" for kind, names in (
            ("missing", result.missing_keys), ("unexpected", result.unexpected_keys)) if names]
        found = problems + differing * strict
        if found:
            raise ValueError(f"state_dict does not match {name}, nothing was loaded: "
                             f"{'; '.join(found)}")

    if problems or not ends:
        check_names()

    def write_all() -> None:
        before = [(t, asnumpy(t.array)) for t, _ in values] if ends else []
        _write(values)
        try:
            for owner, hook in ends:  # they may change the names in `result`
                _must_be_none("load state dict post-hook", owner, hook(owner, result))
            check_names()
        except BaseException:
            _write(before)
            raise

    return write_all, result


def _after_hooks(owners: Owners, given: Mapping[str, Any], result: LoadResult,
                 problems: list[str]) -> Mapping[str, Any]:
    """A state dict after the hooks before a load, each of which gets the entries of its module."""
    metadata = getattr(given, "_metadata", {})
    for path, owner in owners:
        prefix = prefix_of(path)
        own_hooks = hooks(owner, "loading")
        if own_hooks:
            own = {n: v for n, v in given.items() if str(n).startswith(prefix)}
            given = {n: v for n, v in given.items() if n not in own}
            for hook in own_hooks:
                hook(owner, own, prefix, metadata.get(path, {}), True, *result, problems)
            given |= {n: v for n, v in own.items() if str(n).startswith(prefix)}
    return given


def _write(values: list[tuple[Tensor, np.ndarray]]) -> None:
    for tensor, value in values:
        write(tensor.array, value)
        if isinstance(tensor, Parameter):
            tensor.touch()


def check_minimum(name: str, value: np.ndarray, minimum: float) -> None:
    """Raise ValueError if a number is below the minimum; NaN is not."""
    below = value[value < minimum]
    if below.size:
        raise ValueError(f"{name} must be at least {minimum}, got {below[0]}")
