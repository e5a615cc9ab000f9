"""Normalization: see the function of the same name in `gpuprop.functional`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._core.placement import write
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.functional._normalization import count
from gpuprop.nn._function import Function
from gpuprop.nn._module import Module
from gpuprop.nn.init import new, ones_, zeros_


class Affine(Module):
    """Abstract: a layer with a `weight`, which starts as 1, and a `bias`, as 0; either may be None."""

    options: ClassVar[tuple[str, ...]]  # what stands in its line
    weight: Parameter | None
    bias: Parameter | None

    def make(self, shape: tuple[int, ...], weight: bool, bias: bool, device: str | None, dtype: Any) -> None:
        """Make both, of one shape."""
        self.weight = Parameter(new(shape, device, dtype, 1.0)) if weight else None
        self.bias = Parameter(new(shape, device, dtype)) if bias else None

    def reset_parameters(self) -> None:
        """Begin again with 1 and 0."""
        for values, fill in (self.weight, ones_), (self.bias, zeros_):
            if values is not None:
                fill(values)

    def extra_repr(self) -> str:
        words = ", ".join(f"{name}={getattr(self, name)}" for name in self.options)
        return words.replace("normalized_shape=", "").replace("num_features=", "")


class LayerNorm(Affine):
    """Mean 0 and variance 1 over the last axes, times `weight`, plus `bias`, both of `normalized_shape`."""

    options = ("normalized_shape", "eps", "elementwise_affine")

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
                 bias: bool = True, device: str | None = None, dtype: Any = None) -> None:
        self.normalized_shape = sizes(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.make(self.normalized_shape, elementwise_affine, elementwise_affine and bias, device, dtype)

    def forward(self, input: Any) -> Any:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(Affine):
    """Root mean square 1 over the last axes, times `weight`, of `normalized_shape`."""

    options = ("normalized_shape", "eps", "elementwise_affine")

    def __init__(self, normalized_shape: int | Sequence[int], eps: float | None = None,
                 elementwise_affine: bool = True, device: str | None = None, dtype: Any = None) -> None:
        self.normalized_shape = sizes(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.make(self.normalized_shape, elementwise_affine, False, device, dtype)

    def forward(self, x: Any) -> Any:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


def sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


class GroupNorm(Affine):
    """Mean 0 and variance 1 in each of `num_groups` groups of channels of each sample, times `weight`, plus `bias`."""

    options = ("num_groups", "num_channels", "eps", "affine")

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True,
                 device: str | None = None, dtype: Any = None, *, bias: bool = True) -> None:
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_channels={num_channels} is not divisible by num_groups={num_groups}")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.make((num_channels,), affine, affine and bias, device, dtype)

    def forward(self, input: Any) -> Any:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class LocalResponseNorm(Function):
    function = staticmethod(F.local_response_norm)


# ---- with running statistics ----------------------------------------------------------------------------------------


class Tracking(Affine):
    """Abstract: a layer that normalizes channels, and may keep running statistics as buffers."""

    options = ("num_features", "eps", "momentum", "affine", "track_running_stats")
    ndims: ClassVar[tuple[int, ...]]  # how many axes the input may have
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def keep(self, num_features: int, eps: float, momentum: float | None, affine: bool, track: bool,
             device: str | None, dtype: Any, bias: bool) -> None:
        """What the constructors have in common."""
        self.num_features, self.eps, self.momentum, self.affine = num_features, eps, momentum, affine
        self.track_running_stats = track
        self.make((num_features,), affine, affine and bias, device, dtype)
        shape = (num_features,)
        self.register_buffer("running_mean", new(shape, device, dtype) if track else None)
        self.register_buffer("running_var", new(shape, device, dtype, 1.0) if track else None)
        self.register_buffer("num_batches_tracked", new((), device, "int64", 0) if track else None)

    def reset_running_stats(self) -> None:
        """Forget the batches seen."""
        for values, start in (self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0):
            if values is not None:
                write(values.data, start)

    def reset_parameters(self) -> None:
        """Begin again with 1 and 0, and forget the batches seen."""
        self.reset_running_stats()
        super().reset_parameters()

    def check(self, input: Any) -> None:
        if input.ndim not in self.ndims:
            raise ValueError(f"{type(self).__name__}: input has {' or '.join(map(str, self.ndims))} axes, "
                             f"not {input.ndim}, as {input.shape} has")


class BatchNorm(Tracking):
    """Abstract: mean 0 and variance 1 in each channel, over the batch in training, else by running statistics.

    `momentum` is the share of the newest batch in these; with None all batches have equal shares.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, device: str | None = None, dtype: Any = None, *,
                 bias: bool = True) -> None:
        self.keep(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Any) -> Any:
        self.check(input)
        momentum: Any = self.momentum
        tracked = self.training and self.track_running_stats and self.num_batches_tracked is not None
        if tracked:
            share = count(self.num_batches_tracked)
            momentum = share if momentum is None else momentum
        mean, variance = self.running_mean, self.running_var
        if self.training and not self.track_running_stats:
            mean = variance = None
        return F.batch_norm(input, mean, variance, self.weight, self.bias, self.training or mean is None,
                            0.0 if momentum is None else momentum, self.eps)


class BatchNorm1d(BatchNorm):
    """Of (N, C) or (N, C, L)."""

    ndims = (2, 3)


class BatchNorm2d(BatchNorm):
    """Of (N, C, H, W)."""

    ndims = (4,)


class BatchNorm3d(BatchNorm):
    """Of (N, C, D, H, W)."""

    ndims = (5,)


class InstanceNorm(Tracking):
    """Abstract: mean 0 and variance 1 in each channel of each sample, or by running statistics where they are kept."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = False,
                 track_running_stats: bool = False, device: str | None = None, dtype: Any = None, *,
                 bias: bool = True) -> None:
        self.keep(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Any) -> Any:
        self.check(input)
        x = input[None] if input.ndim == self.ndims[0] else input
        if x.shape[1] != self.num_features:
            text = f"{type(self).__name__}: input {input.shape} has {x.shape[1]} channels, not {self.num_features}"
            if self.affine or self.track_running_stats:
                raise ValueError(text)
            warnings.warn(f"{text}; without weights that changes nothing", stacklevel=2)
        y = F.instance_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                            self.training or not self.track_running_stats, self.momentum or 0.0, self.eps)
        return y[0] if x is not input else y


class InstanceNorm1d(InstanceNorm):
    """Of (N, C, L) or (C, L)."""

    ndims = (2, 3)


class InstanceNorm2d(InstanceNorm):
    """Of (N, C, H, W) or (C, H, W)."""

    ndims = (3, 4)


class InstanceNorm3d(InstanceNorm):
    """Of (N, C, D, H, W) or (C, D, H, W)."""

    ndims = (4, 5)
