"""Elementwise bodies, written once as plain functions on ``xp``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop.autograd import beside
from gpuprop.backend import BY_TYPE, SEVERAL, get_backend
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
        if SEVERAL:
            with beside(arrays):
                return (plain if is_generic() else run)(xp, *arrays, **constants)
        return (plain if is_generic() else run)(xp, *arrays, **constants)

    call.fn = fn  # type: ignore[attr-defined]
    return call


def rounded_once(fn: Callable) -> Callable:
    """The body as it is, but with half types computed in float32: what it returns or updates is rounded once."""

    @functools.wraps(fn)
    def run(xp: Any, *arrays: Any, **constants: Any) -> Any:
        half = half_type(arrays)
        if half is None:
            return fn(xp, *arrays, **constants)
        dtypes = result_types(functools.partial(fn, **constants), arrays)
        wide = {id(a): widened(a) for a in arrays if type(a) in BY_TYPE}  # one, where an array is given twice
        results = fn(xp, *[wide.get(id(a), a) for a in arrays], **constants)
        for a in {id(a): a for a in arrays if type(a) in BY_TYPE and a.dtype == half}.values():
            if getattr(a.flags, "writeable", True):
                a[...] = wide[id(a)]  # the body may have updated it; to find out, the host would have to wait
        rounded = [r.astype(half) if is_half(dtype) else r for r, dtype in zip(several(results), dtypes, strict=True)]
        return tuple(rounded) if type(results) is tuple else rounded[0] if rounded else None

    return run


def half_type(arrays: Sequence) -> Any:
    """The half type among the arrays, or None; two of them do not go together."""
    types = {a.dtype for a in arrays if type(a) in BY_TYPE and is_half(a.dtype)}
    if len(types) > 1:
        raise TypeError("float16 and bfloat16 in one elementwise expression: cast one of them")
    return types.pop() if types else None


def is_half(dtype: Any) -> bool:
    return dtype.char in HALF


def result_types(body: Callable, arrays: Sequence) -> list[Any]:
    """The dtypes of what ``body(xp, *arrays)`` returns, as NumPy has them.

    It is asked with arrays without elements; float16 stands for bfloat16, which NumPy would widen beside a number.
    """
    empty = lambda a: np.empty(0, "float16" if is_half(a.dtype) else a.dtype) if type(a) in BY_TYPE else a
    return [r.dtype for r in several(body(get_backend("numpy").xp, *map(empty, arrays)))]


def several(results: Any) -> tuple:
    return results if type(results) is tuple else () if results is None else (results,)
