"""Layers that resize images, or rearrange pixels and channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gpuprop.functional as F
from gpuprop._core.options import checks_options
from gpuprop.functional._resampling import check_options
from gpuprop.nn._function import Function
from gpuprop.nn._module import Module


class PixelShuffle(Function):
    function = staticmethod(F.pixel_shuffle)
    upscale_factor: int


class PixelUnshuffle(Function):
    function = staticmethod(F.pixel_unshuffle)
    downscale_factor: int


class ChannelShuffle(Function):
    function = staticmethod(F.channel_shuffle)
    groups: int


class Upsample(Module):
    """Resize the spatial dimensions of (N, C, *space) to `size`, or by the factor `scale_factor`.

    Pass one of the two, as one number or as a sequence with one per spatial dimension.  `mode` is
    "nearest", "nearest-exact", "area", "linear" (1 spatial dimension), "bilinear" or "bicubic" (2),
    or "trilinear" (3).  For the other options see `gpuprop.functional.interpolate`.

    >>> from gpuprop import nn
    >>> nn.Upsample(scale_factor=2, mode="nearest")(gpuprop.ones(1, 3, 4, 4)).shape
    (1, 3, 8, 8)
    """

    @checks_options
    def __init__(self, size: int | Sequence[int] | None = None,
                 scale_factor: float | Sequence[float] | None = None, mode: str = "nearest",
                 align_corners: bool | None = None,
                 recompute_scale_factor: bool | None = None) -> None:
        check_options(type(self).__name__, size, scale_factor, mode, align_corners,
                      recompute_scale_factor)
        self.size = size
        self.scale_factor = scale_factor
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: Any) -> Any:
        return F.interpolate(input, self.size, self.scale_factor, self.mode, self.align_corners,
                             self.recompute_scale_factor)

    def extra_repr(self) -> str:
        if self.scale_factor is None:
            return f"size={self.size}, mode={self.mode!r}"
        return f"scale_factor={self.scale_factor}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """`Upsample` of (N, C, H, W) with mode "nearest"."""

    def __init__(self, size: int | Sequence[int] | None = None,
                 scale_factor: float | Sequence[float] | None = None) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """`Upsample` of (N, C, H, W) with mode "bilinear" and ``align_corners=True``."""

    def __init__(self, size: int | Sequence[int] | None = None,
                 scale_factor: float | Sequence[float] | None = None) -> None:
        super().__init__(size, scale_factor, "bilinear", True)
