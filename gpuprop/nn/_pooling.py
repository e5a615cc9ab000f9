"""Pooling layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Tensor
from gpuprop.functional._adaptive_pooling import check_either
from gpuprop.functional._windows import Sizes
from gpuprop.nn._function import Function
from gpuprop.nn._module import Module


class MaxPool(Module):
    """Abstract: MaxPool1d, MaxPool2d and MaxPool3d.

    This is not a `Function`, because PyTorch's layers and functions take the options in different
    orders.
    """

    _dims: ClassVar[int]  # spatial dimensions

    @checks_options
    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                 dilation: Sizes = 1, return_indices: bool = False,
                 ceil_mode: bool = False) -> None:
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Any) -> Any:
        function = getattr(F, f"max_pool{self._dims}d")
        return function(input, self.kernel_size, self.stride, self.padding, self.dilation,
                        self.ceil_mode, self.return_indices)

    def extra_repr(self) -> str:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class MaxPool1d(MaxPool):
    """The maximum of each window of (N, C, L) or (C, L); see `MaxPool2d`."""

    _dims = 1


class MaxPool2d(MaxPool):
    """The maximum of each window.

    Input (N, C, H, W) or (C, H, W); output (N, C, H_out, W_out) or (C, H_out, W_out) with

    ``H_out = floor((H + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``

    `ceil_mode` replaces floor by ceil.  The default `stride` is `kernel_size`.  The padding is
    minus infinity.  With `return_indices`, the result is a pair (maxima, indices), as
    `MaxUnpool2d` requires.  See `gpuprop.functional.max_pool2d`.

    >>> from gpuprop import nn
    >>> nn.MaxPool2d(2)(gpuprop.ones(1, 3, 8, 8)).shape
    (1, 3, 4, 4)
    """

    _dims = 2


class MaxPool3d(MaxPool):
    """The maximum of each window of (N, C, D, H, W) or (C, D, H, W); see `MaxPool2d`."""

    _dims = 3


class MaxUnpool(Function):
    """Abstract: MaxUnpool1d, MaxUnpool2d and MaxUnpool3d."""

    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0

    def forward(self, input: Any, indices: Any, output_size: Sequence[int] | None = None) -> Any:
        return super().forward(input, indices, output_size=output_size)


class MaxUnpool1d(MaxUnpool):
    function = staticmethod(F.max_unpool1d)


class MaxUnpool2d(MaxUnpool):
    function = staticmethod(F.max_unpool2d)


class MaxUnpool3d(MaxUnpool):
    function = staticmethod(F.max_unpool3d)


class AvgPool1d(Function):
    function = staticmethod(F.avg_pool1d)
    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0
    ceil_mode: bool = False
    count_include_pad: bool = True


class AvgPool2d(Function):
    function = staticmethod(F.avg_pool2d)
    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None


class AvgPool3d(Function):
    function = staticmethod(F.avg_pool3d)
    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None


class LPPool(Function):
    """Abstract: LPPool1d, LPPool2d and LPPool3d."""

    norm_type: int | float
    kernel_size: Sizes
    stride: Sizes | None = None
    ceil_mode: bool = False


class LPPool1d(LPPool):
    function = staticmethod(F.lp_pool1d)


class LPPool2d(LPPool):
    function = staticmethod(F.lp_pool2d)


class LPPool3d(LPPool):
    function = staticmethod(F.lp_pool3d)


class AdaptiveAvgPool1d(Function):
    function = staticmethod(F.adaptive_avg_pool1d)
    output_size: Any


class AdaptiveAvgPool2d(Function):
    function = staticmethod(F.adaptive_avg_pool2d)
    output_size: Any


class AdaptiveAvgPool3d(Function):
    function = staticmethod(F.adaptive_avg_pool3d)
    output_size: Any


class AdaptiveMaxPool1d(Function):
    function = staticmethod(F.adaptive_max_pool1d)
    output_size: Any
    return_indices: bool = False


class AdaptiveMaxPool2d(Function):
    function = staticmethod(F.adaptive_max_pool2d)
    output_size: Any
    return_indices: bool = False


class AdaptiveMaxPool3d(Function):
    function = staticmethod(F.adaptive_max_pool3d)
    output_size: Any
    return_indices: bool = False


class FractionalMaxPool(Function):
    """Abstract: FractionalMaxPool2d and FractionalMaxPool3d."""

    kernel_size: Sizes
    output_size: Any = None
    output_ratio: float | Sequence[float] | None = None
    return_indices: bool = False
    _random_samples: Tensor | None = None
    _limits = {"output_ratio": "(0, 1)"}

    def _check_combination(self) -> None:
        check_either(type(self).__name__, self.output_size, self.output_ratio)


class FractionalMaxPool2d(FractionalMaxPool):
    function = staticmethod(F.fractional_max_pool2d)


class FractionalMaxPool3d(FractionalMaxPool):
    function = staticmethod(F.fractional_max_pool3d)
