"""Scaled dot product attention, with masks, windows and ALiBi, in linear memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.checks import as_integer, as_number
from gpuprop._core.composed import checks_arguments
from gpuprop._core.dtypes import cast, compute_dtype, is_float, largest
from gpuprop._core.ops import op
from gpuprop._core.philox import keep_rows
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import backend_of
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor, tensor
from gpuprop.functional._checks import broadcasts_to
from gpuprop.functional._dropout import apply_dropout_mask
from gpuprop.random import Generator, default_generator

NAME = "scaled_dot_product_attention"
# (first, last): query i attends to the keys i + first to i + last; None is no limit
Band = tuple[int | None, int | None]


# ---- the definition ----------------------------------------------------------------------------


def scores(xp, query, key, mask, slopes, scale, band, query_range, key_range, offset):
    """``scale * query @ key.T`` plus all biases, -inf where masked, in float32 at least.

    `query_range` and `key_range` are the positions (start, stop) of these queries and keys, and
    `offset` is that of `distance`.
    """
    full = compute_dtype(query.dtype)
    query = cast(cast(query, full) * scale, query.dtype)
    s = xp.matmul(query, key.swapaxes(-1, -2), dtype=full)
    if slopes is not None:
        distances = distance(xp, query_range, key_range, offset)
        s = s - cast(slopes, s.dtype) * distances.astype(s.dtype)
    if is_additive(mask):
        s = s + cast(mask, s.dtype)
    elif mask is not None:
        s = s + minus_inf_where(xp, ~mask, s.dtype)
    i = xp.arange(*query_range)[:, None]
    j = xp.arange(*key_range)
    first, last = band
    if first is not None:
        s += minus_inf_where(xp, j < i + first, s.dtype)
    if last is not None:
        s += minus_inf_where(xp, j > i + last, s.dtype)
    return s


def minus_inf_where(xp, hidden, dtype):
    """-inf where `hidden` is True, 0 elsewhere."""
    return xp.where(hidden, xp.full((), -math.inf, dtype), xp.zeros((), dtype))


def distance(xp, query_range, key_range, offset):
    """``|i + offset - j|`` for query i and key j."""
    return xp.abs(xp.arange(*query_range)[:, None] + offset - xp.arange(*key_range))


def masked_softmax(xp, s):
    """The softmax over the last axis, zeros where all scores are -inf; overwrites `s`."""
    if not s.size:
        return s
    top = s.max(axis=-1, keepdims=True)
    s -= xp.where(top == -math.inf, 0, top)
    weights = xp.exp(s)
    total = weights.sum(axis=-1, keepdims=True)
    weights /= xp.where(total == 0, 1, total)
    return weights


def hides_all(mask, band, n, m):
    """False if each of `n` queries certainly attends to some of `m` keys."""
    first, last = band
    return mask is not None or (first or 0) > m - n or (last or 0) < 0


def is_additive(mask):
    return mask is not None and mask.dtype.kind != "b"


def check_dtypes(query, key, value, mask):
    """Raise TypeError unless all have one floating dtype; the mask may also be bool or float32."""
    dtype = query.dtype
    if not (is_float(dtype) and dtype == key.dtype == value.dtype):
        names = ", ".join(a.dtype.name for a in (query, key, value))
        raise TypeError(f"{NAME}: query, key and value must have one floating dtype, got {names}")
    if mask is not None and mask.dtype not in (dtype, "bool", "float32"):
        raise TypeError(
            f"{NAME}: attn_mask must be bool, float32 or query's {dtype.name}, "
            f"got {mask.dtype.name}")


def row_numbers(xp, lead, n):
    """The number of each row of weights, (*lead, n): `keep_rows` draws a row by its number."""
    return xp.arange(math.prod(lead) * n).reshape(*lead, n)


def dropout_of(xp, keep, p):
    """The function that applies the dropout mask `keep` to weights; None drops nothing."""
    return lambda weights: weights if keep is None else apply_dropout_mask(xp, weights, keep, p=p)


@op(precision="low", name=NAME)
def attention(xp, query: Array, key: Array, value: Array, mask: Array | None, slopes: Array | None,
              rng_key: Array | None, scale: float, band: Band, p: float, bias_requires_grad: bool):
    """``softmax(scale * query @ key.T) @ value`` of (..., L, E), (..., S, E) and (..., S, V).

    `mask` (..., L, S) is boolean, True where a query attends to a key, or floating and added to the
    scores.  ``slopes * |i + S - L - j|`` is subtracted from the scores.  Floating `mask` and
    `slopes` have gradients if `bias_requires_grad`.  A query that attends to no key gives zeros
    and gets no gradient.  If `rng_key` is given, weights are dropped with probability `p`.
    """
    check_dtypes(query, key, value, mask)
    n = query.shape[-2]
    m = key.shape[-2]
    dtype = query.dtype
    full = compute_dtype(dtype)
    lead = xp.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    ranges = (0, n), (0, m), m - n  # the last arguments of `scores` and `distance`
    weights = masked_softmax(xp, scores(xp, query, key, mask, slopes, scale, band, *ranges))
    keep = None
    if rng_key is not None:
        keep = keep_rows(rng_key, row_numbers(xp, lead, n), m, 0, m, p)
    drop = dropout_of(xp, keep, p)
    y = xp.matmul(cast(drop(weights), dtype), value, dtype=full)

    def pullback(dy):
        if hides_all(mask, band, n, m):
            dy = xp.where(xp.any(weights, axis=-1, keepdims=True), dy, 0)
        ds = drop(xp.matmul(dy, value.swapaxes(-1, -2), dtype=full))
        ds -= (cast(dy, full) * y).sum(axis=-1, keepdims=True)
        ds *= weights
        dz = cast(ds, dtype)
        dquery = xp.matmul(dz, key, dtype=full) * scale
        dkey = xp.matmul(dz.swapaxes(-1, -2), query, dtype=full) * scale
        dvalue = xp.matmul(cast(drop(weights), dtype).swapaxes(-1, -2), dy)
        dmask = ds if bias_requires_grad and is_additive(mask) else None
        dslopes = None
        if bias_requires_grad and slopes is not None:
            dslopes = -ds * distance(xp, *ranges)
        return dquery, dkey, dvalue, dmask, dslopes, None

    return cast(y, dtype), pullback


# ---- tile by tile ------------------------------------------------------------------------------

SCORE_BYTES = 16  # the score, its weight and their gradients, in float32
MIN_QUERIES = 256  # in a tile that cannot hold all keys; a band skips more of smaller tiles


@pointwise
def exp_shifted(xp, s, top):
    s -= top
    return xp.exp(s)


@pointwise
def exp_normalized(xp, s, top, log_sum):
    s -= top
    s -= log_sum  # top + log_sum would lose log_sum to rounding where top is large
    return xp.exp(s)


@pointwise
def softmax_input_grad(xp, da, a, mean_da):
    da -= mean_da
    da *= a


@attention.faster
def tiled_attention(xp, query, key, value, mask, slopes, rng_key, scale, band, p,
                    bias_requires_grad):
    """`attention` in the memory of one tile of scores; the backward pass recomputes the weights.

    M. Rabe and C. Staats, 2021; T. Dao et al., NeurIPS 2022.
    """
    check_dtypes(query, key, value, mask)
    n = query.shape[-2]
    m = key.shape[-2]
    lead = xp.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    tile_size = max(1, backend_of(query).workspace() // SCORE_BYTES)
    if math.prod(lead) * n * m <= tile_size:
        return attention.fn(xp, query, key, value, mask, slopes, rng_key, scale, band, p,
                            bias_requires_grad)
    query, key, value = (xp.broadcast_to(a, (*lead, *a.shape[-2:])) for a in (query, key, value))
    tiles = Tiles(xp, lead, query, key, mask, slopes, rng_key, scale, band, p, tile_size)
    forward = forward_sweep(xp, tiles, value)

    def pullback(dy):
        return backward_sweep(xp, tiles, value, forward, dy, bias_requires_grad)

    return cast(forward.y, query.dtype), pullback


class Tile(NamedTuple):
    """One tile of the scores (*lead, n, m)."""

    area: tuple  # its index in (*lead, n, m)
    queries: tuple  # its part of (*lead, n)
    keys: tuple  # its part of (*lead, m)
    scores: Any
    drop: Callable  # dropout of its weights


class Tiles:
    """The scores of queries and keys with equal leading axes, computed tile by tile."""

    def __init__(self, xp, lead, query, key, mask, slopes, rng_key, scale, band, p, size):
        def with_all_axes(a):
            return None if a is None else a.reshape((1,) * (len(lead) + 2 - a.ndim) + a.shape)

        self.xp = xp
        self.lead = lead
        self.query = query
        self.key = key
        self.mask = with_all_axes(mask)
        self.slopes = with_all_axes(slopes)
        self.rng_key = rng_key
        self.scale = scale
        self.band = band
        self.p = p
        self.size = size  # the largest number of scores in a tile
        self.n = query.shape[-2]
        self.m = key.shape[-2]
        self.rows = None if rng_key is None else row_numbers(xp, lead, self.n)

    def __iter__(self) -> Iterator[Tile]:
        for queries, j in _tile_indices(self.lead, self.n, self.m, self.band, self.size):
            *leading, i = queries
            area = (*leading, i, j)
            keys = (*leading, j)
            s = scores(
                self.xp, self.query[queries], self.key[keys], _part(self.mask, area),
                _part(self.slopes, area), self.scale, _band_in_tile(self.band, i, j),
                *self.ranges(i, j))
            keep = None
            if self.rows is not None:
                keep = keep_rows(self.rng_key, self.rows[queries], self.m, j.start, j.stop, self.p)
            yield Tile(area, queries, keys, s, dropout_of(self.xp, keep, self.p))

    def ranges(self, i: slice, j: slice) -> tuple:
        """The positions of the queries i and the keys j, for `scores` and `distance`."""
        return (i.start, i.stop), (j.start, j.stop), self.m - self.n


class Forward(NamedTuple):
    """Results of `forward_sweep`."""

    y: Any  # the output
    top: Any  # the largest score of each query
    log_sum: Any  # the log of the sum of exp(score - top) of each query


def forward_sweep(xp, tiles, value):
    """The online softmax: sums over tiles are rescaled whenever the largest score grows."""
    lead = tiles.lead
    n = tiles.n
    dtype = value.dtype
    full = compute_dtype(dtype)
    y = xp.zeros((*lead, n, value.shape[-1]), full)
    top = xp.full((*lead, n, 1), -largest(y.dtype), full)
    total = xp.zeros((*lead, n, 1), full)
    for _, queries, keys, s, drop in tiles:
        new_top = xp.maximum(top[queries], s.max(axis=-1, keepdims=True))
        a = exp_shifted(xp, s, new_top)
        shrink = xp.exp(top[queries] - new_top)
        top[queries] = new_top
        total[queries] = total[queries] * shrink + a.sum(axis=-1, keepdims=True)
        part = xp.matmul(cast(drop(a), dtype), value[keys], dtype=full)
        y[queries] = y[queries] * shrink + part
    total = xp.where(total == 0, 1, total)  # for queries that attend to no key
    y /= total
    return Forward(y, top, xp.log(total))


def backward_sweep(xp, tiles, value, forward, dy, bias_requires_grad):
    """The gradients of all arguments of `attention`."""
    query, key, mask, slopes = tiles.query, tiles.key, tiles.mask, tiles.slopes
    dtype = query.dtype
    full = compute_dtype(dtype)
    if hides_all(mask, tiles.band, tiles.n, tiles.m):
        dy = xp.where(forward.top == -largest(forward.top.dtype), 0, dy)
    with_mask = bias_requires_grad and is_additive(mask)
    with_slopes = bias_requires_grad and slopes is not None
    mean_da = (cast(dy, full) * forward.y).sum(axis=-1, keepdims=True)
    dquery, dkey, dvalue = (xp.zeros(a.shape, full) for a in (query, key, value))
    dmask = xp.zeros(mask.shape, full) if with_mask else None
    dslopes = xp.zeros(slopes.shape, full) if with_slopes else None
    for area, queries, keys, s, drop in tiles:
        a = exp_normalized(xp, s, forward.top[queries], forward.log_sum[queries])
        dvalue[keys] += xp.matmul(cast(drop(a), dtype).swapaxes(-1, -2), dy[queries], dtype=full)
        ds = drop(xp.matmul(dy[queries], value[keys].swapaxes(-1, -2), dtype=full))
        softmax_input_grad(xp, ds, a, mean_da[queries])
        if with_mask:
            _add_part(dmask, area, ds)
        if with_slopes:
            _add_part(dslopes, area, -ds * distance(xp, *tiles.ranges(*area[-2:])))
        dz = cast(ds, dtype)
        dquery[queries] += xp.matmul(dz, key[keys], dtype=full)
        dkey[keys] += xp.matmul(dz.swapaxes(-1, -2), query[queries], dtype=full)
    dquery *= tiles.scale
    dkey *= tiles.scale
    return dquery, dkey, dvalue, dmask, dslopes, None


def _tile_indices(lead, n, m, band, size):
    """Pairs (index of (*lead, n), slice of the keys) that cover the band.

    A pair selects at most `size` scores.
    """
    first, last = band
    rows = min(n, size, max(MIN_QUERIES, size // (4 * m)))
    columns = min(m, size // rows)
    steps = [rows]
    room = size // (rows * columns)
    for length in reversed(lead):
        steps.insert(0, max(1, min(length, room)))
        room //= length
    slices = [[slice(i, min(i + step, length)) for i in range(0, length, step)]
              for length, step in zip((*lead, n), steps, strict=True)]
    for index in itertools.product(*slices):
        start = 0 if first is None else max(0, index[-1].start + first)
        stop = m if last is None else min(m, index[-1].stop + last)
        for j in range(start, stop, columns):
            yield index, slice(j, min(j + columns, stop))


def _band_in_tile(band, i, j):
    """The band in the tile of queries i and keys j, with None for limits that hide nothing."""
    first, last = band
    if first is not None and j.start - i.stop + 1 >= first:
        first = None
    if last is not None and j.stop - i.start - 1 <= last:
        last = None
    return first, last


def _part(a, index):
    """The part of `a` that broadcasts to the part `index` of a larger array; None stays None."""
    if a is None:
        return None
    whole = slice(None)
    return a[tuple(whole if n == 1 else s for n, s in zip(a.shape, index, strict=True))]


def _add_part(total, index, part):
    """``total[index] += part``, summed over the axes along which `total` broadcasts."""
    broadcast_axes = tuple(i for i, n in enumerate(total.shape) if n == 1)
    part_of_total = _part(total, index)
    part_of_total += part.sum(axis=broadcast_axes, keepdims=True) if broadcast_axes else part


# ---- the public functions ----------------------------------------------------------------------


@checks_arguments
def scaled_dot_product_attention(
        query: Array, key: Array, value: Array, attn_mask: Array = None, dropout_p: float = 0.0,
        is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
        window: int | tuple[int, int] | None = None, alibi_slopes: Array = None,
        rng: Generator | None = None) -> Array:
    """Scaled dot product attention.

    ``y = softmax(scale * query @ key.T + attn_mask) @ value``

    Shapes: query (..., L, E), key (..., S, E) and value (..., S, V) give (..., L, V).  Leading axes
    broadcast.  Memory is linear in L and S, apart from the mask.

    `attn_mask` broadcasts to (..., L, S).  It is boolean, True where a query attends to a key, or
    floating and added to the scores.  A query that attends to no key gives zeros and gets no
    gradient.  `is_causal` lets query i attend to keys 0 to i, whatever L and S are.  `dropout_p` is
    the probability of dropping a weight, drawn from `rng` or the default generator; give 0 in eval
    mode.  `scale` is ``1 / sqrt(E)`` by default.  With `enable_gqa`, each head (axis -3) of `key`
    and `value` serves an equal number of heads of `query`.

    Two options that PyTorch lacks align the last query with the last key.  ``window=(left, right)``
    lets query i attend to the keys from i + S - L - left to i + S - L + right; -1 means no limit,
    and one int is both limits.  ``window=(-1, 0)`` is causal attention that also fits cached keys.
    With `alibi_slopes` (..., heads), ``slope * |i + S - L - j|`` is subtracted from the score of
    query i and key j; the function `alibi_slopes` returns the usual slopes.

    Raises ValueError for shapes that do not fit, TypeError for dtypes that differ.
    A. Vaswani et al., NeurIPS 2017.

    >>> import gpuprop as gp, gpuprop.functional as F
    >>> q, k, v = gp.zeros((2, 4)), gp.zeros((2, 4)), gp.tensor([[1.0], [3.0]])
    >>> F.scaled_dot_product_attention(q, k, v, is_causal=True).numpy()
    array([[1.],
           [2.]], dtype=float32)
    """
    dropout_p = as_number(f"{NAME}: dropout_p", dropout_p, "[0, 1]")
    if is_causal and attn_mask is not None:
        raise ValueError(
            f"{NAME}: give either attn_mask or is_causal=True, not both: a mask can be causal")
    _check_shapes(query, key, value, attn_mask, alibi_slopes, enable_gqa)
    band = _band(query.shape[-2], key.shape[-2], is_causal, window)
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1] or 1)
    else:
        scale = as_number(f"{NAME}: scale", scale)
    slopes = None if alibi_slopes is None else alibi_slopes[..., None, None]
    rng_key = (rng or default_generator).noise(query) if dropout_p > 0 else None
    bias_requires_grad = any(isinstance(a, Tensor) and a.requires_grad for a in (attn_mask, slopes))
    arrays = query, key, value, attn_mask, slopes
    if enable_gqa:
        arrays = _group_heads(*arrays)
    y = attention(*arrays, rng_key, float(scale), band, float(dropout_p), bias_requires_grad)
    if enable_gqa:
        y = y.reshape(*y.shape[:-4], query.shape[-3], *y.shape[-2:])
    return y


@checks_arguments
def alibi_slopes(num_heads: int) -> Tensor:
    """The slopes of ALiBi, (num_heads,) in float32, for `scaled_dot_product_attention`.

    ``2**(-8 i / n) for i = 1 ... n``, where n is the largest power of 2 up to `num_heads`.  The
    remaining heads get every second slope of those for 2 n heads.  The Tensor is on the default
    backend.
    O. Press, N. A. Smith and M. Lewis, ICLR 2022.

    >>> import gpuprop.functional as F
    >>> F.alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    as_integer("alibi_slopes: num_heads", num_heads, 1, 2**16)
    n = 1 << num_heads.bit_length() - 1
    slopes = [2 ** (-8 * i / n) for i in range(1, n + 1)]
    slopes += [2 ** (-4 * i / n) for i in range(1, 2 * (num_heads - n), 2)]
    return tensor(slopes)


