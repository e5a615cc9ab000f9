"""What users train on, as an iterable of batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gpuprop.autograd import asnumpy, is_float
from gpuprop.data import ArrayDataset, DataLoader, Dataset


def batches(data: Any, batch_size: int, shuffle: bool = False) -> Any:
    """An iterable of batches as it is; one array, a tuple of arrays or a Dataset in a DataLoader.

    Raises ValueError for no data, for arrays of different lengths and for a target with NaN.
    """
    if isinstance(data, tuple) or hasattr(data, "shape"):
        data = ArrayDataset(*_checked(data if isinstance(data, tuple) else (data,)))
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size, shuffle=shuffle)
    if not isinstance(data, Iterable):
        raise TypeError(f"data is a DataLoader, an iterable of batches or a tuple of arrays, not {type(data).__name__}")
    if hasattr(data, "__len__") and len(data) == 0:
        raise ValueError("there is no data: not one batch can be made of it")
    return data
