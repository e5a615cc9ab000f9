"""Convert the data that the Trainer accepts to an iterable of batches."""

from __future__ import annotations

from typing import Any

from gpuprop._core.checks import as_integer
from gpuprop._core.dtypes import is_float
from gpuprop._core.namespace import get_array_module
from gpuprop._core.placement import place
from gpuprop._core.tensor import asnumpy
from gpuprop.data import ArrayDataset, DataLoader, IterableDataset
from gpuprop.random import Generator


def as_batches(
    data: Any, batch_size: int, dtype: Any, rng: Generator | None, shuffle: bool = False,
    targets: bool = True,
) -> Any:
    """`data` as an iterable of batches.

    An array, a tuple of arrays or a dataset is wrapped in a DataLoader with the generator `rng`;
    any other iterable must yield batches and is returned unchanged.  `shuffle` applies to what has
    indices.  Floating-point arrays are cast to `dtype` once, here.
    With `targets` the last array holds the targets.  Raises ValueError if there are no data, if
    arrays differ in length, or if targets are NaN.
    """
    batch_size = as_integer("Trainer: batch_size", batch_size, 1)
    is_iterable = hasattr(data, "__getitem__") or hasattr(data, "__iter__")
    if isinstance(data, str | bytes | type) or not is_iterable:
        raise TypeError(f"the data must be a tuple of arrays, a dataset, a DataLoader or another "
                        f"iterable of batches, got {data!r}")
    if hasattr(data, "shape"):
        data = (data,)
    if isinstance(data, tuple):
        arrays = ArrayDataset(*data).arrays
        data = ArrayDataset(*(place(a, dtype=dtype) if is_float(a.dtype) else a for a in arrays))
    is_map_style = hasattr(data, "__getitem__") and not hasattr(data, "__iter__")
    is_dataset = is_map_style or isinstance(data, IterableDataset)
    dataset = data if is_dataset else getattr(data, "dataset", None)
    if length(dataset) == 0:
        raise ValueError("no data: the dataset is empty")
    if targets and isinstance(dataset, ArrayDataset):
        _check_no_nan(dataset.arrays[-1])
    if is_dataset:
        shuffle &= not isinstance(data, IterableDataset)
        data = DataLoader(data, batch_size, shuffle, dtype=dtype, rng=rng)
    if length(data) == 0:
        samples = length(dataset)
        hint = ""
        if samples:
            hint = f" of {samples} samples: is drop_last set and batch_size larger than that?"
        raise ValueError(f"no data: the {type(data).__name__} has no batches{hint}")
    return data


def length(data: Any) -> int | None:
    """``len(data)``, or None if it has no length."""
    try:
        return len(data)
    except TypeError:
        return None


def _check_no_nan(target: Any) -> None:
    if is_float(target.dtype):
        n = int(asnumpy(get_array_module(target).isnan(target)).sum())
        if n:
            raise ValueError(f"the target has {n} NaN among its {target.size} values: remove the "
                             f"samples with NaN")


def no_data() -> ValueError:
    return ValueError("no data: the iterable has no batches; note that an iterator can be used "
                      "only once")


def close(batches: Any) -> None:
    """Close an iterator that can be closed: that of a DataLoader then stops its workers."""
    if hasattr(batches, "close"):
        batches.close()
