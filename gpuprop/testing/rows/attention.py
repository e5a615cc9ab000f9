"""Attention, its heads and its positions."""

from __future__ import annotations

import numpy as np

import gpuprop.functional as F
from gpuprop.functional._attention import attention
from gpuprop.testing.rows import Row, floats, integers

EQUAL = "of equal keys nothing is left of a query's gradient"
DRAWN = "other numbers at every call"
TICKET = np.array([7, 3], "uint64")

# ---- averages of values ---------------------------------------------------------------------------------------------


def averages(lead, n, m, mask=None, slopes=None, rng_key=None, band=(None, None), p=0.0):
    """The op's call, with queries and keys of 3 numbers and values of 2."""
    q, k, v = floats(*lead, n, 3), floats(*lead, m, 3), floats(*lead, m, 2)
    row = Row(attention, q, k, v, mask, slopes, rng_key, 0.5, band, p, True)
    return row.but(layouts=EQUAL) if m > 1 else row


seen = integers(2, 2, 4, 5) > 0
seen[:, :, 0] = True

ROWS: list[Row] = [
    averages((2,), 4, 5),
    averages((), 1, 1),
    *(averages(lead, n, m) for lead, n, m in (((0,), 2, 3), ((2,), 0, 3), ((2,), 3, 0))),
    *(averages((2,), 4, 5, band=band) for band in ((None, 0), (-1, None), (0, 2), (3, None), (None, -1))),
    averages((2,), 4, 5, mask=seen),
    averages((2,), 4, 5, mask=seen[0]),
    *(averages((2,), 4, 5, mask=floats(*shape)) for shape in ((4, 5), (2, 1, 5), (2, 4, 5), (1, 1))),
    averages((2,), 4, 5, slopes=floats(2, 1, 1), band=(None, 1)),
    averages((2, 3), 4, 5, mask=floats(3, 1, 5), slopes=floats(3, 1, 1), rng_key=TICKET, band=(-2, 1), p=0.25),
    *(averages((2,), 4, 5, rng_key=TICKET, p=p) for p in (0.5, 1.0)),
    Row(F.scaled_dot_product_attention, *(floats(2, 4, n, 3) for n in (3, 5, 5)), is_causal=True).but(layouts=EQUAL),
    Row(F.scaled_dot_product_attention, floats(2, 4, 3, 3), floats(2, 2, 5, 3), floats(2, 2, 5, 3), floats(4, 3, 5),
        scale=0.3, enable_gqa=True, window=(2, 1), alibi_slopes=floats(4)).but(layouts=EQUAL),
    Row(F.scaled_dot_product_attention, *(floats(n, 3) for n in (3, 1, 1)), window=0),
    Row(F.scaled_dot_product_attention, floats(1, 1), floats(1, 1), floats(1, 1)),
    Row(F.scaled_dot_product_attention, floats(2, 0, 3), floats(2, 4, 3), floats(2, 4, 1)),
    Row(F.scaled_dot_product_attention, *(floats(2, 3) for _ in range(3)), dropout_p=0.5).but(
        gradient=DRAWN, parity=DRAWN, capture=DRAWN),
]

# ---- in heads, and with positions -----------------------------------------------------------------------------------


def heads(n, length, source, masks=(), apart=False, rest=(None, None, None, False), **options):
    """A call with 2 heads of 2; `masks`, arrays or shapes, are attn_mask and key_padding_mask."""
    drawn = [m if isinstance(m, np.ndarray) else floats(*m) for m in masks]
    options |= dict(zip(("attn_mask", "key_padding_mask"), drawn, strict=False))
    sizes = (4, 3, 2) if apart else (4, 4, 4)
    if apart:
        options |= {f"{letter}_proj_weight": floats(4, k) for letter, k in zip("qkv", sizes, strict=True)}
    inputs = [floats(many, *n, k) for many, k in zip((length, source, source), sizes, strict=True)]
    row = Row(F.multi_head_attention_forward, *inputs, 4, 2, None if apart else floats(12, 4), *rest, 0.0, floats(4, 4),
              floats(4), use_separate_proj_weight=apart, **options)
    return row.but(layouts=EQUAL) if source > 1 else row


hidden = integers(2, 3, 4) > 0
hidden[:, 0] = False  # each sees something

ROWS += [
    heads((2,), 3, 4),
    heads((2,), 3, 4, need_weights=False),
    heads((), 3, 4, average_attn_weights=False),
    heads((2,), 3, 4, [hidden, (2, 4)], apart=True),
    heads((2,), 3, 4, [(4, 3, 4), hidden[:2]], need_weights=False, rest=(floats(12), floats(1, 1, 4), floats(4), True)),
    heads((2,), 3, 3, [np.triu(np.ones((3, 3), bool), 1)], need_weights=False, is_causal=True),
    heads((1,), 1, 1, rest=(floats(12), None, None, True)),
    Row(F.multi_head_attention_forward, *(floats(1, 1, 1) for _ in range(3)), 1, 1, floats(3, 1), None, None, None,
        True, 0.0, floats(1, 1), None),
    heads((0,), 3, 4, need_weights=False),
    heads((3,), 0, 3, need_weights=False),
    *(Row(F.rotary_embedding, floats(*shape), floats(*turns), floats(*turns), interleaved)
      for shape, turns in (((3, 6), (3, 3)), ((2, 3, 2, 4), (3, 1, 2)), ((1, 2), (1, 1)), ((0, 4), (2,)))
      for interleaved in (True, False)),
]
