"""MobileNet V2 and V3: networks for images that are fast on small devices.

Both consist of inverted residuals: a 1x1 convolution that expands the channels, a depthwise
convolution (one filter per channel), and a 1x1 convolution without activation that reduces the
channels.  They need much fewer multiplications than full convolutions.

- M. Sandler et al., "MobileNetV2: Inverted residuals and linear bottlenecks", CVPR 2018.
- A. Howard et al., "Searching for MobileNetV3", ICCV 2019.

Names and shapes of the entries of `state_dict` are torchvision's, whose published weights load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gpuprop.nn as nn
from gpuprop._core.options import checks_options


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, but at least nine tenths of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class ConvNormActivation(nn.Sequential):
    """A convolution that keeps the size of images if the stride is 1, a norm, an activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1,
                 groups: int = 1, norm: Callable = nn.BatchNorm2d,
                 activation: Callable | None = None) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2,
                      groups=groups, bias=False),
            norm(out_channels))
        if activation is not None:
            self.append(activation())


def initialize(model: nn.Module) -> None:
    """Initialize as torchvision does: He's scheme for convolutions, small linear layers."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


# ---- V2 ------------------------------------------------------------------------------------------


class InvertedResidual(nn.Module):
    """Expand by `expand_ratio`, depthwise 3x3 convolution, reduce; ReLU6 after the first two.

    The input is added if it has the shape of the output.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int,
                 expand_ratio: float) -> None:
        hidden = round(in_channels * expand_ratio)
        self.is_residual = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential()
        if expand_ratio != 1:
            self.conv.append(ConvNormActivation(in_channels, hidden, 1, activation=nn.ReLU6))
        self.conv.extend([
            ConvNormActivation(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels)])

    def forward(self, x: Any) -> Any:
        return x + self.conv(x) if self.is_residual else self.conv(x)


V2_SETTING = (  # expand_ratio, channels, blocks, stride of the first block: table 2 of the paper
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1))


class MobileNetV2(nn.Module):
    """MobileNet V2: images (N, 3, H, W) to logits (N, num_classes).

    `width_mult` scales the numbers of channels, which are rounded to multiples of `round_nearest`.
    A row of `inverted_residual_setting` is (expand_ratio, channels, blocks, stride).  `dropout`
    acts before the linear layer.

    >>> from gpuprop import models
    >>> setting = [(1, 8, 1, 1), (6, 16, 2, 2)]
    >>> model = models.MobileNetV2(10, width_mult=0.5, inverted_residual_setting=setting)
    >>> model(gpuprop.ones(2, 3, 32, 32)).shape
    (2, 10)
    """

    @checks_options(num_classes=1, width_mult="(0, inf)", round_nearest=1)
    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0,
                 inverted_residual_setting: Sequence[Sequence] = V2_SETTING,
                 round_nearest: int = 8, dropout: float = 0.2) -> None:
        channels = round_channels(32 * width_mult, round_nearest)
        last_channels = round_channels(1280 * max(1.0, width_mult), round_nearest)
        self.features = nn.Sequential(
            ConvNormActivation(3, channels, stride=2, activation=nn.ReLU6))
        for expand_ratio, c, blocks, first_stride in inverted_residual_setting:
            out_channels = round_channels(c * width_mult, round_nearest)
            for stride in (first_stride, *[1] * (blocks - 1)):
                self.features.append(
                    InvertedResidual(channels, out_channels, stride, expand_ratio))
                channels = out_channels
        self.features.append(ConvNormActivation(channels, last_channels, 1, activation=nn.ReLU6))
        self.classifier = nn.Sequential(nn.Dropout(dropout),
                                        nn.Linear(last_channels, num_classes))
        initialize(self)

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v2(num_classes: int = 1000, **options: Any) -> MobileNetV2:
    """MobileNet V2.  `options` are those of `MobileNetV2`."""
    return MobileNetV2(num_classes, **options)


# ---- V3 ------------------------------------------------------------------------------------------


