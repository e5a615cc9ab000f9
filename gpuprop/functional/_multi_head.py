"""Attention in several heads, between the projections before and after it."""

from __future__ import annotations

import math
from typing import Any

from gpuprop._array.activation import softmax
from gpuprop._array.arithmetic import where
from gpuprop._array.comparison import logical_not, logical_or
from gpuprop._array.products import matmul
from gpuprop._array.shape import astype, broadcast_to, concatenate, pad, reshape, split, transpose
from gpuprop._core.dtypes import is_float
from gpuprop._core.placement import on_device_of_arguments
from gpuprop._core.signature import Array
from gpuprop.functional._attention import scaled_dot_product_attention
from gpuprop.functional._dropout import dropout
from gpuprop.functional._linear import linear
from gpuprop.random import Generator

WHAT = "multi_head_attention_forward"


@on_device_of_arguments
def multi_head_attention_forward(
        query: Array, key: Array, value: Array, embed_dim_to_check: int, num_heads: int, in_proj_weight: Array,
        in_proj_bias: Array, bias_k: Array, bias_v: Array, add_zero_attn: bool, dropout_p: float,
        out_proj_weight: Array, out_proj_bias: Array, training: bool = True, key_padding_mask: Array = None,
        need_weights: bool = True, attn_mask: Array = None, use_separate_proj_weight: bool = False,
        q_proj_weight: Array = None, k_proj_weight: Array = None, v_proj_weight: Array = None, static_k: Array = None,
        static_v: Array = None, average_attn_weights: bool = True, is_causal: bool = False, batch_first: bool = False,
        rng: Generator | None = None) -> tuple[Array, Array | None]:
    """Queries (L, N, E) see keys and values (S, N, E), projected and in heads: the output (L, N, E), and the weights.

    One sample is (L, E), (S, E); with `batch_first` N comes first.  The weights are (N, L, S), or (N, heads, L, S) if
    not averaged, and None if not needed.  Masks say what is not seen, by True, or are added to the scores:
    `attn_mask` (L, S) or (N * heads, L, S), `key_padding_mask` (N, S).  `is_causal` says that `attn_mask` is causal.
    `static_k` and `static_v` (N * heads, S, E / heads) take the place of projected keys and values.
    A. Vaswani et al., NeurIPS 2017.
    """
    batch_first = batch_first or query.ndim == 2
    weights = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else (in_proj_weight,)
    n, length = _check(query, key, value, embed_dim_to_check, num_heads, weights, batch_first)
    if (bias_k is None) != (bias_v is None):
        raise ValueError(f"{WHAT}: bias_k and bias_v are given together, or neither")
    if is_causal and attn_mask is None:
        raise ValueError(f"{WHAT}: is_causal=True says that attn_mask is causal, so attn_mask is needed too: see "
                         f"nn.Transformer.generate_square_subsequent_mask")

    q, k, v = _projected(query, key, value, weights, in_proj_bias)
    q = _heads(q, num_heads, batch_first)
    k, v = (_heads(a, num_heads, batch_first) if static is None else _static(name, static, n, q.shape)
            for a, name, static in ((k, "static_k", static_k), (v, "static_v", static_v)))
    if k.shape[2] != v.shape[2]:
        raise ValueError(f"{WHAT}: there are {k.shape[2]} keys and {v.shape[2]} values")
    mask = _mask(attn_mask, key_padding_mask, (n, num_heads, length, k.shape[2]), query.ndim == 3)
    k, v, mask = _lengthened(k, v, mask, bias_k, bias_v, add_zero_attn)

    dropout_p = dropout_p if training else 0.0
    if need_weights:
        seen = softmax(_both(mask, matmul(q * math.sqrt(1 / q.shape[-1]), k.swapaxes(-1, -2))), -1)
        seen = dropout(astype(seen, v.dtype) if seen.dtype != v.dtype else seen, dropout_p, rng=rng)
        y = matmul(seen, v)
        seen = seen.mean(axis=1) if average_attn_weights else seen
        seen = seen[0] if query.ndim == 2 else seen
    else:
        seen, is_causal = None, is_causal and key_padding_mask is None
        mask = logical_not(mask) if mask is not None and mask.dtype.kind == "b" else mask
        y = scaled_dot_product_attention(q, k, v, None if is_causal else mask, dropout_p, is_causal, rng=rng)
    y = transpose(y, (0, 2, 1, 3) if batch_first else (2, 0, 1, 3))
    return linear(reshape(y, query.shape), out_proj_weight, out_proj_bias), seen


# ---- projections ----------------------------------------------------------------------------------------------------


