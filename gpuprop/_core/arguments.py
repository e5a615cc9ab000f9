"""Arguments of ops that are not simply arrays of one backend, and the casts that ops ask for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.backend import BY_TYPE, SEVERAL, Backend, BackendMismatchError
from gpuprop._core.dtypes import HALF, is_float, widened
from gpuprop._core.graph import level, raw
from gpuprop._core.namespace import Differentiable
from gpuprop._core.placement import on_device_of, on_device_of_arguments
from gpuprop._core.registry import HOST, backend_of, default_backend, get_backend
from gpuprop._core.spec import Spec
from gpuprop._core.tensor import Tensor

NUMBERS = {int, float, bool, type(None)}  # what an op takes in place of arrays


class Resolved(NamedTuple):
    """The arguments of a call as its body takes them."""

    arrays: list
    edges: list  # where the gradient of each goes
    wanted: int  # the number of edges
    owner: Any  # the array type, or the namespace of Tensors


def resolve(spec: Spec, args: tuple) -> Resolved:
    """Resolve nested Tensors, Python numbers only, and arrays of other types.

    Raises TypeError for what is no array, BackendMismatchError for arrays of two backends.  Among
    Tensors of several depths the deepest ones are differentiated; to these the others are
    constants, with a history of their own.
    """
    deepest = max(map(level, args), default=0)
    now = [isinstance(a, Tensor) and level(a) == deepest for a in args]
    bare = [a if isinstance(a, Tensor) else _bare(a, spec, i) for i, a in enumerate(args)]
    backend = _owner(spec, [raw(a) for a in bare])
    arrays = [a.data if inner else a for a, inner in zip(bare, now, strict=True)]
    edges = [(a.node or a) if inner and a.requires_grad else None
             for a, inner in zip(bare, now, strict=True)]
    wanted = sum(edge is not None for edge in edges)
    if deepest > 1:
        arrays = [Tensor(a) if type(a) is backend.array_type else a for a in arrays]
        return Resolved(arrays, edges, wanted, Differentiable(backend.xp))
    if not any(type(a) is backend.array_type for a in arrays):  # numbers only
        arrays = [a if a is None else backend.asarray(a, "float32" if type(a) is float else None)
                  for a in arrays]
    return Resolved(arrays, edges, wanted, backend.array_type)


def _bare(a: Any, spec: Spec, i: int) -> Any:
    """NumPy's scalars as Python numbers, and array subclasses as their base class."""
    if isinstance(a, np.generic):
        return a.item() if a.dtype.kind in "biuf" else np.asarray(a)
    if isinstance(a, np.ndarray):
        return get_backend(HOST).asarray(a)
    if isinstance(a, int | float) and type(a) not in NUMBERS:  # an IntEnum, a Tensor's size
        return int(a) if isinstance(a, int) else float(a)
    if type(a) not in NUMBERS and type(a) not in BY_TYPE:
        try:
            backend_of(a)
        except TypeError:
            kind = f"{type(a).__module__}.{type(a).__qualname__}".removeprefix("builtins.")
            shared = ", or with gpuprop.from_dlpack(...), which makes no copy"
            raise TypeError(
                f"{spec.label(None)}(): {spec.argument(i)!r} must be a Tensor, an array or a "
                f"number, not {kind}: convert it with gpuprop.tensor(...)"
                + shared * hasattr(a, "__dlpack__")) from None
    return a


def _owner(spec: Spec, arrays: list) -> Backend:
    """The one backend of the arrays, or the default one where all are numbers."""
    backend, first = None, 0
    for i, a in enumerate(arrays):
        if type(a) in NUMBERS:
            continue
        other = backend_of(a)
        if backend is None:
            backend, first = other, i
        elif other is not backend:
            raise BackendMismatchError(
                f"{spec.label(None)}(): {spec.argument(first)!r} is on backend {backend.name!r} "
                f"and {spec.argument(i)!r} on {other.name!r}: move one of them, for example with "
                f"{spec.argument(i)}.to({backend.name!r})")
    return backend or default_backend()


def promoted(arrays: list) -> list:
    """The last two operands; an integer or bool one is cast to the floating dtype of the other."""
    *rest, x, y = arrays
    if is_float(x.dtype) and y.dtype.kind in "iub":
        with on_device_of((y,)):
            y = y.astype(x.dtype)
    elif is_float(y.dtype) and x.dtype.kind in "iub":
        with on_device_of((x,)):
            x = x.astype(y.dtype)
    return [*rest, x, y]


def autocast_arguments(args: tuple, precision: str, low: Any) -> tuple | None:
    """The arguments, by recorded casts, in the precision that an op asks for; None if they are."""
    full, cast = np.dtype("float32"), Differentiable.ops["astype"]
    is_floating = lambda a: hasattr(a, "dtype") and is_float(a.dtype)
    dtypes = {a.dtype for a in args if is_floating(a)}
    if not dtypes or np.dtype("float64") in dtypes:
        return None
    target = {"low": low, "full": full, "widest": low if dtypes == {low} else full}[precision]
    if dtypes == {target}:
        return None
    return tuple(cast(a, target) if is_floating(a) and a.dtype != target else a for a in args)


# ---- half types ----------------------------------------------------------------------------------


def for_half_types(half: str | None, arrays: list, run: Callable) -> tuple[list, Callable]:
    """The arguments and the body of an op for half types, if there are any among the arrays."""
    dtypes = (a.dtype for a in arrays if type(a) not in NUMBERS and a.dtype.char in HALF)
    dtype = next(dtypes, None)
    if dtype is None:
        return arrays, run
    has_numbers = any(type(a) in (int, float) for a in arrays)
    if half is None or (half == "rounded" and has_numbers):
        return arrays, _in_float32(run)
    if has_numbers:  # CuPy compares them in float32
        arrays = [float(np.asarray(a).astype(dtype)) if type(a) is float else a for a in arrays]
    return arrays, run


def _in_float32(run: Callable) -> Callable:
    """The body of an op with half types computed in float32, and its results rounded once.

    A result is rounded if all floating arrays have one half type: beside float32, or for float16
    and bfloat16 together, NumPy's promotion rules give float32.  The engine rounds the gradients.
    """

    def compute(xp: Any, *arrays: Any, **constants: Any) -> Any:
        given = {a.dtype for a in arrays if type(a) not in NUMBERS and is_float(a.dtype)}
        wide = [a if type(a) in NUMBERS else widened(a) for a in arrays]
        made = run(xp, *wide, **constants)
        if type(made) is not tuple:
            return made
        out, pullback = made
        if len(given) == 1:
            narrow = lambda a: a.astype(*given) if a.dtype == "float32" else a
            out = tuple(map(narrow, out)) if type(out) is tuple else narrow(out)
        if type(pullback) is tuple:
            return out, tuple(f and _of_widened(f) for f in pullback)
        return out, pullback and _of_widened(pullback)

    return on_device_of_arguments(compute) if SEVERAL else compute


def _of_widened(pullback: Callable) -> Callable:
    """A pullback that is given float32 for half types, and None for integer outputs."""

    @functools.wraps(pullback)
    def pull(d: Any) -> Any:
        if type(d) is tuple:
            return pullback(tuple(g if g is None else widened(g) for g in d))
        return pullback(widened(d))

    return pull