class SqueezeExcitation(nn.Module):
    """Scale each channel by a factor that depends on the means of all channels.

    ``x * hardsigmoid(fc2(relu(fc1(mean(x)))))``

    J. Hu et al., "Squeeze-and-excitation networks", CVPR 2018.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Any) -> Any:
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return self.scale_activation(scale) * x


class Bneck(NamedTuple):
    """A row of tables 1 and 2 of the paper of V3."""

    kernel_size: int
    expanded: int  # channels of the depthwise convolution
    out: int  # channels of the output
    squeeze: bool  # with squeeze and excitation
    activation: Callable
    stride: int


class InvertedResidualV3(nn.Module):
    """Expand, depthwise convolution, squeeze and excitation, reduce.

    The input is added if it has the shape of the output.
    """

    def __init__(self, in_channels: int, row: Bneck, norm: Callable) -> None:
        self.is_residual = row.stride == 1 and in_channels == row.out
        self.block = nn.Sequential()
        if row.expanded != in_channels:
            self.block.append(ConvNormActivation(in_channels, row.expanded, 1, norm=norm,
                                                 activation=row.activation))
        self.block.append(
            ConvNormActivation(row.expanded, row.expanded, row.kernel_size, row.stride,
                               row.expanded, norm, row.activation))
        if row.squeeze:
            squeezed = round_channels(row.expanded // 4)
            self.block.append(SqueezeExcitation(row.expanded, squeezed))
        self.block.append(ConvNormActivation(row.expanded, row.out, 1, norm=norm))

    def forward(self, x: Any) -> Any:
        return x + self.block(x) if self.is_residual else self.block(x)


RE, HS = nn.ReLU, nn.Hardswish
V3_LARGE = (
    Bneck(3, 16, 16, False, RE, 1),
    Bneck(3, 64, 24, False, RE, 2), Bneck(3, 72, 24, False, RE, 1),
    Bneck(5, 72, 40, True, RE, 2), Bneck(5, 120, 40, True, RE, 1), Bneck(5, 120, 40, True, RE, 1),
    Bneck(3, 240, 80, False, HS, 2), Bneck(3, 200, 80, False, HS, 1),
    Bneck(3, 184, 80, False, HS, 1), Bneck(3, 184, 80, False, HS, 1),
    Bneck(3, 480, 112, True, HS, 1), Bneck(3, 672, 112, True, HS, 1),
    Bneck(5, 672, 160, True, HS, 2), Bneck(5, 960, 160, True, HS, 1),
    Bneck(5, 960, 160, True, HS, 1))
V3_SMALL = (
    Bneck(3, 16, 16, True, RE, 2),
    Bneck(3, 72, 24, False, RE, 2), Bneck(3, 88, 24, False, RE, 1),
    Bneck(5, 96, 40, True, HS, 2), Bneck(5, 240, 40, True, HS, 1), Bneck(5, 240, 40, True, HS, 1),
    Bneck(5, 120, 48, True, HS, 1), Bneck(5, 144, 48, True, HS, 1),
    Bneck(5, 288, 96, True, HS, 2), Bneck(5, 576, 96, True, HS, 1), Bneck(5, 576, 96, True, HS, 1))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalization with V3's settings."""
    return nn.BatchNorm2d(channels, eps=0.001, momentum=0.01)


class MobileNetV3(nn.Module):
    """MobileNet V3: images (N, 3, H, W) to logits (N, num_classes).

    A row of `setting` is (kernel_size, expanded channels, output channels, with squeeze and
    excitation, activation, stride), `last_channels` is the width of the hidden linear layer, and
    `width_mult` scales all numbers of channels.  `dropout` acts before the last layer.
    """

    @checks_options(last_channels=1, num_classes=1, width_mult="(0, inf)")
    def __init__(self, setting: Sequence[Sequence], last_channels: int, num_classes: int = 1000,
                 width_mult: float = 1.0, dropout: float = 0.2) -> None:
        channels = round_channels(16 * width_mult)
        self.features = nn.Sequential(
            ConvNormActivation(3, channels, stride=2, norm=batch_norm, activation=HS))
        for row in setting:
            row = Bneck(*row)
            row = row._replace(expanded=round_channels(row.expanded * width_mult),
                               out=round_channels(row.out * width_mult))
            self.features.append(InvertedResidualV3(channels, row, batch_norm))
            channels = row.out
        self.features.append(
            ConvNormActivation(channels, 6 * channels, 1, norm=batch_norm, activation=HS))
        hidden = round_channels(last_channels * width_mult)
        self.classifier = nn.Sequential(nn.Linear(6 * channels, hidden), HS(),
                                        nn.Dropout(dropout), nn.Linear(hidden, num_classes))
        initialize(self)

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v3_large(num_classes: int = 1000, **options: Any) -> MobileNetV3:
    """MobileNet V3 Large (table 1).  `options` are those of `MobileNetV3`.

    >>> from gpuprop import models
    >>> model = models.mobilenet_v3_large(num_classes=10, width_mult=0.25)
    >>> sum(p.size for p in model.parameters())
    299210
    """
    return MobileNetV3(V3_LARGE, 1280, num_classes, **options)


def mobilenet_v3_small(num_classes: int = 1000, **options: Any) -> MobileNetV3:
    """MobileNet V3 Small (table 2).  `options` are those of `MobileNetV3`."""
    return MobileNetV3(V3_SMALL, 1024, num_classes, **options)
