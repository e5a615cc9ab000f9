"""Multi-head attention, with the projections before and after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gpuprop._array.activation import softmax
from gpuprop._array.arithmetic import where
from gpuprop._array.comparison import logical_not, logical_or
from gpuprop._array.products import matmul
from gpuprop._array.reduction import mean
from gpuprop._array.shape import astype, broadcast_to, concatenate, pad, reshape, split, transpose
from gpuprop._core.checks import as_number
from gpuprop._core.composed import checks_arguments
from gpuprop._core.dtypes import check_floating, compute_dtype, is_float
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.placement import on_device_of_arguments
from gpuprop._core.signature import Array
from gpuprop.functional._attention import scaled_dot_product_attention
from gpuprop.functional._dropout import dropout
from gpuprop.functional._linear import linear
from gpuprop.random import Generator

NAME = "multi_head_attention_forward"


@checks_arguments
@on_device_of_arguments
def multi_head_attention_forward(
        query: Array, key: Array, value: Array, embed_dim_to_check: int, num_heads: int,
        in_proj_weight: Array | None, in_proj_bias: Array | None, bias_k: Array | None,
        bias_v: Array | None, add_zero_attn: bool, dropout_p: float, out_proj_weight: Array,
        out_proj_bias: Array | None,
        training: bool = True, key_padding_mask: Array = None, need_weights: bool = True,
        attn_mask: Array = None, use_separate_proj_weight: bool = False,
        q_proj_weight: Array = None, k_proj_weight: Array = None, v_proj_weight: Array = None,
        static_k: Array = None, static_v: Array = None, average_attn_weights: bool = True,
        is_causal: bool = False, batch_first: bool = False, rng: Generator | None = None,
) -> tuple[Array, Array | None]:
    """Multi-head attention with its projections: (output, attention weights).

    ``head_i = softmax(q_i @ k_i.T / sqrt(E / num_heads) + masks) @ v_i``

    ``output = concatenate(head_1, ...) @ out_proj_weight.T + out_proj_bias``

    q, k and v are projections of query, key and value, split along their features into `num_heads`
    equal parts.

    Shapes: query (L, N, E), key and value (S, N, ...), output (L, N, E).  With `batch_first` N is
    the first axis; for one sample there is no axis N.  The weights are (N, L, S), or
    (N, num_heads, L, S) without `average_attn_weights`, or None without `need_weights`.

    `in_proj_weight` (3 E, E) holds the weights of q, k and v, unless `use_separate_proj_weight`.
    `bias_k` and `bias_v` (1, 1, E) are appended to the projected keys and values as one more
    position; `add_zero_attn` appends a position of zeros.  `static_k` and `static_v`
    (N * num_heads, S, E / num_heads) replace projected keys and values.

    Masks, `attn_mask` (L, S) or (N * num_heads, L, S) and `key_padding_mask` (N, S), are boolean,
    True where a query may *not* attend to a key, or floating and added to the scores.  The heads
    and weights of a query that may attend to no key are zeros, without gradient.  `is_causal` is a
    hint that `attn_mask` is causal.

    Raises ValueError for shapes or options that do not fit, and TypeError for other masks.  A.
    Vaswani et al., NeurIPS 2017.
    """
    batch_first = batch_first or query.ndim == 2
    proj_weights: tuple = (in_proj_weight,)
    if use_separate_proj_weight:
        proj_weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    n, length = _check_inputs(
        query, key, value, embed_dim_to_check, num_heads, proj_weights, batch_first)
    if (bias_k is None) != (bias_v is None):
        raise ValueError(f"{NAME}: give both bias_k and bias_v, or neither")
    if is_causal and attn_mask is None:
        raise ValueError(
            f"{NAME}: is_causal=True is a hint about attn_mask, so attn_mask is required: see "
            f"nn.Transformer.generate_square_subsequent_mask")

    q, k, v = _project(query, key, value, proj_weights, in_proj_bias)
    q = _split_heads(q, num_heads, batch_first)
    if static_k is None:
        k = _split_heads(k, num_heads, batch_first)
    else:
        k = _static_heads("static_k", static_k, n, q.shape)
    if static_v is None:
        v = _split_heads(v, num_heads, batch_first)
    else:
        v = _static_heads("static_v", static_v, n, q.shape)
    if k.shape[2] != v.shape[2]:
        raise ValueError(
            f"{NAME}: the numbers of keys and values differ: {k.shape[2]} and {v.shape[2]}")
    score_shape = (n, num_heads, length, k.shape[2])
    mask = _merge_masks(attn_mask, key_padding_mask, score_shape, batched=query.ndim == 3)
    k, v, mask = _append_positions(k, v, mask, bias_k, bias_v, add_zero_attn)

    dropout_p = as_number(f"{NAME}: dropout_p", dropout_p, "[0, 1]") if training else 0.0
    weights = None
    if need_weights:
        q = q * math.sqrt(1 / q.shape[-1])
        scores = matmul(q, k.swapaxes(-1, -2), dtype=compute_dtype(q.dtype))
        scores = _add_masks(mask, scores)
        conceal = _zeros_where_all_hidden(mask, raw(scores))
        weights = conceal(softmax(conceal(scores), -1))
        if weights.dtype != v.dtype:
            weights = astype(weights, v.dtype)
        weights = dropout(weights, dropout_p, rng=rng)
        y = conceal(matmul(weights, v))
        if average_attn_weights:
            weights = mean(weights, 1)
        if query.ndim == 2:
            weights = weights[0]
    else:
        is_causal = is_causal and key_padding_mask is None
        if is_causal:
            mask = None
        elif mask is not None and mask.dtype.kind == "b":
            mask = logical_not(mask)
        y = scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal, rng=rng)
    y = transpose(y, (0, 2, 1, 3) if batch_first else (2, 0, 1, 3))
    return linear(reshape(y, query.shape), out_proj_weight, out_proj_bias), weights


# ---- projections -------------------------------------------------------------------------------


def _check_inputs(query: Any, key: Any, value: Any, embed_dim: int, num_heads: int, weights: tuple,
                  batch_first: bool) -> tuple[int, int]:
    """Raise ValueError for shapes that do not fit; return the batch size and the query length."""
    check_floating(NAME, query, "query")
    layout = "(N, L, E)" if batch_first and query.ndim != 2 else "(L, N, E)"
    if query.ndim not in (2, 3):
        raise ValueError(
            f"{NAME}: query must be {layout}, or (L, E) for one sample, got shape {query.shape}")
    for name, a in ("key", key), ("value", value):
        if a.ndim != query.ndim:
            raise ValueError(
                f"{NAME}: {name} {a.shape} has {a.ndim} axes, but query {query.shape} has "
                f"{query.ndim}: give a batch or one sample for all of them")
    if query.shape[-1] != embed_dim:
        raise ValueError(
            f"{NAME}: query {query.shape} has {query.shape[-1]} features, but embed_dim is "
            f"{embed_dim}")
    if num_heads < 1 or embed_dim % num_heads:
        raise ValueError(f"{NAME}: num_heads={num_heads} must divide embed_dim={embed_dim}")
    separate = len(weights) == 3
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight") if separate else ("in_proj_weight",)
    for name, weight in zip(names, weights, strict=True):
        if weight is None:
            raise ValueError(f"{NAME}: use_separate_proj_weight={separate} requires {name}")
    k_weight, v_weight = weights[1:] if separate else weights * 2
    for name, a, weight in ("key", key, k_weight), ("value", value, v_weight):
        if a.shape[-1] != weight.shape[1]:
            raise ValueError(
                f"{NAME}: {name} {a.shape} has {a.shape[-1]} features, but its weight "
                f"{weight.shape} takes {weight.shape[1]}")
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"{NAME}: key {key.shape} and value {value.shape} differ in batch size or length")
    if query.ndim == 2:
        return 1, len(query)
    n, length = query.shape[:2] if batch_first else query.shape[1::-1]
    if key.shape[0 if batch_first else 1] != n:
        raise ValueError(
            f"{NAME}: query {query.shape} and key {key.shape}, both {layout}, differ in N")
    return n, length


def _project(query: Any, key: Any, value: Any, weights: tuple, bias: Any) -> tuple:
    """Project query, key and value to q, k and v.

    With `in_proj_weight`, arguments that are the same array are projected by one matrix product.
    """
    thirds = lambda a: (None,) * 3 if a is None else split(a, 3)
    if len(weights) == 1:
        weight = weights[0]
        if query is key is value:
            return split(linear(query, weight, bias), 3, -1)
        if key is value:
            cuts = [query.shape[-1]]
            q_weight, kv_weight = split(weight, cuts)
            q_bias, kv_bias = (None, None) if bias is None else split(bias, cuts)
            q = linear(query, q_weight, q_bias)
            return q, *split(linear(key, kv_weight, kv_bias), 2, -1)
        weights = thirds(weight)
    return tuple(map(linear, (query, key, value), weights, thirds(bias)))


def _split_heads(x: Any, heads: int, batch_first: bool) -> Any:
    """(L, N, E), or with `batch_first` (N, L, E) or (L, E) -> (N, heads, L, E / heads)."""
    lead = x.shape[:-1] if x.ndim == 3 else (1, len(x))
    x = reshape(x, (*lead, heads, x.shape[-1] // heads))
    return transpose(x, (0, 2, 1, 3) if batch_first else (1, 2, 0, 3))


def _static_heads(name: str, x: Any, n: int, q_shape: tuple[int, ...]) -> Any:
    """(N * heads, S, E / heads) -> (N, heads, S, E / heads); ValueError for another shape."""
    _, heads, _, size = q_shape
    if x.ndim != 3 or len(x) != n * heads or x.shape[-1] != size:
        raise ValueError(
            f"{NAME}: {name} must be (N * num_heads, S, E / num_heads) = ({n * heads}, S, {size}), "
            f"got {x.shape}")
    return reshape(x, (n, heads, *x.shape[1:]))


def _append_positions(k: Any, v: Any, mask: Any, bias_k: Any, bias_v: Any,
                      add_zero_attn: bool) -> tuple:
    """Append `bias_k` and `bias_v`, then zeros, as positions that no mask hides."""
    n, heads, source, size = k.shape
    if bias_k is not None:
        expand = lambda b: broadcast_to(reshape(b, (1, heads, 1, size)), (n, heads, 1, size))
        k = concatenate([k, expand(bias_k)], 2)
        v = concatenate([v, expand(bias_v)], 2)
    if add_zero_attn:
        one_more_position = ((0, 0), (0, 0), (0, 1), (0, 0))
        k = pad(k, one_more_position)
        v = pad(v, one_more_position)
    if mask is not None and k.shape[2] > source:
        mask = pad(mask, (*((0, 0),) * (mask.ndim - 1), (0, k.shape[2] - source)))
    return k, v, mask


# ---- masks: boolean, True where hidden, or floating and added to the scores --------------------


def _zeros_where_all_hidden(mask: Any, scores: Any) -> Callable:
    """A function of arrays (..., L, n): zeros for the queries of which all scores are -inf."""
    if mask is None:
        return lambda a: a
    sees_nothing = namespace(scores).all(scores == -math.inf, axis=-1, keepdims=True)
    return lambda a: where(sees_nothing, 0, a)


def _merge_masks(attn_mask: Any, key_padding_mask: Any, shape: tuple[int, ...],
                 batched: bool) -> Any:
    """Both masks as one that broadcasts to (N, heads, L, S), or None."""
    n, heads, length, source = shape
    _check_mask("attn_mask", attn_mask, "(L, S) or (N * num_heads, L, S)",
                (length, source), (n * heads, length, source))
    _check_mask("key_padding_mask", key_padding_mask, "(N, S), or (S,) for one sample",
                (n, source) if batched else (source,))
    if attn_mask is not None and attn_mask.ndim == 3:
        attn_mask = reshape(attn_mask, shape)
    if key_padding_mask is not None:
        key_padding_mask = reshape(key_padding_mask, (n, 1, 1, source))
    return _add_masks(attn_mask, key_padding_mask)


def _check_mask(name: str, mask: Any, layout: str, *shapes: tuple[int, ...]) -> None:
    if mask is None:
        return
    if mask.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"{NAME}: {name} must be {layout}, here {expected}, got {mask.shape}")
    if mask.dtype.kind != "b" and not is_float(mask.dtype):
        raise TypeError(
            f"{NAME}: {name} must be bool, True where a query may not attend, or floating, to be "
            f"added to the scores, got {mask.dtype.name}")


def _add_masks(a: Any, b: Any) -> Any:
    """The sum of two masks, or of a mask and scores; True counts as -inf."""
    if a is None or b is None:
        return b if a is None else a
    if a.dtype.kind == b.dtype.kind == "b":
        return logical_or(a, b)
    if b.dtype.kind == "b":
        a, b = b, a
    return where(a, -math.inf, b) if a.dtype.kind == "b" else a + b
