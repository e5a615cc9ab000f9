"""Elementwise functions: bodies on ``xp`` that a backend runs in one pass, and ops of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

import numpy as np

from gpuprop._core.arguments import in_float64
from gpuprop._core.backend import BY_TYPE, MULTI_DEVICE, choices
from gpuprop._core.checks import as_callable, as_element
from gpuprop._core.dtypes import converted, is_float, is_half, widened
from gpuprop._core.mode import is_generic
from gpuprop._core.ops import Op, make_op
from gpuprop._core.placement import on_device_of
from gpuprop._core.registry import HOST, get_backend
from gpuprop._core.signature import REQUIRED, parameters
from gpuprop._core.spec import Spec

F = TypeVar("F", bound=Callable)
P = ParamSpec("P")


def pointwise(fn: F) -> F:
    """Let the backend of the first array run ``fn(xp, *arrays, **constants)`` in one pass.

    The body computes each element of a result from the elements at the same position, by
    arithmetic, comparisons and elementwise functions of `xp`, on arrays that broadcast together and
    Python numbers.  It returns new arrays, or updates its arguments by ``+=`` and the like or by
    ``a[...] = b``, or both.  It uses no shape, no index and no ``if`` on data.  A value that
    changes from step to step is a 0-d array.  A value that changes from call to call may be a
    Python number among the arrays.  Keyword constants are compiled into the code, and so are
    numbers that the body reads from outside, which must not change.

    >>> @gpuprop.pointwise
    ... def scaled_sum(xp, a, b, *, scale):
    ...     return (a + b) * scale
    >>> scaled_sum(np, np.array([1.0, 2.0]), np.array([3.0, 4.0]), scale=10)
    array([40., 60.])
    """
    as_callable("pointwise: the body", fn)
    runners: dict[type, Callable] = {}
    choices.append(runners)
    plain = rounded_once(fn)

    @functools.wraps(fn)
    def call(xp: Any, *arrays: Any, **constants: Any) -> Any:
        array_type = type(arrays[0])
        run = runners.get(array_type)
        if run is None:
            backend = BY_TYPE.get(array_type)  # None for Tensors and tracers: the body itself runs
            run = fn if backend is None else backend._pointwise(fn) or plain
            runners[array_type] = run
        if MULTI_DEVICE:
            with on_device_of(arrays):
                return (plain if is_generic() else run)(xp, *arrays, **constants)
        return (plain if is_generic() else run)(xp, *arrays, **constants)

    call.fn = fn  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


# ---- ops of pointwise bodies ---------------------------------------------------------------------


class PointwiseOp(Op[P], Protocol[P]):
    """A function that `pointwise_op` made of a body."""

    def backward(self, body: F) -> F: ...

    def backward_from_output(self, body: F) -> F: ...


@overload
def pointwise_op(fn: Callable[Concatenate[Any, P], Any]) -> PointwiseOp[P]: ...
@overload
def pointwise_op(*, precision: str | None = None, promote: bool | str = False,
                 name: str | None = None,
                 ) -> Callable[[Callable[Concatenate[Any, P], Any]], PointwiseOp[P]]: ...


def pointwise_op(fn: Any = None, *, precision: str | None = None, promote: bool | str = False,
                 name: str | None = None) -> Any:
    """Make an op of ``fn(xp, input: Array, ..., alpha=1.0)``, a `pointwise` body.

    ``@name.backward`` declares the gradient of an array, and is used once for each array, in order:
    a pointwise body ``(xp, *arrays, dy, **constants)``.  ``@name.backward_from_output`` declares a
    body ``(xp, output, dy, **constants)``, so that the arrays need not be kept.  A constant called
    `inplace` is accepted and ignored.  Integers and bools are cast to float64 if the result is
    floating.
    """
    if fn is None:
        return functools.partial(pointwise_op, precision=precision, promote=promote, name=name)
    forward = pointwise(fn)
    defaults = {p.name: p.default for p in parameters(fn) if p.default is not REQUIRED}
    gradients: list[tuple[Callable, bool]] = []  # (pointwise body, whether it takes the output)

    def completed(constants: dict) -> dict:
        constants = defaults | constants
        constants.pop("inplace", None)
        return constants

    @functools.wraps(fn)
    def body(xp: Any, *arrays: Any, **constants: Any) -> tuple:
        constants = completed(constants)
        output = forward(xp, *arrays, **constants)
        pullbacks = []
        for gradient, from_output in gradients:
            kept = (output,) if from_output else arrays
            pullbacks.append(functools.partial(gradient, xp, *kept, **constants))
        return output, tuple(pullbacks)

    def backward(gradient: Callable, from_output: bool = False) -> Callable:
        gradients.append((pointwise(gradient), from_output))
        return gradient

    def of_integers(arrays: list, constants: dict) -> list:
        constants = completed(constants)
        try:
            results = result_types(functools.partial(fn, **constants), arrays)
        except TypeError:  # such as -x of bools: the call raises it with the name of the op
            return arrays
        if any(map(is_float, results)):
            return in_float64(arrays)
        dtype = next(a.dtype for a in arrays if hasattr(a, "dtype"))
        for key, value in constants.items():
            if isinstance(value, int | np.integer):
                as_element(f"{fn.__name__}: {key}", value, dtype)
        return arrays

    call: Any = make_op(Spec(body, label=name), precision, promote, "exact", of_integers)
    call.backward = backward
    call.backward_from_output = functools.partial(backward, from_output=True)
    return call


# ---- half types ----------------------------------------------------------------------------------


def rounded_once(fn: Callable) -> Callable:
    """The body with half types computed in float32; results and updated arrays are rounded once."""

    @functools.wraps(fn)
    def run(xp: Any, *arrays: Any, **constants: Any) -> Any:
        half = half_type(arrays)
        if half is None:
            return fn(xp, *arrays, **constants)
        dtypes = result_types(functools.partial(fn, **constants), arrays)
        # by id, so that an array given twice has one copy, in which the body sees its own updates
        by_id = {id(a): a for a in arrays if type(a) in BY_TYPE}
        wide = {i: widened(a) for i, a in by_id.items()}
        results = fn(xp, *[wide.get(id(a), a) for a in arrays], **constants)
        for i, a in by_id.items():
            if a.dtype == half and getattr(a.flags, "writeable", True):
                a[...] = wide[i]  # always: a test whether the body updated it would wait
        rounded = [converted(r, half) if is_half(dtype) else r
                   for r, dtype in zip(several(results), dtypes, strict=True)]
        if type(results) is tuple:
            return tuple(rounded)
        return rounded[0] if rounded else None

    return run


def half_type(arrays: Sequence) -> Any:
    """The half type among the arrays, or None.  Raises TypeError for two of them."""
    types = {a.dtype for a in arrays if type(a) in BY_TYPE and is_half(a.dtype)}
    if len(types) > 1:
        raise TypeError("float16 and bfloat16 in one elementwise expression: cast one of them")
    return types.pop() if types else None


def result_types(body: Callable, arrays: Sequence) -> list[Any]:
    """The dtypes of the results of ``body(xp, *arrays)`` by NumPy's promotion rules.

    The body is called with empty arrays.  float16 replaces bfloat16, which NumPy would promote to
    float32 together with a Python number.
    """

    def empty(a: Any) -> Any:
        if type(a) not in BY_TYPE:
            return a
        return np.empty(0, "float16" if is_half(a.dtype) else a.dtype)

    return [r.dtype for r in several(body(get_backend(HOST).xp, *map(empty, arrays)))]


def several(results: Any) -> tuple:
    """The results of a pointwise body as a tuple: a tuple as it is, no result as ``()``."""
    if type(results) is tuple:
        return results
    return () if results is None else (results,)
