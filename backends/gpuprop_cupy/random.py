"""Twins of the kernels of random numbers, in one launch each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuprop.random import NOISE, philox
from gpuprop_cupy.pointwise import compiled


@compiled
def take(xp, state, step):
    rng_key = +state
    state += step.astype("uint64")
    return rng_key


def take_rng_key(xp: Any, state: Any) -> Any:
    return take(xp, state, range(2))


@compiled
def kept(xp, index, seed, draw, dropped):
    """Eight booleans, the bytes of a uint64, by the eight draws of 16 bits of a block of Philox."""
    eight = 0
    for i, word in enumerate(philox.fn(xp, index.astype("uint64"), draw, NOISE, seed)):
        for j in range(4):
            eight |= ((word >> 16 * j & 0xFFFF) >= dropped).astype("uint64") << 8 * (4 * i + j)
    return eight


@compiled
def kept_in_rows(xp, block, row, blocks, seed, draw, dropped):
    """`kept` by the numbers of a block in its row and of the row, which has so many blocks."""
    return kept.__wrapped__(xp, row.astype("uint64") * blocks + block.astype("uint64"), seed, draw, dropped)


def keep_mask(xp: Any, rng_key: Any, shape: Sequence[int], p: float) -> Any:
    n, dropped = math.prod(shape), round(p * 2**16)
    if dropped in (0, 2**16):
        return (xp.zeros if dropped else xp.ones)(shape, "bool")
    return kept(xp, range(-(-n // 8)), *rng_key, dropped).view("bool")[:n].reshape(shape)


def keep_rows(xp: Any, rng_key: Any, rows: Any, n: int, start: int, stop: int, p: float) -> Any:
    dropped = round(p * 2**16)
    if dropped in (0, 2**16):
        return (xp.zeros if dropped else xp.ones)((*rows.shape, stop - start), "bool")
    first, last = start // 8, -(-stop // 8)
    eights = kept_in_rows(xp, range(first, last), rows[..., None], -(-n // 8), *rng_key, dropped)
    return eights.view("bool")[..., start - 8 * first:stop - 8 * first]
