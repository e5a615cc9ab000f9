"""Pooling: see the function of the same name in `gpuprop.functional`, whose options these take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop.functional._windows import Sizes
from gpuprop.nn._function import Function
from gpuprop.nn._module import Module


class MaxPool(Module):
    """Abstract: the largest element of each window on `dims` axes of space; PyTorch's layers have their own order."""

    dims: ClassVar[int]

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
                 return_indices: bool = False, ceil_mode: bool = False) -> None:
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Any) -> Any:
        return getattr(F, f"max_pool{self.dims}d")(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)

    def extra_repr(self) -> str:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class MaxPool1d(MaxPool):
    dims = 1


class MaxPool2d(MaxPool):
    dims = 2


class MaxPool3d(MaxPool):
    dims = 3


class Unpool:
    """Abstract: the indices, and if need be the output's size, come with the input."""

    inputs, hidden = 2, (*Function.hidden, "output_size")

    def forward(self: Any, input: Any, indices: Any, output_size: Sequence[int] | None = None) -> Any:
        return type(self).function(input, indices, **self.options(), output_size=output_size)


class MaxUnpool1d(Unpool, Function):
    function = staticmethod(F.max_unpool1d)


class MaxUnpool2d(Unpool, Function):
    function = staticmethod(F.max_unpool2d)


class MaxUnpool3d(Unpool, Function):
    function = staticmethod(F.max_unpool3d)


class AvgPool1d(Function):
    function = staticmethod(F.avg_pool1d)


class AvgPool2d(Function):
    function = staticmethod(F.avg_pool2d)


class AvgPool3d(Function):
    function = staticmethod(F.avg_pool3d)


class LPPool1d(Function):
    function = staticmethod(F.lp_pool1d)


class LPPool2d(Function):
    function = staticmethod(F.lp_pool2d)


class LPPool3d(Function):
    function = staticmethod(F.lp_pool3d)


class AdaptiveAvgPool1d(Function):
    function = staticmethod(F.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(Function):
    function = staticmethod(F.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(Function):
    function = staticmethod(F.adaptive_avg_pool3d)


class AdaptiveMaxPool1d(Function):
    function = staticmethod(F.adaptive_max_pool1d)


class AdaptiveMaxPool2d(Function):
    function = staticmethod(F.adaptive_max_pool2d)


class AdaptiveMaxPool3d(Function):
    function = staticmethod(F.adaptive_max_pool3d)


class FractionalMaxPool2d(Function):
    function = staticmethod(F.fractional_max_pool2d)


class FractionalMaxPool3d(Function):
    function = staticmethod(F.fractional_max_pool3d)
