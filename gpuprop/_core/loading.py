"""Entries of a state dict: checked and converted, before any of them is written.

Each function raises ValueError or TypeError with the entry, `what`, and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gpuprop._core.checks import as_instance
from gpuprop._core.dtypes import is_float, is_real
from gpuprop._core.registry import HOST, get_backend
from gpuprop._core.tensor import asnumpy


def as_entries(what: str, value: Any, required: Iterable[str],
               optional: Iterable[str] | None = None) -> dict[str, Any]:
    """`value` as a dict of all `required` names, and no others than the `optional` ones.

    Any other name is allowed if `optional` is None.
    """
    entries = dict(as_instance(what, value, Mapping, "a dict, as state_dict() returns it"))
    required = list(required)
    missing = [name for name in required if name not in entries]
    known = entries if optional is None else {*required, *optional}
    unknown = [name for name in entries if name not in known]
    if missing or unknown:
        problems = [f"{problem} {', '.join(map(repr, names))}" for problem, names
                    in (("lacks", missing), ("has unknown", unknown)) if names]
        raise ValueError(f"{what} {' and '.join(problems)}: was it saved by another object?")
    return entries


def as_array(what: str, value: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """`value` as a new NumPy array of this shape and dtype.

    It may be an array of any library, or anything that NumPy converts.  It must hold real numbers,
    for an integer dtype those that the dtype represents exactly.  NaN is a floating number like any
    other: the state of a diverged run loads as it was saved.
    """
    try:
        array = _on_host(value)
    except Exception as error:  # the converters belong to other libraries
        raise ValueError(f"{what} must be an array of shape {shape}, and this "
                         f"{type(value).__name__} is not converted: {error}") from error
    if not is_real(array.dtype):
        raise ValueError(f"{what} must hold real numbers, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{what} has shape {array.shape}, expected {shape}")
    dtype = np.dtype(dtype)
    with np.errstate(invalid="ignore"):
        converted = array.astype(dtype, copy=False)
    if not is_float(dtype) and not (converted == array).all():
        raise ValueError(f"{what} must hold numbers of {dtype}, but some of these "
                         f"{array.dtype} are no such numbers")
    return converted


def _on_host(value: Any) -> np.ndarray:
    """A copy of an array, a Tensor of gpuprop or PyTorch, or a number, as a NumPy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # NumPy has no such type
            value = value.float()
    elif isinstance(value, np.ndarray):
        value = get_backend(HOST).asarray(value)  # raises for masked arrays
    return asnumpy(value)
