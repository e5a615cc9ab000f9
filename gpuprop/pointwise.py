"""Elementwise bodies, written once as plain functions on ``xp``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuprop.autograd import is_float
from gpuprop.backend import BY_TYPE
from gpuprop.mode import HALF, is_generic, widened


def pointwise(fn: Callable) -> Any:
    """Let the backend of the first array run ``fn(xp, *arrays, **constants)`` as one pass over memory.

    The body computes every element from the elements at its own place: arithmetic, comparisons and `xp`'s elementwise
    functions on arrays that broadcast together and on Python numbers.  It returns new arrays, updates its own arguments
    with ``+=`` and its kin, or both; it sees no shape, no index and no value, so it has no ``if`` on data.  What
    changes from step to step is a 0-d array, what changes from call to call may be a Python number among the arrays;
    keyword constants are baked in.
    """
    runners: dict[type, Callable] = {}
    plain = rounded_once(fn)

    @functools.wraps(fn)
    def call(xp: Any, *arrays: Any, **constants: Any) -> Any:
        kind = type(arrays[0])
        run = runners.get(kind)
        if run is None:
            backend = BY_TYPE.get(kind)  # Tensors and tracers run the body as it is
            run = runners[kind] = fn if backend is None else backend.pointwise(fn)
        return (plain if is_generic() else run)(xp, *arrays, **constants)

    call.fn = fn  # type: ignore[attr-defined]
    return call


def rounded_once(fn: Callable) -> Callable:
    """The body as it is, but with half types computed in float32: what it returns or updates is rounded once."""

    @functools.wraps(fn)
    def run(xp: Any, *arrays: Any, **constants: Any) -> Any:
        halves = [a for a in arrays if type(a) in BY_TYPE and a.dtype.char in HALF]
        if not halves:
            return fn(xp, *arrays, **constants)
        dtype = halves[0].dtype
        if any(a.dtype != dtype for a in halves):
            raise TypeError("float16 and bfloat16 in one elementwise expression: cast one of them")
        wide = [widened(a) if type(a) in BY_TYPE else a for a in arrays]
        results = fn(xp, *wide, **constants)
        for a, w in zip(arrays, wide, strict=True):
            if w is not a and getattr(a.flags, "writeable", True):
                a[...] = w  # the body may have updated it; to find out, the host would have to wait
        if any(type(a) in BY_TYPE and a.dtype.char not in HALF and is_float(a.dtype) for a in arrays):
            return results  # of the wider type
        rounded = lambda r: r.astype(dtype) if hasattr(r, "dtype") and r.dtype == "float32" else r
        return tuple(map(rounded, results)) if type(results) is tuple else rounded(results)

    return run