def _check_shapes(query: Any, key: Any, value: Any, mask: Any, slopes: Any,
                  enable_gqa: bool) -> None:
    q, k, v = query.shape, key.shape, value.shape
    is_usual = q[:-2] == k[:-2] == v[:-2] and q[-1:] == k[-1:] and k[-2:-1] == v[-2:-1] \
        and min(len(q), len(k), len(v)) > 1
    if is_usual and mask is None and slopes is None and not enable_gqa:
        return  # early: the checks take as long as the attention of a few tokens
    shapes = f"query {q}, key {k}, value {v}"
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise ValueError(f"{NAME}: expected two axes or more, got {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"{NAME}: query and key differ in their last axis, E: {shapes}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"{NAME}: key and value differ in axis -2, their length S: {shapes}")
    leads = [a.shape[:-2] for a in (query, key, value)]
    if enable_gqa:
        heads, key_heads, value_heads = (lead[-1] if lead else 0 for lead in leads)
        if key_heads != value_heads or key_heads == 0 or heads % key_heads:
            raise ValueError(
                f"{NAME}: enable_gqa requires as many heads, axis -3, in key as in value, and a "
                f"multiple of that number in query: {shapes}")
        leads = [leads[0], *((*lead[:-1], 1) for lead in leads[1:])]  # their heads broadcast
    try:
        lead = np.broadcast_shapes(*leads)
    except ValueError:
        raise ValueError(f"{NAME}: leading axes do not broadcast: {shapes}") from None
    score_shape = (*lead, query.shape[-2], key.shape[-2])
    for name, a, target in ("attn_mask", mask, score_shape), ("alibi_slopes", slopes, lead):
        if a is not None and not broadcasts_to(a.shape, target):
            raise ValueError(
                f"{NAME}: {name} {a.shape} does not broadcast to {target}, with {shapes}")


