"""Two ways to make a function: an op from elementwise bodies, and a composition of ops."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from gpuprop.autograd import Tensor, beside, is_float
from gpuprop.mode import HALF, widened
from gpuprop.ops import op
from gpuprop.pointwise import pointwise


def elementwise(fn: Any = None, *, precision: str | None = None) -> Any:
    """Make an op of ``fn(xp, input: Array, ..., alpha=1.0)``, a `pointwise` body.

    ``@name.backward``, once for each array, is its gradient: a pointwise body of the same arrays, `dy` and the
    constants.  One that begins with `output` gets this in place of the arrays, which then need not be kept.  A constant
    called `inplace` is accepted and ignored.
    """
    if fn is None:
        return functools.partial(elementwise, precision=precision)
    forward = pointwise(fn)
    defaults = {p.name: p.default for p in inspect.signature(fn).parameters.values() if p.default is not p.empty}
    slopes: list[tuple[Callable, bool]] = []

    @functools.wraps(fn)
    def body(xp: Any, *arrays: Any, **constants: Any) -> tuple:
        constants = defaults | constants
        constants.pop("inplace", None)
        output = forward(xp, *arrays, **constants)
        return output, tuple([functools.partial(slope, xp, *((output,) if of_output else arrays), **constants)
                              for slope, of_output in slopes])

    def backward(slope: Callable) -> Callable:
        slopes.append((pointwise(slope), "output" in inspect.signature(slope).parameters))
        return slope

    call = op(body, precision=precision, half="exact")
    call.backward = backward
    return call


def composed(fn: Any = None, *, full: bool = False) -> Any:
    """Let `fn`, made of ops and operators of Tensors, take plain arrays too; of these alone it makes an array.

    All of it runs on the device of its arrays.  With `full` half types are computed in float32 from the first op to
    the last, and results rounded once.
    """
    if fn is None:
        return functools.partial(composed, full=full)

    def lifted(a: Any) -> Any:
        return Tensor(a) if hasattr(a, "shape") and not isinstance(a, Tensor) else a

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        arrays = [a for a in (*args, *kwargs.values()) if hasattr(a, "shape")]
        half = None
        if full:
            dtypes = {a.dtype for a in arrays if is_float(a.dtype)}
            half = next(iter(dtypes)) if {dtype.char in HALF for dtype in dtypes} == {True} else None
        given = (lambda a: widened(lifted(a)) if hasattr(a, "shape") else a) if half else lifted
        with beside(arrays):
            out = fn(*map(given, args), **{k: given(v) for k, v in kwargs.items()})
            if half is not None:
                narrow = lambda t: t.astype(half) if t.dtype == "float32" else t
                out = tuple(map(narrow, out)) if isinstance(out, tuple) else narrow(out)
        return out if any(isinstance(a, Tensor) for a in arrays) else out.data

    return call
