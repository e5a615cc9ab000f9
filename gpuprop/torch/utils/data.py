"""Datasets and loaders, as `torch.utils.data`: batches are Tensors of this dialect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gpuprop.data as _data
from gpuprop._core.graph import raw
from gpuprop._core.tensor import Tensor as Plain
from gpuprop._core.tree import tree_map
from gpuprop.data import (
    BatchSampler,
    ConcatDataset,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
    random_split,
)
from gpuprop.torch._tensor import as_torch, wrap

__all__ = ["BatchSampler", "ConcatDataset", "DataLoader", "Dataset", "IterableDataset",
           "RandomSampler", "Sampler", "SequentialSampler", "Subset", "TensorDataset",
           "WeightedRandomSampler", "default_collate", "random_split"]


def _tensors(batch: Any) -> Any:
    """The arrays and Tensors of a batch as Tensors of this dialect."""

    def convert(a: Any) -> Any:
        if isinstance(a, Plain):
            return as_torch(a)
        return wrap(a) if hasattr(a, "shape") else a

    return tree_map(convert, batch)


def default_collate(batch: Any) -> Any:
    """Samples of one structure as one batch of Tensors."""
    return _tensors(_data.default_collate(batch))


class TensorDataset(_data.TensorDataset):
    """Tensors of equal length; a sample has one row of each."""

    def __init__(self, *tensors: Any) -> None:
        self.tensors = tensors
        super().__init__(*map(raw, tensors))

    def __getitem__(self, index: Any) -> tuple:
        return tuple(t[index] for t in self.tensors)


class DataLoader(_data.DataLoader):
    """Batches of a dataset: see `gpuprop.data.DataLoader`.  Arrays keep their dtype.

    `generator` is the source of each epoch's order; `pin_memory` has no effect.
    """

    def __init__(self, *args: Any, generator: Any = None, pin_memory_device: str = "",
                 multiprocessing_context: Any = None, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", None)
        super().__init__(*args, rng=generator, **kwargs)

    def __iter__(self) -> Iterator[Any]:
        return map(_tensors, super().__iter__())
