"""The functions that every `xp` has in addition to NumPy's, and portable versions of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from gpuprop._core.backend import Backend
from gpuprop._core.dtypes import is_half, widened

NAMES = "erf erfc erfinv lgamma digamma polygamma sigmoid index_add check".split()


class Namespace:
    """The names of a module, and functions that replace some of them or are added to them."""

    def __init__(self, module: Any, **functions: Any) -> None:
        self._module = module
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        vars(self)[name] = value  # the next look-up does not come here
        return value


def complete(backend: Backend, host: Backend) -> None:
    """Add to `backend.xp` the functions of `NAMES` that it lacks, and a `matmul` for half types.

    A `matmul` that the backend's own `Namespace` defines stays.  A library's `matmul` may lack
    bfloat16, and may round the sums of half types although ``dtype="float32"`` requests them.
    """
    xp = backend.xp
    portable: dict[str, Callable] = {
        "check": backend.check,
        "sigmoid": functools.partial(_sigmoid, xp),
    }
    added = {}
    for name in NAMES:
        if not hasattr(xp, name):
            added[name] = portable.get(name) or _computed_on_host(name, backend, host)
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
    """A function of the host's namespace, applied to copies; it waits for the device."""
    function = getattr(host.xp, name)
    to_host = lambda a: backend.to_numpy(a) if type(a) is backend.array_type else a

    def compute(*args: Any) -> Any:
        return backend.asarray(function(*map(to_host, args)))

    def compute_in_place(target: Any, *args: Any) -> Any:
        target[...] = compute(target, *args)
        return target

    return compute_in_place if name == "index_add" else compute
