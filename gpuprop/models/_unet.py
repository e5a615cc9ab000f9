"""U-Net: a network that labels each pixel of an image.

The image is reduced four times to half its size, with twice the channels, and enlarged again.  At
each size, what the way down has computed is joined to the way up, so that labels are as sharp as
the image and depend on a large part of it.

O. Ronneberger, P. Fischer and T. Brox, "U-Net: Convolutional networks for biomedical image
segmentation", MICCAI 2015; here with padded convolutions and batch normalization.

Names and shapes of the entries of `state_dict` are those of https://github.com/milesial/Pytorch-UNet,
whose published weights load.
"""

from __future__ import annotations

from typing import Any

import gpuprop.functional as F
import gpuprop.nn as nn
from gpuprop._array.shape import concatenate
from gpuprop._core.options import checks_options


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with batch normalization and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, hidden: int | None = None) -> None:
        hidden = hidden or out_channels
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU())

    def forward(self, x: Any) -> Any:
        return self.double_conv(x)


class Down(nn.Module):
    """Half the size, then a double convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(in_channels, out_channels))

    def forward(self, x: Any) -> Any:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Twice the size, joined to the channels from the way down, then a double convolution.

    The size is doubled by bilinear interpolation, or by a transposed convolution that halves the
    channels.
    """

    def __init__(self, in_channels: int, out_channels: int, bilinear: bool) -> None:
        half = in_channels // 2
        if bilinear:
            self.up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(in_channels, out_channels, half)
        else:
            self.up = nn.ConvTranspose2d(in_channels, half, 2, stride=2)
            self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x: Any, skip: Any) -> Any:
        x = self.up(x)
        # Half of an odd size is rounded down: a row or column is missing.
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        if rows or columns:
            x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return self.conv(concatenate([skip, x], 1))


class OutConv(nn.Module):
    """A linear map of the channels of each pixel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Any) -> Any:
        return self.conv(x)


class UNet(nn.Module):
    """A U-Net: images (N, n_channels, H, W) to logits (N, n_classes, H, W) of each pixel.

    H and W are at least 16, and need not be multiples of 16.  `bilinear` replaces the transposed
    convolutions by interpolation, with half the channels.  `width` is the number of channels at the
    full size.

    >>> from gpuprop import models
    >>> model = models.UNet(n_channels=1, n_classes=2, width=4)
    >>> model(gpuprop.ones(1, 1, 37, 50)).shape
    (1, 2, 37, 50)
    """

    @checks_options(n_channels=1, width=1)
    def __init__(self, n_channels: int, n_classes: int, bilinear: bool = False,
                 width: int = 64) -> None:
        self.n_channels = n_channels
        self.n_classes = n_classes
        self.bilinear = bilinear
        factor = 2 if bilinear else 1
        self.inc = DoubleConv(n_channels, width)
        self.down1 = Down(width, 2 * width)
        self.down2 = Down(2 * width, 4 * width)
        self.down3 = Down(4 * width, 8 * width)
        self.down4 = Down(8 * width, 16 * width // factor)
        self.up1 = Up(16 * width, 8 * width // factor, bilinear)
        self.up2 = Up(8 * width, 4 * width // factor, bilinear)
        self.up3 = Up(4 * width, 2 * width // factor, bilinear)
        self.up4 = Up(2 * width, width, bilinear)
        self.outc = OutConv(width, n_classes)

    def forward(self, x: Any) -> Any:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.down4(x4)
        x = self.up1(x, x4)
        x = self.up2(x, x3)
        x = self.up3(x, x2)
        x = self.up4(x, x1)
        return self.outc(x)
