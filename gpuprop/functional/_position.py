"""Where in a sequence something stands, said by angles."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._core.ops import op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array


@pointwise
def turned(xp, a, b, cos, sin):
    return a * cos - b * sin, b * cos + a * sin


@op(half="exact")
def rotary_embedding(xp, input: Array, cos: Array, sin: Array, interleaved: bool = True):
    """Pairs of the last axis turned by angles, whose cosines and sines (..., D / 2) broadcast: (..., D), same shape.

    Pairs are neighbours, or, unless `interleaved`, the elements i and i + D / 2.  J. Su et al., 2021.
    """
    shape, half = input.shape, input.shape[-1] // 2
    if cos.shape != sin.shape or (*cos.shape[-1:], shape[-1]) != (half, 2 * half):
        raise ValueError(f"rotary_embedding: input {shape} has pairs along its last axis, and cos and sin a number a "
                         f"pair, not {cos.shape} and {sin.shape}")
    if cos.dtype != input.dtype or sin.dtype != input.dtype:
        raise TypeError(f"rotary_embedding: input is {input.dtype.name}, cos {cos.dtype.name} and sin "
                        f"{sin.dtype.name}: use cos.astype({input.dtype.name!r})")

    def pairs(x):
        return (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])

    def joined(a, b):
        return xp.stack((a, b), axis=-1).reshape(shape) if interleaved else xp.concatenate((a, b), axis=-1)

    def product(dy, first, second):
        (a, b), (c, d) = pairs(dy), pairs(input)
        return a * first(c, d) + b * second(c, d)

    def rotate(x, sin):
        a, b = pairs(x)
        return joined(*turned(xp, a, b, cos, sin))

    return rotate(input, sin), (
        lambda dy: rotate(dy, -sin),
        lambda dy: product(dy, lambda a, b: a, lambda a, b: b),
        lambda dy: product(dy, lambda a, b: -b, lambda a, b: a))


def angles(length: int, dim: int, base: float = 10_000.0) -> Any:
    """``position / base**(2 i / dim)``, in float64 on the host: (length, dim / 2), rounded up."""
    return np.arange(length)[:, None] / base ** (np.arange(0, dim, 2) / dim)
