"""Modules and parameters in order, or by name."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gpuprop._core.tensor import Parameter
from gpuprop.nn._module import Module


class _List(Module):
    """Abstract: entries are the attributes "0", "1", ..., as PyTorch names them in a state_dict."""

    kind: type = Module

    def __init__(self, entries: Iterable = ()) -> None:
        self.extend(entries)

    def _entries(self) -> list:
        return [v for name, v in vars(self).items() if name.isdigit()]

    def _renew(self, entries: Iterable) -> None:
        entries = list(entries)
        for entry in entries:
            if not isinstance(entry, self.kind):
                raise TypeError(f"{type(self).__name__} holds {self.kind.__name__}s, not {type(entry).__name__}")
        for name in [n for n in vars(self) if n.isdigit()]:
            delattr(self, name)
        for i, entry in enumerate(entries):
            setattr(self, str(i), entry)

    def append(self, entry: Any) -> Any:
        self._renew([*self._entries(), entry])
        return self

    def extend(self, entries: Iterable) -> Any:
        self._renew([*self._entries(), *entries])
        return self

    def insert(self, index: int, entry: Any) -> Any:
        entries = self._entries()
        entries.insert(index, entry)
        self._renew(entries)
        return self

    def pop(self, index: int = -1) -> Any:
        entry = self._entries()[index]
        del self[index]
        return entry

    def __getitem__(self, index: int | slice) -> Any:
        if not isinstance(index, slice):
            return self._entries()[operator.index(index)]
        part = type(self)()
        part._renew(self._entries()[index])
        return part

    def __setitem__(self, index: int, entry: Any) -> None:
        entries = self._entries()
        entries[index] = entry
        self._renew(entries)

    def __delitem__(self, index: int | slice) -> None:
        entries = self._entries()
        del entries[index]
        self._renew(entries)

    def __len__(self) -> int:
        return len(self._entries())

    def __iter__(self) -> Iterator:
        return iter(self._entries())

    def __contains__(self, entry: object) -> bool:
        return any(entry is e for e in self._entries())


class ModuleList(_List):
    """Modules in a list; it has no forward of its own."""


class ParameterList(_List):
    """Parameters in a list."""

    kind = Parameter

    def extra_repr(self) -> str:
        return ", ".join(f"{i}: {p.shape}" for i, p in enumerate(self))


class Sequential(_List):
    """Modules called one after the other on the output before: ``Sequential(a, b)`` or ``Sequential({"name": a})``."""

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
    """Abstract: entries are the attributes of their names."""

    kind: type = Module

    def __init__(self, entries: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        self.update(entries)

    def _entries(self) -> dict[str, Any]:
        return {n: v for n, v in vars(self).items() if isinstance(v, self.kind)}

    def update(self, entries: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        for name, entry in dict(entries).items():
            self[name] = entry

    def keys(self) -> Iterable[str]:
        return self._entries().keys()

    def values(self) -> Iterable:
        return self._entries().values()

    def items(self) -> Iterable[tuple[str, Any]]:
        return self._entries().items()

    def pop(self, name: str) -> Any:
        entry = self[name]
        del self[name]
        return entry

    def __getitem__(self, name: str) -> Any:
        return self._entries()[name]

    def __setitem__(self, name: str, entry: Any) -> None:
        if not isinstance(entry, self.kind):
            raise TypeError(f"{type(self).__name__} holds {self.kind.__name__}s, not {type(entry).__name__}")
        if hasattr(type(self), name) or "." in name:
            raise KeyError(f"{type(self).__name__}: {name!r} cannot be a name: it is a method here, or has a dot")
        setattr(self, name, entry)

    def __delitem__(self, name: str) -> None:
        self[name]
        delattr(self, name)

    def __len__(self) -> int:
        return len(self._entries())

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries())

    def __contains__(self, name: object) -> bool:
        return name in self._entries()


class ModuleDict(_Dict):
    """Modules by name; it has no forward of its own."""


class ParameterDict(_Dict):
    """Parameters by name."""

    kind = Parameter

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: {p.shape}" for name, p in self.items())
