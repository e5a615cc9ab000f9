"""Elementwise bodies, written once as plain functions on ``xp``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuprop.backend import BY_TYPE
from gpuprop.mode import is_generic


def pointwise(fn: Callable) -> Any:
    """Let the backend of the first array run ``fn(xp, *arrays, **constants)`` as one pass over memory.

    The body computes every element from the elements at its own place: arithmetic, comparisons and `xp`'s elementwise
    functions on arrays that broadcast together and on Python numbers.  It returns new arrays, updates its own arguments
    with ``+=`` and its kin, or both; it sees no shape, no index and no value, so it has no ``if`` on data.  What
    changes from step to step is a 0-d array; keyword constants are baked in.
    """
    runners: dict[type, Callable] = {}

    @functools.wraps(fn)
    def call(xp: Any, *arrays: Any, **constants: Any) -> Any:
        kind = type(arrays[0])
        run = runners.get(kind)
        if run is None:
            backend = BY_TYPE.get(kind)  # Tensors and tracers run the body as it is
            run = runners[kind] = fn if backend is None else backend.pointwise(fn)
        return (fn if is_generic() else run)(xp, *arrays, **constants)

    call.fn = fn  # type: ignore[attr-defined]
    return call
