"""`standardize` for the CPU: sums by BLAS, several times faster than NumPy's, in cached blocks."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gpuprop.backend import definition

CACHE_SIZE = 1 << 17  # elements per block
MIN_SIZE = 1 << 14  # elements of the input; the definition is faster below
MIN_DOT = 16  # elements per dot product; multiplying and summing is faster below
ALL = slice(None)


# ---- sums ----------------------------------------------------------------------------------------


def terms_per_sum(a: np.ndarray, shape: Sequence[int]) -> int:
    """The number of elements in the last axes of `a` that a sum to `shape` reduces."""
    reduced = next((i for i, n in enumerate(reversed(shape)) if n > 1), len(shape))
    return math.prod(a.shape[a.ndim - reduced:])


def sum_leading(a: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The sum of `a` over its leading elements, to the size of `shape`."""
    rows = a.reshape(-1, math.prod(shape))
    total = np.matmul(np.ones(len(rows), a.dtype), rows) if len(rows) > 1 else rows
    return total.reshape(shape)


def sum_to(a: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The sum of `a` to a `shape` that broadcasts with it; its axes longer than 1 are adjacent."""
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
    """The sum of the first item of each row, of the second, ..."""
    return [functools.reduce(operator.add, column) for column in zip(*rows, strict=True)]


# ---- shapes --------------------------------------------------------------------------------------


def cache_blocks(a: np.ndarray) -> list[slice]:
    """Slices of the first axis that hold about CACHE_SIZE elements each."""
    step = max(1, CACHE_SIZE * len(a) // a.size)
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
    """The override: over the last axes, or over all axes but the channels of (N, C, ...)."""
    shape, ndim = input.shape, input.ndim
    by_channel = ndim > 1 and axes == (0, *range(2, ndim))
    over_last_axes = axes == tuple(range(ndim - len(axes), ndim))
    parameters = [p for p in (weight, bias) if p is not None]
    parameter_shape = (1, shape[1], *(1,) * (ndim - 2)) if by_channel else shape
    if not (by_channel or over_last_axes) or input.size < MIN_SIZE or input.dtype.itemsize == 2 \
            or not all(is_supported(p, parameter_shape) and p.dtype == input.dtype
                       for p in parameters):
        original = definition("gpuprop.functional:standardize")
        return original(xp, input, weight, bias, axes, eps, subtract_mean, return_stats)

    # one axis of rows, then the axes that are reduced or that parameters have
    kept = ndim - 1 if by_channel else max(len(axes), *(p.ndim for p in parameters), 0)
    x = np.ascontiguousarray(input).reshape(-1, *shape[ndim - kept:])
    stats_shape = parameter_shape[1:] if by_channel else (
        *x.shape[:x.ndim - len(axes)], *(1,) * len(axes))
    n = math.prod(shape[i] for i in axes)
    result = Standardization(x, weight, bias, stats_shape, n, eps, subtract_mean, by_channel)
    y = result.y.reshape(shape)
    if not return_stats:
        zero = np.zeros(stats_shape, x.dtype)
        return y, lambda dy: result.backward(dy, zero, zero)
    output_shape = tuple(1 if i in axes else size for i, size in enumerate(shape))
    mean, variance = result.mean.reshape(output_shape), result.variance.reshape(output_shape)
    return (y, mean, variance), lambda d: result.backward(*d)


class Standardization:
    """The output of `standardize` and the arrays that its gradient needs.

    Statistics have the shape `stats_shape`; each is a mean of `n` elements.  `blocks` are pairs of
    a block of rows, whose statistics are computed together, and its slices that fit in the cache.
    With `by_channel` all rows are one block.  Otherwise each block fits in the cache.
    """

    def __init__(self, x: np.ndarray, weight: Any, bias: Any, stats_shape: Sequence[int], n: int,
                 eps: float, subtract_mean: bool, by_channel: bool) -> None:
        self.x, self.weight, self.bias = x, weight, bias
        self.n, self.eps, self.subtract_mean, self.by_channel = n, eps, subtract_mean, by_channel
        slices = cache_blocks(x)
        self.blocks = [(ALL, slices)] if by_channel else [(rows, [ALL]) for rows in slices]
        self.mean = np.zeros(stats_shape, x.dtype)
        self.variance = np.empty(stats_shape, x.dtype)
        self.scale = np.empty(stats_shape, x.dtype)
        self.z = np.empty_like(x)
        self.y = self.z if weight is None and bias is None else np.empty_like(x)
        arrays = (x, self.z, self.y, self.mean, self.variance, self.scale)
        for rows, slices in self.blocks:
            self._forward_block(slices, *(a[rows] for a in arrays))

    def _forward_block(self, slices: list[slice], x: Any, z: Any, y: Any, mean: Any, variance: Any,
                       scale: Any) -> None:
        """Fill all arrays but x."""
        centered = x
        if self.subtract_mean:
            np.divide(sum_to(x, mean.shape), self.n, out=mean)
            for s in slices:
                np.subtract(x[s], mean, out=z[s])
            centered = z
        squares = [sum_of_products(centered[s], centered[s], mean.shape) for s in slices]
        np.divide(functools.reduce(operator.add, squares), self.n, out=variance)
        np.divide(1, np.sqrt(variance + self.eps), out=scale)
        for s in slices:
            part = np.multiply(centered[s], scale, out=z[s])
            if self.weight is not None:
                part = np.multiply(part, self.weight, out=y[s])
            if self.bias is not None:
                np.add(part, self.bias, out=y[s])

    def backward(self, dy: Any, dmean: Any, dvariance: Any) -> tuple[Any, Any, Any]:
        """The gradients of the input, the weight and the bias."""
        shape = dy.shape
        dy = np.ascontiguousarray(dy).reshape(self.x.shape)
        dmean, dvariance = dmean.reshape(self.mean.shape), dvariance.reshape(self.mean.shape)
        dx = np.empty_like(self.x)
        arrays = (dy, self.z, dx, self.scale, dmean, dvariance)
        grads = iter(add_columns(self._backward_block(slices, *(a[rows] for a in arrays))
                                 for rows, slices in self.blocks))
        dweight = None if self.weight is None else next(grads)
        dbias = None if self.bias is None else next(grads)
        return dx.reshape(shape), dweight, dbias

    def _backward_block(self, slices: list[slice], dy: Any, z: Any, dx: Any, scale: Any, dmean: Any,
                        dvariance: Any) -> list:
        """Fill dx; return the gradients of the weight and the bias, where there are any."""
        dz_z, dz, *grads = add_columns(self._sums(dy[s], z[s], scale.shape) for s in slices)
        # a weight that is constant along the reduced axes is a factor of the sums
        outer_weight = self.weight if self.by_channel else None
        factor = scale if outer_weight is None else scale * outer_weight
        mean_dz_z = dz_z * (factor / self.n) - dvariance * 2 / (self.n * scale)
        mean_dz = dz * (factor / self.n) - dmean / self.n
        for s in slices:
            weighted = dy[s]
            if self.weight is not outer_weight:
                weighted = np.multiply(weighted, self.weight, out=dx[s])
            part = np.multiply(weighted, factor, out=dx[s])
            part -= z[s] * mean_dz_z
            if self.subtract_mean:
                part -= mean_dz
        return grads

    def _sums(self, dy: Any, z: Any, stats_shape: Sequence[int]) -> list:
        """The weighted sums of dy * z and of dy, and the gradients of the weight and the bias."""
        dy_z = dy * z
        sums = [self._weighted_sum(dy_z, stats_shape), self._weighted_sum(dy, stats_shape)]
        if self.weight is not None:
            sums.append(sum_to(dy_z, self.weight.shape))
        if self.bias is not None:
            sums.append(sum_to(dy, self.bias.shape))
        return sums

    def _weighted_sum(self, a: Any, stats_shape: Sequence[int]) -> Any:
        """``sum_to(a * weight, stats_shape)``; with `by_channel` without the weight."""
        w = self.weight
        if w is None or self.by_channel:
            return sum_to(a, stats_shape)
        if w.size == self.n and w.shape == a.shape[a.ndim - w.ndim:]:  # exactly the reduced axes
            return np.matmul(a.reshape(-1, self.n), w.reshape(self.n)).reshape(stats_shape)
        return sum_to(a * w, stats_shape)
