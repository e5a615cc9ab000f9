"""Arguments of ops that are not simply arrays of one backend, and casts of arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop._core.backend import BY_TYPE, MULTI_DEVICE, Backend, BackendMismatchError
from gpuprop._core.dtypes import as_supported, converted, is_float, is_half, widened
from gpuprop._core.graph import level, raw
from gpuprop._core.namespace import Differentiable
from gpuprop._core.placement import on_device_of, on_device_of_arguments
from gpuprop._core.registry import HOST, backend_of, default_backend, get_backend
from gpuprop._core.signature import module_of, unwrapped
from gpuprop._core.spec import Spec
from gpuprop._core.tensor import Tensor

NUMBERS = {int, float, bool, type(None)}  # the types that an op accepts in place of arrays


def resolve(spec: Spec, args: tuple) -> tuple[list, list, int, Any]:
    """Resolve arguments that are nested Tensors, Python numbers only, or arrays of other types.

    Returns the arrays that the body takes; the node or leaf that receives the gradient of each, or
    None; the number of those that are not None; and the array type, or the namespace of Tensors.

    Raises TypeError for an argument that is no array, and BackendMismatchError for arrays of two
    backends.  If Tensors are nested to different levels, the op is differentiated with respect to
    the Tensors of the highest level; the others are constants, which keep their own history.
    """
    highest = max(map(level, args), default=0)
    is_highest = [isinstance(a, Tensor) and level(a) == highest for a in args]
    values = [a if isinstance(a, Tensor) else _normalized(a, spec, i) for i, a in enumerate(args)]
    backend = _owner(spec, [raw(a) for a in values])
    arrays = [a.array if unwrap else a for a, unwrap in zip(values, is_highest, strict=True)]
    arrays = [backend.asarray(a) if type(a) in backend.guests else a for a in arrays]
    edges = [(a.node or a) if unwrap and a.requires_grad else None
             for a, unwrap in zip(values, is_highest, strict=True)]
    wanted = sum(edge is not None for edge in edges)
    if highest > 1:
        arrays = [Tensor(a) if type(a) is backend.array_type else a for a in arrays]
        return arrays, edges, wanted, Differentiable(backend.xp)
    if not any(type(a) is backend.array_type for a in arrays):  # numbers only
        arrays = [a if a is None else backend.asarray(a, "float32" if type(a) is float else None)
                  for a in arrays]
        for i, a in enumerate(arrays):
            if a is not None and a.dtype == object:
                name = spec.argument_name(i)
                raise OverflowError(f"{spec.label(None)}(): {name!r} is {args[i]}, which needs "
                                    f"more than 64 bits")
    return arrays, edges, wanted, backend.array_type


def _normalized(a: Any, spec: Spec, i: int) -> Any:
    """Convert a NumPy scalar to a Python number, and an array of a subclass to its base class."""
    if isinstance(a, np.generic):
        if a.dtype.kind in "biuf":
            return a.item()
        a = np.asarray(a)
    if isinstance(a, np.ndarray):
        a = get_backend(HOST).asarray(a)
        return as_supported(f"{spec.label(None)}(): {spec.argument_name(i)!r}", a)
    if isinstance(a, int | float) and type(a) not in NUMBERS:  # an IntEnum, a Tensor's size
        return int(a) if isinstance(a, int) else float(a)
    if type(a) not in NUMBERS and type(a) not in BY_TYPE:
        try:
            backend_of(a)
        except TypeError:
            kind = f"{type(a).__module__}.{type(a).__qualname__}".removeprefix("builtins.")
            hint = ""
            if hasattr(a, "__dlpack__"):
                hint = (": convert it with gpuprop.tensor(...), or with gpuprop.from_dlpack(...), "
                        "which makes no copy")
            elif isinstance(a, list | tuple):
                hint = (": convert it with gpuprop.tensor(...), or join tensors with "
                        "gpuprop.stack(...)")
            raise TypeError(
                f"{spec.label(None)}(): {spec.argument_name(i)!r} must be a Tensor, an array or a "
                f"number, not {kind}{hint}") from None
    return a


def _owner(spec: Spec, arrays: list) -> Backend:
    """The one backend of the arrays, or the default backend if all are numbers."""
    backend, first = None, 0
    for i, a in enumerate(arrays):
        if type(a) in NUMBERS:
            continue
        other = backend_of(a)
        if backend is None or backend.array_type in other.guests:
            backend, first = other, i
        elif other is not backend and other.array_type not in backend.guests:
            name = spec.argument_name(i)
            raise BackendMismatchError(
                f"{spec.label(None)}(): {spec.argument_name(first)!r} is on backend "
                f"{backend.name!r} and {name!r} on {other.name!r}: move one of them, for example "
                f"with {name}.to({backend.name!r})")
    return backend or default_backend()


def refuse_tensors(fn: Callable, caller: str, constants: dict) -> None:
    """Raise TypeError for a Tensor that is given for a constant: its gradient would be lost.

    Constants of gpuprop's functions that are annotated Any, such as an index, may be Tensors.
    """
    is_own = module_of(fn).startswith("gpuprop.")
    annotations = unwrapped(fn).__annotations__
    for name, value in constants.items():
        may_be_tensor = is_own and annotations.get(name) == "Any"
        if isinstance(value, Tensor) and not may_be_tensor:
            hint = "" if is_own else ", or annotate the parameter with gpuprop.Array"
            raise TypeError(f"{caller}(): {name!r} is given a Tensor, but is a constant: give a "
                            f"Python value, such as {name}.item(){hint}")


def promoted(arrays: list, operands: Sequence[int] | None = None) -> list:
    """The arrays, with the integer and bool operands cast to the floating dtype of the others.

    `operands` are positions in `arrays`, by default all.
    """
    operands = range(len(arrays)) if operands is None else operands
    dtypes = {i: arrays[i].dtype for i in operands if type(arrays[i]) not in NUMBERS}
    floating = list(filter(is_float, dtypes.values()))
    if not floating or len(floating) == len(dtypes):
        return arrays
    widest = max(floating, key=lambda dtype: dtype.itemsize)
    with on_device_of([arrays[i] for i in dtypes]):
        return [a.astype(widest) if i in dtypes and dtypes[i].kind in "iub" else a
                for i, a in enumerate(arrays)]


def are_integers(arrays: list) -> bool:
    """True if there are arrays, and all of them have integers or bools."""
    kinds = {a.dtype.kind for a in arrays if type(a) not in NUMBERS}
    return bool(kinds) and kinds <= set("iub")


def in_float64(arrays: list) -> list:
    """The arrays cast to float64; numbers stay."""
    with on_device_of([a for a in arrays if type(a) not in NUMBERS]):
        return [a if type(a) in NUMBERS else a.astype("float64") for a in arrays]


def autocast_arguments(args: tuple, precision: str, low: Any) -> tuple | None:
    """The arguments cast to the `precision` of an op, by recorded casts; None if no cast is needed.

    `low` is the dtype of autocast.  If one argument is float64, nothing is cast.
    """
    full = np.dtype("float32")
    cast = Differentiable.ops["astype"]
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
    """The arguments and the body to run, if there is a half type among the arrays.

    `half` is the argument of `ops.op`.
    """
    dtypes = (a.dtype for a in arrays if type(a) not in NUMBERS and is_half(a.dtype))
    dtype = next(dtypes, None)
    if dtype is None:
        return arrays, run
    has_numbers = any(type(a) in (int, float) for a in arrays)
    if half is None or (half == "rounded" and has_numbers):
        return arrays, _in_float32(run)
    if has_numbers:  # round them as NumPy does: CuPy compares numbers with half types in float32
        arrays = [float(np.asarray(a).astype(dtype)) if type(a) is float else a for a in arrays]
    return arrays, run


def _in_float32(run: Callable) -> Callable:
    """The body of an op that computes half types in float32 and rounds its results once.

    Results are rounded if all floating arrays have the same half type.  Mixed with float32, or with
    the other half type, NumPy's promotion rules give float32.  The engine rounds the gradients.
    """

    def compute(xp: Any, *arrays: Any, **constants: Any) -> Any:
        dtypes = {a.dtype for a in arrays if type(a) not in NUMBERS and is_float(a.dtype)}
        wide = [a if type(a) in NUMBERS else widened(a) for a in arrays]
        result = run(xp, *wide, **constants)
        if type(result) is not tuple:  # an error, which the caller reports
            return result
        out, pullback = result
        if len(dtypes) == 1:
            narrow = lambda a: converted(a, *dtypes) if a.dtype == "float32" else a
            out = tuple(map(narrow, out)) if type(out) is tuple else narrow(out)
        if type(pullback) is tuple:
            return out, tuple(f and _of_widened(f) for f in pullback)
        return out, pullback and _of_widened(pullback)

    return on_device_of_arguments(compute) if MULTI_DEVICE else compute


def _of_widened(pullback: Callable) -> Callable:
    """`pullback` called with float32 in place of half types; None for integer outputs stays."""

    @functools.wraps(pullback)
    def pull(d: Any) -> Any:
        if type(d) is tuple:
            return pullback(tuple(g if g is None else widened(g) for g in d))
        return pullback(widened(d))

    return pull
