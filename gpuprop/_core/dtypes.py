"""Properties of dtypes that NumPy does not provide, mostly for float16 and bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np

HALF = "eE"  # `dtype.char` of float16 and bfloat16


def as_dtype(dtype: Any) -> np.dtype:
    """`dtype` as a NumPy dtype.  The name "bfloat16" needs the package ml_dtypes."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        found = extension_dtype("bfloat16")
        if found is None:
            raise ImportError("bfloat16 needs the package ml_dtypes: pip install ml_dtypes")
        return found
    return np.dtype(dtype)


def is_float(dtype: Any) -> bool:
    """True for a floating dtype.  NumPy gives bfloat16 the kind "V"."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


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
    return a if a.dtype == dtype else a.astype(dtype)


def compute_dtype(dtype: Any) -> str:
    """The dtype in which arrays of `dtype`, and their coefficients, are computed.

    It is float64 for float64, and float32 for float32 and half types.
    """
    return "float64" if dtype.itemsize == 8 else "float32"


def largest(dtype: Any) -> float:
    """The largest finite number of a floating dtype, bfloat16 included."""
    return 3.3895313892515355e38 if dtype.name == "bfloat16" else float(np.finfo(dtype).max)


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
