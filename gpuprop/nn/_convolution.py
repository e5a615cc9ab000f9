"""Convolutions, transposed convolutions, Unfold and Fold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Parameter
from gpuprop.functional._convolution import resolve_padding
from gpuprop.functional._windows import Sizes, int_tuple
from gpuprop.nn._function import Function
from gpuprop.nn._module import Module, initialize, new_tensor
from gpuprop.nn.init import uniform_
from gpuprop.random import Generator

PADDING_MODES = "zeros", "reflect", "replicate", "circular"


class ConvolutionBase(Module):
    """Abstract: options, `weight` and `bias` of convolutions.

    Both are initialized uniformly in [-k, k], with k = 1 / sqrt(size of a filter).
    """

    _dims: ClassVar[int]  # spatial dimensions

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes,
                 dilation: Sizes, groups: int, padding_mode: str) -> None:
        name = type(self).__name__
        self.kernel_size = int_tuple(name, "kernel_size", kernel_size, self._dims)
        self.stride = int_tuple(name, "stride", stride, self._dims)
        self.dilation = int_tuple(name, "dilation", dilation, self._dims)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"{name}: groups={groups} must divide in_channels={in_channels} and "
                             f"out_channels={out_channels}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.padding_mode = padding_mode

    def _create_parameters(self, axis0: int, axis1: int, bias: bool, device: str | None,
                           dtype: Any, rng: Generator | None) -> None:
        """Create `weight` (axis0, axis1 / groups, *kernel_size) and `bias`."""
        shape = (axis0, axis1 // self.groups, *self.kernel_size)
        self.weight = Parameter(new_tensor(shape, device, dtype))
        self.bias = Parameter(new_tensor((self.out_channels,), device, dtype)) if bias else None
        initialize(self, rng)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Initialize the parameters again, with new random numbers."""
        bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]) or 1)
        for p in (self.weight, self.bias):
            if p is not None:
                uniform_(p, -bound, bound, rng)

    def extra_repr(self) -> str:
        shown: dict[str, Any] = {"kernel_size": self.kernel_size, "stride": self.stride}
        for name, default in ("padding", 0), ("output_padding", 0), ("dilation", 1):
            value = getattr(self, name, default)
            if value not in (default, (default,) * self._dims):
                shown[name] = value
        if self.groups != 1:
            shown["groups"] = self.groups
        if self.bias is None:
            shown["bias"] = False
        if self.padding_mode != "zeros":
            shown["padding_mode"] = self.padding_mode
        options = [f"{name}={value}" for name, value in shown.items()]
        return ", ".join([f"{self.in_channels}, {self.out_channels}", *options])


class Convolution(ConvolutionBase):
    """Abstract: Conv1d, Conv2d and Conv3d."""

    @checks_options
    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1,
                 padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1,
                 bias: bool = True, padding_mode: str = "zeros", device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        name = type(self).__name__
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups,
                         padding_mode)
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"{name}: padding_mode must be one of {', '.join(PADDING_MODES)}, "
                             f"got {padding_mode!r}")
        if isinstance(padding, str):
            self.padding: Any = padding
        else:
            self.padding = int_tuple(name, "padding", padding, self._dims, 0)
        pairs = resolve_padding(name, padding, self.kernel_size, self.stride, self.dilation)
        self._pad_widths = [n for pair in reversed(pairs) for n in pair]  # in the order of F.pad
        self._create_parameters(out_channels, in_channels, bias, device, dtype, rng)

    def forward(self, input: Any) -> Any:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._pad_widths, self.padding_mode)
            padding = 0
        function = getattr(F, f"conv{self._dims}d")
        return function(input, self.weight, self.bias, self.stride, padding, self.dilation,
                        self.groups)


