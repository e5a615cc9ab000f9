"""Attention: averages of values, weighed by how well queries and keys agree, what a query sees, and distance."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from gpuprop._core.dtypes import compute_dtype, is_float
from gpuprop._core.ops import op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import backend_of
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor, tensor
from gpuprop.functional._dropout import masked
from gpuprop.random import Generator, default_generator, keep_rows

WHAT = "scaled_dot_product_attention"
Band = tuple[int | None, int | None]  # query i sees keys i + first to i + last, both included; None is without end


# ---- the definition -------------------------------------------------------------------------------------------------


def scores(xp, query, key, mask, slopes, scale, band, queries, keys, apart):
    """``scale * query @ key.T``, biased, -inf where not seen, in float32 at least.

    The numbers of these queries, as of these keys, are (first, last + 1).
    """
    full = compute_dtype(query.dtype)
    query = cast(cast(query, full) * scale, query.dtype)
    s = xp.matmul(query, key.swapaxes(-1, -2), dtype=full)
    if slopes is not None:
        s = s - cast(slopes, s.dtype) * distance(xp, queries, keys, apart).astype(s.dtype)
    if mask is not None:
        s = s + (cast(mask, s.dtype) if is_added(mask) else unseen(xp, ~mask, s.dtype))
    i, j = xp.arange(*queries)[:, None], xp.arange(*keys)
    first, last = band
    if first is not None:
        s += unseen(xp, j < i + first, s.dtype)
    if last is not None:
        s += unseen(xp, j > i + last, s.dtype)
    return s


def unseen(xp, where, dtype):
    """-inf at some places and 0 elsewhere."""
    return xp.where(where, xp.full((), -math.inf, dtype), xp.zeros((), dtype))


def distance(xp, queries, keys, apart):
    """``|i + apart - j|``."""
    return xp.abs(xp.arange(*queries)[:, None] + apart - xp.arange(*keys))


def shares(xp, s):
    """The softmax over the last axis, and zeros where nothing is seen; into `s`."""
    if not s.size:
        return s
    top = s.max(axis=-1, keepdims=True)
    s -= xp.where(top == -math.inf, 0, top)
    a = xp.exp(s)
    total = a.sum(axis=-1, keepdims=True)
    a /= xp.where(total == 0, 1, total)
    return a


def is_added(mask):
    return mask is not None and mask.dtype.kind != "b"


def cast(a, dtype):
    return a if a.dtype == dtype else a.astype(dtype)


def check_dtypes(query, key, value, mask):
    """One floating dtype for all; a mask may be of bools or of float32."""
    own = query.dtype
    if not (is_float(own) and own == key.dtype == value.dtype):
        names = ", ".join(a.dtype.name for a in (query, key, value))
        raise TypeError(f"{WHAT}: query, key and value are of one floating dtype, not {names}")
    if mask is not None and mask.dtype not in (own, "bool", "float32"):
        raise TypeError(f"{WHAT}: attn_mask is of bools, of float32 or of query's {own.name}, not of {mask.dtype.name}")


@op(precision="low")
def attention(xp, query: Array, key: Array, value: Array, mask: Array, slopes: Array, rng_key: Array, scale: float,
              band: Band, p: float, learned: bool):
    """``softmax(scale * query @ key.T) @ value`` of (..., L, E), (..., S, E), (..., S, V), zeros where nothing is seen.

    `mask` says which of the (..., L, S) are seen, or is added to them; ``slopes * |i + S - L - j|`` is taken away; both
    have gradients if `learned`.  Shares are dropped with probability `p`, by `rng_key`.
    """
    check_dtypes(query, key, value, mask)
    n, m, dtype, full = query.shape[-2], key.shape[-2], query.dtype, compute_dtype(query.dtype)
    lead = xp.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    a = shares(xp, scores(xp, query, key, mask, slopes, scale, band, (0, n), (0, m), m - n))
    rows = None if rng_key is None else xp.arange(math.prod(lead) * n).reshape(*lead, n)
    kept = None if rng_key is None else keep_rows(rng_key, rows, m, 0, m, p)
    drop = lambda a: a if kept is None else masked(xp, a, kept, p=p)
    y = xp.matmul(cast(drop(a), dtype), value, dtype=full)

    def vjp(dy):
        ds = drop(xp.matmul(dy, value.swapaxes(-1, -2), dtype=full))
        ds -= (cast(dy, full) * y).sum(axis=-1, keepdims=True)
        ds *= a
        dz = cast(ds, dtype)
        return (xp.matmul(dz, key, dtype=full) * scale, xp.matmul(dz.swapaxes(-1, -2), query, dtype=full) * scale,
                xp.matmul(cast(drop(a), dtype).swapaxes(-1, -2), dy),
                ds if learned and is_added(mask) else None,
                -ds * distance(xp, (0, n), (0, m), m - n) if learned and slopes is not None else None, None)

    return cast(y, dtype), vjp


# ---- the same, tile by tile -----------------------------------------------------------------------------------------

SCORE = 16  # bytes that a score takes: itself, its share and their gradients, in float32
ROWS = 256  # queries at once, at least, where all keys do not fit: a band hides more of smaller tiles


@pointwise
def exp_below(xp, s, top):
    s -= top
    return xp.exp(s)


@pointwise
def exp_below_both(xp, s, top, log_total):
    s -= top
    s -= log_total  # not added to `top` before, which may be so large that nothing of it would be left
    return xp.exp(s)


@pointwise
def score_gradient(xp, da, a, along):
    da -= along
    da *= a


@attention.faster
def attention_by_tiles(xp, query, key, value, mask, slopes, rng_key, scale, band, p, learned):
    """Shares are computed again for the gradient, from their largest score and their sum: no memory but a tile's.

    M. Rabe and C. Staats, 2021; T. Dao et al., NeurIPS 2022.
    """
    check_dtypes(query, key, value, mask)
    n, m, dtype, full = query.shape[-2], key.shape[-2], query.dtype, compute_dtype(query.dtype)
    lead = xp.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    tile = max(1, backend_of(query).workspace() // SCORE)  # scores at once
    if math.prod(lead) * n * m <= tile:
        return attention.fn(xp, query, key, value, mask, slopes, rng_key, scale, band, p, learned)
    query, key, value = (xp.broadcast_to(a, (*lead, *a.shape[-2:])) for a in (query, key, value))
    mask, slopes = (a if a is None else a.reshape((1,) * (len(lead) + 2 - a.ndim) + a.shape) for a in (mask, slopes))
    rows = None if rng_key is None else xp.arange(math.prod(lead) * n).reshape(*lead, n)

    def tiles():
        """Where a tile is, in queries and keys, with its scores and what drops some of its shares."""
        for place, keys in _tiles(lead, n, m, band, tile):
            i, j, at = place[-1], keys, (*place, keys)
            at_keys = (*place[:-1], keys)
            s = scores(xp, query[place], key[at_keys], _at(mask, at), _at(slopes, at), scale, _edges(band, i, j),
                       (i.start, i.stop), (j.start, j.stop), m - n)
            kept = None if rows is None else keep_rows(rng_key, rows[place], m, j.start, j.stop, p)
            yield at, place, at_keys, s, (lambda a, kept=kept: a if kept is None else masked(xp, a, kept, p=p))

    y = xp.zeros((*lead, n, value.shape[-1]), full)
    top, total = xp.full((*lead, n, 1), lowest(full), full), xp.zeros((*lead, n, 1), full)
    for _, at, at_keys, s, drop in tiles():
        highest = xp.maximum(top[at], s.max(axis=-1, keepdims=True))
        a, less = exp_below(xp, s, highest), xp.exp(top[at] - highest)
        top[at] = highest
        total[at] = total[at] * less + a.sum(axis=-1, keepdims=True)
        y[at] = y[at] * less + xp.matmul(cast(drop(a), dtype), value[at_keys], dtype=full)
    total = xp.where(total == 0, 1, total)  # of those that see nothing
    y /= total
    log_total = xp.log(total)

    def vjp(dy):
        along = (cast(dy, full) * y).sum(axis=-1, keepdims=True)
        dq, dk, dv = (xp.zeros(a.shape, full) for a in (query, key, value))
        dmask = xp.zeros(mask.shape, full) if learned and is_added(mask) else None
        dslopes = xp.zeros(slopes.shape, full) if learned and slopes is not None else None
        for whole, at, at_keys, s, drop in tiles():
            a = exp_below_both(xp, s, top[at], log_total[at])
            dv[at_keys] += xp.matmul(cast(drop(a), dtype).swapaxes(-1, -2), dy[at], dtype=full)
            ds = drop(xp.matmul(dy[at], value[at_keys].swapaxes(-1, -2), dtype=full))
            score_gradient(xp, ds, a, along[at])
            if dmask is not None:
                _add(dmask, whole, ds)
            if dslopes is not None:
                i, j = whole[-2:]
                _add(dslopes, whole, -ds * distance(xp, (i.start, i.stop), (j.start, j.stop), m - n))
            dz = cast(ds, dtype)
            dq[at] += xp.matmul(dz, key[at_keys], dtype=full)
            dk[at_keys] += xp.matmul(dz.swapaxes(-1, -2), query[at], dtype=full)
        dq *= scale
        dk *= scale
        return dq, dk, dv, dmask, dslopes, None

    return cast(y, dtype), vjp


def lowest(dtype):
    return float(np.finfo(dtype).min)


def _tiles(lead, n, m, band, tile):
    """Slices of (*lead, n), each with slices of the keys that it sees: `tile` scores, or fewer."""
    first, last = band
    queries = min(n, tile, max(ROWS, tile // (4 * m)))
    columns = min(m, tile // queries)
    at_once, room = [queries], tile // (queries * columns)
    for size in reversed(lead):
        at_once.insert(0, max(1, min(size, room)))
        room //= size
    for place in itertools.product(*([slice(i, min(i + k, size)) for i in range(0, size, k)]
                                     for size, k in zip((*lead, n), at_once, strict=True))):
        start = 0 if first is None else max(0, place[-1].start + first)
        stop = m if last is None else min(m, place[-1].stop + last)
        for j in range(start, stop, columns):
            yield place, slice(j, min(j + columns, stop))


def _edges(band, i, j):
    """What of a band hides some of a tile."""
    first, last = band
    return (None if first is None or j.start - i.stop + 1 >= first else first,
            None if last is None or j.stop - i.start - 1 <= last else last)


def _at(a, place):
    """The part of an array that broadcasts to a place."""
    return a if a is None else a[tuple(slice(None) if k == 1 else s for k, s in zip(a.shape, place, strict=True))]


def _add(total, place, part):
    """Add, at a place, to an array that broadcasts there."""
    spread = tuple(i for i, k in enumerate(total.shape) if k == 1)
    part_of_total = _at(total, place)
    part_of_total += part.sum(axis=spread, keepdims=True) if spread else part


# ---- the public names -----------------------------------------------------------------------------------------------


def scaled_dot_product_attention(query: Array, key: Array, value: Array, attn_mask: Array = None,
                                 dropout_p: float = 0.0, is_causal: bool = False, *, scale: float | None = None,
                                 enable_gqa: bool = False, window: int | tuple[int, int] | None = None,
                                 alibi_slopes: Array = None, rng: Generator | None = None) -> Array:
    """``softmax(query @ key.T * scale + mask) @ value``: (..., L, E), (..., S, E), (..., S, V) -> (..., L, V).

    `attn_mask`, which broadcasts to (..., L, S), is True where a query sees a key, or is added to the scores; a query
    that sees nothing gets zeros.  `is_causal`: query i sees keys 0 to i, whatever L and S are.  `scale` is 1 / sqrt(E)
    if None.  With `enable_gqa` each head, axis -3, of `key` and `value` serves as many of `query`.  Shares are dropped
    with probability `dropout_p`, by `rng` or the default generator; in use the caller says 0.

    What PyTorch has no words for counts from the end, where the last query is at the last key:
    ``window=(left, right)``, one number for both or -1 for no end, lets query i see keys from i + S - L - left to
    i + S - L + right, so that (-1, 0) is causal with cached keys too; ``alibi_slopes`` (..., heads) takes
    ``slope * |i + S - L - j|`` from the scores.

    Memory is linear in L and S, but for what a mask itself takes.  A. Vaswani et al., NeurIPS 2017.
    """
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"{WHAT}: dropout_p is a probability, not {dropout_p}")
    if is_causal and attn_mask is not None:
        raise ValueError(f"{WHAT}: attn_mask and is_causal=True exclude each other: let the mask hide what comes later")
    slopes = None if alibi_slopes is None else alibi_slopes[..., None, None]
    given = query, key, value, attn_mask, slopes
    _check_shapes(*given, enable_gqa)
    band = _band(query.shape[-2], key.shape[-2], is_causal, window)
    scale = 1 / math.sqrt(query.shape[-1] or 1) if scale is None else scale
    rng_key = (rng or default_generator).noise(query) if dropout_p > 0 else None
    learned = any(isinstance(a, Tensor) and a.requires_grad for a in (attn_mask, slopes))
    if enable_gqa:
        given = _by_group(*given)
    y = attention(*given, rng_key, float(scale), band, float(dropout_p), learned)
    return y.reshape(*y.shape[:-4], query.shape[-3], *y.shape[-2:]) if enable_gqa else y


def alibi_slopes(num_heads: int) -> Tensor:
    """What `alibi_slopes` of `scaled_dot_product_attention` should be: (num_heads,), float32, on the backend in use.

    2**-(8 / n) to 2**-8, n being the largest power of 2 that is no more than `num_heads`; the other heads take every
    second one of those for 2 * n.  O. Press et al., ICLR 2022.
    """
    if num_heads < 1:
        raise ValueError(f"alibi_slopes: num_heads is 1 or more, not {num_heads}")
    n = 1 << num_heads.bit_length() - 1
    return tensor([*(2 ** (-8 * i / n) for i in range(1, n + 1)),
                   *(2 ** (-4 * i / n) for i in range(1, 2 * (num_heads - n), 2))])


def _check_shapes(query: Any, key: Any, value: Any, mask: Any, slopes: Any, grouped: bool) -> None:
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise ValueError(f"{WHAT}: arrays have two axes or more, not {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"{WHAT}: query and key differ in their last axis: {shapes}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"{WHAT}: key and value differ in axis -2, their number: {shapes}")
    leads = [a.shape[:-2] for a in (query, key, value)]
    if grouped:
        heads, groups, others = ((0, *lead)[-1] for lead in leads)
        if not groups == others > 0 == heads % groups:
            raise ValueError(f"{WHAT}: with enable_gqa key and value have equally many heads, axis -3, which divide "
                             f"those of query: {shapes}")
        leads = [leads[0], *((*lead[:-1], 1) for lead in leads[1:])]
    try:
        whole = (*np.broadcast_shapes(*leads), query.shape[-2], key.shape[-2])
    except ValueError:
        raise ValueError(f"{WHAT}: leading axes do not broadcast: {shapes}") from None
    for name, a, its in (("attn_mask", mask, whole), ("alibi_slopes", slopes, (*whole[:-2], 1, 1))):
        if a is not None and (a.ndim > len(its) or any(
                n not in (1, w) for n, w in zip(a.shape[::-1], its[::-1], strict=False))):
            drop = 2 * (a is slopes)
            raise ValueError(f"{WHAT}: {name} {a.shape[:a.ndim - drop]} does not broadcast to "
                             f"{its[:len(its) - drop]}, as {shapes} ask for")


def _band(n: int, m: int, is_causal: bool, window: Any) -> Band:
    """Causality and window as one band, without ends that hide nothing."""
    given = (-1, -1) if window is None else window if isinstance(window, tuple | list) else (window, window)
    if len(given) != 2 or not all(isinstance(w, int | np.integer) and w >= -1 for w in given):
        raise ValueError(f"{WHAT}: window is a number of keys or a pair (left, right) of them, -1 for no end, "
                         f"not {window!r}")
    left, right = given
    first = m - n - left if left >= 0 else 1 - n
    last = min(m - n + right if right >= 0 else m - 1, 0 if is_causal else m - 1)
    return int(first) if first > 1 - n else None, int(last) if last < m - 1 else None


def _by_group(query: Any, key: Any, *others: Any) -> tuple:
    """The heads, axis -3, as (heads of keys, heads of queries for each)."""
    groups = key.shape[-3]

    def split(a: Any) -> Any:
        if a is None or a.ndim < 3:
            return a
        heads = a.shape[-3]
        return a.reshape(*a.shape[:-3], *((groups, heads // groups) if heads > 1 else (1, 1)), *a.shape[-2:])

    return tuple(map(split, (query, key, *others)))
