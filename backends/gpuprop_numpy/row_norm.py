"""`standardize` of rows on the CPU, as in layer and RMS norm: blocks of rows in threads.

NumPy broadcasts slowly along short rows.  Here BLAS makes the factors of all elements, which are
outer products, and computes the sums; the other passes multiply and add contiguous arrays.  Loops
of Numba read and write each row while it is in the cache; they compute group norm too.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.threads import even_slices, in_threads

BLOCK = 1 << 17  # elements, which stay in the CPU's cache: 0.1 to 0.3 ms of work
MAX_ROW = 1024  # elements; NumPy broadcasts along longer rows as fast
MIN_SIZE = 1 << 12  # elements: for fewer, nobody should wait for Numba to compile
PER_LOOP = 1 << 20  # elements: 0.2 to 0.6 ms of work
MAX_LOOP_ROW = 1 << 16  # elements of a row that stays in the cache


def is_supported(input: Any, parameters: Sequence, row_shape: tuple) -> bool:
    """Whether `standardize_rows` computes this, and is faster than the version for all axes."""
    n = math.prod(row_shape)
    if loops_for(input):
        return n <= MAX_LOOP_ROW and all(p.ndim <= len(row_shape) + 1 for p in parameters)
    return n <= MAX_ROW and all(p.shape == row_shape for p in parameters)


def is_usual(input: Any, weight: Any, bias: Any) -> bool:
    """Whether loops compute this layer norm of the last axis, as those of most networks."""
    n = input.shape[-1]
    parameters = [p for p in (weight, bias) if p is not None]
    return (input.itemsize > 2 and 0 < n <= MAX_LOOP_ROW and loops_for(input) is not None
            and all([p.shape == (n,) and p.dtype is input.dtype for p in parameters]))


def standardize_rows(input: Any, weight: Any, bias: Any, eps: float, subtract_mean: bool,
                     row_shape: tuple) -> tuple:
    """The output and the pullback.

    `weight` and `bias` have the shape of a row, or are None.  For loops of Numba they may also
    broadcast to that shape, or to (groups, *row_shape): then the rows are those of the groups in
    turn.
    """
    n = math.prod(row_shape)
    x = np.ascontiguousarray(input).reshape(-1, n)
    has_groups = any([p is not None and p.ndim > len(row_shape) for p in (weight, bias)])
    parameter_shape = input.shape[-len(row_shape) - 1:] if has_groups else row_shape

    def by_group(p: Any) -> np.ndarray:
        if type(p) is int or p.shape != parameter_shape:
            p = np.broadcast_to(p, parameter_shape)
        return np.ascontiguousarray(p, x.dtype).reshape(-1, n)

    w = by_group(1 if weight is None else weight)
    b = by_group(0 if bias is None else bias)
    loops = loops_for(input)
    kind: Any = functools.partial(CompiledRows, *loops) if loops else Rows
    y = np.empty_like(x)
    groups = w.size // n
    samples = even_slices(len(x) // groups, max(1, (PER_LOOP if loops else BLOCK) // w.size))
    if len(samples) == 1:  # slices and threads would take longer than the loop of a small array
        whole = kind(x, w, b, eps, subtract_mean, y)
    else:
        blocks = [slice(s.start * groups, s.stop * groups) for s in samples]
        results = in_threads(lambda rows: kind(x[rows], w, b, eps, subtract_mean, y[rows]), blocks)

    def backward(dy: Any) -> tuple:
        dy = np.ascontiguousarray(dy).reshape(x.shape)
        dx = np.empty_like(x)
        if len(samples) == 1:
            dweight, dbias = whole.backward(dy, dx)
        else:
            parts = in_threads(lambda i: results[i].backward(dy[blocks[i]], dx[blocks[i]]),
                               range(len(blocks)))
            dweight, dbias = (functools.reduce(operator.add, column)
                              for column in zip(*parts, strict=True))
        return (dx.reshape(input.shape),
                None if weight is None else dweight.astype(dx.dtype).reshape(parameter_shape),
                None if bias is None else dbias.astype(dx.dtype).reshape(parameter_shape))

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
    """Some rows of `standardize`: ``y = (x - mean) * scale * weight + bias``.

    The parameters have a row for each group, here one.
    """

    def __init__(self, x: Any, weight: Any, bias: Any, eps: float, subtract_mean: bool,
                 y: Any) -> None:
        """Compute `y` in place."""
        n = x.shape[1]
        weight, bias = weight[0], bias[0]
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
        if subtract_mean or bias.any():
            y += outer((-mean * scale, weight), (1, bias))
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


# ---- loops of Numba ------------------------------------------------------------------------------


class CompiledRows:
    """`Rows` by `compiled_loops`."""

    def __init__(self, forward: Callable, backward: Callable, x: Any, weight: Any, bias: Any,
                 eps: float, subtract_mean: bool, y: Any) -> None:
        """Compute `y` in place."""
        self.x = x
        self.weight = weight
        self.subtract_mean = subtract_mean
        self.mean, self.scale = np.empty((2, len(x)), x.dtype)
        self.loop = backward
        forward(x, weight, bias, eps, subtract_mean, y, self.mean, self.scale)

    def backward(self, dy: Any, dx: Any) -> Any:
        """Compute `dx` in place; return the gradients of weight and bias in float64."""
        parameter_grads = np.zeros((2, *self.weight.shape))
        self.loop(self.x, self.weight, self.subtract_mean, self.mean, self.scale, dy, dx,
                  *parameter_grads)
        return parameter_grads


def loops_for(input: Any) -> tuple[Callable, Callable] | None:
    """`compiled_loops` for an input of this size, or None."""
    return compiled_loops() if input.size >= MIN_SIZE else None


@functools.cache
def compiled_loops() -> tuple[Callable, Callable] | None:
    """The loops of `CompiledRows`, or None without Numba.

    They are ``forward(x, weight, bias, eps, subtract_mean, y, mean, scale)`` and ``backward(x,
    weight, subtract_mean, mean, scale, dy, dx, dweight, dbias)``.  Parameters are (groups, elements
    of a row).
    """
    decorate = compiled.njit(in_any_order=True)
    if decorate is None:
        return None

    @decorate
    def forward(x: Any, weight: Any, bias: Any, eps: Any, subtract_mean: Any, y: Any, mean: Any,
                scale: Any) -> None:
        rows, n = x.shape
        groups = len(weight)
        for group in range(groups):
            w, b = weight[group], bias[group]
            for r in range(group, rows, groups):
                row, out = x[r], y[r]
                total = squares = x.dtype.type(0)
                if subtract_mean:
                    for i in range(n):
                        total += row[i]
                mean[r] = total / n
                m = mean[r]
                for i in range(n):
                    squares += (row[i] - m) * (row[i] - m)
                scale[r] = 1 / math.sqrt(squares / n + eps)
                s = scale[r]
                for i in range(n):
                    out[i] = (row[i] - m) * s * w[i] + b[i]

    @decorate
    def backward(x: Any, weight: Any, subtract_mean: Any, mean: Any, scale: Any, dy: Any, dx: Any,
                 dweight: Any, dbias: Any) -> None:
        rows, n = x.shape
        groups = len(weight)
        for group in range(groups):
            w, w_grad, b_grad = weight[group], dweight[group], dbias[group]
            for r in range(group, rows, groups):
                row, d, out = x[r], dy[r], dx[r]
                m, s = mean[r], scale[r]
                sum_dz = sum_dz_z = x.dtype.type(0)
                for i in range(n):
                    z = (row[i] - m) * s
                    sum_dz += d[i] * w[i]
                    sum_dz_z += d[i] * w[i] * z
                    w_grad[i] += d[i] * z
                    b_grad[i] += d[i]
                mean_dz = x.dtype.type(sum_dz / n if subtract_mean else 0)
                mean_dz_z = x.dtype.type(sum_dz_z / n)
                for i in range(n):
                    out[i] = (d[i] * w[i] - mean_dz - (row[i] - m) * s * mean_dz_z) * s

    return compiled.Loop(forward), compiled.Loop(backward)
