"""Normalization: layer, RMS, batch, group, instance and local response norm."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop._array.scatter import pad_with
from gpuprop._core.composed import checks_arguments, composed
from gpuprop._core.dtypes import HALF, check_floating, compute_dtype, widened
from gpuprop._core.graph import raw
from gpuprop._core.mode import is_autocasting
from gpuprop._core.ops import kernel, op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array
from gpuprop.functional._checks import check_dtypes

# ---- ops and kernels ----------------------------------------------------------------------------


@pointwise
def shift_and_scale(xp, x, mean, scale):
    return (x - mean) * scale


@pointwise
def standardize_input_grad(xp, dz, z, scale, mean_dz_z, mean_dz):
    """The gradient of x for ``z = (x - mean) * scale``, where mean and scale depend on x."""
    return (dz - z * mean_dz_z - mean_dz) * scale


def affine(z, weight, bias):
    """``z * weight + bias``; either may be None."""
    y = z if weight is None else z * weight
    return y if bias is None else y + bias


@op(precision="full", name="normalization")
def standardize(xp, input: Array, weight: Array | None, bias: Array | None, axes, eps,
                subtract_mean=True, return_stats=False):
    """``z * weight + bias`` with ``z = (input - mean) / sqrt(variance + eps)`` over `axes`.

    Without `subtract_mean`, z is ``input / sqrt(mean(input**2) + eps)``.  With `return_stats` the
    outputs are (y, mean, variance).
    """
    check_dtypes("normalization", input, weight, bias)
    n = math.prod(input.shape[i] for i in axes) or 1  # the means of an empty input are 0
    average = lambda a: a.sum(axis=axes, keepdims=True) / n
    mean = average(input) if subtract_mean else 0
    x = input - mean if subtract_mean else input
    variance = average(x * x)
    scale = 1 / xp.sqrt(variance + eps)
    z = x * scale
    y = affine(z, weight, bias)

    def input_grad(dy, dmean=0, dvariance=0):
        dz = affine(dy, weight, None)
        mean_dz_z = average(dz * z) - dvariance * 2 / (n * scale * scale)
        mean_dz = average(dz) - dmean / (n * scale) if subtract_mean else 0
        return standardize_input_grad(xp, dz, z, scale, mean_dz_z, mean_dz)

    if return_stats:
        return (y, mean, variance), (lambda d: input_grad(*d), lambda d: d[0] * z, lambda d: d[0])
    return y, (input_grad, lambda dy: dy * z, lambda dy: dy)


@op(precision="full", name="batch_norm")
def normalize_by_stats(xp, input: Array, mean: Array, variance: Array, weight: Array | None,
                       bias: Array | None, eps):
    """``(input - mean) / sqrt(variance + eps) * weight + bias`` with a given mean and variance."""
    check_dtypes("normalization", input, weight, bias, mean, variance)
    scale = 1 / xp.sqrt(variance + eps)
    factor = scale if weight is None else scale * weight
    y = shift_and_scale(xp, input, mean, factor)
    y = y if bias is None else y + bias
    return y, (
        lambda dy: dy * factor,
        lambda dy: -dy * factor,
        lambda dy: dy * (input - mean) * (-0.5 * factor * scale * scale),
        lambda dy: dy * (input - mean) * scale,
        lambda dy: dy)


@kernel
def update_running_stats(xp, running_mean: Array, running_var: Array, mean: Array, variance: Array,
                         momentum: Array, n):
    """``running += momentum * (batch - running)``, in place, for the mean and the variance.

    The variance of the batch, of `n` values per channel, is first scaled by n / (n - 1), which
    makes it unbiased.
    """
    channels = running_mean.shape[0]
    unbiased = n / max(n - 1, 1)
    for running, batch, factor in (running_mean, mean, 1), (running_var, variance, unbiased):
        rows = widened(batch).reshape(batch.size // (channels or 1), channels)
        batch = rows.mean(axis=0) * factor  # one row for a batch, one per sample for instance_norm
        running += momentum * (batch - widened(running))


@kernel
def count_batch(xp, batches: Array):
    """Add 1 to the number of batches; return ``1 / batches``, the momentum of a plain average."""
    batches += 1
    momentum = 1.0 / batches.reshape(-1)  # an array: a scalar of NumPy would also be a float
    return momentum.reshape(batches.shape)


@op(precision="full", name="local_response_norm")
def response_norm(xp, input: Array, size, alpha, beta, k):
    """`local_response_norm` of a valid input."""
    channels = input.shape[1]
    before = size // 2
    after = (size - 1) // 2

    def window_sum(a, before, after):
        a = pad_with.on(xp, a, widths=((0, 0), (before, after), *((0, 0),) * (a.ndim - 2)))
        return functools.reduce(operator.add, [a[:, i:i + channels] for i in range(size)])

    base = window_sum(input * input, before, after) * (alpha / size) + k
    scale = base**-beta

    def input_grad(dy):
        through_base = window_sum(dy * input * scale / base, after, before)
        return dy * scale - input * (2 * alpha * beta / size) * through_base

    return input * scale, (input_grad,)


# ---- over the last axes ------------------------------------------------------------------------


def normalized_axes(name: str, input: Any, normalized_shape: int | Sequence[int],
                    **parameters: Any) -> tuple[int, ...]:
    """The last axes of `input`, of the sizes `normalized_shape`; ValueError for other shapes."""
    check_floating(name, input)
    is_int = isinstance(normalized_shape, int | np.integer)
    shape = (normalized_shape,) if is_int else tuple(normalized_shape)  # type: ignore[arg-type]
    if not shape or input.shape[-len(shape):] != shape:
        raise ValueError(
            f"{name}: input {input.shape} must end with normalized_shape={shape}, of one axis or "
            f"more")
    for key, values in parameters.items():
        if values is not None and values.shape != shape:
            raise ValueError(
                f"{name}: {key} must have the shape normalized_shape={shape}, got {values.shape}")
    return tuple(range(input.ndim - len(shape), input.ndim))


@checks_arguments
def layer_norm(input: Array, normalized_shape: int | Sequence[int], weight: Array = None,
               bias: Array = None, eps: float = 1e-5) -> Array:
    """Layer normalization: mean 0 and variance 1 over the last axes of each sample.

    ``y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias``

    The mean E and the biased variance Var are taken over the last axes, which have the sizes
    `normalized_shape`; `weight` and `bias` have that shape too.  The output has the input's shape.

    Raises ValueError if the input does not end with `normalized_shape`, or a parameter has another
    shape.  J. L. Ba, J. R. Kiros and G. E. Hinton, 2016.

    >>> import gpuprop as gp, gpuprop.functional as F
    >>> F.layer_norm(gp.tensor([[1.0, 3.0], [0.0, 8.0]]), 2).numpy().round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """
    axes = normalized_axes("layer_norm", input, normalized_shape, weight=weight, bias=bias)
    return standardize(input, weight, bias, axes, eps)


@checks_arguments
def rms_norm(input: Array, normalized_shape: int | Sequence[int], weight: Array = None,
             eps: float | None = None) -> Array:
    """Root mean square normalization over the last axes.

    ``y = x / sqrt(mean(x**2) + eps) * weight``

    The mean is taken over the last axes, which have the sizes `normalized_shape`; `weight` has that
    shape too.  With ``eps=None``, eps is the machine epsilon of the input's dtype, or of float32
    for half types, which are computed in float32.

    Raises ValueError if the input does not end with `normalized_shape`, or `weight` has another
    shape.  B. Zhang and R. Sennrich, NeurIPS 2019.
    """
    axes = normalized_axes("rms_norm", input, normalized_shape, weight=weight)
    eps = float(np.finfo(compute_dtype(input.dtype)).eps) if eps is None else eps
    return standardize(input, weight, None, axes, eps, False)


# ---- over channels -----------------------------------------------------------------------------


def norm_of_half_type(norm: Callable, input: Any, running_mean: Any, running_var: Any,
                      weight: Any, bias: Any, *options: Any) -> Any:
    """``norm(input, ...)`` in float32, so that running statistics see no rounded values.

    The result is rounded, except inside autocast: norms are computed in full precision there.
    """
    if not is_autocasting():
        check_dtypes(norm.__name__, input, weight, bias)
    weight, bias = (None if a is None else widened(a) for a in (weight, bias))
    options = tuple(map(raw, options))  # momentum may be an array
    y = norm(widened(input), running_mean, running_var, weight, bias, *options)
    return y if is_autocasting() else y.astype(input.dtype)


def channel_parameter(name: str, key: str, values: Any, channels: int,
                      shape: tuple[int, ...]) -> Any:
    """A parameter (C,) reshaped to `shape`, which broadcasts with the input; None stays None."""
    if values is not None and values.shape != (channels,):
        raise ValueError(
            f"{name}: {key} must have one value per channel of the input, shape ({channels},), "
            f"got {values.shape}")
    return None if values is None else values.reshape(shape)


@composed
def batch_norm(input: Array, running_mean: Array | None, running_var: Array | None,
               weight: Array = None, bias: Array = None, training: bool = False,
               momentum: float | Array = 0.1, eps: float = 1e-5) -> Array:
    """Batch normalization: mean 0 and variance 1 in each channel.

    ``y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias``

    The input is (N, C, ...); all parameters and running statistics are (C,) or None.  With
    `training`, E and the biased Var are computed for each channel over the batch, and the running
    statistics are updated in place, with the unbiased variance:

    ``running = (1 - momentum) * running + momentum * batch``

    Without `training`, E and Var are `running_mean` and `running_var`, which are then required.

    Raises ValueError for parameters of another shape, if `eps` is not positive, or for a training
    batch with one value per channel.  S. Ioffe and C. Szegedy, ICML 2015.
    """
    if input.shape == (0,):  # no samples and no channels, as in PyTorch
        y = batch_norm(input.reshape(0, 0), running_mean, running_var, weight, bias, training,
                       momentum, eps)
        return y.reshape(0)
    if input.ndim < 2:
        raise ValueError(f"batch_norm: input must be (N, C, ...), got shape {input.shape}")
    if eps <= 0:
        raise ValueError(f"batch_norm: eps must be positive, got {eps}")
    check_floating("batch_norm", input)
    if input.dtype.char in HALF:
        return norm_of_half_type(batch_norm, input, running_mean, running_var, weight, bias,
                                 training, momentum, eps)
    channels = input.shape[1]
    shape = (-1, *(1,) * (input.ndim - 2))
    by_channel = functools.partial(channel_parameter, "batch_norm", channels=channels, shape=shape)
    scale = by_channel("weight", weight)
    shift = by_channel("bias", bias)
    mean = by_channel("running_mean", running_mean)
    variance = by_channel("running_var", running_var)
    if not training:
        if mean is None or variance is None:
            raise ValueError(
                "batch_norm: running_mean and running_var are required with training=False")
        mean = mean.astype(input.dtype)
        variance = variance.astype(input.dtype)
        return normalize_by_stats(input, mean, variance, scale, shift, eps)
    n = input.size // (channels or 1)
    if n == 1:
        raise ValueError(
            f"batch_norm: training needs more than one value per channel, and input {input.shape} "
            f"has one")
    axes = (0, *range(2, input.ndim))
    if mean is None or not n:
        return standardize(input, scale, shift, axes, eps)
    y, mean, variance = standardize(input, scale, shift, axes, eps, True, True)
    update_running_stats(running_mean, running_var, mean, variance, momentum, n)
    return y


@composed
def group_norm(input: Array, num_groups: int, weight: Array = None, bias: Array = None,
               eps: float = 1e-5) -> Array:
    """Group normalization: mean 0 and variance 1 in each group of channels of each sample.

    ``y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias``

    The input is (N, C, ...); `weight` and `bias` are (C,).  Raises ValueError for other shapes, or
    if `num_groups` does not divide C.  Y. Wu and K. He, ECCV 2018.
    """
    return _standardize_groups("group_norm", input, num_groups, weight, bias, eps)


@composed
def instance_norm(input: Array, running_mean: Array = None, running_var: Array = None,
                  weight: Array = None, bias: Array = None, use_input_stats: bool = True,
                  momentum: float | Array = 0.1, eps: float = 1e-5) -> Array:
    """Instance normalization: mean 0 and variance 1 in each channel of each sample.

    ``y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias``

    The input is (N, C, ...); `weight` and `bias` are (C,).  Running statistics, unless None, are
    updated in place as by `batch_norm`, and are E and Var if `use_input_stats` is False.
    D. Ulyanov, A. Vedaldi and V. Lempitsky, 2016.
    """
    if input.dtype.char in HALF:
        return norm_of_half_type(instance_norm, input, running_mean, running_var, weight, bias,
                                 use_input_stats, momentum, eps)
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    n = math.prod(input.shape[2:])
    if n == 1:
        raise ValueError(
            f"instance_norm: more than one value per channel is needed, and input {input.shape} "
            f"has one")
    groups = input.shape[1]
    if running_mean is None or not input.size:
        return _standardize_groups("instance_norm", input, groups, weight, bias, eps)
    y, mean, variance = _standardize_groups("instance_norm", input, groups, weight, bias, eps, True)
    update_running_stats(running_mean, running_var, mean, variance, momentum, n)
    return y


def _standardize_groups(name, input, groups, weight, bias, eps, return_stats=False):
    """`standardize` over each group of channels of each sample."""
    check_floating(name, input)
    if input.ndim < 2 or groups < 1 or input.shape[1] % groups:
        raise ValueError(
            f"{name}: input must be (N, C, ...) with C divisible by num_groups={groups}, "
            f"got {input.shape}")
    samples, channels, *spatial = input.shape
    grouped_shape = (samples, groups, channels // groups, *spatial)
    parameter_shape = (groups, channels // groups, *(1,) * len(spatial))
    scale = channel_parameter(name, "weight", weight, channels, parameter_shape)
    shift = channel_parameter(name, "bias", bias, channels, parameter_shape)
    axes = tuple(range(2, input.ndim + 1))
    grouped = input.reshape(grouped_shape)
    if not return_stats:
        return standardize(grouped, scale, shift, axes, eps).reshape(input.shape)
    y, mean, variance = standardize(grouped, scale, shift, axes, eps, True, True)
    return y.reshape(input.shape), mean, variance


@checks_arguments
def local_response_norm(input: Array, size: int, alpha: float = 1e-4, beta: float = 0.75,
                        k: float = 1.0) -> Array:
    """Local response normalization: divide by a power of the mean square of nearby channels.

    ``y = x / (k + alpha * mean(x**2))**beta``

    The input is (N, C, ...), of 3 axes or more.  The mean is taken over `size` neighbouring
    channels, with zeros before the first channel and after the last.  A. Krizhevsky, I. Sutskever
    and G. E. Hinton, NeurIPS 2012.
    """
    check_floating("local_response_norm", input)
    if input.ndim < 3:
        raise ValueError(
            f"local_response_norm: input must be (N, C, ...) of 3 axes or more, got {input.shape}")
    if size < 1:
        raise ValueError(f"local_response_norm: size must be 1 or more, got {size}")
    return response_norm(input, size, alpha, beta, k)
