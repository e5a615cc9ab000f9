"""ConvNeXt: a convolutional network with the proportions and layers of a Transformer.

A depthwise 7x7 convolution mixes pixels as attention does, two linear layers mix the channels of
each pixel, and layer normalization replaces batch normalization.

Z. Liu et al., "A ConvNet for the 2020s", CVPR 2022.  Stochastic depth: G. Huang et al., ECCV 2016.

Names and shapes of the entries of `state_dict` are torchvision's, whose published weights load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gpuprop.functional as F
import gpuprop.nn as nn
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.options import checks_options
from gpuprop.nn._module import new_tensor


class Permute(nn.Module):
    """Permute the axes of the input."""

    def __init__(self, *axes: int) -> None:
        self.axes = axes

    def forward(self, x: Any) -> Any:
        return x.permute(*self.axes)


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization of the channels of each pixel of (N, C, H, W)."""

    def forward(self, input: Any) -> Any:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class StochasticDepth(nn.Module):
    """In training, set whole samples to 0 with probability `p`, and divide the rest by 1 - p."""

    def __init__(self, p: float) -> None:
        self.p = p

    def forward(self, x: Any) -> Any:
        if not self.training or self.p == 0:
            return x
        ones = namespace(raw(x)).ones((len(x), *[1] * (x.ndim - 1)), x.dtype)
        return x * F.dropout(ones, self.p)


class CNBlock(nn.Module):
    """``x + layer_scale * linear2(gelu(linear1(norm(depthwise_conv(x)))))``

    The linear layers act on the channels of each pixel.
    """

    def __init__(self, channels: int, layer_scale: float, stochastic_depth_prob: float) -> None:
        self.layer_scale = nn.Parameter(new_tensor((channels, 1, 1), value=layer_scale))
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Permute(0, 3, 1, 2))
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob)

    def forward(self, x: Any) -> Any:
        return x + self.stochastic_depth(self.layer_scale * self.block(x))


class ConvNeXt(nn.Module):
    """ConvNeXt: images (N, 3, H, W) to logits (N, num_classes).

    Stage i has ``depths[i]`` blocks with ``widths[i]`` channels.  A 4x4 convolution with stride 4
    comes before the first stage, a 2x2 convolution with stride 2 before each of the others.  The
    probability of stochastic depth rises linearly from 0 in the first block to
    `stochastic_depth_prob` in the last one.  `layer_scale` is the initial scale of each block.

    >>> from gpuprop import models
    >>> model = models.ConvNeXt([1, 2], [8, 16], num_classes=10)
    >>> model(gpuprop.ones(2, 3, 32, 32)).shape
    (2, 10)
    """

    @checks_options(depths=1, widths=1, num_classes=1, stochastic_depth_prob="[0, 1]")
    def __init__(self, depths: Sequence[int], widths: Sequence[int], num_classes: int = 1000,
                 stochastic_depth_prob: float = 0.0, layer_scale: float = 1e-6) -> None:
        if len(depths) != len(widths) or not depths:
            raise ValueError(f"ConvNeXt: depths and widths must have one number for each stage, "
                             f"got {depths} and {widths}")
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), LayerNorm2d(widths[0], eps=1e-6)))
        done, last = 0, sum(depths) - 1
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if i > 0:
                self.features.append(nn.Sequential(
                    LayerNorm2d(widths[i - 1], eps=1e-6),
                    nn.Conv2d(widths[i - 1], width, 2, stride=2)))
            probabilities = [stochastic_depth_prob * (done + j) / (last or 1)
                             for j in range(depth)]
            self.features.append(nn.Sequential(
                *[CNBlock(width, layer_scale, p) for p in probabilities]))
            done += depth
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(LayerNorm2d(widths[-1], eps=1e-6), nn.Flatten(),
                                        nn.Linear(widths[-1], num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Any) -> Any:
        return self.classifier(self.avgpool(self.features(x)))


def convnext_tiny(num_classes: int = 1000, stochastic_depth_prob: float = 0.1,
                  layer_scale: float = 1e-6) -> ConvNeXt:
    """ConvNeXt-T: 28 million parameters."""
    return ConvNeXt([3, 3, 9, 3], [96, 192, 384, 768], num_classes, stochastic_depth_prob,
                    layer_scale)


def convnext_small(num_classes: int = 1000, stochastic_depth_prob: float = 0.4,
                   layer_scale: float = 1e-6) -> ConvNeXt:
    """ConvNeXt-S: 50 million parameters."""
    return ConvNeXt([3, 3, 27, 3], [96, 192, 384, 768], num_classes, stochastic_depth_prob,
                    layer_scale)


def convnext_base(num_classes: int = 1000, stochastic_depth_prob: float = 0.5,
                  layer_scale: float = 1e-6) -> ConvNeXt:
    """ConvNeXt-B: 89 million parameters."""
    return ConvNeXt([3, 3, 27, 3], [128, 256, 512, 1024], num_classes, stochastic_depth_prob,
                    layer_scale)


def convnext_large(num_classes: int = 1000, stochastic_depth_prob: float = 0.5,
                   layer_scale: float = 1e-6) -> ConvNeXt:
    """ConvNeXt-L: 198 million parameters."""
    return ConvNeXt([3, 3, 27, 3], [192, 384, 768, 1536], num_classes, stochastic_depth_prob,
                    layer_scale)