class TransposedConvolution(ConvolutionBase):
    """Abstract: ConvTranspose1d, ConvTranspose2d and ConvTranspose3d."""

    @checks_options
    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1,
                 padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1,
                 bias: bool = True, dilation: Sizes = 1, padding_mode: str = "zeros",
                 device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        name = type(self).__name__
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups,
                         padding_mode)
        if padding_mode != "zeros":
            raise ValueError(f"{name}: padding_mode must be 'zeros', got {padding_mode!r}")
        self.padding = int_tuple(name, "padding", padding, self._dims, 0)
        self.output_padding = int_tuple(name, "output_padding", output_padding, self._dims, 0)
        self._create_parameters(in_channels, out_channels, bias, device, dtype, rng)

    def forward(self, input: Any, output_size: Sequence[int] | None = None) -> Any:
        output_padding: Sequence[int] = self.output_padding
        if output_size is not None:
            output_padding = self._padding_for(input.shape, output_size)
        function = getattr(F, f"conv_transpose{self._dims}d")
        return function(input, self.weight, self.bias, self.stride, self.padding, output_padding,
                        self.groups, self.dilation)

    def _padding_for(self, shape: tuple[int, ...], output_size: Sequence[int]) -> list[int]:
        """The output padding that gives `output_size`, which may include the axes N and C."""
        wanted = tuple(output_size)[-self._dims:]
        smallest = []
        for n, s, p, k, d in zip(shape[-self._dims:], self.stride, self.padding,
                                 self.kernel_size, self.dilation, strict=True):
            smallest.append((n - 1) * s - 2 * p + (k - 1) * d + 1)
        largest = [n + s - 1 for n, s in zip(smallest, self.stride, strict=True)]
        has_axes = len(output_size) in (self._dims, len(shape))
        if not has_axes or not all(
                low <= n <= high for low, n, high in zip(smallest, wanted, largest, strict=True)):
            raise ValueError(f"{type(self).__name__}: for input {shape}, the spatial dimensions of "
                             f"output_size must be from {smallest} to {largest}, "
                             f"got {tuple(output_size)}")
        return [n - low for n, low in zip(wanted, smallest, strict=True)]


class Conv1d(Convolution):
    """Convolution of signals: (N, C, L) or (C, L) -> (N, O, L_out) or (O, L_out).

    Like `Conv2d`, with one spatial dimension.
    """

    _dims = 1


class Conv2d(Convolution):
    """Convolution (cross-correlation) of images with `out_channels` filters, plus a bias.

    Input (N, C, H, W) or (C, H, W) with C = `in_channels`; output (N, O, H_out, W_out) or
    (O, H_out, W_out) with O = `out_channels` and

    ``H_out = floor((H + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``

    `weight` (O, C / groups, *kernel_size) and `bias` (O,) are initialized uniformly in [-k, k],
    with k = 1 / sqrt(C / groups * prod(kernel_size)).

    `padding` may also be "same", for an output of the input's size (stride 1 only), or "valid", for
    no padding.  `padding_mode` is "zeros", "reflect", "replicate" or "circular".  `groups` splits
    the channels into groups that are convolved separately.  See `gpuprop.functional.conv2d`.

    >>> from gpuprop import nn
    >>> nn.Conv2d(3, 8, kernel_size=3, padding=1)(gpuprop.ones(2, 3, 16, 16)).shape
    (2, 8, 16, 16)
    """

    _dims = 2


class Conv3d(Convolution):
    """Convolution of volumes.

    (N, C, D, H, W) or (C, D, H, W) -> (N, O, D_out, H_out, W_out) or (O, D_out, H_out, W_out).
    Like `Conv2d`, with three spatial dimensions.
    """

    _dims = 3


class ConvTranspose1d(TransposedConvolution):
    """Transposed convolution of signals: (N, C, L) or (C, L) -> (N, O, L_out) or (O, L_out).

    Like `ConvTranspose2d`, with one spatial dimension.
    """

    _dims = 1


class ConvTranspose2d(TransposedConvolution):
    """Transposed convolution of images: the adjoint of `Conv2d` in its input, plus a bias.

    Input (N, C, H, W) or (C, H, W) with C = `in_channels`; output (N, O, H_out, W_out) or
    (O, H_out, W_out) with O = `out_channels` and

    ``H_out = (H - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1``

    `weight` (C, O / groups, *kernel_size) and `bias` (O,) are initialized uniformly in [-k, k],
    with k = 1 / sqrt(O / groups * prod(kernel_size)).

    ``layer(input, output_size)`` chooses the output padding that gives an output of this size.

    >>> from gpuprop import nn
    >>> layer = nn.ConvTranspose2d(8, 3, kernel_size=2, stride=2)
    >>> layer(gpuprop.ones(1, 8, 5, 5)).shape
    (1, 3, 10, 10)
    """

    _dims = 2


class ConvTranspose3d(TransposedConvolution):
    """Transposed convolution of volumes.

    (N, C, D, H, W) or (C, D, H, W) -> (N, O, D_out, H_out, W_out) or (O, D_out, H_out, W_out).
    Like `ConvTranspose2d`, with three spatial dimensions.
    """

    _dims = 3


class Unfold(Function):
    function = staticmethod(F.unfold)
    kernel_size: Sizes
    dilation: Sizes = 1
    padding: Sizes = 0
    stride: Sizes = 1


class Fold(Function):
    function = staticmethod(F.fold)
    output_size: Sizes
    kernel_size: Sizes
    dilation: Sizes = 1
    padding: Sizes = 0
    stride: Sizes = 1
