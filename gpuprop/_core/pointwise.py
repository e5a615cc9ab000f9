"""Elementwise bodies, written once as plain functions on ``xp``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

import numpy as np

from gpuprop._core.backend import BY_TYPE, SEVERAL
from gpuprop._core.dtypes import is_half, widened
from gpuprop._core.mode import is_generic
from gpuprop._core.ops import Op, op
from gpuprop._core.placement import on_device_of
from gpuprop._core.registry import HOST, get_backend
from gpuprop._core.signature import REQUIRED, parameters

F = TypeVar("F", bound=Callable)
P = ParamSpec("P")


def pointwise(fn: F) -> F:
    """Let the backend of the first array run ``fn(xp, *arrays, **constants)`` in one pass.

    The body computes each element of the result from the elements at the same position: with
    arithmetic, comparisons and `xp`'s elementwise functions, on arrays that broadcast together and
    Python numbers.  It returns new arrays, or updates its arguments with ``+=`` and the like, or
    both.  It uses no shape, no index and no ``if`` on data.  What changes from step to step is a
    0-d array, what changes from call to call may be a Python number among the arrays; keyword
    constants are compiled in.

    >>> @gpuprop.pointwise
    ... def scaled_sum(xp, a, b, *, scale):
    ...     return (a + b) * scale
    >>> scaled_sum(np, np.array([1.0, 2.0]), np.array([3.0, 4.0]), scale=10)
    array([40., 60.])
    """
    runners: dict[type, Callable] = {}
    plain = rounded_once(fn)

    @functools.wraps(fn)
    def call(xp: Any, *arrays: Any, **constants: Any) -> Any:
        kind = type(arrays[0])
        run = runners.get(kind)
        if run is None:
            backend = BY_TYPE.get(kind)  # Tensors and tracers run the body as it is
            run = runners[kind] = fn if backend is None else backend._pointwise(fn) or plain
        if SEVERAL:
            with on_device_of(arrays):
                return (plain if is_generic() else run)(xp, *arrays, **constants)
        return (plain if is_generic() else run)(xp, *arrays, **constants)

    call.fn = fn  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


# ---- an op of pointwise bodies -------------------------------------------------------------------


class PointwiseOp(Op[P], Protocol[P]):
    """A function that `pointwise_op` made of a body."""

    def backward(self, body: F) -> F: ...

    def backward_from_output(self, body: F) -> F: ...


@overload
def pointwise_op(fn: Callable[Concatenate[Any, P], Any]) -> PointwiseOp[P]: ...
@overload
def pointwise_op(*, precision: str | None = None, name: str | None = None,
                 ) -> Callable[[Callable[Concatenate[Any, P], Any]], PointwiseOp[P]]: ...


def pointwise_op(fn: Any = None, *, precision: str | None = None, name: str | None = None) -> Any:
    """Make an op of ``fn(xp, input: Array, ..., alpha=1.0)``, a `pointwise` body.

    ``@name.backward``, once for each array, marks its gradient: a pointwise body of the same
    arrays, `dy` and the constants.  ``@name.backward_from_output`` marks one of the output, `dy`
    and the constants, so that the arrays need not be kept.  A constant called `inplace` is accepted
    and ignored.
    """
    if fn is None:
        return functools.partial(pointwise_op, precision=precision, name=name)
    forward = pointwise(fn)
    defaults = {p.name: p.default for p in parameters(fn) if p.default is not REQUIRED}
    slopes: list[tuple[Callable, bool]] = []

    @functools.wraps(fn)
    def body(xp: Any, *arrays: Any, **constants: Any) -> tuple:
        constants = defaults | constants
        constants.pop("inplace", None)
        output = forward(xp, *arrays, **constants)
        pullbacks = [
            functools.partial(slope, xp, *((output,) if of_output else arrays), **constants)
            for slope, of_output in slopes]
        return output, tuple(pullbacks)

    def backward(slope: Callable, of_output: bool = False) -> Callable:
        slopes.append((pointwise(slope), of_output))
        return slope

    call: Any = op(precision=precision, half="exact", name=name)(body)
    call.backward, call.backward_from_output = backward, functools.partial(backward, of_output=True)
    return call


# ---- half types ----------------------------------------------------------------------------------


def rounded_once(fn: Callable) -> Callable:
    """The body, with half types computed in float32: what it returns or updates is rounded once."""

    @functools.wraps(fn)
    def run(xp: Any, *arrays: Any, **constants: Any) -> Any:
        half = half_type(arrays)
        if half is None:
            return fn(xp, *arrays, **constants)
        dtypes = result_types(functools.partial(fn, **constants), arrays)
        # one copy of an array that is given twice
        wide = {id(a): widened(a) for a in arrays if type(a) in BY_TYPE}
        results = fn(xp, *[wide.get(id(a), a) for a in arrays], **constants)
        for a in {id(a): a for a in arrays if type(a) in BY_TYPE and a.dtype == half}.values():
            if getattr(a.flags, "writeable", True):
                a[...] = wide[id(a)]  # the body may have updated it: only a wait would tell
        rounded = [r.astype(half) if is_half(dtype) else r
                   for r, dtype in zip(several(results), dtypes, strict=True)]
        return tuple(rounded) if type(results) is tuple else rounded[0] if rounded else None

    return run


def half_type(arrays: Sequence) -> Any:
    """The half type among the arrays, or None.  Raises TypeError for two of them."""
    types = {a.dtype for a in arrays if type(a) in BY_TYPE and is_half(a.dtype)}
    if len(types) > 1:
        raise TypeError("float16 and bfloat16 in one elementwise expression: cast one of them")
    return types.pop() if types else None


def result_types(body: Callable, arrays: Sequence) -> list[Any]:
    """The dtypes of what ``body(xp, *arrays)`` returns, as NumPy has them.

    The body is called with arrays without elements.  float16 stands for bfloat16, which NumPy
    would widen beside a number.
    """

    def empty(a: Any) -> Any:
        if type(a) not in BY_TYPE:
            return a
        return np.empty(0, "float16" if is_half(a.dtype) else a.dtype)

    return [r.dtype for r in several(body(get_backend(HOST).xp, *map(empty, arrays)))]


def several(results: Any) -> tuple:
    return results if type(results) is tuple else () if results is None else (results,)
