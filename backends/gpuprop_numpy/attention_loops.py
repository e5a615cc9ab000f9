"""Attention compiled by Numba: a task computes all products and exponentials of its heads.

The scores of a tile of queries stay in the cache between the products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.elementary import elementary
from gpuprop_numpy.microkernels import has_avx, microkernels
from gpuprop_numpy.product_loops import address_loop, workspace

FLOAT32 = np.dtype(np.float32)
QUERIES = 128  # of a tile at most
MIN_QUERIES = 32  # smaller tiles leave out more keys, but their products are slower
MIN_SCORES = 1 << 12  # of all heads: for fewer, nobody should wait for Numba to compile
LOW, HIGH = np.float32(1e-13), np.float32(1e30)  # sums of exponentials that lose no digits
LARGEST = np.float32(88)  # score whose exponential is finite


class AttentionLoops(NamedTuple):
    """``forward(query, key, value, scale, last, weights, y)`` and ``backward(query, key, value,
    scale, last, weights, dy, dquery, dkey, dvalue)``.

    Arrays have two axes of heads.  Query i attends to the keys 0 to ``i + last``.  `weights` is
    (..., queries, keys), which `forward` writes and `backward` reads; if it has no keys, `backward`
    computes them again.  `forward` returns False if the exponentials of a row are too large or
    small, or NaN.
    """

    forward: Callable
    backward: Callable


def are_faster(scores: int) -> bool:
    """Whether the loops exist on this processor, and so many scores are enough for them."""
    return scores >= MIN_SCORES and has_avx() and compiled.may_be_silent()


@functools.cache
def attention_loops() -> AttentionLoops:
    """The loops for float32; elements of rows follow each other in the arrays that they write."""
    from numba import types

    kernels = microkernels(FLOAT32)
    multiply, sizes = address_loop(FLOAT32), workspace(FLOAT32)
    exp = elementary().exp
    edge_size = kernels.rows * kernels.columns
    f = np.float32
    decorate = compiled.njit(in_any_order=True)
    assert decorate is not None  # see `are_faster`

    @decorate
    def product(start: Any, a: Any, b: Any, out: Any, adds: Any, room: Any) -> None:
        """``out = a @ b``, or ``out += a @ b`` if it `adds`; `start` is zeros."""
        to_a, to_b, to_edge = room
        m, n = out.shape
        begin, row = (out.ctypes.data, out.strides[0]) if adds else (start.ctypes.data, 0)
        multiply(m, n, a.shape[1], begin, row, a.ctypes.data, *a.strides, b.ctypes.data,
                 *b.strides, out.ctypes.data, out.strides[0], to_a.ctypes.data, to_b.ctypes.data,
                 to_edge.ctypes.data)

    @decorate
    def rooms(n: Any, m: Any, width: Any) -> Any:
        """Memory for packed operands, and for a tile: enough for smaller products, too."""
        rows = min(n, QUERIES)
        size_a, size_b = 0, 0
        for sums, columns, terms in ((rows, m, width), (rows, width, m), (m, width, rows)):
            a, b = sizes(sums, columns, terms)
            size_a, size_b = max(size_a, a), max(size_b, b)
        return (np.empty(size_a, FLOAT32), np.empty(size_b, FLOAT32),
                np.zeros(edge_size, FLOAT32))

    @decorate
    def tile_size(n: Any, m: Any, last: Any) -> Any:
        """The queries of a tile."""
        return min(QUERIES, max(MIN_QUERIES, n // 8)) if last < m else QUERIES

    @decorate
    def put_weights(rows: Any, first: Any, end: Any, keys: Any, scale: Any) -> Any:
        """The weights of rows of scores, in place; the first row attends to so many keys."""
        m = rows.shape[1]
        is_usual: Any = True
        for i in range(first, end):
            row = rows[i]
            stop = min(m, keys + i - first)
            total = f(0)
            for j in range(stop):
                score = row[j] * scale
                row[j] = exp(LARGEST if score > LARGEST else score)
                total += row[j]
            is_usual &= (total > LOW) & (total < HIGH)
            factor = f(1) / total
            for j in range(stop):
                row[j] *= factor
            for j in range(stop, m):
                row[j] = f(0)
        return is_usual

    @decorate
    def forward(query: Any, key: Any, value: Any, scale: Any, last: Any, weights: Any,
                y: Any) -> Any:
        count, heads, n, width = query.shape
        m = key.shape[2]
        room = rooms(n, m, max(width, value.shape[3]))
        start = np.zeros(max(m, value.shape[3]), FLOAT32)
        step = tile_size(n, m, last)
        keeps = weights.shape[3] > 0
        scratch = np.empty((1 if keeps else step, m), FLOAT32)
        is_usual: Any = True
        for b in range(count):
            for h in range(heads):
                for i in range(0, n, step):
                    end = min(n, i + step)
                    stop = min(m, end + last)
                    rows, first = (weights[b, h], i) if keeps else (scratch, 0)
                    w = rows[first:first + end - i, :stop]
                    product(start, query[b, h, i:end], key[b, h, :stop].T, w, False, room)
                    is_usual &= put_weights(rows, first, first + end - i, i + last + 1, scale)
                    product(start, w, value[b, h, :stop], y[b, h, i:end], False, room)
        return is_usual

    @decorate
    def put_score_grads(ds: Any, rows: Any, first: Any, end: Any, stop: Any, scale: Any) -> None:
        """``ds = (ds - mean) * w * scale``, where the mean of a row has its weights w."""
        for i in range(first, end):
            w, d = rows[i], ds[i - first]
            mean = f(0)
            for j in range(stop):
                mean += w[j] * d[j]
            for j in range(stop):
                d[j] = (d[j] - mean) * (w[j] * scale)

    @decorate
    def backward(query: Any, key: Any, value: Any, scale: Any, last: Any, weights: Any, dy: Any,
                 dquery: Any, dkey: Any, dvalue: Any) -> None:
        count, heads, n, width = query.shape
        m = key.shape[2]
        room = rooms(n, m, max(width, value.shape[3]))
        start = np.zeros(max(m, width), FLOAT32)
        step = tile_size(n, m, last)
        keeps = weights.shape[3] > 0
        scratch = np.empty((1 if keeps else step, m), FLOAT32)
        grads = np.empty((step, m), FLOAT32)
        for b in range(count):
            for h in range(heads):
                dkey[b, h] = f(0)
                dvalue[b, h] = f(0)
                for i in range(0, n, step):
                    end = min(n, i + step)
                    stop = min(m, end + last)
                    q, k, d = query[b, h, i:end], key[b, h, :stop], dy[b, h, i:end]
                    rows, first = (weights[b, h], i) if keeps else (scratch, 0)
                    w, ds = rows[first:first + end - i, :stop], grads[:end - i, :stop]
                    if not keeps:
                        product(start, q, k.T, w, False, room)
                        put_weights(rows, first, first + end - i, i + last + 1, scale)
                    product(start, w.T, d, dvalue[b, h, :stop], True, room)
                    product(start, d, value[b, h, :stop].T, ds, False, room)
                    put_score_grads(grads, rows, first, first + end - i, stop, scale)
                    product(start, ds, k, dquery[b, h, i:end], False, room)
                    product(start, ds.T, q, dkey[b, h, :stop], True, room)

    def array(ndim: int, is_read: bool = False) -> Any:
        return types.Array(types.float32, ndim, "A", readonly=is_read)

    read = array(4, is_read=True)
    weights = types.float32[:, :, :, ::1]
    inputs = read, read, read, types.float32, types.int64, weights
    return AttentionLoops(
        compiled.Loop(forward, (*inputs, array(4))),
        compiled.Loop(backward, (*inputs, read, *[array(4)] * 3)))
