"""The override of `standardize` for the CPU.

BLAS computes the sums, several times faster than np.sum.  Blocks of rows fit in the CPU's cache.
Rows and channels have versions of their own, which are faster: `row_norm`, `ByChannel`, and loops
of Numba.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from gpuprop.backend import definition
from gpuprop_numpy import compiled, row_norm
from gpuprop_numpy.threads import even_slices, in_threads

CACHE_SIZE = 1 << 17  # elements per block
PER_TASK = 1 << 18  # the same by channel: 0.2 ms of work, which pays for a thread
MIN_SIZE = 1 << 14  # elements of the input; the definition is faster below
MIN_DOT = 16  # elements per dot product; multiplying and summing is faster below


# ---- sums ----------------------------------------------------------------------------------------


def terms_per_sum(a: np.ndarray, shape: Sequence[int]) -> int:
    """The number of elements in the trailing axes of `a` that a sum to `shape` reduces."""
    reduced = next((i for i, n in enumerate(reversed(shape)) if n > 1), len(shape))
    return math.prod(a.shape[a.ndim - reduced:])


def sum_leading(a: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The sum of `a` over its leading axes, reshaped to `shape`."""
    rows = a.reshape(-1, math.prod(shape))
    total = np.matmul(np.ones(len(rows), a.dtype), rows) if len(rows) > 1 else rows
    return total.reshape(shape)


