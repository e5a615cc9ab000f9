"""Containers of modules and parameters."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

from gpuprop._core.tensor import Parameter
from gpuprop.nn._module import Module


def _check_type(container: Module, entry: Any, expected: type) -> None:
    if not isinstance(entry, expected):
        raise TypeError(f"{type(container).__name__} holds {expected.__name__}s, but got an entry "
                        f"of type {type(entry).__name__}")


class _List(Module):
    """Abstract: a list whose entries are the attributes "0", "1", ..., as in PyTorch."""

    _entry_type: ClassVar[type] = Module

    def __init__(self, entries: Iterable = ()) -> None:
        self.extend(entries)

    def _entries(self) -> list:
        return [v for name, v in vars(self).items() if name.isdigit()]

    def _replace_entries(self, entries: Iterable) -> None:
        entries = list(entries)
        for entry in entries:
            _check_type(self, entry, self._entry_type)
        for name in [n for n in vars(self) if n.isdigit()]:
            delattr(self, name)
        for i, entry in enumerate(entries):
            setattr(self, str(i), entry)

    def append(self, entry: Any) -> Self:
        """Add an entry at the end; returns the container."""
        self._replace_entries([*self._entries(), entry])
        return self

    def extend(self, entries: Iterable) -> Self:
        """Add entries at the end; returns the container."""
        self._replace_entries([*self._entries(), *entries])
        return self

    def insert(self, index: int, entry: Any) -> Self:
        """Insert an entry before `index`; returns the container."""
        entries = self._entries()
        entries.insert(index, entry)
        self._replace_entries(entries)
        return self

    def pop(self, index: int = -1) -> Any:
        """Remove and return an entry."""
        entry = self._entries()[index]
        del self[index]
        return entry

    def __getitem__(self, index: int | slice) -> Any:
        if not isinstance(index, slice):
            return self._entries()[operator.index(index)]
        part = type(self)()
        part._replace_entries(self._entries()[index])
        return part

    def __setitem__(self, index: int, entry: Any) -> None:
        entries = self._entries()
        entries[index] = entry
        self._replace_entries(entries)

    def __delitem__(self, index: int | slice) -> None:
        entries = self._entries()
        del entries[index]
        self._replace_entries(entries)

    def __len__(self) -> int:
        return len(self._entries())

    def __iter__(self) -> Iterator:
        return iter(self._entries())

    def __contains__(self, entry: object) -> bool:
        return any(entry is e for e in self._entries())


class ModuleList(_List):
    """A list of modules, whose parameters are registered with the model.  It has no forward.

    It has most methods of a list; a slice is a ModuleList.

    >>> from gpuprop import nn
    >>> layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """


class ParameterList(_List):
    """A list of parameters, which are registered with the model."""

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

    def __init__(self, *modules: Any) -> None:
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                setattr(self, name, module)
        else:
            super().__init__(modules)

    def _entries(self) -> list:
        return [v for v in vars(self).values() if isinstance(v, Module)]

    def forward(self, input: Any) -> Any:
        for module in self._entries():
            input = module(input)
        return input


class _Dict(Module):
    """Abstract: a dict whose entries are attributes."""

    _entry_type: ClassVar[type] = Module

    def __init__(self, entries: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        self.update(entries)

    def _entries(self) -> dict[str, Any]:
        attributes = vars(self).items()
        return {name: value for name, value in attributes if isinstance(value, self._entry_type)}

    def update(self, entries: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        """Add or replace entries."""
        for name, entry in dict(entries).items():
            self[name] = entry

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._entries().keys()

    def values(self) -> Iterable:
        """The entries."""
        return self._entries().values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, entry) pairs."""
        return self._entries().items()

    def pop(self, name: str) -> Any:
        """Remove and return an entry."""
        entry = self[name]
        del self[name]
        return entry

    def __getitem__(self, name: str) -> Any:
        return self._entries()[name]

    def __setitem__(self, name: str, entry: Any) -> None:
        _check_type(self, entry, self._entry_type)
        if hasattr(type(self), name) or "." in name:
            raise KeyError(f"{type(self).__name__}: an entry cannot have the name {name!r}, which "
                           f"is an attribute of the class or contains a dot")
        setattr(self, name, entry)

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        delattr(self, name)

    def __len__(self) -> int:
        return len(self._entries())

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries())

    def __contains__(self, name: object) -> bool:
        return name in self._entries()


class ModuleDict(_Dict):
    """A dict of modules, whose parameters are registered with the model.  It has no forward.

    A name cannot contain a dot or be an attribute of the class, such as "keys".
    """


class ParameterDict(_Dict):
    """A dict of parameters, which are registered with the model.

    A name cannot contain a dot or be an attribute of the class, such as "keys".
    """

    _entry_type = Parameter

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: {p.shape}" for name, p in self.items())
