"""Dropout."""

from __future__ import annotations

import math
from typing import Any

from gpuprop._array.arithmetic import add, multiply
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.placement import on_device_of_arguments
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array
from gpuprop.random import Generator, default_generator, keep_mask


@pointwise
def masked_and_scaled(xp, x, mask, scale):
    return x * mask * scale


def masked(xp, x, mask, p):
    """What `mask` keeps of x, divided by 1 - p; a number among the arrays, so that each p has the same kernel."""
    return masked_and_scaled(xp, x, mask, 1 / (1 - p) if p < 1 else 0.0)


@op(half="exact")
def drop(xp, input: Array, rng_key: Array, p: float):
    """Zeros with probability `p`, and the rest divided by 1 - p; which ones, `rng_key` says, now and in the gradient."""
    shape = input.shape
    through = lambda x: masked(xp, x, keep_mask(rng_key, shape, p), p)
    return through(input), (through, None)


@drop.faster
def drop_by_one_mask(xp, input, rng_key, p):
    """The mask is kept, a byte an element, rather than drawn twice."""
    mask = keep_mask(rng_key, input.shape, p)
    through = lambda x: masked(xp, x, mask, p)
    return through(input), (through, None)


def dropout(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False,
            rng: Generator | None = None) -> Array:
    """In training, zeros with probability `p` and the rest divided by 1 - p, by `rng` or the default generator.

    N. Srivastava et al., JMLR 15 (2014).
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p is a probability, not {p}")
    if not training or p == 0:
        return input
    return drop(input, (rng or default_generator).noise(input), p)


# ---- of whole channels, and with the statistics that selu keeps -----------------------------------------------------


def kept(what: str, input: Any, lead: int | None, p: float, rng: Generator | None) -> Any:
    """``drop`` of ones, one a channel where `lead` says how many axes channels have, else one an element."""
    if not 0 <= p <= 1:
        raise ValueError(f"{what}: p is a probability, not {p}")
    shape = input.shape if lead is None else (*input.shape[:lead], *(1,) * (input.ndim - lead))
    ones = namespace(raw(input)).ones(shape, input.dtype)
    return drop(ones, (rng or default_generator).noise(input), p)


def _channels(n: int, input: Array, p: float, training: bool, rng: Generator | None) -> Array:
    what = f"dropout{n}d"
    if input.ndim not in (n + 1, n + 2):
        raise ValueError(f"{what}: input has {n + 1} or {n + 2} axes, not {input.ndim}, as {input.shape} has")
    if not training or p == 0:
        return input
    return multiply(input, kept(what, input, input.ndim - n, p, rng))


def dropout1d(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False,
              rng: Generator | None = None) -> Array:
    """`dropout` of whole channels of (N, C, L) or (C, L).  J. Tompson et al., CVPR 2015."""
    return _channels(1, input, p, training, rng)


def dropout2d(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False,
              rng: Generator | None = None) -> Array:
    """`dropout` of whole channels of (N, C, H, W) or (C, H, W)."""
    return _channels(2, input, p, training, rng)


def dropout3d(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False,
              rng: Generator | None = None) -> Array:
    """`dropout` of whole channels of (N, C, D, H, W) or (C, D, H, W)."""
    return _channels(3, input, p, training, rng)


@on_device_of_arguments
def _alpha(what: str, input: Array, lead: int | None, p: float, training: bool, rng: Generator | None) -> Array:
    if not 0 <= p <= 1:
        raise ValueError(f"{what}: p is a probability, not {p}")
    if not training or p == 0:
        return input
    if p == 1:
        return multiply(input, 0)
    low = -1.7580993408473766  # what selu tends to
    scale = 1 / math.sqrt((1 + low * low * p) * (1 - p))
    mask = kept(what, input, lead, p, rng) * (1 - p)
    return add(multiply(input, mask * scale), (1 - mask) * (low * scale) - low * p * scale)


def alpha_dropout(input: Array, p: float = 0.5, training: bool = False, inplace: bool = False,
                  rng: Generator | None = None) -> Array:
    """In training, what `selu` tends to with probability `p`, then all scaled and moved to keep mean 0, variance 1.

    G. Klambauer et al., NeurIPS 2017.
    """
    return _alpha("alpha_dropout", input, None, p, training, rng)


def feature_alpha_dropout(input: Array, p: float = 0.5, training: bool = False, inplace: bool = False,
                          rng: Generator | None = None) -> Array:
    """`alpha_dropout` of whole channels of (N, C, ...)."""
    if training and input.ndim < 2:
        raise ValueError(f"feature_alpha_dropout: input is (N, C, ...), not of shape {input.shape}")
    return _alpha("feature_alpha_dropout", input, 2, p, training, rng)
