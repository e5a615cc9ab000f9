"""Residual networks: ResNet, wide ResNet and ResNeXt.

A residual block adds its input to the output of two or three convolutions, so a deep network only
has to learn what changes from block to block, and gradients pass through the sums undiminished.

- K. He et al., "Deep residual learning for image recognition", CVPR 2016.
- S. Zagoruyko and N. Komodakis, "Wide residual networks", BMVC 2016.
- S. Xie et al., "Aggregated residual transformations for deep neural networks", CVPR 2017.

Names and shapes of the entries of `state_dict` are torchvision's, whose published weights load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gpuprop.functional as F
import gpuprop.nn as nn
from gpuprop._core.options import checks_options


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size of images if the stride is 1."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A linear map of the channels of each pixel."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class Block(nn.Module):
    """Abstract: ``relu(residual(x) + x)``, or with `downsample` ``relu(residual(x) + down(x))``.

    `downsample` changes the size and channels of the input to those of the output, if they differ.
    """

    expansion: ClassVar[int]  # channels of the output / channels of the 3x3 convolution
    bn2: nn.BatchNorm2d
    bn3: nn.BatchNorm2d  # only of a Bottleneck
    downsample: nn.Module | None

    def residual(self, x: Any) -> Any:
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        return F.relu(self.residual(x) + (x if self.downsample is None else self.downsample(x)))


class BasicBlock(Block):
    """Two 3x3 convolutions: ``residual(x) = bn2(conv2(relu(bn1(conv1(x)))))``."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int,
                 downsample: nn.Module | None, groups: int = 1, width_per_group: int = 64) -> None:
        if groups != 1 or width_per_group != 64:
            raise ValueError(f"BasicBlock: groups and width_per_group must be 1 and 64, got "
                             f"{groups} and {width_per_group}: use Bottleneck")
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def residual(self, x: Any) -> Any:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(Block):
    """A 3x3 convolution between 1x1 convolutions that reduce the channels and restore them.

    ``residual(x) = bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x))))))))``

    The stride is that of the 3x3 convolution, as in torchvision; in the paper it is that of the
    first one.  Wide ResNets widen the 3x3 convolution, ResNeXt splits it into groups.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int,
                 downsample: nn.Module | None, groups: int = 1, width_per_group: int = 64) -> None:
        width = channels * width_per_group // 64 * groups
        self.conv1 = conv1x1(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, channels * self.expansion)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.downsample = downsample

    def residual(self, x: Any) -> Any:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class ResNet(nn.Module):
    """A ResNet: images (N, 3, H, W) to logits (N, num_classes).

    A 7x7 convolution and max pooling are followed by four groups of blocks: ``layers[i]`` blocks
    with ``64 * 2**i`` channels, and half the height and width from group to group.  The mean over
    all pixels goes through one linear layer.

    `block` is BasicBlock or Bottleneck, with `groups` and `width_per_group`.  With
    `zero_init_residual`, the last normalization of each block starts with weight 0, so that each
    block is the identity (P. Goyal et al., 2017).

    >>> from gpuprop import models
    >>> model = models.ResNet(models.BasicBlock, [1, 1, 1, 1], num_classes=10)
    >>> model(gpuprop.ones(2, 3, 32, 32)).shape
    (2, 10)
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    @checks_options(layers=1, num_classes=1, width_per_group=1)
    def __init__(self, block: type[BasicBlock | Bottleneck], layers: Sequence[int],
                 num_classes: int = 1000, zero_init_residual: bool = False, groups: int = 1,
                 width_per_group: int = 64) -> None:
        if len(layers) != 4:
            raise ValueError(f"ResNet: layers must be the numbers of blocks of four groups, got "
                             f"{layers}")
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        in_channels = 64
        for i, blocks in enumerate(layers):
            channels = 64 * 2**i
            out_channels = channels * block.expansion
            group = nn.Sequential()
            for stride in (1 if i == 0 else 2, *[1] * (blocks - 1)):
                downsample = None
                if stride != 1 or in_channels != out_channels:
                    downsample = nn.Sequential(conv1x1(in_channels, out_channels, stride),
                                               nn.BatchNorm2d(out_channels))
                group.append(block(in_channels, channels, stride, downsample, groups,
                                   width_per_group))
                in_channels = out_channels
            setattr(self, f"layer{i + 1}", group)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, Block):
                last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                for p in last.parameters():
                    nn.init.zeros_(p)

    def forward(self, x: Any) -> Any:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        return self.fc(self.avgpool(x).flatten(1))


def resnet18(num_classes: int = 1000, **options: Any) -> ResNet:
    """ResNet-18, of basic blocks.  `options` are those of `ResNet`."""
    return ResNet(BasicBlock, [2, 2, 2, 2], num_classes, **options)


def resnet34(num_classes: int = 1000, **options: Any) -> ResNet:
    """ResNet-34, of basic blocks.  `options` are those of `ResNet`."""
    return ResNet(BasicBlock, [3, 4, 6, 3], num_classes, **options)


def resnet50(num_classes: int = 1000, **options: Any) -> ResNet:
    """ResNet-50, of bottlenecks.  `options` are those of `ResNet`."""
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes, **options)


def resnet101(num_classes: int = 1000, **options: Any) -> ResNet:
    """ResNet-101, of bottlenecks.  `options` are those of `ResNet`."""
    return ResNet(Bottleneck, [3, 4, 23, 3], num_classes, **options)


def resnet152(num_classes: int = 1000, **options: Any) -> ResNet:
    """ResNet-152, of bottlenecks.  `options` are those of `ResNet`."""
    return ResNet(Bottleneck, [3, 8, 36, 3], num_classes, **options)


def resnext50_32x4d(num_classes: int = 1000, **options: Any) -> ResNet:
    """ResNeXt-50: bottlenecks with 32 groups of 4 channels."""
    return resnet50(num_classes, groups=32, width_per_group=4, **options)


def resnext101_32x8d(num_classes: int = 1000, **options: Any) -> ResNet:
    """ResNeXt-101: bottlenecks with 32 groups of 8 channels."""
    return resnet101(num_classes, groups=32, width_per_group=8, **options)


def resnext101_64x4d(num_classes: int = 1000, **options: Any) -> ResNet:
    """ResNeXt-101: bottlenecks with 64 groups of 4 channels."""
    return resnet101(num_classes, groups=64, width_per_group=4, **options)


def wide_resnet50_2(num_classes: int = 1000, **options: Any) -> ResNet:
    """Wide ResNet-50: bottlenecks whose 3x3 convolution is twice as wide."""
    return resnet50(num_classes, width_per_group=128, **options)


def wide_resnet101_2(num_classes: int = 1000, **options: Any) -> ResNet:
    """Wide ResNet-101: bottlenecks whose 3x3 convolution is twice as wide."""
    return resnet101(num_classes, width_per_group=128, **options)
