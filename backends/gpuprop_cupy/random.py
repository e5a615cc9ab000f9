"""CUDA versions of random-number functions of `gpuprop`, each in one kernel launch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuprop.backend import philox
from gpuprop.random import NOISE
from gpuprop_cupy.pointwise import compiled


@compiled
def take(xp, state, step):
    rng_key = +state
    state += step.astype("uint64")
    return rng_key


def take_rng_key(xp: Any, state: Any) -> Any:
    """A copy of `state` (seed, draw); the draw number in `state` is then incremented in place."""
    return take(xp, state, range(2))


@compiled
def kept(xp, index, seed, draw, dropped):
    """Eight booleans, as the bytes of a uint64, from the eight 16-bit draws of a Philox block."""
    eight = 0
    for i, word in enumerate(philox.fn(xp, index.astype("uint64"), draw, NOISE, seed)):
        for j in range(4):
            keep = (word >> 16 * j & 0xFFFF) >= dropped
            eight |= keep.astype("uint64") << 8 * (4 * i + j)
    return eight


@compiled
def kept_in_rows(xp, block, row, blocks, seed, draw, dropped):
    """`kept` of block number `block` in row number `row`, for rows of `blocks` blocks."""
    index = row.astype("uint64") * blocks + block.astype("uint64")
    return kept.__wrapped__(xp, index, seed, draw, dropped)


def keep_mask(xp: Any, rng_key: Any, shape: Sequence[int], p: float) -> Any:
    """The mask of dropout: booleans of this shape, each False with probability `p`."""
    n = math.prod(shape)
    dropped = round(p * 2**16)
    if dropped in (0, 2**16):
        return (xp.zeros if dropped else xp.ones)(shape, "bool")
    blocks = (n + 7) // 8
    return kept(xp, range(blocks), *rng_key, dropped).view("bool")[:n].reshape(shape)


def keep_rows(
    xp: Any, rng_key: Any, rows: Any, n: int, start: int, stop: int, p: float,
) -> Any:
    """Columns `start` to `stop` of the given rows of a dropout mask with `n` columns."""
    dropped = round(p * 2**16)
    if dropped in (0, 2**16):
        return (xp.zeros if dropped else xp.ones)((*rows.shape, stop - start), "bool")
    first, last, blocks = start // 8, (stop + 7) // 8, (n + 7) // 8
    bytes_ = kept_in_rows(xp, range(first, last), rows[..., None], blocks, *rng_key, dropped)
    return bytes_.view("bool")[..., start - 8 * first:stop - 8 * first]
