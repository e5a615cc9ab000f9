"""Resampling: see the function of the same name in `gpuprop.functional`, whose options these take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gpuprop.functional as F
from gpuprop.nn._function import Function
from gpuprop.nn._module import Module


class PixelShuffle(Function):
    function = staticmethod(F.pixel_shuffle)


class PixelUnshuffle(Function):
    function = staticmethod(F.pixel_unshuffle)


class ChannelShuffle(Function):
    function = staticmethod(F.channel_shuffle)


class Upsample(Module):
    """(N, C, *space) in another `size` of space, or in `scale_factor` times its own."""

    def __init__(self, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None,
                 mode: str = "nearest", align_corners: bool | None = None,
                 recompute_scale_factor: bool | None = None) -> None:
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor = align_corners, recompute_scale_factor

    def forward(self, input: Any) -> Any:
        return F.interpolate(input, self.size, self.scale_factor, self.mode, self.align_corners,
                             self.recompute_scale_factor)

    def extra_repr(self) -> str:
        how = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{how}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Of (N, C, H, W), to the nearest."""

    def __init__(self, size: int | Sequence[int] | None = None,
                 scale_factor: float | Sequence[float] | None = None) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """Of (N, C, H, W), with corners aligned."""

    def __init__(self, size: int | Sequence[int] | None = None,
                 scale_factor: float | Sequence[float] | None = None) -> None:
        super().__init__(size, scale_factor, "bilinear", True)