def _band(n: int, m: int, is_causal: bool, window: Any) -> Band:
    """`is_causal` and `window` as one band, with None for limits that hide nothing."""
    left, right = _window_limits(window)
    first = m - n - left if left >= 0 else 1 - n
    last = m - n + right if right >= 0 else m - 1
    if is_causal:
        last = min(last, 0)
    return int(first) if first > 1 - n else None, int(last) if last < m - 1 else None


def _window_limits(window: Any) -> Any:
    """(left, right), checked; -1 means no limit."""
    if window is None:
        return -1, -1
    limits = window if isinstance(window, tuple | list) else (window, window)
    valid = len(limits) == 2 and all(isinstance(w, int | np.integer) and w >= -1 for w in limits)
    if not valid:
        raise ValueError(
            f"{NAME}: window must be one int or a pair (left, right) of them, -1 for no limit, "
            f"got {window!r}")
    return limits


def _group_heads(query: Any, key: Any, *others: Any) -> tuple:
    """Split the heads, axis -3, of all arrays into (heads of key, heads of query per head of key).

    Masks and slopes without heads stay as they are.
    """
    groups = key.shape[-3]

    def split(a: Any) -> Any:
        if a is None or a.ndim < 3:
            return a
        heads = a.shape[-3]
        split_heads = (groups, heads // groups) if heads > 1 else (1, 1)
        return a.reshape(*a.shape[:-3], *split_heads, *a.shape[-2:])

    return tuple(split(a) for a in (query, key, *others))
