"""Parametrizations: attributes of a module that are computed from other Tensors at each access.

A parametrization is a module.  Its forward computes the attribute; its method `right_inverse`, if
it has one, computes the Tensors from a value that is assigned to the attribute.

>>> from gpuprop import nn
>>> class Symmetric(nn.Module):
...     def forward(self, x):
...         return gpuprop.triu(x) + gpuprop.triu(x, 1).T
>>> layer = nn.Linear(3, 3)
>>> _ = nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
>>> bool((layer.weight == layer.weight.T).all())
True
>>> [name for name, _ in layer.named_parameters()]
['bias', 'parametrizations.weight.original']
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from gpuprop._core.checks import as_bool, as_instance
from gpuprop._core.dialects import dialects
from gpuprop._core.graph import raw
from gpuprop._core.mode import Setting, no_grad
from gpuprop._core.placement import write
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.nn._container import ModuleDict, ModuleList
from gpuprop.nn._module import Module, is_buffer

__all__ = ["ParametrizationList", "cached", "is_parametrized", "register_parametrization",
           "remove_parametrizations", "type_before_parametrizations"]


class ParametrizationList(ModuleList):
    """The parametrizations of one attribute, and the Tensors that they compute it from.

    These are `original`, or `original0`, `original1` and so on if `right_inverse` of the first
    parametrization returns several.
    """

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False) -> None:
        super().__init__(modules)
        self.unsafe = unsafe
        new = _inverse(list(modules), original, is_required=False)
        self.is_tensor = isinstance(new, Tensor)
        tensors = [new] if self.is_tensor else new
        if not isinstance(tensors, list | tuple) or not all(
                isinstance(t, Tensor) for t in tensors):
            raise ValueError(f"register_parametrization: right_inverse must return a Tensor or a "
                             f"sequence of Tensors, got {type(new).__name__}")
        self.ntensors = len(tensors)
        if self.is_tensor:
            if new.dtype != original.dtype:
                raise ValueError(f"register_parametrization: right_inverse must return the dtype "
                                 f"{original.dtype}, got {new.dtype}")
            _overwrite(original, new)
            _set(self, "original", original)
        else:
            for i, t in enumerate(tensors):
                _set(self, f"original{i}", _like(original, t))

    def originals(self) -> list[Tensor]:
        """The Tensors that the attribute is computed from."""
        if self.is_tensor:
            return [vars(self)["original"]]
        return [vars(self)[f"original{i}"] for i in range(self.ntensors)]

    def forward(self) -> Tensor:
        first, *others = self
        x = first(*self.originals())
        for module in others:
            x = module(x)
        return x

    def right_inverse(self, value: Tensor) -> None:
        """Set the Tensors so that the attribute becomes `value`."""
        new = _inverse(list(self), value, is_required=True)
        tensors = [new] if self.is_tensor else list(new)
        if len(tensors) != self.ntensors:
            raise ValueError(f"right_inverse must return {self.ntensors} Tensors, got "
                             f"{len(tensors)}")
        for own, t in zip(self.originals(), tensors, strict=True):
            _overwrite(own, t)


def register_parametrization(module: Module, tensor_name: str, parametrization: Module, *,
                             unsafe: bool = False) -> Module:
    """Compute a parameter or buffer by ``parametrization(original)`` at each access.

    The class of the module becomes a subclass, in which the attribute is a property.  The Tensor
    becomes ``parametrizations.<name>.original``: the same Parameter, so an optimizer keeps training
    it.  If `parametrization` has a method `right_inverse`, it gives the original from the present
    value.  A second parametrization is called with the result of the first.  Unless `unsafe`, the
    result must have the shape and dtype of the original.  Returns the module.
    """
    what = "register_parametrization"
    as_instance(f"{what}: module", module, Module, "a module")
    as_instance(f"{what}: parametrization", parametrization, Module, "a module")
    unsafe = as_bool(f"{what}: unsafe", unsafe)
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        found = _lists(module)[tensor_name]
        if not unsafe:
            _check_like(getattr(module, tensor_name), parametrization(getattr(module, tensor_name)))
        found.append(parametrization)
        found.unsafe |= unsafe
        return module
    original: Any = vars(module).get(tensor_name)
    if not (isinstance(original, Parameter) or is_buffer(module, tensor_name, original)):
        raise ValueError(f"{what}: {type(module).__name__} has no parameter, buffer or "
                         f"parametrized attribute {tensor_name!r}")
    before = original.detach()
    found = ParametrizationList([parametrization], original, unsafe)
    if not unsafe:
        with no_grad():
            _check_like(before, found())
    delattr(module, tensor_name)
    _forget_buffer(module, tensor_name)
    if not is_parametrized(module):
        module.parametrizations = ModuleDict()
    _lists(module)[tensor_name] = found
    _change_class(module)
    return module


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """True if the module has parametrizations, or this attribute has."""
    if not isinstance(module, _Parametrized):
        return False
    return tensor_name is None or tensor_name in _lists(module)


def remove_parametrizations(module: Module, tensor_name: str,
                            leave_parametrized: bool = True) -> Module:
    """Make the attribute a parameter or buffer again.

    It keeps the value that the parametrizations give it; without `leave_parametrized` it becomes
    the original.  Returns the module.
    """
    leave_parametrized = as_bool("remove_parametrizations: leave_parametrized", leave_parametrized)
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"remove_parametrizations: {type(module).__name__} has no parametrization "
                         f"of {tensor_name!r}")
    found = _lists(module)[tensor_name]
    if not leave_parametrized and not found.is_tensor:
        raise ValueError("remove_parametrizations(leave_parametrized=False): the attribute is "
                         "computed from several Tensors, so there is no original: leave the value")
    original = found.originals()[0]
    if leave_parametrized:
        value = getattr(module, tensor_name)
        if found.is_tensor:
            _overwrite(original, value.detach())
        else:
            original = _like(original, value.detach())
    del _lists(module)[tensor_name]
    _change_class(module)
    _set(module, tensor_name, original)
    return module


def type_before_parametrizations(module: Module) -> type:
    """The class of the module before its first parametrization was registered."""
    return type(module).__bases__[-1] if isinstance(module, _Parametrized) else type(module)


def cached() -> Setting:
    """Inside the block, a parametrized attribute is computed at its first access only.

    Use it around a forward that reads the attribute many times, as a recurrent layer does in a loop
    over time.  An optimizer must not step inside.
    """
    return _Cached(_cache, None)


# ---- the implementation --------------------------------------------------------------------------

# The attributes computed in this context: (id of the module, name) -> (module, value)
_cache: ContextVar[dict | None] = ContextVar("gpuprop_parametrizations", default=None)


class _Cached(Setting):
    """See `cached`."""

    def _changed(self, before: dict | None) -> dict:
        return {} if before is None else before


class _Parametrized:
    """Abstract: the class of a module with parametrizations."""

    def __reduce_ex__(self, protocol: Any) -> tuple:
        names = tuple(_lists(self))
        base = type_before_parametrizations(self)  # type: ignore[arg-type]
        return _empty, (base, names), dict(vars(self))


def _change_class(module: Module) -> None:
    """Give a module the class for its parametrizations, which are none if the last was removed."""
    names = tuple(_lists(module))
    base = type_before_parametrizations(module)
    if not names:
        delattr(module, "parametrizations")
    module.__class__ = _class_with(base, names) if names else base


def _class_with(base: type, names: Sequence[str]) -> type:
    """A subclass of `base` in which these attributes are computed."""
    body: dict[str, Any] = {"__module__": base.__module__, "__doc__": base.__doc__}
    body.update((name, _computed(name)) for name in names)
    metaclass: Any = type(base)
    return metaclass(f"Parametrized{base.__name__}", (_Parametrized, base), body)


def _empty(base: type, names: Sequence[str]) -> Any:
    """A module without its state, for copies and pickles."""
    cls: Any = _class_with(base, names)
    return cls.__new__(cls)


def _computed(name: str) -> property:
    def read(module: Any) -> Tensor:
        cache = _cache.get()
        if cache is None:
            return _lists(module)[name]()
        key = id(module), name
        if key not in cache:
            cache[key] = module, _lists(module)[name]()
        return cache[key][1]

    def assign(module: Any, value: Tensor) -> None:
        _lists(module)[name].right_inverse(value)

    return property(read, assign)


def _lists(module: Any) -> Any:
    return vars(module)["parametrizations"]


def _inverse(modules: list[Module], value: Any, is_required: bool) -> Any:
    """The Tensors from which the parametrizations compute `value`."""
    with no_grad():
        for module in reversed(modules):
            inverse = getattr(module, "right_inverse", None)
            if inverse is None and is_required:
                raise RuntimeError(f"a value is assigned to a parametrized attribute, but "
                                   f"{type(module).__name__} has no method right_inverse: define "
                                   f"it, or assign to the original")
            try:
                value = value if inverse is None else inverse(value)
            except NotImplementedError:
                if is_required:
                    raise
    return value


def _check_like(original: Tensor, result: Any) -> None:
    if not isinstance(result, Tensor):
        raise ValueError(f"a parametrization must return a Tensor, got {type(result).__name__}")
    if result.shape != original.shape or result.dtype != original.dtype:
        raise ValueError(
            f"a parametrization must keep the shape {tuple(original.shape)} and dtype "
            f"{original.dtype}, but its result has {tuple(result.shape)} and {result.dtype}: "
            f"register it with unsafe=True if that is intended")


def _overwrite(own: Tensor, new: Tensor) -> None:
    """Give a Tensor, which stays the same object, the values of another one."""
    if raw(new) is own.array:
        return
    if new.shape == own.shape:
        write(own.array, raw(new))
        if isinstance(own, Parameter):
            own.touch()
    else:
        own.array = raw(new).copy()
        own.gradient = None


def _like(original: Tensor, values: Tensor) -> Tensor:
    """A Parameter if the original is one, else a Tensor, in the words of the original."""
    copied = Tensor(raw(values).copy())
    made = Parameter(copied, original.requires_grad) if isinstance(original, Parameter) else copied
    dialect = dialects.get(type(original))
    return made if dialect is None else dialect.leave(made)


def _set(module: Module, name: str, tensor: Tensor) -> None:
    if isinstance(tensor, Parameter):
        setattr(module, name, tensor)
    else:
        module.register_buffer(name, tensor)


def _forget_buffer(module: Module, name: str) -> None:
    others = {n: p for n, p in module._buffer_persistence.items() if n != name}
    module._buffer_persistence = others
