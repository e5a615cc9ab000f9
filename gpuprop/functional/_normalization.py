"""Normalization: one core, which layers, batches, groups and instances call with axes of their own."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop._array.scatter import pad_with
from gpuprop._core.composed import composed
from gpuprop._core.dtypes import HALF, compute_dtype, widened
from gpuprop._core.ops import kernel, op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array
from gpuprop.functional._checks import check_dtypes


@pointwise
def standard(xp, x, mean, scale):
    return (x - mean) * scale


@pointwise
def projected(xp, dz, z, scale, along, mean):
    """The gradient without its parts that a change of scale or mean takes up."""
    return (dz - z * along - mean) * scale


def affine(z, weight, bias):
    """``z * weight + bias``, of which either may be None."""
    y = z if weight is None else z * weight
    return y if bias is None else y + bias


@op(precision="full")
def standardize(xp, input: Array, weight: Array, bias: Array, axes, eps, centred=True, tracked=False):
    """``z * weight + bias``, where z is `input` with mean 0 and variance 1 over `axes`; `eps` is added to the variance.

    Not `centred`, the root mean square is made 1 and no mean taken away; `tracked`, (output, mean, variance) come out.
    """
    check_dtypes("normalization", input, weight, bias)
    n = math.prod(input.shape[i] for i in axes) or 1  # an empty input has means of 0
    average = lambda a: a.sum(axis=axes, keepdims=True) / n
    mean = average(input) if centred else 0
    x = input - mean if centred else input
    variance = average(x * x)
    scale = 1 / xp.sqrt(variance + eps)
    z = x * scale
    y = affine(z, weight, bias)

    def by_input(dy, dmean=0, dvariance=0):
        dz = affine(dy, weight, None)
        along = average(dz * z) - dvariance * 2 / (n * scale * scale)
        return projected(xp, dz, z, scale, along, average(dz) - dmean / (n * scale) if centred else 0)

    return ((y, mean, variance), (lambda d: by_input(*d), lambda d: d[0] * z, lambda d: d[0])) if tracked else (
        y, (by_input, lambda dy: dy * z, lambda dy: dy))


@op(precision="full")
def rescale(xp, input: Array, mean: Array, variance: Array, weight: Array, bias: Array, eps):
    """``(input - mean) / sqrt(variance + eps) * weight + bias``, of a mean and a variance from elsewhere."""
    check_dtypes("normalization", input, weight, bias, mean, variance)
    scale = 1 / xp.sqrt(variance + eps)
    factor = scale if weight is None else scale * weight
    y = standard(xp, input, mean, factor)
    return y if bias is None else y + bias, (
        lambda dy: dy * factor,
        lambda dy: -dy * factor,
        lambda dy: dy * (input - mean) * (-0.5 * factor * scale * scale),
        lambda dy: dy * (input - mean) * scale,
        lambda dy: dy)


@kernel
def track(xp, running_mean: Array, running_var: Array, mean: Array, variance: Array, momentum: Array, n):
    """Move running statistics towards those of a batch, of `n` values a channel, by the share `momentum`.

    The running variance is that of the population: n / (n - 1) of the batch's.
    """
    channels = running_mean.shape[0]
    for running, new, factor in (running_mean, mean, 1), (running_var, variance, n / max(n - 1, 1)):
        rows = widened(new).reshape(new.size // (channels or 1), channels)  # one, or one an instance: their mean counts
        new = rows.mean(axis=0) * factor
        running += momentum * (new - widened(running))


@kernel
def count(xp, batches: Array):
    """One more batch: the share it has in the mean of all so far."""
    batches += 1
    return 1.0 / batches


def in_float32(a: Any) -> Any:
    """A parameter that may be None, in float32 if it is of a half type."""
    return None if a is None else widened(a)


def by_channel(what: str, name: str, values: Any, channels: int, shape: tuple[int, ...]) -> Any:
    """A number a channel in a shape that broadcasts with the input."""
    if values is not None and values.shape != (channels,):
        raise ValueError(f"{what}: {name} is one number a channel, ({channels},), not {values.shape}")
    return None if values is None else values.reshape(shape)


# ---- over the last axes ---------------------------------------------------------------------------------------------


def last_axes(what: str, input: Any, normalized_shape: int | Sequence[int], **parameters: Any) -> tuple[int, ...]:
    """The axes that `normalized_shape` names by their sizes, which parameters have too."""
    given = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not given or input.shape[-len(given):] != given:
        raise ValueError(f"{what}: input {input.shape} does not end with normalized_shape {given}")
    for name, values in parameters.items():
        if values is not None and values.shape != given:
            raise ValueError(f"{what}: {name} has the shape of normalized_shape, {given}, not {values.shape}")
    return tuple(range(input.ndim - len(given), input.ndim))


def layer_norm(input: Array, normalized_shape: int | Sequence[int], weight: Array = None, bias: Array = None,
               eps: float = 1e-5) -> Array:
    """`input` with mean 0 and variance 1 over its last axes, times `weight`, plus `bias`.  J. L. Ba et al., 2016."""
    return standardize(input, weight, bias, last_axes("layer_norm", input, normalized_shape, weight=weight, bias=bias),
                       eps)


def rms_norm(input: Array, normalized_shape: int | Sequence[int], weight: Array = None,
             eps: float | None = None) -> Array:
    """`input` over its root mean square in its last axes, times `weight`.  B. Zhang and R. Sennrich, NeurIPS 2019.

    `eps` is the precision in which it is computed if None: float32's for half types.
    """
    axes = last_axes("rms_norm", input, normalized_shape, weight=weight)
    eps = float(np.finfo(compute_dtype(input.dtype)).eps) if eps is None else eps
    return standardize(input, weight, None, axes, eps, False)


# ---- of channels ----------------------------------------------------------------------------------------------------


@composed
def batch_norm(input: Array, running_mean: Array, running_var: Array, weight: Array = None, bias: Array = None,
               training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Array:
    """(N, C, ...) with mean 0 and variance 1 in each channel, times `weight` (C,), plus `bias` (C,).

    In training mean and variance are those of the batch, and the running ones, unless None, move towards them in place
    by the share `momentum`; in use the running ones hold.  S. Ioffe and C. Szegedy, ICML 2015.
    """
    if input.ndim < 2:
        raise ValueError(f"batch_norm: input is (N, C, ...), not of shape {input.shape}")
    if eps <= 0:
        raise ValueError(f"batch_norm: eps must be positive, not {eps}")
    if input.dtype.char in HALF:  # the statistics are not rounded before the running ones have moved
        check_dtypes("batch_norm", input, weight, bias)
        weight, bias = in_float32(weight), in_float32(bias)
        y = batch_norm(widened(input), running_mean, running_var, weight, bias, training, momentum, eps)
        return y.astype(input.dtype)
    given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    channels, shape = input.shape[1], (-1, *(1,) * (input.ndim - 2))
    scale, shift, mean, variance = (by_channel("batch_norm", k, v, channels, shape) for k, v in given.items())
    if not training:
        if mean is None or variance is None:
            raise ValueError("batch_norm: running_mean and running_var are needed when not training")
        return rescale(input, mean.astype(input.dtype), variance.astype(input.dtype), scale, shift, eps)
    n = input.size // (channels or 1)
    if n == 1:
        raise ValueError(f"batch_norm: more than one value a channel is needed in training, and input is {input.shape}")
    axes = (0, *range(2, input.ndim))
    if mean is None or not n:
        return standardize(input, scale, shift, axes, eps)
    y, mean, variance = standardize(input, scale, shift, axes, eps, True, True)
    track(running_mean, running_var, mean, variance, momentum, n)
    return y


@composed
def group_norm(input: Array, num_groups: int, weight: Array = None, bias: Array = None, eps: float = 1e-5) -> Array:
    """(N, C, ...) with mean 0 and variance 1 in each group of channels of a sample, times `weight`, plus `bias` (C,).

    Y. Wu and K. He, ECCV 2018.
    """
    return _of_groups("group_norm", input, num_groups, weight, bias, eps)


@composed
def instance_norm(input: Array, running_mean: Array = None, running_var: Array = None, weight: Array = None,
                  bias: Array = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5) -> Array:
    """(N, C, ...) with mean 0 and variance 1 in each channel of each sample, times `weight`, plus `bias` (C,).

    Running statistics, unless None, move as those of `batch_norm`, and hold if not `use_input_stats`.
    D. Ulyanov et al., 2016.
    """
    if input.dtype.char in HALF:
        check_dtypes("instance_norm", input, weight, bias)
        y = instance_norm(widened(input), running_mean, running_var, in_float32(weight), in_float32(bias),
                          use_input_stats, momentum, eps)
        return y.astype(input.dtype)
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    n = math.prod(input.shape[2:])
    if n == 1:
        raise ValueError(f"instance_norm: more than one value a channel is needed, and input is {input.shape}")
    if running_mean is None or not input.size:
        return _of_groups("instance_norm", input, input.shape[1], weight, bias, eps)
    y, mean, variance = _of_groups("instance_norm", input, input.shape[1], weight, bias, eps, True)
    track(running_mean, running_var, mean, variance, momentum, n)
    return y


def _of_groups(what, input, groups, weight, bias, eps, tracked=False):
    if input.ndim < 2 or groups < 1 or input.shape[1] % groups:
        raise ValueError(f"{what}: input is (N, C, ...) with C divisible by num_groups={groups}, not {input.shape}")
    shape, channels = input.shape, input.shape[1]
    apart = (groups, channels // groups, *shape[2:])
    wide = (*apart[:2], *(1,) * (input.ndim - 2))
    scale, shift = by_channel(what, "weight", weight, channels, wide), by_channel(what, "bias", bias, channels, wide)
    axes = tuple(range(2, input.ndim + 1))
    y = standardize(input.reshape(len(input), *apart), scale, shift, axes, eps, True, tracked)
    return (y[0].reshape(shape), *y[1:]) if tracked else y.reshape(shape)


@op(precision="full")
def response_norm(xp, input: Array, size, alpha, beta, k):
    """``input / (k + alpha * mean of squares)**beta``, the mean over `size` channels about each, zeros beyond them."""
    channels, before, after = input.shape[1], size // 2, (size - 1) // 2

    def summed(a, before, after):
        a = pad_with.on(xp, a, widths=((0, 0), (before, after), *((0, 0),) * (a.ndim - 2)))
        return functools.reduce(operator.add, [a[:, i:i + channels] for i in range(size)])

    base = summed(input * input, before, after) * (alpha / size) + k
    scale = base**-beta
    return input * scale, (lambda dy: dy * scale - input * (2 * alpha * beta / size) * summed(
        dy * input * scale / base, after, before),)


def local_response_norm(input: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """``input / (k + alpha * mean of squares)**beta``, the mean over `size` channels of (N, C, ...), zeros beyond them.

    A. Krizhevsky et al., NeurIPS 2012.
    """
    if input.ndim < 3 or size < 1:
        raise ValueError(f"local_response_norm: input is (N, C, ...) of 3 axes or more and size at least 1, "
                         f"not {input.shape} and {size}")
    return response_norm(input, size, alpha, beta, k)
