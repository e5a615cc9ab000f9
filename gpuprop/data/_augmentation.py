"""Image augmentation in host memory: one image (C, H, W), or a batch (N, C, H, W).

Each image of a batch is augmented independently.  Random numbers are drawn from `batch_rng()`: in a
DataLoader they depend on the epoch's seed and the batch number, not on the number of workers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gpuprop._core.checks import as_callable, as_instance, as_integer, as_number
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of, on_host
from gpuprop._core.tensor import asnumpy
from gpuprop.data._fetch import apply_transform, batch_rng
from gpuprop.random import Generator


class Augmentation(ABC):
    """Abstract: a random or deterministic transform of images.  A subclass defines `apply`.

    Further arguments, such as labels, are returned unchanged:
    ``images, labels = augmentation(images, labels)``.
    """

    def __call__(self, images: Any, *rest: Any) -> Any:
        images = _host_array(images)
        label_shape = np.shape(rest[0]) if rest else ()
        # images (N, H, W) with N labels are a batch, not one image of N channels
        lacks_channels = images.ndim == 3 and label_shape[:1] == images.shape[:1]
        if images.ndim not in (3, 4) or lacks_channels:
            raise ValueError(f"{type(self).__name__}: images must be (C, H, W) or (N, C, H, W), "
                             f"got {images.shape}; add a channel axis with images[:, None]")
        with on_host():
            out = self.apply(images.reshape(-1, *images.shape[-3:]), batch_rng())
        if images.ndim == 3:
            out = out[0]
        return (out, *rest) if rest else out

    @abstractmethod
    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        """Return the transformed images, (N, C, H, W), without writing into `images`."""


def _host_array(array: Any) -> np.ndarray:
    array = raw(array)
    if backend_of(array).name != "numpy":
        raise TypeError(f"augmentation needs arrays in host memory, got one on backend "
                        f"{backend_of(array).name!r}: keep the dataset in host memory; the "
                        f"DataLoader copies batches to the device")
    return array


class Compose:
    """Apply transforms in order, to images alone or to images and labels.

    >>> import numpy as np
    >>> from gpuprop.data import Compose, RandomCrop, ToFloat
    >>> transform = Compose([RandomCrop(28, padding=2), ToFloat()])
    >>> images = np.full((5, 1, 28, 28), 255, "uint8")
    >>> transform(images).shape, transform(images).dtype
    ((5, 1, 28, 28), dtype('float32'))
    """

    def __init__(self, transforms: Any) -> None:
        as_instance("Compose: transforms", transforms, Iterable, "a list of functions")
        self.transforms = [as_callable("Compose: each of transforms", t) for t in transforms]

    def __call__(self, *batch: Any) -> Any:
        out: Any = batch if len(batch) > 1 else batch[0]
        for transform in self.transforms:
            out = apply_transform(transform, out)
        return out


class ToFloat(Augmentation):
    """Convert integer images to float32, divided by the largest value of their dtype.

    For uint8 the result is in [0, 1].  Floating-point images are returned unchanged.

    >>> import numpy as np
    >>> from gpuprop.data import ToFloat
    >>> ToFloat()(np.array([[[0, 255]]], "uint8"))
    array([[[0., 1.]]], dtype=float32)
    """

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        if is_float(images.dtype):
            return images
        scale = np.float32(1 / np.iinfo(images.dtype).max)
        return np.multiply(images, scale, dtype=np.float32)


class Normalize(Augmentation):
    """``(images - mean) / std``, with `mean` and `std` one number or one number per channel."""

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean = _per_channel("Normalize: mean", mean)
        self.std = _per_channel("Normalize: std", std)
        if (self.std <= 0).any():
            raise ValueError(f"Normalize: std must be positive, got {std}")

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        if not is_float(images.dtype):
            raise TypeError(f"Normalize: images must be floating-point, got {images.dtype}: put "
                            f"ToFloat() before Normalize")
        return (images - self.mean.astype(images.dtype)) / self.std.astype(images.dtype)


def _per_channel(what: str, value: Any) -> np.ndarray:
    array = asnumpy(value)
    is_vector = array.ndim <= 1 and array.size > 0
    if array.dtype.kind not in "iuf" or not is_vector or not np.isfinite(array).all():
        raise TypeError(f"{what} must be a finite number, or one for each channel, got {value!r}")
    return array.astype(np.float64).reshape(-1, 1, 1)


class RandomHorizontalFlip(Augmentation):
    """Flip each image left to right with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = as_number("RandomHorizontalFlip: p", p, "[0, 1]")

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        flipped = rng.bernoulli(self.p, len(images))
        out = images.copy()
        out[flipped] = images[flipped, ..., ::-1]
        return out


