"""What every `xp` has beside NumPy's names, and portable versions of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from gpuprop._core.backend import Backend
from gpuprop._core.dtypes import is_half, widened

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
    """Add to `backend.xp` what it lacks of `NAMES`, and a `matmul` for half types if it has none.

    NumPy's own `matmul` takes no bfloat16, and rounds half types where ``dtype="float32"`` asks
    for the sums as they are.
    """
    xp = backend.xp
    portable: dict[str, Callable] = {
        "check": backend.check, "sigmoid": functools.partial(_sigmoid, xp)}
    added = {name: portable.get(name) or _computed_on_host(name, backend, host)
             for name in NAMES if not hasattr(xp, name)}
    if isinstance(xp, ModuleType) or "matmul" not in vars(xp):
        added["matmul"] = functools.partial(_matmul, xp)
    if added:
        backend.xp = Namespace(xp, **added)


def _matmul(xp: Any, a: Any, b: Any, dtype: Any = None) -> Any:
    """The matrix product; half types are summed in float32 and rounded once."""
    if not (is_half(a.dtype) or is_half(b.dtype)):
        y = xp.matmul(a, b)
    else:
        y = xp.matmul(widened(a), widened(b))
        dtype = dtype or (a.dtype if a.dtype == b.dtype else y.dtype)
    return y if dtype is None else y.astype(dtype, copy=False)


def _sigmoid(xp: Any, x: Any) -> Any:
    return 1 / (1 + xp.exp(-x))


def _computed_on_host(name: str, backend: Backend, host: Backend) -> Callable:
    """A function of the host's namespace on copies of the arguments: it waits for the device."""
    function = getattr(host.xp, name)
    to_host = lambda a: backend.to_numpy(a) if type(a) is backend.array_type else a

    def compute(target: Any, *args: Any) -> Any:
        return backend.asarray(function(to_host(target), *map(to_host, args)))

    def add_in_place(target: Any, *args: Any) -> Any:
        target[...] = compute(target, *args)
        return target

    return add_in_place if name == "index_add" else compute
