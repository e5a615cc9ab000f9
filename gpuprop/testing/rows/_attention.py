"""Rows of attention and of rotary embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpuprop.functional as F
from gpuprop.functional._attention import attention
from gpuprop.testing.rows import Row, floats, integers

MASKED = "the gradient of a key is a product with its weights, 0 if masked; so in PyTorch"
BOOL_MASK = "a mask of bools hides keys"
EQUAL_KEYS = "for equal keys a query's gradient is 0 but for rounding"
RANDOM = dict.fromkeys(("gradient", "parity", "capture"), "each call has another random output")
SATURATED = "weights are 0 or 1: their gradients are rounding errors"
RNG_KEY = np.array([7, 3], "uint64")


def op_row(batch: tuple, queries: int, keys: int, mask: Any = None, slopes: Any = None,
           rng_key: Any = None, band: tuple = (None, None), p: float = 0.0) -> Row:
    """A call of the op `attention`, with queries and keys of 3 features and values of 2."""
    q = floats(*batch, queries, 3)
    k = floats(*batch, keys, 3)
    v = floats(*batch, keys, 2)
    row = Row(attention, q, k, v, mask, slopes, rng_key, 0.5, band, p, True)
    if slopes is not None:
        row.skip(half="long distances multiply the rounding errors of weights")
    if mask is not None and mask.dtype != bool:
        row.skip(integers=BOOL_MASK)
    row.skip(large=SATURATED)
    return row.skip(layouts=EQUAL_KEYS) if keys > 1 else row


def op_rows():
    mask = integers(2, 2, 4, 5) > 0
    mask[:, :, 0] = True  # each query has a key
    yield op_row((2,), 4, 5)
    yield op_row((), 1, 1)
    yield op_row((0,), 2, 3)
    yield op_row((2,), 0, 3)
    yield op_row((2,), 3, 0)
    for band in ((None, 0), (-1, None), (0, 2), (3, None), (None, -1)):
        yield op_row((2,), 4, 5, band=band)
    yield op_row((2,), 4, 5, mask=mask)
    yield op_row((2,), 4, 5, mask=mask[0])
    for shape in ((4, 5), (2, 1, 5), (2, 4, 5), (1, 1)):
        yield op_row((2,), 4, 5, mask=floats(*shape))
    yield op_row((2,), 4, 5, slopes=floats(2, 1, 1), band=(None, 1))
    yield op_row((2, 3), 4, 5, mask=floats(3, 1, 5), slopes=floats(3, 1, 1), rng_key=RNG_KEY,
                 band=(-2, 1), p=0.25)
    for p in (0.5, 1.0):
        yield op_row((2,), 4, 5, rng_key=RNG_KEY, p=p)


def scaled_dot_product():
    sdpa = F.scaled_dot_product_attention
    qkv = [floats(2, 4, n, 3) for n in (3, 5, 5)]
    yield Row(sdpa, *qkv, is_causal=True).skip(layouts=EQUAL_KEYS, large=SATURATED)
    qkv = [floats(2, 4, 3, 3), floats(2, 2, 5, 3), floats(2, 2, 5, 3)]
    row = Row(sdpa, *qkv, floats(4, 3, 5), scale=0.3, enable_gqa=True, window=(2, 1),
              alibi_slopes=floats(4))
    yield row.skip(layouts=EQUAL_KEYS, integers=BOOL_MASK, large=SATURATED)
    yield Row(sdpa, *(floats(n, 3) for n in (3, 1, 1)), window=0)
    yield Row(sdpa, floats(1, 1), floats(1, 1), floats(1, 1))
    yield Row(sdpa, floats(2, 0, 3), floats(2, 4, 3), floats(2, 4, 1))
    yield Row(sdpa, *(floats(2, 3) for _ in range(3)), dropout_p=0.5).skip(**RANDOM)


def multi_head_row(batch: tuple, queries: int, keys: int, attn_mask: Any = None,
                   key_padding_mask: Any = None, separate: bool = False,
                   rest: tuple = (None, None, None, False), **options: Any) -> Row:
    """A call with 4 features in 2 heads.

    Masks are arrays or shapes.  `rest` is in_proj_bias, bias_k, bias_v and add_zero_attn.
    """
    for name, mask in (("attn_mask", attn_mask), ("key_padding_mask", key_padding_mask)):
        if mask is not None:
            options[name] = mask if isinstance(mask, np.ndarray) else floats(*mask)
    features = (4, 3, 2) if separate else (4, 4, 4)
    if separate:
        for letter, n in zip("qkv", features, strict=True):
            options[f"{letter}_proj_weight"] = floats(4, n)
    lengths = (queries, keys, keys)
    inputs = [floats(m, *batch, n) for m, n in zip(lengths, features, strict=True)]
    in_proj_weight = None if separate else floats(12, 4)
    row = Row(F.multi_head_attention_forward, *inputs, 4, 2, in_proj_weight, *rest, 0.0,
              floats(4, 4), floats(4), use_separate_proj_weight=separate, **options)
    if isinstance(attn_mask, tuple) or isinstance(key_padding_mask, tuple):
        row.skip(integers=BOOL_MASK)
    row.skip(large=SATURATED)
    return row.skip(layouts=EQUAL_KEYS) if keys > 1 else row


def multi_head():
    hidden = integers(2, 3, 4) > 0
    hidden[:, 0] = False  # each query has a key
    causal = np.triu(np.ones((3, 3), bool), 1)
    yield multi_head_row((2,), 3, 4)
    yield multi_head_row((2,), 3, 4, need_weights=False)
    yield multi_head_row((), 3, 4, average_attn_weights=False)
    yield multi_head_row((2,), 3, 4, hidden, (2, 4), separate=True)
    rest = (floats(12), floats(1, 1, 4), floats(4), True)
    yield multi_head_row((2,), 3, 4, (4, 3, 4), hidden[:2], need_weights=False, rest=rest)
    yield multi_head_row((2,), 3, 3, causal, need_weights=False, is_causal=True)
    yield multi_head_row((1,), 1, 1, rest=(floats(12), None, None, True))
    inputs = [floats(1, 1, 1) for _ in range(3)]
    yield Row(F.multi_head_attention_forward, *inputs, 1, 1, floats(3, 1), None, None, None, True,
              0.0, floats(1, 1), None)
    yield multi_head_row((0,), 3, 4, need_weights=False)
    yield multi_head_row((3,), 0, 3, need_weights=False)


def rotary():
    for shape, angles in (
        ((3, 6), (3, 3)),
        ((2, 3, 2, 4), (3, 1, 2)),
        ((1, 2), (1, 1)),
        ((0, 4), (2,)),
    ):
        for interleaved in (True, False):
            x = floats(*shape)
            cos = floats(*angles)
            sin = floats(*angles)
            yield Row(F.rotary_embedding, x, cos, sin, interleaved)


ROWS = [row.skip(hidden=MASKED) for row in (*op_rows(), *scaled_dot_product(), *multi_head())]
ROWS += rotary()