class RandomCrop(Augmentation):
    """Crop each image at a random position to `size`, an int or (height, width).

    Before that, all four sides are padded by `padding` pixels with the value `fill`.
    """

    def __init__(self, size: int | tuple[int, int], padding: int = 0, fill: float = 0) -> None:
        height, width = size if isinstance(size, tuple | list) and len(size) == 2 else (size, size)
        self.size = (as_integer("RandomCrop: size", height, 1),
                     as_integer("RandomCrop: size", width, 1))
        self.padding = as_integer("RandomCrop: padding", padding, 0)
        self.fill = as_number("RandomCrop: fill", fill)

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        padded = images
        if self.padding:
            edges = (self.padding, self.padding)
            padded = np.pad(images, ((0, 0), (0, 0), edges, edges), constant_values=self.fill)
        height, width = padded.shape[-2:]
        if self.size[0] > height or self.size[1] > width:
            raise ValueError(f"RandomCrop: size {self.size} is larger than the padded image "
                             f"{(height, width)}")
        crops = sliding_window_view(padded, self.size, axis=(2, 3))  # (N, C, tops, lefts, H, W)
        n, _, tops, lefts = crops.shape[:4]
        top = rng.integers(0, tops, n)
        left = rng.integers(0, lefts, n)
        return crops[np.arange(n), :, top, left]


class Cutout(Augmentation):
    """Fill a square of size x size pixels around a random pixel of each image.

    The square may extend beyond the image.  T. DeVries and G. W. Taylor, "Improved regularization
    of convolutional neural networks with cutout", 2017.
    """

    def __init__(self, size: int, fill: float = 0) -> None:
        self.size = as_integer("Cutout: size", size, 0)
        self.fill = as_number("Cutout: fill", fill)

    def apply(self, images: np.ndarray, rng: Generator) -> np.ndarray:
        n, _, height, width = images.shape
        row_mask = self._axis_mask(rng.integers(0, height, n), height)
        column_mask = self._axis_mask(rng.integers(0, width, n), width)
        mask = row_mask[:, None, :, None] & column_mask[:, None, None, :]
        return np.where(mask, np.asarray(self.fill, images.dtype), images)

    def _axis_mask(self, centers: np.ndarray, length: int) -> np.ndarray:
        """Mask (N, length) of the pixels inside each image's square, along one axis."""
        start = centers[:, None] - self.size // 2
        offset = np.arange(length) - start
        return (offset >= 0) & (offset < self.size)


class Mixup:
    """Mix each sample of a batch, and its label, with another sample of the batch.

    ``w * a + (1 - w) * b``, where one weight w is drawn from Beta(alpha, alpha) for each batch.
    Integer labels become float32 class probabilities (N, num_classes).  Mixup needs a batch: pass
    it as the DataLoader's `transform`, alone or last in a Compose.  H. Zhang et al., "mixup: beyond
    empirical risk minimization", 2018.
    """

    def __init__(self, alpha: float, num_classes: int | None = None) -> None:
        self.alpha = as_number("Mixup: alpha", alpha, "(0, inf)")
        self.num_classes = num_classes
        if num_classes is not None:
            self.num_classes = as_integer("Mixup: num_classes", num_classes, 1)

    def __call__(self, inputs: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        inputs = _host_array(inputs)
        labels = self._probabilities(_host_array(labels))
        if not is_float(inputs.dtype):
            raise TypeError(f"Mixup: inputs must be floating-point, got {inputs.dtype}: put "
                            f"ToFloat() before Mixup")
        with on_host():
            rng = batch_rng()
            other = rng.permutation(len(inputs))
            weight = _symmetric_beta(self.alpha, rng)

        def mix(a: np.ndarray) -> np.ndarray:
            return a * a.dtype.type(weight) + a[other] * a.dtype.type(1 - weight)

        return mix(inputs), mix(labels)

    def _probabilities(self, labels: np.ndarray) -> np.ndarray:
        """Integer labels as one-hot rows; floating-point labels are returned unchanged."""
        if is_float(labels.dtype):
            return labels
        if self.num_classes is None:
            raise ValueError("Mixup: integer labels need num_classes=")
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(f"Mixup: label out of range: expected 0 <= label < num_classes = "
                             f"{self.num_classes}, got labels from {labels.min()} to "
                             f"{labels.max()}")
        return np.eye(self.num_classes, dtype=np.float32)[labels]


def _symmetric_beta(alpha: float, rng: Generator) -> float:
    """Draw a number from Beta(alpha, alpha).

    ``1/2 ± 1/2 / sqrt(1 + 1/s)``, ``s = (u**(-1/alpha) - 1) * cos(2 * pi * v)**2``, with u and v
    uniform in (0, 1) and a random sign.  L. Devroye, "Non-uniform random variate generation", 1986,
    chapter IX.3.4.
    """
    u, v, sign = rng.uniform(3, dtype="float64").tolist()
    exponent = min(-math.log(1 - u) / alpha, 700.0)  # exp(700) is still finite
    s = math.expm1(exponent) * math.cos(2 * math.pi * v) ** 2  # 1 - u is uniform too
    distance = 0.5 / math.sqrt(1 + 1 / s) if s > 1e-300 else 0.0
    return 0.5 + distance if sign < 0.5 else 0.5 - distance
