"""Augmentation of images in host memory: one image (C, H, W), or a batch (N, C, H, W).

Each image of a batch is changed independently.  Random numbers are drawn from `batch_rng()`: in a
DataLoader they depend on the epoch and the batch only, not on the workers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of, on_host
from gpuprop.data._fetch import apply_transform, batch_rng
from gpuprop.random import Generator


class Augmentation(ABC):
    """Abstract: a random or fixed change of images.  A subclass defines `apply`.

    Further arguments, such as labels, are passed through: ``images, labels = a(images, labels)``.
    """

    def __call__(self, images: Any, *rest: Any) -> Any:
        images = _host_array(images)
        label_shape = np.shape(rest[0]) if rest else ()
        no_channels = images.ndim == 3 and label_shape[:1] == images.shape[:1]
        if images.ndim not in (3, 4) or no_channels:
            raise ValueError(f"{type(self).__name__}: images must be (C, H, W) or (N, C, H, W), "
                             f"not {images.shape}; add a channel axis with images[:, None]")
        with on_host():
            out = self.apply(images.reshape(-1, *images.shape[-3:]), batch_rng())
        if images.ndim == 3:
            out = out[0]
        return (out, *rest) if rest else out

    @abstractmethod
    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        """The changed images, (N, C, H, W); must not write into `images`."""


def _host_array(array: Any) -> np.ndarray:
    array = raw(array)
    if backend_of(array).name != "numpy":
        raise TypeError(f"augmentation needs arrays in host memory, but this one is on "
                        f"{backend_of(array).name!r}: keep the dataset on the host, the DataLoader "
                        f"copies its batches to the device")
    return array


class Compose:
    """Apply several transforms in order, to images alone or with labels.

    >>> import numpy as np
    >>> from gpuprop.data import Compose, RandomCrop, ToFloat
    >>> transform = Compose([RandomCrop(28, padding=2), ToFloat()])
    >>> images = np.full((5, 1, 28, 28), 255, "uint8")
    >>> transform(images).shape, transform(images).dtype
    ((5, 1, 28, 28), dtype('float32'))
    """

    def __init__(self, transforms: Any) -> None:
        self.transforms = list(transforms)

    def __call__(self, *batch: Any) -> Any:
        out: Any = batch if len(batch) > 1 else batch[0]
        for transform in self.transforms:
            out = apply_transform(transform, out)
        return out


class ToFloat(Augmentation):
    """Integers divided by the largest value of their dtype, as float32 in [0, 1].

    Floating images are returned unchanged.

    >>> import numpy as np
    >>> from gpuprop.data import ToFloat
    >>> ToFloat()(np.array([[[0, 255]]], "uint8"))
    array([[[0., 1.]]], dtype=float32)
    """

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        if images.dtype.kind == "f":
            return images
        return images * np.float32(1 / np.iinfo(images.dtype).max)


class Normalize(Augmentation):
    """``(images - mean) / std``, where `mean` and `std` are numbers or one per channel."""

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean = np.asarray(mean, np.float64).reshape(-1, 1, 1)
        self.std = np.asarray(std, np.float64).reshape(-1, 1, 1)
        if (self.std <= 0).any():
            raise ValueError(f"Normalize: std must be positive, not {std}")

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        if images.dtype.kind != "f":
            raise TypeError(f"Normalize: images must be floating, not {images.dtype}: put "
                            f"ToFloat() before it")
        return (images - self.mean.astype(images.dtype)) / self.std.astype(images.dtype)


class RandomHorizontalFlip(Augmentation):
    """Mirror each image, left to right, with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        flipped = rng.bernoulli(self.p, len(images))
        out = images.copy()
        out[flipped] = images[flipped, ..., ::-1]
        return out


