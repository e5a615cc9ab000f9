"""Datasets, the loader that makes batches of them, augmentation of images, and readers of files."""

from gpuprop.data.collate import default_collate
from gpuprop.data.dataset import (
    ArrayDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)
from gpuprop.data.fetch import batch_rng
from gpuprop.data.loader import DataLoader
from gpuprop.data.sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)

__all__ = [
    "ArrayDataset", "BatchSampler", "ConcatDataset", "DataLoader", "Dataset", "IterableDataset", "RandomSampler",
    "Sampler", "SequentialSampler", "Subset", "TensorDataset", "WeightedRandomSampler", "batch_rng", "default_collate",
    "random_split",
]
