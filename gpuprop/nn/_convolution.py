"""Convolutions, their transposes, and windows as columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._core.tensor import Parameter
from gpuprop.functional._convolution import around
from gpuprop.functional._windows import Sizes, numbers
from gpuprop.nn._function import Function
from gpuprop.nn._module import Module
from gpuprop.nn.init import new, uniform_
from gpuprop.random import Generator

MODES = "zeros", "reflect", "replicate", "circular"


class Filters(Module):
    """Abstract: filters on `dims` axes of space and a bias, which start uniform within 1/sqrt(inputs of a filter)."""

    dims: ClassVar[int]

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes, dilation: Sizes,
                 groups: int, padding_mode: str) -> None:
        name = type(self).__name__
        given = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        self.kernel_size, self.stride, self.dilation = (numbers(name, k, v, self.dims) for k, v in given.items())
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"{name}: groups={groups} must divide in_channels={in_channels} and "
                             f"out_channels={out_channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.padding_mode = padding_mode

    def _make(self, outer: int, inner: int, bias: bool, device: str | None, dtype: Any, rng: Generator | None) -> None:
        """The parameters."""
        self.weight = Parameter(new((outer, inner // self.groups, *self.kernel_size), device, dtype))
        self.bias = Parameter(new((self.out_channels,), device, dtype)) if bias else None
        self.reset_parameters(rng)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Draw the parameters anew."""
        bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]) or 1)
        for p in (self.weight, self.bias):
            if p is not None:
                uniform_(p, -bound, bound, rng)

    def extra_repr(self) -> str:
        usual = {"padding": 0, "output_padding": 0, "dilation": 1}
        told: dict[str, Any] = {"kernel_size": self.kernel_size, "stride": self.stride}
        told |= {n: getattr(self, n) for n, v in usual.items() if getattr(self, n, v) not in (v, (v,) * self.dims)}
        told |= {n: v for n, v, told_if in (
            ("groups", self.groups, self.groups != 1), ("bias", False, self.bias is None),
            ("padding_mode", self.padding_mode, self.padding_mode != "zeros")) if told_if}
        return ", ".join([f"{self.in_channels}, {self.out_channels}", *(f"{n}={v}" for n, v in told.items())])


class Convolution(Filters):
    """Abstract: the correlation of images with filters (O, C / groups, *kernel_size), see `F.conv2d`.

    `padding_mode` says what the input is padded with: "zeros", or its own "reflect", "replicate", "circular".
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1,
                 padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1, bias: bool = True,
                 padding_mode: str = "zeros", device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        name = type(self).__name__
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups, padding_mode)
        if padding_mode not in MODES:
            raise ValueError(f"{name}: padding_mode is one of {', '.join(MODES)}, not {padding_mode!r}")
        self.padding = padding if isinstance(padding, str) else numbers(name, "padding", padding, self.dims, 0)
        around_each = around(name, padding, self.kernel_size, self.stride, self.dilation)
        self._widths = [n for pair in reversed(around_each) for n in pair]  # as F.pad has them: the last axis first
        self._make(out_channels, in_channels, bias, device, dtype, rng)

    def forward(self, input: Any) -> Any:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._widths, self.padding_mode), 0
        function = getattr(F, f"conv{self.dims}d")
        return function(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class TransposedConvolution(Filters):
    """Abstract: the transpose of convolution, filters (C, O / groups, *kernel_size), see `F.conv_transpose2d`.

    An `output_size` given with the input takes the place of `output_padding`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1, padding: Sizes = 0,
                 output_padding: Sizes = 0, groups: int = 1, bias: bool = True, dilation: Sizes = 1,
                 padding_mode: str = "zeros", device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        name = type(self).__name__
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups, padding_mode)
        if padding_mode != "zeros":
            raise ValueError(f"{name}: padding_mode is 'zeros', which alone has a transpose, not {padding_mode!r}")
        self.padding = numbers(name, "padding", padding, self.dims, 0)
        self.output_padding = numbers(name, "output_padding", output_padding, self.dims, 0)
        self._make(in_channels, out_channels, bias, device, dtype, rng)

    def forward(self, input: Any, output_size: Sequence[int] | None = None) -> Any:
        function = getattr(F, f"conv_transpose{self.dims}d")
        more = self.output_padding if output_size is None else self._missing(input.shape, output_size)
        return function(input, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation)

    def _missing(self, shape: tuple[int, ...], output_size: Sequence[int]) -> list[int]:
        """What the output lacks of `output_size`, whose leading axes do not matter."""
        wanted = tuple(output_size)[-self.dims:]
        least = [(i - 1) * s - 2 * p + (k - 1) * d + 1 for i, s, p, k, d in zip(
            shape[-self.dims:], self.stride, self.padding, self.kernel_size, self.dilation, strict=True)]
        most = [n + s - 1 for n, s in zip(least, self.stride, strict=True)]
        if len(output_size) not in (self.dims, len(shape)) or not all(map(_within, least, wanted, most)):
            raise ValueError(f"{type(self).__name__}: of input {shape} output_size is from {least} to {most}, "
                             f"not {tuple(output_size)}")
        return [w - n for w, n in zip(wanted, least, strict=True)]


def _within(least: int, n: int, most: int) -> bool:
    return least <= n <= most


class Conv1d(Convolution):
    dims = 1


class Conv2d(Convolution):
    dims = 2


class Conv3d(Convolution):
    dims = 3


class ConvTranspose1d(TransposedConvolution):
    dims = 1


class ConvTranspose2d(TransposedConvolution):
    dims = 2


class ConvTranspose3d(TransposedConvolution):
    dims = 3


class Unfold(Function):
    function = staticmethod(F.unfold)


class Fold(Function):
    function = staticmethod(F.fold)
