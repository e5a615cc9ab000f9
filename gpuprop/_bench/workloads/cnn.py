"""Convolutional networks that classify images."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._bench.workload import Inference, Sizes, Training


def images(rng: np.random.Generator, s: Sizes) -> list:
    """Noisy images with one square; the label is its position."""
    found = []
    step = s.pixels // 4
    for _ in range(2):
        labels = rng.integers(0, 10, s.batch)
        x = rng.normal(0, 0.3, (s.batch, s.channels, s.pixels, s.pixels)).astype("float32")
        for image, label in zip(x, labels, strict=True):
            row, column = step * (label // 4), step * (label % 4)
            image[:, row:row + step, column:column + step] += 1
        found.append((x, labels))
    return found


def cnn(lib: Any, s: Sizes) -> Any:
    """Two 3x3 convolutions, pooling and two linear layers."""
    nn = lib.nn
    a, b, dense = s.widths
    side = (s.pixels - 4) // 2
    return nn.Sequential(
        nn.Conv2d(s.channels, a, 3), nn.ReLU(), nn.Conv2d(a, b, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(b * side * side, dense), nn.ReLU(), nn.Linear(dense, 10))


def resnet(lib: Any, s: Sizes) -> Any:
    """Stages of two residual blocks; each but the first halves the height and width."""
    nn = lib.nn

    class Block(lib.nn.Module):
        def __init__(self, n: int, m: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(n, m, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(m)
            self.conv2 = nn.Conv2d(m, m, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(m)
            self.shortcut = nn.Conv2d(n, m, 1, stride, bias=False) if n != m else nn.Identity()

        def forward(self, x: Any) -> Any:
            y = lib.F.relu(self.bn1(self.conv1(x)))
            return lib.F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    first = s.widths[0]
    layers = [nn.Conv2d(s.channels, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    for n, m in zip((first, *s.widths), s.widths, strict=False):
        layers += [Block(n, m, 1 if n == m else 2), Block(m, m, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(s.widths[-1], 10)]
    return nn.Sequential(*layers)


def separable(lib: Any, s: Sizes) -> Any:
    """Depthwise 3x3 and 1x1 convolutions; a block with more channels halves the height and width.

    Each convolution is followed by batch normalization and ReLU, as in MobileNet.
    """
    nn = lib.nn

    def unit(n: int, m: int, size: int, stride: int, groups: int) -> list:
        conv = nn.Conv2d(n, m, size, stride, size // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(m), nn.ReLU()]

    first = s.widths[0]
    layers = unit(s.channels, first, 3, 1, 1)
    for n, m in zip(s.widths, s.widths[1:], strict=False):
        layers += unit(n, n, 3, 1 if n == m else 2, n) + unit(n, m, 1, 1, 1)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(s.widths[-1], 10)]
    return nn.Sequential(*layers)


DIGITS = {"widths": (32, 64, 128), "channels": 1, "pixels": 28}
QUICK_DIGITS = {"widths": (4, 4, 8), "pixels": 12, "batch": 4}
SGD = {"lr": 0.05, "momentum": 0.9}

WORKLOADS = {
    "cnn": Training(
        what="CNN conv 32 - conv 64 - pool - dense 128 on 28x28, batch 64, Adam",
        model=cnn, data=images, steps=10,
        sizes={**DIGITS, "batch": 64}, quick=QUICK_DIGITS,
        left_out={"compile": "its losses differ from those of PyTorch itself after the first step "
                             "(PyTorch 2.13)"}),
    "resnet": Training(
        what="ResNet of three stages (32, 64, 128) of two blocks on 32x32, batch 32, SGD",
        model=resnet, data=images, optimizer="SGD", options=SGD, steps=5,
        sizes={"widths": (32, 64, 128), "channels": 3, "pixels": 32, "batch": 32},
        quick={"widths": (4, 8), "pixels": 8, "batch": 4}),
    "separable": Training(
        what="depthwise-separable CNN of 64 to 256 channels on 32x32, batch 32, SGD",
        model=separable, data=images, optimizer="SGD", options=SGD, steps=5,
        sizes={"widths": (32, 64, 128, 128, 256, 256), "channels": 3, "pixels": 32, "batch": 32},
        quick={"widths": (4, 8, 8), "pixels": 8, "batch": 4}),
    "cnn_one": Inference(
        what="inference of the CNN on one image", model=cnn, data=images,
        sizes={**DIGITS, "batch": 1}, quick={**QUICK_DIGITS, "batch": 1}),
    "cnn_1000": Inference(
        what="inference of the CNN on 1000 images", model=cnn, data=images,
        sizes={**DIGITS, "batch": 1000}, quick=QUICK_DIGITS),
}
