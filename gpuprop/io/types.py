"""Types that NumPy's files do not know: bfloat16 and the others of ml_dtypes, of which float32 holds every value."""

from __future__ import annotations

import numpy as np


def is_foreign(array: np.ndarray) -> bool:
    """Is it of such a type?"""
    return array.dtype.kind == "V" and not issubclass(array.dtype.type, np.void)


def foreign(name: str) -> np.dtype | None:
    """The type of this name, or None where ml_dtypes is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(getattr(ml_dtypes, name))
