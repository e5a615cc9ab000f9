"""What users train on, as an iterable of batches."""

from __future__ import annotations

from typing import Any

from gpuprop._core.dtypes import is_float
from gpuprop._core.namespace import get_array_module
from gpuprop._core.placement import place
from gpuprop._core.tensor import asnumpy
from gpuprop.data import ArrayDataset, DataLoader, IterableDataset
from gpuprop.random import Generator


def batches(data: Any, batch_size: int, dtype: Any, shuffle: bool = False, targets: bool = True) -> Any:
    """One array, a tuple of arrays or a dataset in a DataLoader; another iterable is one of batches, and stays.

    Arrays that are floating are cast to `dtype`, once; only shuffling draws random numbers.  Raises ValueError for no
    data, for arrays of different lengths and, if the last one is that of `targets`, for NaN in it.
    """
    if isinstance(data, tuple) or hasattr(data, "shape"):
        arrays = ArrayDataset(*data if isinstance(data, tuple) else (data,)).arrays
        data = ArrayDataset(*(place(a, dtype=dtype) if is_float(a.dtype) else a for a in arrays))
    samples = isinstance(data, IterableDataset) or (hasattr(data, "__getitem__") and not hasattr(data, "__iter__"))
    dataset = data if samples else getattr(data, "dataset", None)
    if length(dataset) == 0:
        raise ValueError("there is no data: the dataset is empty")
    if targets and isinstance(dataset, ArrayDataset):
        _refuse_nan(dataset.arrays[-1])
    if samples:
        shuffle &= not isinstance(data, IterableDataset)
        data = DataLoader(data, batch_size, shuffle, dtype=dtype, rng=None if shuffle else Generator())
    if not hasattr(data, "__iter__"):
        raise TypeError(f"data is a tuple of arrays, a DataLoader or another iterable of batches, "
                        f"not {type(data).__name__}")
    if length(data) == 0:
        n = length(dataset)
        hint = f" of {n} samples: is drop_last set, with a larger batch_size?" if n else ""
        raise ValueError(f"there is no data: the {type(data).__name__} makes no batch{hint}")
    return data


def length(data: Any) -> int | None:
    """How many there are, where that is known; a loader may only learn it by counting."""
    try:
        return len(data)
    except TypeError:
        return None


def _refuse_nan(target: Any) -> None:
    if is_float(target.dtype):
        n = int(asnumpy(get_array_module(target).isnan(target)).sum())
        if n:
            raise ValueError(f"the target has NaN in {n} of {target.size} places: leave these samples out")
