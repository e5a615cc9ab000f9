"""Batches of images for training, without a model: 32x32 with three channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._bench.workload import Loading, Sizes

MEAN, STD = np.float32(0.45), np.float32(0.25)


class Images:
    """A dataset as users write it: one image at a time, uint8 to normalized float32."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        image = (self.images[i] / np.float32(255) - MEAN) / STD
        return image, int(self.labels[i])


def one_by_one(lib: Any, images: np.ndarray, labels: np.ndarray) -> Images:
    return Images(images, labels)


def in_memory(lib: Any, images: np.ndarray, labels: np.ndarray) -> Any:
    return lib.dataset(images.astype("float32"), labels)


def images(rng: np.random.Generator, s: Sizes) -> list:
    return [(rng.integers(0, 256, (s.images, 3, 32, 32), "uint8"), rng.integers(0, 10, s.images))]


SIZES = {"images": 4096, "batch": 128}
QUICK = {"images": 10, "batch": 4}
LEFT_OUT = {"compile": "there is nothing to compile", "jax": "JAX has no DataLoader"}

WORKLOADS = {
    "images": Loading(
        what="DataLoader: 4096 images, normalized one by one, batch 128",
        dataset=one_by_one, data=images, bytes_per_number=1 + 4,
        sizes=SIZES, quick=QUICK, left_out=LEFT_OUT),
    "arrays": Loading(
        what="DataLoader: 4096 images in memory as float32, batch 128",
        dataset=in_memory, data=images, bytes_per_number=4 + 4,
        sizes=SIZES, quick=QUICK, left_out=LEFT_OUT),
}
