"""Properties of dtypes that NumPy does not provide, mostly for float16 and bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np

HALF = "eE"  # `dtype.char` of float16 and bfloat16


FLOATING = {id(dtype): dtype for dtype in map(np.dtype, "efd")}
NATIVE = FLOATING | {id(dtype): dtype for dtype in map(np.dtype, "?bhilqBHILQ")}  # of almost all


def as_dtype(dtype: Any) -> np.dtype:
    """`dtype` as a NumPy dtype in native byte order, one that arrays may have.

    The name "bfloat16" needs the package ml_dtypes.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        found = extension_dtype("bfloat16")
        if found is None:
            raise ImportError("bfloat16 needs the package ml_dtypes: pip install ml_dtypes")
        return found
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be one such as 'float32', 'bfloat16', 'int64' or 'bool', got "
                        f"{dtype!r}") from None
    if not is_supported(found):
        raise TypeError(f"dtype must be bool, integer or floating, such as 'float32', "
                        f"got {dtype!r}")
    return np.dtype(found.type)  # the one object for all arrays: the engine compares by `is`


def is_supported(dtype: Any) -> bool:
    """True for bools, integers and floating dtypes of up to 64 bits, and those of ml_dtypes."""
    return (dtype.kind in "biuf" and dtype.itemsize <= 8) or is_extension(dtype)


def as_supported(what: str, array: Any) -> Any:
    """The array in native byte order.  Raises TypeError for objects, text, complex numbers etc.

    `what` names the array in messages, as in "linear(): 'input'".
    """
    dtype = array.dtype
    if id(dtype) in NATIVE:
        return array
    if not is_supported(dtype):
        remedies = {
            "O": "give an array of numbers of equal shapes: join arrays with np.stack",
            "c": "give its real and imaginary parts, array.real and array.imag, as two arrays",
            "f": "convert it with array.astype('float64')",
            "M": "convert it to numbers, for example with array.astype('int64')",
            "m": "convert it to numbers, for example with array.astype('int64')",
        }
        text = "encode it as integers, such as class or token numbers"
        remedy = remedies.get(dtype.kind, "give its fields one by one" if dtype.names else text)
        raise TypeError(f"{what} has dtype {dtype}, but must be bool, integer or floating: "
                        f"{remedy}")
    if not dtype.isnative:
        return array.astype(np.dtype(dtype.type))
    if np.dtype(dtype.type) is dtype:  # one object for all arrays, such as bfloat16
        NATIVE[id(dtype)] = dtype
        if is_float(dtype):
            FLOATING[id(dtype)] = dtype
    return array


def is_float(dtype: Any) -> bool:
    """True for a floating dtype.  NumPy gives bfloat16 the kind "V"."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def check_floating(name: str, array: Any, argument: str = "input") -> None:
    """Raise TypeError unless an argument of the function `name` has a floating dtype."""
    if not is_float(array.dtype):
        raise TypeError(f"{name}: {argument} must be floating, got {array.dtype.name}: use "
                        f"{argument}.astype('float32')")


def is_real(dtype: Any) -> bool:
    """True for a dtype of real numbers: integers, bools and floating-point numbers."""
    return dtype.kind in "biuf" or is_extension(dtype)


def is_half(dtype: Any) -> bool:
    """True for float16 and bfloat16."""
    return dtype.char in HALF


def widened(a: Any) -> Any:
    """An array of a half type cast to float32, for example to sum it; other arrays unchanged."""
    return a.astype("float32") if a.dtype.char in HALF else a


def cast(a: Any, dtype: Any) -> Any:
    """An array cast to `dtype`; the array itself if it has this dtype."""
    return a if a.dtype == dtype else converted(a, dtype)


def converted(a: Any, dtype: Any) -> Any:
    """``a.astype(dtype)``, without NumPy's warning of an overflow in float16.

    Loss scaling looks for the infinities; other libraries and devices do not warn.
    """
    if np.dtype(dtype).char != "e":
        return a.astype(dtype)
    with np.errstate(over="ignore"):
        return a.astype(dtype)


def compute_dtype(dtype: Any) -> str:
    """The dtype in which arrays of `dtype`, and their coefficients, are computed.

    It is float64 for float64, float32 for float32 and half types, and integers stay as they are.
    """
    if dtype.kind in "iub":
        return dtype.name
    return "float64" if dtype.itemsize == 8 else "float32"


def largest(dtype: Any) -> float:
    """The largest finite number of a floating dtype, bfloat16 included."""
    return 3.3895313892515355e38 if dtype.name == "bfloat16" else float(np.finfo(dtype).max)


def epsilon(dtype: Any) -> float:
    """The distance from 1 to the next number of a floating dtype, bfloat16 included."""
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)


def is_extension(dtype: Any) -> bool:
    """True for dtypes of ml_dtypes, such as bfloat16, which NumPy's file formats lack."""
    return dtype.kind == "V" and not issubclass(dtype.type, np.void)


def extension_dtype(name: str) -> np.dtype | None:
    """The dtype of ml_dtypes with this name; None if that package is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(getattr(ml_dtypes, name))
