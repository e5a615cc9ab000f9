"""What every `xp` has beside NumPy's names, and portable versions of it for backends that do not bring their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuprop._core.backend import Backend

NAMES = "erf erfc erfinv lgamma digamma polygamma sigmoid index_add check".split()


class Namespace:
    """The names of an array library's module, and functions in place of them or beside them."""

    def __init__(self, module: Any, **functions: Any) -> None:
        self._module = module
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        value = vars(self)[name] = getattr(self._module, name)  # found at once the next time
        return value


def complete(backend: Backend, host: Backend) -> None:
    """Add to `backend.xp` what it lacks of `NAMES`."""
    missing = [name for name in NAMES if not hasattr(backend.xp, name)]
    if missing:
        portable: dict[str, Callable] = {"check": backend.check, "sigmoid": functools.partial(_sigmoid, backend.xp)}
        backend.xp = Namespace(backend.xp, **{
            name: portable.get(name) or _computed_on_host(name, backend, host) for name in missing})


def _sigmoid(xp: Any, x: Any) -> Any:
    return 1 / (1 + xp.exp(-x))


def _computed_on_host(name: str, backend: Backend, host: Backend) -> Callable:
    """A function of the host's namespace, on copies of the arguments: right everywhere, but it waits for the device."""
    function = getattr(host.xp, name)
    to_host = lambda a: backend.to_numpy(a) if type(a) is backend.array_type else a

    def compute(target: Any, *args: Any) -> Any:
        return backend.asarray(function(to_host(target), *map(to_host, args)))

    def add_in_place(target: Any, *args: Any) -> Any:
        target[...] = compute(target, *args)
        return target

    return add_in_place if name == "index_add" else compute
