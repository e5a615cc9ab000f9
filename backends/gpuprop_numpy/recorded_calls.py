"""What a recording must know about the functions that a step calls, and about their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop_numpy.recorded import COMPARISONS, OPERATORS, UNARY, Recorded, refuse_read

# methods that run some Python before they call these functions
DIRECTLY: dict[Any, Any] = {
    np.ndarray.sum: np.add.reduce, np.ndarray.max: np.maximum.reduce,
    np.ndarray.min: np.minimum.reduce, np.ndarray.prod: np.multiply.reduce}
# NumPy's functions that read shapes and dtypes only
OF_SHAPES = """broadcast_shapes can_cast iscomplexobj isrealobj isscalar issubdtype may_share_memory
               ndim promote_types result_type shape shares_memory size""".split()
# functions whose results have a shape that depends on values
OF_VALUES = """argwhere bincount compress delete extract flatnonzero intersect1d nonzero setdiff1d
               setxor1d trim_zeros union1d unique unique_all unique_counts unique_inverse
               unique_values""".split()
# functions whose results have a shape that depends on arguments after the first
OF_NUMBERS = "array_split broadcast_to pad repeat reshape resize split tile".split()
# functions whose results have a shape that depends on any argument
CREATION = "arange empty eye full identity indices linspace ones tri zeros".split()
# functions that do not write into their first argument; ufuncs do not, either
READERS = """all any argmax argmin argsort array asarray ascontiguousarray astype atleast_1d
             atleast_2d atleast_3d broadcast_arrays broadcast_to clip concatenate copy cumsum
             diagonal dot einsum empty_like erf expand_dims flatten flip full_like getattr getitem
             matmul max mean min moveaxis ones_like prod ravel repeat reshape roll sigmoid split
             squeeze stack std sum swapaxes take take_along_axis tensordot tile transpose tril triu
             var view where zeros_like""".split()
IN_PLACE = {f"i{name}" for name in OPERATORS}
NO_WRITERS = {*READERS, *OF_SHAPES, *OPERATORS, *COMPARISONS, *UNARY}
READ = {int, float, bool, complex, str, bytes}  # types of results with values of arrays
PLAIN = {int, float, bool, str, type(None)}  # types of constants that are compared by their text


def has_recorded(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(has_recorded, value))
    return type(value) is Recorded


def refuse_changing_shape(name: str, args: tuple, kwargs: dict) -> None:
    """Raise CaptureError for a call whose result has a shape that depends on values."""
    if name in OF_VALUES or (name == "where" and len(args) + len(kwargs) == 1):
        refuse_read(name)
    others = args if name in CREATION else args[1:]
    is_shaped = name in OF_NUMBERS or name in CREATION
    if is_shaped and any(map(has_recorded, (*others, *kwargs.values()))):
        refuse_read(f"{name} by an array")
    if name == "getitem":
        keys = args[1] if isinstance(args[1], tuple) else (args[1],)
        if any(isinstance(key, np.ndarray | Recorded) and key.dtype.kind == "b" for key in keys):
            refuse_read("indexing by a boolean mask")


class WithErrors:
    """A function that is called with the np.errstate that was set when it was recorded."""

    def __init__(self, function: Callable, errors: dict[str, Any]) -> None:
        self.function = function
        self.errors = errors

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with np.errstate(**self.errors):
            return self.function(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WithErrors) and (
            self.function == other.function and self.errors == other.errors)

    __hash__ = None  # type: ignore[assignment]


class CallOutside:
    """``function(*args)``, after the Tensors have got their gradients.

    `gradients` are (Tensor, its gradient, whether the recording has made that array).
    """

    def __init__(self, function: Callable, args: tuple, gradients: list) -> None:
        self.function = function
        self.args = args
        self.gradients = gradients

    def __call__(self) -> Any:
        for t, g, _ in self.gradients:
            t.gradient = g
        return self.function(*self.args)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CallOutside) or self.function != other.function:
            return False
        pairs = zip(self.gradients, other.gradients, strict=True)
        return all(map(is_same, self.args, other.args)) and all(
            g is h or (is_new and was_new) for (_, g, is_new), (_, h, was_new) in pairs)

    __hash__ = None  # type: ignore[assignment]


def are_one(a: Any, b: Any) -> bool:
    """Whether two arrays are the same view of the same memory."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return False
    return (a.ctypes.data, a.shape, a.strides, a.dtype) == (
        b.ctypes.data, b.shape, b.strides, b.dtype)


def is_same(a: Any, b: Any) -> bool:
    """Whether a replay with constant `a` computes what one with `b` does."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return are_one(a, b)
    if isinstance(a, float | complex | np.generic):
        return repr(a) == repr(b)  # 0.0 == -0.0, and nan != nan
    equal = a == b
    return type(equal) is bool and equal


def change(before: Any, after: Any) -> str:
    """How a constant changed between two recordings, and what to do, for a message."""
    if isinstance(before, CallOutside) and isinstance(after, CallOutside):
        pairs = zip(before.args, after.args, strict=False)
        changes = [change(a, b) for a, b in pairs if not is_same(a, b)]
        return changes[0] if changes else "was one gradient, then another one"
    if isinstance(before, np.ndarray):
        return (f"was an array of shape {before.shape}, then another one: make constants outside "
                f"of the step; an array that is kept between steps must change in place")
    if not isinstance(before, int | float | complex | str | np.generic):
        return f"was one {type(before).__name__}, then another one: make it outside of the step"
    return (f"was {before!r}, then {after!r}: a number that changes between steps must be a 0-d "
            f"array")
