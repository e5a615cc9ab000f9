"""Augmentation of images in host memory: of one (C, H, W), or of a batch (N, C, H, W), each image its own way.

The numbers are drawn from `batch_rng()`: in a DataLoader they depend on the epoch and the batch only, not on workers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of, on_host
from gpuprop.data._fetch import applied, batch_rng
from gpuprop.random import Generator


class Augmentation(ABC):
    """A change of images; what comes with them, as labels do, is passed on: ``images, labels = a(images, labels)``."""

    def __call__(self, images: Any, *rest: Any) -> Any:
        images = _host(images)
        labels = np.shape(rest[0]) if rest else ()
        if images.ndim not in (3, 4) or (images.ndim == 3 and labels[:1] == images.shape[:1]):  # no channels
            raise ValueError(f"{type(self).__name__} takes images (C, H, W) or (N, C, H, W), and the shape is "
                             f"{images.shape}; where there is one channel, write images[:, None]")
        with on_host():
            out = self.apply(images.reshape(-1, *images.shape[-3:]), batch_rng())
        out = out if images.ndim == 4 else out[0]
        return (out, *rest) if rest else out

    @abstractmethod
    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        """New images of images (N, C, H, W), which stay as they are."""


def _host(array: Any) -> np.ndarray:
    array = raw(array)
    if backend_of(array).name != "numpy":
        raise TypeError(f"augmentation works in host memory, and this array is on {backend_of(array).name!r}: leave "
                        f"the dataset on the host, the loader sends what comes out to the device")
    return array


class Compose:
    """One after the other, of images alone or with what comes with them."""

    def __init__(self, transforms: Any) -> None:
        self.transforms = list(transforms)

    def __call__(self, *batch: Any) -> Any:
        out: Any = batch if len(batch) > 1 else batch[0]
        for transform in self.transforms:
            out = applied(transform, out)
        return out


class ToFloat(Augmentation):
    """Integers from 0 to the largest of their type as float32 from 0 to 1."""

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        return images if images.dtype.kind == "f" else images * np.float32(1 / np.iinfo(images.dtype).max)


class Normalize(Augmentation):
    """``(images - mean) / std``, numbers or one for each channel."""

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean, self.std = (np.asarray(v, np.float64).reshape(-1, 1, 1) for v in (mean, std))
        if (self.std <= 0).any():
            raise ValueError(f"Normalize: std is positive, not {std}")

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        if images.dtype.kind != "f":
            raise TypeError(f"Normalize takes floating point, not {images.dtype}: put ToFloat() before it")
        return (images - self.mean.astype(images.dtype)) / self.std.astype(images.dtype)


class RandomHorizontalFlip(Augmentation):
    """Left and right exchanged, with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        chosen = rng.bernoulli(self.p, len(images))
        out = images.copy()
        out[chosen] = images[chosen, ..., ::-1]
        return out


class RandomCrop(Augmentation):
    """A part of this size, a number or (height, width), of the image with `padding` pixels on each side."""

    def __init__(self, size: int | tuple[int, int], padding: int = 0, fill: float = 0) -> None:
        self.size, self.padding, self.fill = _pair(size), padding, fill

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        edges = (self.padding, self.padding)
        padded = np.pad(images, ((0, 0), (0, 0), edges, edges), constant_values=self.fill) if self.padding else images
        if any(s > have for s, have in zip(self.size, padded.shape[-2:], strict=True)):
            raise ValueError(f"RandomCrop: {self.size} is larger than the image {padded.shape[-2:]}, padding included")
        parts = sliding_window_view(padded, self.size, axis=(2, 3))
        n, _, rows, columns = parts.shape[:4]
        return parts[np.arange(n), :, rng.integers(0, rows, n), rng.integers(0, columns, n)]


class Cutout(Augmentation):
    """A square of `size` pixels filled in, its centre anywhere, so that parts of it may lie outside.

    T. DeVries and G. W. Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """

    def __init__(self, size: int, fill: float = 0) -> None:
        self.size, self.fill = size, fill

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        rows, columns = (self._hidden(rng.integers(0, n, len(images)), n) for n in images.shape[-2:])
        hidden = rows[:, None, :, None] & columns[:, None, None, :]
        return np.where(hidden, np.asarray(self.fill, images.dtype), images)

    def _hidden(self, centres: np.ndarray, n: int) -> np.ndarray:
        distance = np.arange(n) - (centres[:, None] - self.size // 2)
        return (distance >= 0) & (distance < self.size)


class Mixup:
    """Each sample of a batch mixed with another, by one share from Beta(alpha, alpha), and so its label.

    Labels that are integers become rows of `num_classes` probabilities (float32).  It needs a batch, so it is the
    loader's transform, or the last in one.  H. Zhang et al., "mixup: beyond empirical risk minimization", 2018.
    """

    def __init__(self, alpha: float, num_classes: int | None = None) -> None:
        if not alpha > 0:
            raise ValueError(f"Mixup: alpha is positive, not {alpha}")
        self.alpha, self.num_classes = alpha, num_classes

    def __call__(self, inputs: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        inputs, labels = _host(inputs), self._soft(_host(labels))
        with on_host():
            rng = batch_rng()
            other, share = rng.permutation(len(inputs)), _symmetric_beta(self.alpha, rng)
        mix = lambda a: a * a.dtype.type(share) + a[other] * a.dtype.type(1 - share)
        if inputs.dtype.kind != "f":
            raise TypeError(f"Mixup takes floating point, not {inputs.dtype}: put ToFloat() before it")
        return mix(inputs), mix(labels)

    def _soft(self, labels: np.ndarray) -> np.ndarray:
        if labels.dtype.kind == "f":
            return labels
        if self.num_classes is None:
            raise ValueError("Mixup: the labels are integers, so it needs num_classes=")
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(f"Mixup: labels from {labels.min()} to {labels.max()} for num_classes={self.num_classes}")
        return np.eye(self.num_classes, dtype=np.float32)[labels]


def _symmetric_beta(alpha: float, rng: Generator) -> float:
    """From Beta(alpha, alpha).  L. Devroye, "Non-uniform random variate generation", 1986, chapter IX.3.4."""
    u, v, side = rng.uniform(3, dtype="float64").tolist()
    spread = math.expm1(min(-math.log(1 - u) / alpha, 700.0)) * math.cos(2 * math.pi * v) ** 2
    half = 0.5 / math.sqrt(1 + 1 / spread) if spread > 1e-300 else 0.0
    return 0.5 + half if side < 0.5 else 0.5 - half


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
