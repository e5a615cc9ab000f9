"""Normalization for the CPU: sums as products with ones, several times as fast as NumPy's own, and parts in cache."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gpuprop.backend import definition

PART = 1 << 17  # elements at a time
SMALL = 1 << 14  # below, the definition is faster
SHORT = 16  # products of vectors up to here take longer than their elements one by one
WHOLE = slice(None)


# ---- sums -----------------------------------------------------------------------------------------------------------


def run(a: np.ndarray, shape: Sequence[int]) -> int:
    """How many neighbours in `a` make one element of its sum to `shape`."""
    ones = next((i for i, n in enumerate(reversed(shape)) if n > 1), len(shape))
    return math.prod(a.shape[a.ndim - ones:])


def gathered(a: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The sum over the first axes."""
    rows = a.reshape(-1, math.prod(shape))
    return (np.matmul(np.ones(len(rows), a.dtype), rows) if len(rows) > 1 else rows).reshape(shape)


def total(a: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The sum to a shape that broadcasts with `a`, and whose axes longer than 1 are neighbours."""
    n = run(a, shape)
    return gathered(np.matmul(a.reshape(-1, n), np.ones(n, a.dtype)) if n > 1 else a, shape)


def inner(a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """``total(a * b, shape)``."""
    n = run(a, shape)
    return total(a * b, shape) if n < SHORT else gathered(np.vecdot(a.reshape(-1, n), b.reshape(-1, n)), shape)


def each(sums: Iterable[Sequence]) -> list[Any]:
    """The sums of the first of each, of the second ..."""
    return [functools.reduce(operator.add, column) for column in zip(*sums, strict=True)]


# ---- where ----------------------------------------------------------------------------------------------------------


def parts(a: np.ndarray) -> list[slice]:
    """Along the first axis, as many elements as the cache holds."""
    step = max(1, PART * len(a) // a.size)
    return [slice(i, i + step) for i in range(0, len(a), step)]


def spreads(p: Any, shape: tuple[int, ...]) -> bool:
    """Does it broadcast to this shape, and are its axes longer than 1 neighbours?"""
    long = [i for i, n in enumerate(p.shape, len(shape) - p.ndim) if n != 1]
    return p.ndim <= len(shape) and all(p.shape[i - len(shape)] == shape[i] for i in long) \
        and all(j - i == 1 for i, j in itertools.pairwise(long))


# ---- the op ---------------------------------------------------------------------------------------------------------


def standardize(xp: Any, input: Any, weight: Any, bias: Any, axes: Any, eps: Any, centred: Any = True,
                tracked: Any = False) -> tuple:
    """Over last axes part by part; of channels (N, C, ...) first the sums over all parts."""
    shape, ndim, given = input.shape, input.ndim, [p for p in (weight, bias) if p is not None]
    channels, last = ndim > 1 and axes == (0, *range(2, ndim)), axes == tuple(range(ndim - len(axes), ndim))
    wide = (1, shape[1], *(1,) * (ndim - 2)) if channels else shape
    if not (channels or last) or input.size < SMALL or input.dtype.itemsize == 2 \
            or not all(spreads(p, wide) and p.dtype == input.dtype for p in given):
        return definition("gpuprop.functional:standardize")(xp, input, weight, bias, axes, eps, centred, tracked)
    tail = ndim - 1 if channels else max(len(axes), *(p.ndim for p in given), 0)
    x = np.ascontiguousarray(input).reshape(-1, *shape[ndim - tail:])  # samples first
    of_part = wide[1:] if channels else (*x.shape[:x.ndim - len(axes)], *(1,) * len(axes))
    made = Standardized(x, weight, bias, of_part, math.prod(shape[i] for i in axes), eps, centred, channels)

    def pullback(d):
        dx, dweight, dbias = made.pull(*(d if tracked else (d, zero, zero)))
        return dx.reshape(shape), dweight, dbias

    y, zero = made.y.reshape(shape), np.zeros(of_part, x.dtype)
    kept = tuple(1 if i in axes else m for i, m in enumerate(shape))
    return ((y, made.mean.reshape(kept), made.variance.reshape(kept)) if tracked else y), pullback


class Standardized:
    """The output, and what its gradient needs; every sum is of `n` elements and has the shape `of`.

    With `channels` there is one block to sum over, in pieces that the cache holds; else each such piece is a block.
    """

    def __init__(self, x: np.ndarray, weight: Any, bias: Any, of: Sequence[int], n: int, eps: float, centred: bool,
                 channels: bool) -> None:
        self.x, self.weight, self.bias, self.n, self.eps, self.centred = x, weight, bias, n, eps, centred
        self.channels = channels
        self.blocks = [(WHOLE, parts(x))] if channels else [(p, [WHOLE]) for p in parts(x)]
        self.mean, self.variance, self.scale = np.zeros(of, x.dtype), np.empty(of, x.dtype), np.empty(of, x.dtype)
        self.z = np.empty_like(x)
        self.y = self.z if weight is None and bias is None else np.empty_like(x)
        for block, pieces in self.blocks:
            self.forward(pieces, *(a[block] for a in (x, self.z, self.y, self.mean, self.variance, self.scale)))

    def forward(self, pieces: list[slice], x: Any, z: Any, y: Any, mean: Any, variance: Any, scale: Any) -> None:
        """Fill all but x."""
        d = x
        if self.centred:
            np.divide(total(x, mean.shape), self.n, out=mean)
            for p in pieces:
                np.subtract(x[p], mean, out=z[p])
            d = z
        np.divide(functools.reduce(operator.add, [inner(d[p], d[p], mean.shape) for p in pieces]), self.n, out=variance)
        np.divide(1, np.sqrt(variance + self.eps), out=scale)
        for p in pieces:
            part = np.multiply(d[p], scale, out=z[p])
            if self.weight is not None:
                part = np.multiply(part, self.weight, out=y[p])
            if self.bias is not None:
                np.add(part, self.bias, out=y[p])

    def pull(self, dy: Any, dmean: Any, dvariance: Any) -> tuple[Any, Any, Any]:
        """The gradients of x, weight and bias."""
        dy, dx = np.ascontiguousarray(dy).reshape(self.x.shape), np.empty_like(self.x)
        grads = iter(each([self.backward(pieces, *(a[block] for a in (dy, self.z, dx, self.scale, dmean, dvariance)))
                           for block, pieces in self.blocks]))
        dweight, dbias = (None if p is None else next(grads) for p in (self.weight, self.bias))
        return dx, dweight, dbias

    def backward(self, pieces: list[slice], dy: Any, z: Any, dx: Any, scale: Any, dmean: Any, dvariance: Any) -> list:
        """Fill dx; the gradients of weight and bias."""
        along, average, *grads = each(self.sums(dy[p], z[p], scale.shape) for p in pieces)
        outside = self.weight if self.channels else None  # the weight, where it is the same for all that is summed
        factor = scale if outside is None else scale * outside
        along = along * (factor / self.n) - dvariance * 2 / (self.n * scale)
        average = average * (factor / self.n) - dmean / self.n
        for p in pieces:
            weighted = dy[p] if self.weight is outside else np.multiply(dy[p], self.weight, out=dx[p])
            part = np.multiply(weighted, factor, out=dx[p])
            part -= z[p] * along
            if self.centred:
                part -= average
        return grads

    def sums(self, dy: Any, z: Any, shape: Sequence[int]) -> list:
        """Of dy * z and dy: weighed, and without the weight to its own shape, and the bias's."""
        t = dy * z
        grads = [total(a, p.shape) for a, p in ((t, self.weight), (dy, self.bias)) if p is not None]
        return [self.weighed(t, shape), self.weighed(dy, shape), *grads]

    def weighed(self, a: Any, shape: Sequence[int]) -> Any:
        w = self.weight
        if w is None or self.channels:
            return total(a, shape)
        if w.size == self.n and w.shape == a.shape[a.ndim - w.ndim:]:  # it runs along what is summed
            return np.matmul(a.reshape(-1, self.n), w.reshape(self.n)).reshape(shape)
        return total(a * w, shape)