def _check(query: Any, key: Any, value: Any, features: int, heads: int, weights: tuple,
           batch_first: bool) -> tuple[int, int]:
    """That inputs and weights go together; the number of samples and of queries."""
    layout = "(N, L, E)" if batch_first and query.ndim != 2 else "(L, N, E)"
    if query.ndim not in (2, 3):
        raise ValueError(f"{WHAT}: query is {layout}, or (L, E) for one sample, not of shape {query.shape}")
    for name, a in ("key", key), ("value", value):
        if a.ndim != query.ndim:
            raise ValueError(f"{WHAT}: {name} {a.shape} has {a.ndim} axes and query {query.shape} has {query.ndim}: "
                             f"either all are samples in a batch or none is")
    if query.shape[-1] != features:
        raise ValueError(f"{WHAT}: query {query.shape} has {query.shape[-1]} features, not embed_dim={features}")
    if heads < 1 or features % heads:
        raise ValueError(f"{WHAT}: num_heads={heads} does not divide embed_dim={features}")
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight") if len(weights) == 3 else ("in_proj_weight",)
    for name, weight in zip(names, weights, strict=True):
        if weight is None:
            raise ValueError(f"{WHAT}: {name} is needed with use_separate_proj_weight={len(weights) == 3}")
    for name, a, weight in zip(("key", "value"), (key, value), weights[1:] or weights * 2, strict=True):
        if a.shape[-1] != weight.shape[1]:
            raise ValueError(f"{WHAT}: {name} {a.shape} has {a.shape[-1]} features, not {weight.shape[1]}")
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(f"{WHAT}: key {key.shape} and value {value.shape} are not as many and as long")
    if query.ndim == 2:
        return 1, len(query)
    n, length = query.shape[:2] if batch_first else query.shape[1::-1]
    if key.shape[not batch_first] != n:
        raise ValueError(f"{WHAT}: query {query.shape} and key {key.shape}, which are {layout}, differ in N")
    return n, length


def _projected(query: Any, key: Any, value: Any, weights: tuple, bias: Any) -> tuple:
    """Queries, keys and values; by one packed weight (3 E, E) in as few products as there are different inputs."""
    thirds = lambda a: (None,) * 3 if a is None else split(a, 3)
    if len(weights) == 1:
        if query is key is value:
            return split(linear(query, weights[0], bias), 3, -1)
        if key is value:
            n = [query.shape[-1]]
            (w, both), (b, b_both) = split(weights[0], n), (None, None) if bias is None else split(bias, n)
            return linear(query, w, b), *split(linear(key, both, b_both), 2, -1)
        weights = thirds(weights[0])
    return tuple(map(linear, (query, key, value), weights, thirds(bias)))


def _heads(x: Any, heads: int, batch_first: bool) -> Any:
    """(L, N, E), or (N, L, E) or (L, E) if `batch_first`, as (N, heads, L, E / heads)."""
    lead = x.shape[:-1] if x.ndim == 3 else (1, len(x))
    return transpose(reshape(x, (*lead, heads, x.shape[-1] // heads)), (0, 2, 1, 3) if batch_first else (1, 2, 0, 3))


def _static(name: str, x: Any, n: int, like: tuple[int, ...]) -> Any:
    _, heads, _, size = like
    if x.ndim != 3 or len(x) != n * heads or x.shape[-1] != size:
        raise ValueError(f"{WHAT}: {name} is (N * heads, S, E / heads), here ({n * heads}, S, {size}), not {x.shape}")
    return reshape(x, (n, heads, *x.shape[1:]))


def _lengthened(k: Any, v: Any, mask: Any, bias_k: Any, bias_v: Any, add_zero_attn: bool) -> tuple:
    """Keys and values with the learned ones and zeros behind them, which no mask hides."""
    n, heads, before, size = k.shape
    if bias_k is not None:
        row = lambda b: broadcast_to(reshape(b, (1, heads, 1, size)), (n, heads, 1, size))
        k, v = concatenate([k, row(bias_k)], 2), concatenate([v, row(bias_v)], 2)
    if add_zero_attn:
        k, v = (pad(a, ((0, 0), (0, 0), (0, 1), (0, 0))) for a in (k, v))
    if mask is not None and k.shape[2] > before:
        mask = pad(mask, (*((0, 0),) * (mask.ndim - 1), (0, k.shape[2] - before)))
    return k, v, mask


# ---- masks: booleans, True for what is not seen, or floats that are added to the scores -----------------------------


def _mask(attn_mask: Any, key_padding_mask: Any, shape: tuple[int, ...], batched: bool) -> Any:
    """Both as one that broadcasts to (N, heads, L, S), or None."""
    n, heads, length, source = shape
    plain, stacked, padding = (length, source), (n * heads, length, source), (n, source) if batched else (source,)
    for name, a, layout, fits in (("attn_mask", attn_mask, "(L, S) or (N * heads, L, S)", (plain, stacked)),
                                  ("key_padding_mask", key_padding_mask, "(N, S), or (S,) of one sample", (padding,))):
        if a is not None and a.shape not in fits:
            raise ValueError(f"{WHAT}: {name} is {layout}, here {' or '.join(map(str, fits))}, not {a.shape}")
        if a is not None and a.dtype.kind != "b" and not is_float(a.dtype):
            raise TypeError(f"{WHAT}: {name} is bool, True for what is not seen, or floating, to be added to the "
                            f"scores, not {a.dtype.name}")
    if attn_mask is not None and attn_mask.ndim == 3:
        attn_mask = reshape(attn_mask, shape)
    if key_padding_mask is not None:
        key_padding_mask = reshape(key_padding_mask, (n, 1, 1, source))
    return _both(attn_mask, key_padding_mask)


def _both(a: Any, b: Any) -> Any:
    """What either mask hides; scores are such a mask too."""
    if a is None or b is None:
        return b if a is None else a
    if a.dtype.kind == b.dtype.kind == "b":
        return logical_or(a, b)
    if b.dtype.kind == "b":
        a, b = b, a
    return where(a, -math.inf, b) if a.dtype.kind == "b" else a + b
