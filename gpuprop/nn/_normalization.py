"""Normalization layers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._core.graph import extent, written
from gpuprop._core.options import checks_options
from gpuprop._core.placement import write
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.functional._normalization import count_batch
from gpuprop.nn._function import Function
from gpuprop.nn._module import Module, new_tensor
from gpuprop.nn.init import ones_, zeros_


class AffineLayer(Module):
    """Abstract: a layer with a `weight`, initially 1, and a `bias`, initially 0, or None."""

    _repr_names: ClassVar[tuple[str, ...]]  # options shown in repr
    weight: Parameter | None
    bias: Parameter | None

    def _create_parameters(self, shape: tuple[int, ...], weight: bool, bias: bool,
                           device: str | None, dtype: Any) -> None:
        self.weight = Parameter(new_tensor(shape, device, dtype, 1.0)) if weight else None
        self.bias = Parameter(new_tensor(shape, device, dtype)) if bias else None

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0."""
        if self.weight is not None:
            ones_(self.weight)
        if self.bias is not None:
            zeros_(self.bias)

    def extra_repr(self) -> str:
        text = ", ".join(f"{name}={getattr(self, name)}" for name in self._repr_names)
        return text.replace("normalized_shape=", "").replace("num_features=", "")


class LayerNorm(AffineLayer):
    """``y = (x - mean) / sqrt(variance + eps) * weight + bias``, over the last axes of each sample.

    Input and output (..., *normalized_shape); `weight` and `bias` have shape `normalized_shape`.
    The variance is biased: it divides by the number of elements.  J. L. Ba et al., 2016.

    >>> from gpuprop import nn
    >>> y = nn.LayerNorm(3)(gpuprop.tensor([[1.0, 2.0, 3.0]]))
    >>> y.numpy().round(2)
    array([[-1.22,  0.  ,  1.22]], dtype=float32)
    """

    _repr_names = ("normalized_shape", "eps", "elementwise_affine")

    @checks_options
    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5,
                 elementwise_affine: bool = True, bias: bool = True, device: str | None = None,
                 dtype: Any = None) -> None:
        self.normalized_shape = _as_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._create_parameters(self.normalized_shape, elementwise_affine,
                                elementwise_affine and bias, device, dtype)

    def forward(self, input: Any) -> Any:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(AffineLayer):
    """``y = x / sqrt(mean(x**2) + eps) * weight``, over the last axes of each sample.

    Input and output (..., *normalized_shape); `weight` has shape `normalized_shape`.  The default
    `eps` is the machine epsilon of the input's dtype.  B. Zhang and R. Sennrich, NeurIPS 2019.
    """

    _repr_names = ("normalized_shape", "eps", "elementwise_affine")

    @checks_options
    def __init__(self, normalized_shape: int | Sequence[int], eps: float | None = None,
                 elementwise_affine: bool = True, device: str | None = None,
                 dtype: Any = None) -> None:
        self.normalized_shape = _as_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._create_parameters(self.normalized_shape, elementwise_affine, False, device, dtype)

    def forward(self, x: Any) -> Any:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


def _as_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


class GroupNorm(AffineLayer):
    """``y = (x - mean) / sqrt(variance + eps) * weight + bias``, over groups of channels.

    Input and output (N, C, ...) with C = `num_channels`; `weight` and `bias` are (C,).  Mean and
    biased variance are those of one of `num_groups` equal groups of channels of one sample.
    Y. Wu and K. He, ECCV 2018.
    """

    _repr_names = ("num_groups", "num_channels", "eps", "affine")

    @checks_options
    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True,
                 device: str | None = None, dtype: Any = None, *, bias: bool = True) -> None:
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_channels={num_channels} must be divisible by "
                             f"num_groups={num_groups}")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self._create_parameters((num_channels,), affine, affine and bias, device, dtype)

    def forward(self, input: Any) -> Any:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class LocalResponseNorm(Function):
    function = staticmethod(F.local_response_norm)
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0


# ---- with running statistics ---------------------------------------------------------------------


