"""Functions composed of ops, which take plain arrays too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, overload

from gpuprop._core.dtypes import is_float, is_half, widened
from gpuprop._core.placement import on_device_of
from gpuprop._core.tensor import Tensor

P = ParamSpec("P")


@overload
def composed(fn: Callable[P, Any]) -> Callable[P, Any]: ...
@overload
def composed(*, full: bool) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...
def composed(fn: Any = None, *, full: bool = False) -> Any:
    """Let `fn`, made of ops and operators of Tensors, take plain arrays too.

    Called with plain arrays alone, the function returns an array.  All of it runs on the device of
    its arrays.  With `full`, half types are computed in float32 from the first op to the last, and
    results are rounded once.
    """
    if fn is None:
        return functools.partial(composed, full=full)

    def as_tensor(a: Any) -> Any:
        return Tensor(a) if hasattr(a, "shape") and not isinstance(a, Tensor) else a

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        arrays = [a for a in (*args, *kwargs.values()) if hasattr(a, "shape")]
        half = None
        if full:
            dtypes = {a.dtype for a in arrays if is_float(a.dtype)}
            half = next(iter(dtypes)) if set(map(is_half, dtypes)) == {True} else None
        widen = lambda a: widened(as_tensor(a)) if hasattr(a, "shape") else a
        given = widen if half else as_tensor
        with on_device_of(arrays):
            out = fn(*map(given, args), **{k: given(v) for k, v in kwargs.items()})
            if half is not None:
                narrow = lambda t: t.astype(half) if t.dtype == "float32" else t
                out = tuple(map(narrow, out)) if isinstance(out, tuple) else narrow(out)
        return out if any(isinstance(a, Tensor) for a in arrays) else out.data

    return call
