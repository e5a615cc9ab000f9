"""The override of `attention` for the CPU: a few heads at a time, in threads.

The exponentials of usual scores neither overflow nor vanish.  So the softmax needs no maximum of
each row, which takes NumPy longer than the exponentials.  The outputs are divided by the sums of
the weights, since they are fewer than the weights.  With Numba, a loop computes some heads.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpuprop.backend import portable
from gpuprop_numpy import attention_loops
from gpuprop_numpy.threads import even_slices, in_threads

LIMIT = 30.0  # of the scores' size: their exponentials are between 1e-13 and 1e13
SCORES = 1 << 18  # in a task, if one head has no more: in smaller ones, threads wait more often
QUERIES = 128  # in a tile of causal attention, which leaves out the keys behind its last query
MIN_QUERIES = 256  # in a tile of other attention with many keys
KEPT_KEYS = 256  # with more keys, the weights are not kept for backward


def attention(xp: Any, query: Any, key: Any, value: Any, mask: Any, slopes: Any, rng_key: Any,
              scale: Any, band: Any, p: Any, bias_requires_grad: Any) -> tuple:
    """The override, without slopes, dropout and gradients of masks, causal or without limits.

    The portable version computes others, large scores, queries that attend to no key, and half
    types.
    """
    first, last = band
    has_usual_mask = mask is None or mask.dtype.kind == "b" \
        or (mask.dtype == query.dtype and not bias_requires_grad)
    is_plain = has_usual_mask and slopes is None and rng_key is None
    dtypes = {query.dtype, key.dtype, value.dtype}
    is_supported = is_plain and first is None and (last is None or last >= 0) \
        and len(dtypes) == 1 and query.dtype.itemsize > 2 and query.size and key.size and value.size
    if is_supported:
        kind = CompiledHeads if are_compiled(query, key, value, mask) else Heads
        heads = kind(query, key, value, mask, scale, last)
        if heads.forward():
            return heads.y, heads.backward
    return portable("gpuprop.functional:attention")(
        xp, query, key, value, mask, slopes, rng_key, scale, band, p, bias_requires_grad)


class Tile(NamedTuple):
    """Some queries and the first keys, up to the last one that any of them attends to."""

    queries: slice
    keys: slice
    triangle: Any  # 1 where a query attends to one of the last keys, else 0; or None


def tiles_of(n: int, m: int, last: int | None, dtype: Any) -> list[Tile]:
    """Tiles of all queries, where query i attends to the keys 0 to ``i + last``."""
    if last is None:
        step = max(MIN_QUERIES, SCORES // m)
        return [Tile(slice(i, i + step), slice(m), None) for i in range(0, n, step)]
    tiles = []
    for i in range(0, n, QUERIES):
        rows = min(QUERIES, n - i)
        stop = min(m, i + rows + last)
        columns = min(stop, rows)
        # of all keys if they are few: NumPy multiplies contiguous arrays several times faster
        last_keys = triangle(rows, columns, i + last + columns - stop, dtype)
        tiles.append(Tile(slice(i, i + rows), slice(stop), last_keys))
    return tiles


@functools.lru_cache(maxsize=16)
def triangle(rows: int, columns: int, diagonal: int, dtype: Any) -> Any:
    """``np.tri``; the tiles of one length share a few of them."""
    mask = np.tri(rows, columns, diagonal, dtype)
    mask.flags.writeable = False
    return mask


def parts_of(lead: Sequence[int], size: int) -> list[tuple[slice, ...]]:
    """Index tuples of the axes `lead`, for parts of `size` elements at most, but at least one."""
    room = max(1, size)
    slices: list[list[slice]] = []
    for length in reversed(lead):
        slices.insert(0, even_slices(length, room))
        room = max(1, room // slices[0][0].stop)
    return list(itertools.product(*slices))


def transposed(a: Any) -> Any:
    return a.swapaxes(-1, -2)


class Heads:
    """The output ``y`` of `attention` for all heads, and what its gradient needs."""

    def __init__(self, query: Any, key: Any, value: Any, mask: Any, scale: float,
                 last: int | None) -> None:
        n, m = query.shape[-2], key.shape[-2]
        lead = query.shape[:-2]
        if not lead == key.shape[:-2] == value.shape[:-2]:
            lead = np.broadcast_shapes(lead, key.shape[:-2], value.shape[:-2])
            query, key, value = (np.broadcast_to(a, (*lead, *a.shape[-2:]))
                                 for a in (query, key, value))
        self.query = query
        self.key = key
        self.value = value
        self.factors = self.terms = None  # of the weights, and of the scores
        self.has_mask = mask is not None
        if self.has_mask:
            whole = np.broadcast_to(mask.astype(query.dtype), (*lead, n, m))
            if mask.dtype.kind == "b":
                self.factors = whole
            else:
                self.terms = whole
        self.scale = scale
        self.last = m if last is None else last
        self.parts = parts_of(lead, SCORES // (n * m))
        self.tiles = tiles_of(n, m, last, query.dtype)
        # in the memory order of the query, so that heads that were split can be joined in place
        self.y = np.empty_like(query, shape=(*lead, n, value.shape[-1]))
        self.total = np.empty_like(query, shape=(*lead, n, 1))  # the sums of the weights
        self.weights: list | None = [] if m <= KEPT_KEYS else None

    def forward(self) -> bool:
        """Compute the output; False if scores are too large or NaN, or weights too small."""
        if self.terms is not None and not self.terms.max() <= LIMIT:
            return False
        kept = in_threads(self._forward_part, self.parts)
        self.weights = kept if kept[0] else None
        return all(weights is not None for weights in kept)

    def _forward_part(self, part: tuple) -> list | None:
        """The weights of a part, if they are kept; None where `forward` returns False."""
        query, key, value, y, total = (
            a[part] for a in (self.query, self.key, self.value, self.y, self.total))
        kept = []
        for tile in self.tiles:
            queries = (..., tile.queries, slice(None))
            keys = (..., tile.keys, slice(None))
            scores = np.matmul(query[queries] * self.scale, transposed(key[keys]))
            if not (scores.max() <= LIMIT and scores.min() >= -LIMIT):
                return None
            weights = self._exponentials(scores, part, tile)
            ones = np.ones((weights.shape[-1], 1), weights.dtype)
            total[queries] = np.matmul(weights, ones)
            if self.has_mask and not total[queries].min() >= math.exp(-LIMIT):
                return None
            np.matmul(weights, value[keys], out=y[queries])
            if self.weights is not None:
                kept.append(weights)
        y /= total
        return kept

    def backward(self, dy: Any) -> tuple:
        """The gradients of all arguments of `attention`."""
        grads = [np.empty_like(a, subok=False) for a in (self.query, self.key, self.value)]
        kept = self.weights or [None] * len(self.parts)
        in_threads(lambda task: self._backward_part(*task, dy, *grads),
                   list(zip(self.parts, kept, strict=True)))
        return *grads, None, None, None

    def _backward_part(self, part: tuple, kept: Any, dy: Any, *grads: Any) -> None:
        query, key, value, y, total, dy, dquery, dkey, dvalue = (
            a[part] for a in (self.query, self.key, self.value, self.y, self.total, dy, *grads))
        dy = dy / total
        mean = np.vecdot(dy, y)[..., None]
        query = query * self.scale
        for grad in dkey, dvalue:
            grad[..., self.tiles[-1].keys.stop:, :] = 0  # no query attends to these keys
        for i, tile in enumerate(reversed(self.tiles)):
            queries = (..., tile.queries, slice(None))
            keys = (..., tile.keys, slice(None))
            if kept:
                weights = kept[-1 - i]
            else:
                scores = np.matmul(query[queries], transposed(key[keys]))
                weights = self._exponentials(scores, part, tile)
            ds = np.matmul(dy[queries], transposed(value[keys]))
            ds -= mean[queries]
            ds *= weights
            np.matmul(ds, key[keys], out=dquery[queries])
            products = (dkey, ds, query), (dvalue, weights, dy)
            for grad, a, b in products:
                if i:
                    grad[keys] += np.matmul(transposed(a), b[queries])
                else:
                    np.matmul(transposed(a), b[queries], out=grad[keys])
        dquery *= self.scale

    def _exponentials(self, scores: Any, part: tuple, tile: Tile) -> Any:
        """The exponentials of the scores, in place, and 0 where a mask hides a key."""
        area = (..., tile.queries, tile.keys)
        if self.terms is not None:
            scores += self.terms[part][area]
        weights = np.exp(scores, out=scores)
        if self.factors is not None:
            weights *= self.factors[part][area]
        if tile.triangle is not None:
            weights[..., -tile.triangle.shape[1]:] *= tile.triangle
        return weights


# ---- loops of Numba ------------------------------------------------------------------------------


def are_compiled(query: Any, key: Any, value: Any, mask: Any) -> bool:
    """Whether `CompiledHeads` supports the arrays, and is faster."""
    arrays = query, key, value
    return (mask is None and all(_has_rows(a) for a in arrays)
            and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
            and attention_loops.are_faster(query.size // query.shape[-1] * key.shape[-2]))


def _has_rows(a: Any) -> bool:
    """True if the loops read `a`: the elements of a row follow each other."""
    return (a.ndim <= 4 and a.dtype == np.float32 and a.flags.aligned
            and a.strides[-1] == a.itemsize and min(a.strides) > 0)


class CompiledHeads(Heads):
    """`Heads` without masks, by loops of Numba."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.loops = attention_loops.attention_loops()  # compiled here, not by each thread

    def _forward_part(self, part: tuple) -> list | None:
        query, key, value, y = (
            _four_axes(a[part]) for a in (self.query, self.key, self.value, self.y))
        columns = 0 if self.weights is None else key.shape[2]
        weights = np.empty((*query.shape[:3], columns), query.dtype)
        is_usual = self.loops.forward(
            query, key, value, np.float32(self.scale), self.last, weights, y)
        return [weights] if is_usual else None

    def _backward_part(self, part: tuple, kept: Any, dy: Any, *grads: Any) -> None:
        query, key, value, dy, *of_part = (
            _four_axes(a[part]) for a in (self.query, self.key, self.value, dy, *grads))
        self.loops.backward(
            query, key, value, np.float32(self.scale), self.last, *kept, dy, *of_part)


def _four_axes(a: Any) -> Any:
    """A view of `a` with four axes."""
    return a.reshape(*(1,) * (4 - a.ndim), *a.shape)