class ChannelNorm(AffineLayer):
    """Abstract: normalizes channels; optionally has running statistics, which are buffers."""

    _repr_names = ("num_features", "eps", "momentum", "affine", "track_running_stats")
    _ndims: ClassVar[tuple[int, ...]]  # the allowed values of input.ndim
    _state_minima = {"running_var": 0, "num_batches_tracked": 0}
    _state_optional = frozenset({"num_batches_tracked"})  # absent before PyTorch 0.4.1
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def _setup(self, num_features: int, eps: float, momentum: float | None, affine: bool,
               track_running_stats: bool, device: str | None, dtype: Any, bias: bool) -> None:
        """The common part of the constructors."""
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        shape = (num_features,)
        self._create_parameters(shape, affine, affine and bias, device, dtype)
        mean = variance = batches = None
        if track_running_stats:
            mean = new_tensor(shape, device, dtype)
            variance = new_tensor(shape, device, dtype, 1.0)
            batches = new_tensor((), device, "int64", 0)
        self.register_buffer("running_mean", mean)
        self.register_buffer("running_var", variance)
        self.register_buffer("num_batches_tracked", batches)

    def _declare_update(self) -> None:
        """Declare that running statistics are written, if a graph may hold their arrays.

        Each array has two references, of its Tensor and of the call, unless something else holds
        it.  To declare every update would make every backward look for it.
        """
        for buffer in (self.running_mean, self.running_var):
            if buffer is not None and sys.getrefcount(buffer.array) > 2:
                written(extent(buffer.array))

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1 and the number of batches to 0."""
        for buffer, value in ((self.running_mean, 0), (self.running_var, 1),
                              (self.num_batches_tracked, 0)):
            if buffer is not None:
                write(buffer.array, value)

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0, and reset the running statistics."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check_ndim(self, input: Any) -> None:
        if input.ndim not in self._ndims:
            expected = " or ".join(map(str, self._ndims))
            raise ValueError(f"{type(self).__name__}: input must have {expected} axes, "
                             f"got shape {input.shape}")


class BatchNorm(ChannelNorm):
    """Abstract: BatchNorm1d, BatchNorm2d and BatchNorm3d."""

    @checks_options
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1,
                 affine: bool = True, track_running_stats: bool = True,
                 device: str | None = None, dtype: Any = None, *, bias: bool = True) -> None:
        self._setup(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Any) -> Any:
        self._check_ndim(input)
        mean = self.running_mean
        variance = self.running_var
        momentum: Any = self.momentum
        if self.training and not self.track_running_stats:
            mean = variance = None
        elif self.training and self.num_batches_tracked is not None:
            self._declare_update()
            cumulative = count_batch(self.num_batches_tracked)  # 1 / batches
            momentum = cumulative if momentum is None else momentum
        use_batch_stats = self.training or mean is None
        return F.batch_norm(input, mean, variance, self.weight, self.bias, use_batch_stats,
                            0.0 if momentum is None else momentum, self.eps)


class BatchNorm1d(BatchNorm):
    """`BatchNorm2d` for inputs (N, C) or (N, C, L).

    >>> from gpuprop import nn
    >>> norm = nn.BatchNorm1d(3)
    >>> y = norm(gpuprop.random.normal((64, 3), 2.0, 5.0))
    >>> bool(abs(y.numpy().mean(axis=0)).max() < 1e-5)
    True
    >>> y = norm.eval()(gpuprop.zeros(1, 3))  # uses the running statistics
    """

    _ndims = (2, 3)


class BatchNorm2d(BatchNorm):
    """``y = (x - mean) / sqrt(variance + eps) * weight + bias``, for each channel.

    Input and output (N, C, H, W) with C = `num_features`; `weight` and `bias` are (C,).

    In training, mean and biased variance are those of the batch, over all axes but C.  The buffers
    `running_mean` and `running_var` are then updated with the batch's mean and unbiased variance:

    ``running = (1 - momentum) * running + momentum * batch``

    With ``momentum=None``, they are averages over all batches so far.  In eval mode, mean and
    variance are the running statistics.  With ``track_running_stats=False``, there are none, and
    mean and variance are always those of the batch.

    S. Ioffe and C. Szegedy, ICML 2015.
    """

    _ndims = (4,)


class BatchNorm3d(BatchNorm):
    """`BatchNorm2d` for inputs (N, C, D, H, W)."""

    _ndims = (5,)


class InstanceNorm(ChannelNorm):
    """Abstract: InstanceNorm1d, InstanceNorm2d and InstanceNorm3d."""

    @checks_options
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1,
                 affine: bool = False, track_running_stats: bool = False,
                 device: str | None = None, dtype: Any = None, *, bias: bool = True) -> None:
        self._setup(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Any) -> Any:
        self._check_ndim(input)
        is_single = input.ndim == self._ndims[0]
        x = input[None] if is_single else input
        if x.shape[1] != self.num_features:
            message = (f"{type(self).__name__}: input {input.shape} has {x.shape[1]} channels, but "
                       f"num_features is {self.num_features}")
            if self.affine or self.track_running_stats:
                raise ValueError(message)
            warnings.warn(f"{message}; num_features is not used, because affine=False",
                          stacklevel=2)
        if self.training and self.track_running_stats:
            self._declare_update()
        use_input_stats = self.training or not self.track_running_stats
        y = F.instance_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                            use_input_stats, self.momentum or 0.0, self.eps)
        return y[0] if is_single else y


class InstanceNorm1d(InstanceNorm):
    """`InstanceNorm2d` for inputs (N, C, L) or (C, L)."""

    _ndims = (2, 3)


class InstanceNorm2d(InstanceNorm):
    """``y = (x - mean) / sqrt(variance + eps) * weight + bias``, for each channel of each sample.

    Input and output (N, C, H, W) or (C, H, W) with C = `num_features`.  Mean and biased variance
    are those of one channel of one sample.  The layer has `weight` and `bias` (C,) only if
    `affine`.

    With `track_running_stats`, training updates running statistics as in `BatchNorm2d`, and eval
    mode uses them.

    D. Ulyanov et al., 2016.
    """

    _ndims = (3, 4)


class InstanceNorm3d(InstanceNorm):
    """`InstanceNorm2d` for inputs (N, C, D, H, W) or (C, D, H, W)."""

    _ndims = (4, 5)