def sum_to(a: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The sum of `a` over the axes along which `shape` broadcasts to ``a.shape``.

    The axes of `shape` that are longer than 1 must be adjacent.
    """
    n = terms_per_sum(a, shape)
    if n > 1:
        a = np.matmul(a.reshape(-1, n), np.ones(n, a.dtype))
    return sum_leading(a, shape)


def sum_of_products(a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """``sum_to(a * b, shape)``."""
    n = terms_per_sum(a, shape)
    if n < MIN_DOT:
        return sum_to(a * b, shape)
    return sum_leading(np.vecdot(a.reshape(-1, n), b.reshape(-1, n)), shape)


def add_columns(rows: Iterable[Sequence]) -> list[Any]:
    """The sums of the columns: of the first items of all rows, of the second items, and so on."""
    return [functools.reduce(operator.add, column) for column in zip(*rows, strict=True)]


# ---- shapes --------------------------------------------------------------------------------------


def slices_of(a: np.ndarray, size: int) -> list[slice]:
    """Slices of the first axis, for blocks of about `size` elements."""
    step = max(1, size * len(a) // a.size)
    return [slice(i, i + step) for i in range(0, len(a), step)]


def is_supported(p: Any, shape: tuple[int, ...]) -> bool:
    """True if `p` broadcasts to `shape` and its axes longer than 1 are adjacent."""
    if p.ndim > len(shape):
        return False
    long = [i for i, n in enumerate(p.shape, len(shape) - p.ndim) if n != 1]
    fits = all(p.shape[i - len(shape)] == shape[i] for i in long)
    return fits and all(j - i == 1 for i, j in itertools.pairwise(long))


# ---- the op --------------------------------------------------------------------------------------


def standardize(xp: Any, input: Any, weight: Any, bias: Any, axes: Any, eps: Any,
                subtract_mean: Any = True, return_stats: Any = False) -> tuple:
    """The override, for the last axes, or for all axes but the channel axis of (N, C, ...).

    The definition computes other axes, small inputs and half types.
    """
    shape = input.shape
    ndim = input.ndim
    if axes == (ndim - 1,) and not return_stats and row_norm.is_usual(input, weight, bias):
        return row_norm.standardize_rows(input, weight, bias, eps, subtract_mean, shape[-1:])
    by_channel = ndim > 1 and axes == (0, *range(2, ndim))
    over_last_axes = axes == tuple(range(ndim - len(axes), ndim))
    parameters = [p for p in (weight, bias) if p is not None]
    parameter_shape = (1, shape[1], *(1,) * (ndim - 2)) if by_channel else shape
    has_supported_input = (by_channel or over_last_axes) and input.itemsize > 2 and (
        input.size >= MIN_SIZE or (over_last_axes and row_norm.loops_for(input) is not None))
    if not has_supported_input or not all(
            is_supported(p, parameter_shape) and p.dtype == input.dtype for p in parameters):
        original = definition("gpuprop.functional:standardize")
        return original(xp, input, weight, bias, axes, eps, subtract_mean, return_stats)

    row_shape = shape[ndim - len(axes):]
    if over_last_axes and not return_stats \
            and row_norm.is_supported(input, parameters, row_shape):
        return row_norm.standardize_rows(input, weight, bias, eps, subtract_mean, row_shape)

    result: Any
    if by_channel:
        x = np.ascontiguousarray(input).reshape(*shape[:2], -1)
        is_long = x.size >= compiled.MIN_SIZE and x.shape[2] >= MIN_LENGTH
        if is_long and subtract_mean and (loops := compiled_loops()):
            result = CompiledByChannel(x, weight, bias, eps, *loops)
        else:
            result = ByChannel(x, weight, bias, eps, subtract_mean)
    else:  # x has one axis of rows, then the axes that are reduced or that the parameters have
        kept = max(len(axes), *(p.ndim for p in parameters), 0)
        x = np.ascontiguousarray(input).reshape(-1, *shape[ndim - kept:])
        stats_shape = (*x.shape[:x.ndim - len(axes)], *(1,) * len(axes))
        n = math.prod(shape[i] for i in axes)
        result = Standardization(x, weight, bias, stats_shape, n, eps, subtract_mean)
    y = result.y.reshape(shape)
    if not return_stats:
        zero = np.zeros(result.mean.shape, x.dtype)
        return y, lambda dy: result.backward(dy, zero, zero)
    output_shape = tuple(1 if i in axes else size for i, size in enumerate(shape))
    mean = result.mean.reshape(output_shape)
    variance = result.variance.reshape(output_shape)
    return (y, mean, variance), lambda d: result.backward(*d)


class ByChannel:
    """The output ``y = (x - mean) * scale * weight + bias`` and the gradient, for x (N, C, L).

    Mean and variance are those of a channel.
    """

    def __init__(self, x: np.ndarray, weight: Any, bias: Any, eps: float,
                 subtract_mean: bool) -> None:
        shape = x.shape[1], 1
        n = x.shape[0] * x.shape[2]
        self.slices = slices_of(x, PER_TASK)
        total, squares = self._sums(lambda s: (x[s], x[s]), shape)
        self.mean = total / n if subtract_mean else np.zeros_like(total)
        self.variance = squares / n - self.mean * self.mean
        self.shift = self.mean
        # else digits would cancel, or the squares have overflowed
        is_accurate = (self.variance >= squares / (8 * n)) & (squares < math.inf)
        if subtract_mean and not is_accurate.all():
            x = x - self.mean
            self.variance = self._sums(lambda s: (x[s], x[s]), shape)[1] / n
            self.shift = np.zeros_like(self.mean)
        self.x = x
        self.n = n
        self.subtract_mean = subtract_mean
        self.weight = weight
        self.bias = bias
        self.scale = 1 / np.sqrt(self.variance + eps)
        self.factor = self.scale if weight is None else self.scale * weight.reshape(-1, 1)
        offset = -self.shift * self.factor
        if bias is not None:
            offset += bias.reshape(-1, 1)
        self.y = np.empty_like(x)

        def write_output(s: slice) -> None:
            part = np.multiply(x[s], self.factor, out=self.y[s])
            part += offset

        in_threads(write_output, self.slices)

    def _sums(self, parts: Callable, shape: Sequence[int]) -> list:
        """The sums of a and of a * b per channel, for the parts ``(a, b) = parts(slice)``."""

        def sums(s: slice) -> tuple:
            a, b = parts(s)
            return sum_to(a, shape), sum_of_products(a, b, shape)

        return add_columns(in_threads(sums, self.slices))

    def backward(self, dy: Any, dmean: Any, dvariance: Any) -> tuple[Any, Any, Any]:
        """The gradients of the input, the weight and the bias."""
        x = self.x
        input_shape = dy.shape
        dy = np.ascontiguousarray(dy).reshape(x.shape)
        shape = self.scale.shape
        dbias, dy_x = self._sums(lambda s: (dy[s], x[s]), shape)
        dweight = (dy_x - dbias * self.shift) * self.scale
        # dx = dy * factor - x * x_factor - constant
        x_factor = (dweight * self.factor * self.scale - 2 * dvariance.reshape(shape)) / self.n
        constant = -self.shift * x_factor
        if self.subtract_mean:
            constant += (dbias * self.factor - dmean.reshape(shape)) / self.n
        dx = np.empty_like(x)

        def write_gradient(s: slice) -> None:
            part = np.multiply(dy[s], self.factor, out=dx[s])
            other = x[s] * x_factor
            other += constant
            part -= other

        in_threads(write_gradient, self.slices)
        dweight, dbias = (None if p is None else sum_leading(grad, p.shape)
                          for p, grad in ((self.weight, dweight), (self.bias, dbias)))
        return dx.reshape(input_shape), dweight, dbias


class Standardization:
    """The output ``y = z * weight + bias`` of `standardize`, and the arrays of its gradient.

    ``z = (x - mean) * scale`` with ``scale = 1 / sqrt(variance + eps)``.  The statistics have shape
    `stats_shape`; each is a mean of `n` elements.  With ``subtract_mean=False`` the mean is 0.
    """

    def __init__(self, x: np.ndarray, weight: Any, bias: Any, stats_shape: Sequence[int], n: int,
                 eps: float, subtract_mean: bool) -> None:
        self.x = x
        self.weight = weight
        self.bias = bias
        self.n = n
        self.eps = eps
        self.subtract_mean = subtract_mean
        self.blocks = slices_of(x, CACHE_SIZE)
        self.mean = np.zeros(stats_shape, x.dtype)
        self.variance = np.empty(stats_shape, x.dtype)
        self.scale = np.empty(stats_shape, x.dtype)
        self.z = np.empty_like(x)
        self.y = self.z if weight is None and bias is None else np.empty_like(x)
        arrays = (x, self.z, self.y, self.mean, self.variance, self.scale)
        for rows in self.blocks:
            self._forward_block(*(a[rows] for a in arrays))

    def _forward_block(self, x: Any, z: Any, y: Any, mean: Any, variance: Any, scale: Any) -> None:
        """Compute z, y, mean, variance and scale of one block, in place."""
        centered = x
        if self.subtract_mean:
            np.divide(sum_to(x, mean.shape), self.n, out=mean)
            centered = np.subtract(x, mean, out=z)
        np.divide(sum_of_products(centered, centered, mean.shape), self.n, out=variance)
        np.divide(1, np.sqrt(variance + self.eps), out=scale)
        result = np.multiply(centered, scale, out=z)
        if self.weight is not None:
            result = np.multiply(result, self.weight, out=y)
        if self.bias is not None:
            np.add(result, self.bias, out=y)

    def backward(self, dy: Any, dmean: Any, dvariance: Any) -> tuple[Any, Any, Any]:
        """The gradients of the input, the weight and the bias."""
        shape = dy.shape
        dy = np.ascontiguousarray(dy).reshape(self.x.shape)
        dmean = dmean.reshape(self.mean.shape)
        dvariance = dvariance.reshape(self.mean.shape)
        dx = np.empty_like(self.x)
        arrays = (dy, self.z, dx, self.scale, dmean, dvariance)
        grads = iter(add_columns(self._backward_block(*(a[rows] for a in arrays))
                                 for rows in self.blocks))
        dweight = None if self.weight is None else next(grads)
        dbias = None if self.bias is None else next(grads)
        return dx.reshape(shape), dweight, dbias

    def _backward_block(self, dy: Any, z: Any, dx: Any, scale: Any, dmean: Any,
                        dvariance: Any) -> list:
        """Compute dx of one block in place; return its part of dweight and dbias, if they exist."""
        dz_z, dz, *grads = self._sums(dy, z, scale.shape)
        mean_dz_z = dz_z * (scale / self.n) - dvariance * 2 / (self.n * scale)
        mean_dz = dz * (scale / self.n) - dmean / self.n
        weighted = dy if self.weight is None else np.multiply(dy, self.weight, out=dx)
        np.multiply(weighted, scale, out=dx)
        dx -= z * mean_dz_z
        if self.subtract_mean:
            dx -= mean_dz
        return grads

    def _sums(self, dy: Any, z: Any, stats_shape: Sequence[int]) -> list:
        """The weighted sums of dy * z and of dy, then dweight and dbias, if they exist."""
        dy_z = dy * z
        sums = [self._weighted_sum(dy_z, stats_shape), self._weighted_sum(dy, stats_shape)]
        if self.weight is not None:
            sums.append(sum_to(dy_z, self.weight.shape))
        if self.bias is not None:
            sums.append(sum_to(dy, self.bias.shape))
        return sums

    def _weighted_sum(self, a: Any, stats_shape: Sequence[int]) -> Any:
        """``sum_to(a * weight, stats_shape)``."""
        w = self.weight
        if w is None:
            return sum_to(a, stats_shape)
        if w.size == self.n and w.shape == a.shape[a.ndim - w.ndim:]:  # exactly the reduced axes
            return np.matmul(a.reshape(-1, self.n), w.reshape(self.n)).reshape(stats_shape)
        return sum_to(a * w, stats_shape)


# ---- loops of Numba ------------------------------------------------------------------------------

PER_LOOP = 1 << 19  # elements of the input: 0.1 to 0.3 ms of work
MIN_LENGTH = 2  # elements of a channel of one sample, which the inner loops are over
GROUP = 1024  # elements of the channels of a sample that are read before the next sample


class CompiledByChannel:
    """`ByChannel` by loops, which read some channels again while they are in the CPU's cache."""

    def __init__(self, x: np.ndarray, weight: Any, bias: Any, eps: float, forward: Callable,
                 backward: Callable) -> None:
        self.x = x
        self.eps = eps
        self.loop = backward
        self.shapes = [None if p is None else p.shape for p in (weight, bias)]
        self.weight = self._by_channel(1 if weight is None else weight)
        self.mean, self.variance = self._by_channel(0), self._by_channel(0)
        self.y = np.empty_like(x)
        self._in_threads(forward, x, self.weight, self._by_channel(0 if bias is None else bias),
                         eps, self.y, self.mean, self.variance)

    def backward(self, dy: Any, dmean: Any, dvariance: Any) -> tuple[Any, Any, Any]:
        """The gradients of the input, the weight and the bias."""
        dx = np.empty_like(self.x)
        parameter_grads = self._by_channel(0), self._by_channel(0)
        self._in_threads(
            self.loop, self.x, self.weight, self.eps, self.mean, self.variance,
            np.ascontiguousarray(dy).reshape(dx.shape), self._by_channel(dmean),
            self._by_channel(dvariance), dx, *parameter_grads)
        dweight, dbias = (None if shape is None else sum_leading(grad, shape)
                          for shape, grad in zip(self.shapes, parameter_grads, strict=True))
        return dx.reshape(dy.shape), dweight, dbias

    def _by_channel(self, values: Any) -> np.ndarray:
        """An array of a number, or of one number per channel."""
        result = np.empty(self.x.shape[1], self.x.dtype)
        result[:] = np.reshape(values, -1)
        return result

    def _in_threads(self, loop: Callable, *arguments: Any) -> None:
        """``loop(*arguments, begin, end)`` for parts of the channels."""
        channels = self.x.shape[1]
        parts = even_slices(channels, max(1, PER_LOOP * channels // self.x.size))
        in_threads(lambda part: loop(*arguments, part.start, min(part.stop, channels)), parts)


@functools.cache
def compiled_loops() -> tuple[Callable, Callable] | None:
    """The loops of `CompiledByChannel`, or None without Numba.

    ``forward(x, weight, bias, eps, y, mean, variance, begin, end)`` and ``backward(x, weight, eps,
    mean, variance, dy, dmean, dvariance, dx, dweight, dbias, begin, end)`` compute the channels
    from `begin` to `end`.  A row, of one channel of one sample, is summed in its dtype, and rows
    are summed in float64.
    """
    decorate = compiled.njit(in_any_order=True)
    if decorate is None:
        return None

    @decorate
    def forward(x: Any, weight: Any, bias: Any, eps: Any, y: Any, mean: Any, variance: Any,
                begin: Any, end: Any) -> None:
        samples, channels, length = x.shape
        n, step = samples * length, max(1, GROUP // length)
        total, squares, factor = np.zeros(channels), np.zeros(channels), np.empty_like(mean)
        for first in range(begin, end, step):
            group = range(first, min(first + step, end))
            # From a shift by the mean of the first row, at most a factor `samples` is lost in the
            # difference of the squares.
            for c in group:
                row, row_total = x[0, c], x.dtype.type(0)
                for i in range(length):
                    row_total += row[i]
                mean[c] = row_total / length
            for k in range(samples):
                for c in group:
                    row, shift = x[k, c], mean[c]
                    row_total, row_squares = x.dtype.type(0), x.dtype.type(0)
                    for i in range(length):
                        row_total += row[i] - shift
                        row_squares += (row[i] - shift) * (row[i] - shift)
                    total[c] += row_total
                    squares[c] += row_squares
            for c in group:
                difference = total[c] / n
                mean[c] += difference
                square = squares[c] / n - difference * difference
                variance[c] = 0 if square < 0 else square  # equal elements, and rounding
                factor[c] = weight[c] / math.sqrt(variance[c] + eps)
            for k in range(samples):
                for c in group:
                    row, out = x[k, c], y[k, c]
                    row_mean, row_factor, offset = mean[c], factor[c], bias[c]
                    for i in range(length):
                        out[i] = (row[i] - row_mean) * row_factor + offset

    @decorate
    def backward(x: Any, weight: Any, eps: Any, mean: Any, variance: Any, dy: Any, dmean: Any,
                 dvariance: Any, dx: Any, dweight: Any, dbias: Any, begin: Any, end: Any) -> None:
        samples, channels, length = x.shape
        n, step = samples * length, max(1, GROUP // length)
        total, products = np.zeros(channels), np.zeros(channels)
        factor, x_factor, constant = (np.empty_like(mean), np.empty_like(mean),
                                      np.empty_like(mean))
        for first in range(begin, end, step):
            group = range(first, min(first + step, end))
            for k in range(samples):
                for c in group:
                    row, d, row_mean = x[k, c], dy[k, c], mean[c]
                    row_total, row_products = x.dtype.type(0), x.dtype.type(0)
                    for i in range(length):
                        row_total += d[i]
                        row_products += d[i] * (row[i] - row_mean)
                    total[c] += row_total
                    products[c] += row_products
            # dx = dy * factor - (x - mean) * x_factor - constant
            for c in group:
                scale = 1 / math.sqrt(variance[c] + eps)
                factor[c] = weight[c] * scale
                dweight[c] = products[c] * scale
                dbias[c] = total[c]
                x_factor[c] = (dweight[c] * factor[c] * scale - 2 * dvariance[c]) / n
                constant[c] = (dbias[c] * factor[c] - dmean[c]) / n
            for k in range(samples):
                for c in group:
                    row, d, out = x[k, c], dy[k, c], dx[k, c]
                    row_mean, f, g, h = mean[c], factor[c], x_factor[c], constant[c]
                    for i in range(length):
                        out[i] = d[i] * f - (row[i] - row_mean) * g - h

    return compiled.Loop(forward), compiled.Loop(backward)
