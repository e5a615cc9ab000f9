"""Datasets, samplers, the DataLoader, image augmentation and file readers."""

from gpuprop.data._augmentation import (
    Augmentation,
    Compose,
    Cutout,
    Mixup,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    ToFloat,
)
from gpuprop.data._collate import default_collate
from gpuprop.data._dataset import (
    ArrayDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)
from gpuprop.data._fetch import batch_rng
from gpuprop.data._loader import DataLoader
from gpuprop.data._readers import ImageFolder, Table, read_csv, read_idx, read_image
from gpuprop.data._sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)

__all__ = [
    "ArrayDataset", "Augmentation", "BatchSampler", "Compose", "ConcatDataset", "Cutout",
    "DataLoader", "Dataset", "ImageFolder", "IterableDataset", "Mixup", "Normalize", "RandomCrop",
    "RandomHorizontalFlip", "RandomSampler", "Sampler", "SequentialSampler", "Subset", "Table",
    "TensorDataset", "ToFloat", "WeightedRandomSampler", "batch_rng", "default_collate",
    "random_split", "read_csv", "read_idx", "read_image",
]
