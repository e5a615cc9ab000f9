"""`standardize` of rows, layer norm and RMS norm, on the CPU: blocks of rows in threads.

NumPy broadcasts slowly along short rows.  Here BLAS makes the factors of all elements, which are
outer products, and computes the sums; the other passes multiply and add contiguous arrays.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import numpy as np

from gpuprop_numpy.threads import in_threads

BLOCK = 1 << 17  # elements, which stay in the CPU's cache: 0.1 to 0.3 ms of work
MAX_ROW = 1024  # elements; NumPy broadcasts along longer rows as fast


def standardize_rows(input: Any, weight: Any, bias: Any, eps: float, subtract_mean: bool,
                     row_shape: tuple) -> tuple:
    """The output and the pullback; `weight` and `bias` have the shape of a row, or are None."""
    n = math.prod(row_shape)
    x = np.ascontiguousarray(input).reshape(-1, n)
    w = np.ones(n, x.dtype) if weight is None else weight.reshape(n)
    b = None if bias is None else bias.reshape(n)
    y = np.empty_like(x)
    step = max(1, BLOCK // n)
    blocks = [slice(i, i + step) for i in range(0, len(x), step)]
    results = in_threads(lambda rows: Rows(x[rows], w, b, eps, subtract_mean, y[rows]), blocks)

    def backward(dy: Any) -> tuple:
        dy = np.ascontiguousarray(dy).reshape(x.shape)
        dx = np.empty_like(x)
        parts = in_threads(lambda i: results[i].backward(dy[blocks[i]], dx[blocks[i]]),
                           range(len(blocks)))
        dweight, dbias = (functools.reduce(operator.add, column)
                          for column in zip(*parts, strict=True))
        return (dx.reshape(input.shape),
                None if weight is None else dweight.reshape(row_shape),
                None if bias is None else dbias.reshape(row_shape))

    return y.reshape(input.shape), backward


def outer(*products: tuple) -> Any:
    """The sum of the outer products of two pairs of vectors; a vector may be a number."""
    (a, b), (c, d) = products
    columns = np.empty((2, len(a)), a.dtype)
    rows = np.empty((2, len(b)), b.dtype)
    columns[0], columns[1] = a, c
    rows[0], rows[1] = b, d
    return np.matmul(columns.T, rows)


class Rows:
    """Some rows of `standardize`: ``y = (x - mean) * scale * weight + bias``."""

    def __init__(self, x: Any, weight: Any, bias: Any, eps: float, subtract_mean: bool,
                 y: Any) -> None:
        """Compute `y` in place."""
        n = x.shape[1]
        mean = np.zeros(len(x), x.dtype)
        variance = squares = np.vecdot(x, x) / n
        if subtract_mean:
            mean = np.matmul(x, np.ones(n, x.dtype)) / n
            variance = squares - mean * mean
            # else digits would cancel, or the squares have overflowed
            if not ((variance >= squares / 2) & (squares < math.inf)).all():
                x = x - mean[:, None]
                mean = np.zeros_like(mean)
                variance = np.vecdot(x, x) / n
        scale = 1 / np.sqrt(variance + eps)
        np.multiply(x, outer((scale, weight), (0, 0)), out=y)
        if subtract_mean or bias is not None:
            y += outer((-mean * scale, weight), (1, 0 if bias is None else bias))
        self.x = x
        self.weight = weight
        self.mean = mean
        self.scale = scale
        self.subtract_mean = subtract_mean

    def backward(self, dy: Any, dx: Any) -> tuple:
        """Compute `dx` in place; return the gradients of weight and bias."""
        x, weight, mean, scale = self.x, self.weight, self.mean, self.scale
        n = x.shape[1]
        shift = mean * scale  # z = x * scale - shift
        dy_x = dy * x
        dbias, dy_shift = np.matmul(np.stack([np.ones_like(shift), shift]), dy)
        dweight = np.matmul(scale, dy_x) - dy_shift
        sum_dz = np.matmul(dy, weight)
        sum_dz_z = np.matmul(dy_x, weight) * scale - sum_dz * shift
        x_factor = sum_dz_z * scale * scale / n
        constant = -x_factor * mean
        if self.subtract_mean:
            constant += sum_dz * scale / n
        # dx = dy * weight * scale - x * x_factor - constant
        np.multiply(dy, outer((scale, weight), (0, 0)), out=dx)
        term = dy_x
        term[...] = x_factor[:, None]  # to broadcast it in the product takes longer
        term *= x
        dx -= term
        term[...] = constant[:, None]
        dx -= term
        return dweight, dbias
