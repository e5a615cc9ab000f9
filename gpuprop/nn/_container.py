"""Containers of modules and parameters."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

from gpuprop._core.checks import as_instance, as_integer
from gpuprop._core.options import names_class
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.nn._module import Module, check_name


def _checked(container: _List | _Dict, entry: Any) -> Any:
    """`entry`; a Tensor becomes a Parameter in a list or dict of these, as in PyTorch."""
    kind = container._entry_type
    if kind is Parameter and isinstance(entry, Tensor) and not isinstance(entry, Parameter):
        return Parameter(entry)
    return as_instance(f"{type(container).__name__}: an entry", entry, kind, f"a {kind.__name__}")


class _List(Module):
    """Abstract: a list whose entries are the attributes "0", "1", ..., as in PyTorch."""

    _entry_type: ClassVar[type] = Module
    _only_numbered: ClassVar[bool] = True  # False if an entry may have any name

    @names_class
    def __init__(self, entries: Iterable = ()) -> None:
        self.extend(entries)

    def append(self, entry: Any) -> Self:
        """Add an entry at the end; returns the container."""
        return self.extend([entry])

    def extend(self, entries: Iterable) -> Self:
        """Add entries at the end; returns the container."""
        what = f"{type(self).__name__}: entries"
        expected = f"a list of {self._entry_type.__name__}s"
        new = [_checked(self, entry) for entry in as_instance(what, entries, Iterable, expected)]
        number = len(self)
        for entry in new:
            while str(number) in vars(self):  # an entry of a Sequential with this name
                number += 1
            setattr(self, str(number), entry)
            number += 1
        return self

    def insert(self, index: int, entry: Any) -> Self:
        """Insert an entry before `index`; returns the container."""
        index = as_integer(f"{type(self).__name__}.insert: index", index)
        if index >= len(self):
            return self.append(entry)
        entries = list(self)
        entries.insert(index, entry)
        _renumber(self, entries)
        return self

    def pop(self, index: int = -1) -> Any:
        """Remove and return an entry."""
        entry = self[index]
        del self[index]
        return entry

    def __getitem__(self, index: int | slice) -> Any:
        if not isinstance(index, slice):
            return list(self)[operator.index(index)]
        names = list(_entries(self))
        part_names = names[index]
        if names == _numbers(len(names)):
            part_names = _numbers(len(part_names))
        part = type(self)()
        _set_entries(part, part_names, list(self)[index])
        return part

    def __setitem__(self, index: int | slice, entry: Any) -> None:
        if isinstance(index, slice):
            entries = list(self)
            entries[index] = entry
            _renumber(self, entries)
        else:
            setattr(self, list(_entries(self))[operator.index(index)], _checked(self, entry))

    def __delitem__(self, index: int | slice) -> None:
        entries = list(self)
        del entries[index]
        _renumber(self, entries)

    def __len__(self) -> int:
        return len(_entries(self))

    def __iter__(self) -> Iterator:
        return iter(_entries(self).values())

    def __contains__(self, entry: object) -> bool:
        return any(entry is e for e in self)


def _entries(container: _List | _Dict) -> dict[str, Any]:
    """The entries of a container by name."""
    attributes = vars(container).items()
    if isinstance(container, _List) and container._only_numbered:
        return {name: value for name, value in attributes if name.isdigit()}
    return {name: value for name, value in attributes if isinstance(value, container._entry_type)}


def _set_entries(container: _List, names: Iterable[str], entries: Iterable) -> None:
    """Replace all entries."""
    entries = [_checked(container, entry) for entry in entries]
    for name in _entries(container):
        delattr(container, name)
    for name, entry in zip(names, entries, strict=True):
        setattr(container, name, entry)


def _renumber(container: _List, entries: list) -> None:
    """Replace all entries by others with the names "0", "1", ..."""
    _set_entries(container, _numbers(len(entries)), entries)


def _numbers(count: int) -> list[str]:
    return [str(i) for i in range(count)]


class ModuleList(_List):
    """A list of modules, whose parameters are registered with the model.  It has no forward.

    It has most methods of a list; a slice is a ModuleList.

    >>> from gpuprop import nn
    >>> layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """


class ParameterList(_List):
    """A list of parameters, which are registered with the model.  Tensors become Parameters."""

    _entry_type = Parameter

    def extra_repr(self) -> str:
        return ", ".join(f"{i}: {p.shape}" for i, p in enumerate(self))


class Sequential(_List):
    """Modules that are called in order, each with the output of the previous one.

    Write ``Sequential(a, b)``, or ``Sequential({"first": a, "second": b})`` to name the modules.

    >>> from gpuprop import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model(gpuprop.ones(3, 4)).shape
    (3, 2)
    >>> model[1]
    ReLU()
    """

    _only_numbered = False

    def __init__(self, *modules: Any) -> None:
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                check_name(self, name)
                setattr(self, name, _checked(self, module))
        else:
            super().__init__(modules)

    def forward(self, input: Any) -> Any:
        for module in [v for v in vars(self).values() if isinstance(v, Module)]:
            input = module(input)
        return input


class _Dict(Module):
    """Abstract: a dict whose entries are attributes."""

    _entry_type: ClassVar[type] = Module

    @names_class
    def __init__(self, entries: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        self.update(entries)

    def update(self, entries: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        """Add or replace entries."""
        try:
            pairs = dict(entries)
        except (TypeError, ValueError):
            raise TypeError(f"{type(self).__name__}: entries must be a dict, or pairs of a name "
                            f"and a {self._entry_type.__name__}, got {entries!r}") from None
        for name, entry in pairs.items():
            self[name] = entry

    def keys(self) -> Iterable[str]:
        """The names."""
        return _entries(self).keys()

    def values(self) -> Iterable:
        """The entries."""
        return _entries(self).values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, entry) pairs."""
        return _entries(self).items()

    def pop(self, name: str) -> Any:
        """Remove and return an entry."""
        entry = self[name]
        del self[name]
        return entry

    def __getitem__(self, name: str) -> Any:
        return _entries(self)[name]

    def __setitem__(self, name: str, entry: Any) -> None:
        check_name(self, name)
        setattr(self, name, _checked(self, entry))

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        delattr(self, name)

    def __len__(self) -> int:
        return len(_entries(self))

    def __iter__(self) -> Iterator[str]:
        return iter(_entries(self))

    def __contains__(self, name: object) -> bool:
        return name in _entries(self)


class ModuleDict(_Dict):
    """A dict of modules, whose parameters are registered with the model.  It has no forward.

    A name cannot contain a dot or be an attribute of the class, such as "keys".
    """


class ParameterDict(_Dict):
    """A dict of parameters, which are registered with the model.  Tensors become Parameters.

    A name cannot contain a dot or be an attribute of the class, such as "keys".
    """

    _entry_type = Parameter

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: {p.shape}" for name, p in self.items())
