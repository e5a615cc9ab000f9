"""Rotary position embedding, and the angles that encode positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._core.ops import op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array


@pointwise
def rotate_2d(xp, a, b, cos, sin):
    """The vectors (a, b) rotated by an angle."""
    return a * cos - b * sin, b * cos + a * sin


@op(precision="widest", half="exact")
def rotary_embedding(xp, input: Array, cos: Array, sin: Array, interleaved: bool = True):
    """Rotary position embedding: rotate pairs (a, b) of features by angles that encode positions.

    ``(a, b) -> (a * cos - b * sin, b * cos + a * sin)``.  `input` and the output are (..., D);
    `cos` and `sin` are (..., D / 2) and broadcast.  Pair i has the features 2 i and 2 i + 1, or
    i and i + D / 2 with ``interleaved=False``.  Raises ValueError if shapes do not fit, and
    TypeError if dtypes differ.  J. Su et al., 2021.

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> x, cos, sin = gp.tensor([1.0, 2.0]), gp.tensor([0.0]), gp.tensor([1.0])  # by 90 degrees
    >>> F.rotary_embedding(x, cos, sin).tolist()
    [-2.0, 1.0]
    """
    shape = input.shape
    half = input.shape[-1] // 2
    if cos.shape != sin.shape or cos.shape[-1:] != (half,) or shape[-1] != 2 * half:
        raise ValueError(f"rotary_embedding: cos and sin must be (..., D / 2), one element per "
                         f"pair of the D features, an even number, of input {shape}, got "
                         f"{cos.shape} and {sin.shape}")
    if cos.dtype != input.dtype or sin.dtype != input.dtype:
        raise TypeError(f"rotary_embedding: input is {input.dtype.name}, cos {cos.dtype.name} and "
                        f"sin {sin.dtype.name}: use cos.astype({input.dtype.name!r})")

    def split(x):
        if interleaved:
            return x[..., 0::2], x[..., 1::2]
        return x[..., :half], x[..., half:]

    def join(a, b):
        if interleaved:
            return xp.stack((a, b), axis=-1).reshape(shape)
        return xp.concatenate((a, b), axis=-1)

    def rotate(x, sin):
        a, b = split(x)
        return join(*rotate_2d(xp, a, b, cos, sin))

    def to_cos(dy):
        a, b = split(input)
        da, db = split(dy)
        return da * a + db * b

    def to_sin(dy):
        a, b = split(input)
        da, db = split(dy)
        return da * -b + db * a

    return rotate(input, sin), (lambda dy: rotate(dy, -sin), to_cos, to_sin)


def position_angles(length: int, dim: int, base: float = 10_000.0) -> Any:
    """``position / base**(2 i / dim)``: (length, ceil(dim / 2)), in float64 on the host."""
    return np.arange(length)[:, None] / base ** (np.arange(0, dim, 2) / dim)