class RandomCrop(Augmentation):
    """Crop each image at a random position to `size`, an int or (height, width).

    `padding` pixels with the value `fill` are added on every side first.
    """

    def __init__(self, size: int | tuple[int, int], padding: int = 0, fill: float = 0) -> None:
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.padding = padding
        self.fill = fill

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        padded = images
        if self.padding:
            edges = (self.padding, self.padding)
            padded = np.pad(images, ((0, 0), (0, 0), edges, edges), constant_values=self.fill)
        height, width = padded.shape[-2:]
        if self.size[0] > height or self.size[1] > width:
            raise ValueError(f"RandomCrop: size {self.size} is larger than the padded image "
                             f"{(height, width)}")
        windows = sliding_window_view(padded, self.size, axis=(2, 3))
        n, _, rows, columns = windows.shape[:4]
        return windows[np.arange(n), :, rng.integers(0, rows, n), rng.integers(0, columns, n)]


class Cutout(Augmentation):
    """Fill a square of `size` pixels around a random centre of each image.

    Parts of the square may lie outside of the image.  T. DeVries and G. W. Taylor, "Improved
    regularization of convolutional neural networks with cutout", 2017.
    """

    def __init__(self, size: int, fill: float = 0) -> None:
        self.size = size
        self.fill = fill

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        n, _, height, width = images.shape
        rows = self._covered(rng.integers(0, height, n), height)
        columns = self._covered(rng.integers(0, width, n), width)
        covered = rows[:, None, :, None] & columns[:, None, None, :]
        return np.where(covered, np.asarray(self.fill, images.dtype), images)

    def _covered(self, centres: np.ndarray, length: int) -> np.ndarray:
        """Mask (N, length) of the pixels that the squares cover along one axis."""
        offset = np.arange(length) - (centres[:, None] - self.size // 2)
        return (offset >= 0) & (offset < self.size)


class Mixup:
    """Mix each sample of a batch, and its label, with another one.

    ``w * a + (1 - w) * b``, where one weight w is drawn from Beta(alpha, alpha) for each batch.
    Integer labels become rows of `num_classes` probabilities, float32.  Mixup needs a batch, so it
    is the loader's transform, or the last one in a Compose.  H. Zhang et al., "mixup: beyond
    empirical risk minimization", 2018.
    """

    def __init__(self, alpha: float, num_classes: int | None = None) -> None:
        if not alpha > 0:
            raise ValueError(f"Mixup: alpha must be positive, not {alpha}")
        self.alpha = alpha
        self.num_classes = num_classes

    def __call__(self, inputs: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        inputs = _host_array(inputs)
        labels = self._probabilities(_host_array(labels))
        if inputs.dtype.kind != "f":
            raise TypeError(f"Mixup: inputs must be floating, not {inputs.dtype}: put ToFloat() "
                            f"before it")
        with on_host():
            rng = batch_rng()
            other = rng.permutation(len(inputs))
            weight = _symmetric_beta(self.alpha, rng)

        def mix(a: np.ndarray) -> np.ndarray:
            return a * a.dtype.type(weight) + a[other] * a.dtype.type(1 - weight)

        return mix(inputs), mix(labels)

    def _probabilities(self, labels: np.ndarray) -> np.ndarray:
        if labels.dtype.kind == "f":
            return labels
        if self.num_classes is None:
            raise ValueError("Mixup: integer labels need num_classes=")
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(f"Mixup: labels must be from 0 to num_classes - 1 = "
                             f"{self.num_classes - 1}, but are from {labels.min()} to "
                             f"{labels.max()}")
        return np.eye(self.num_classes, dtype=np.float32)[labels]


def _symmetric_beta(alpha: float, rng: Generator) -> float:
    """A sample of Beta(alpha, alpha).

    L. Devroye, "Non-uniform random variate generation", 1986, chapter IX.3.4.
    """
    u, v, side = rng.uniform(3, dtype="float64").tolist()
    tail = math.expm1(min(-math.log(1 - u) / alpha, 700.0))  # exp(700) is still finite
    s = tail * math.cos(2 * math.pi * v) ** 2
    distance = 0.5 / math.sqrt(1 + 1 / s) if s > 1e-300 else 0.0
    return 0.5 + distance if side < 0.5 else 0.5 - distance
