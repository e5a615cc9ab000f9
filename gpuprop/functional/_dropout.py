"""Dropout of elements and of channels."""

from __future__ import annotations

import math
from typing import Any

from gpuprop._array.arithmetic import where
from gpuprop._core.composed import checks_arguments, composed
from gpuprop._core.ops import op
from gpuprop._core.philox import keep_mask
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array
from gpuprop.random import Generator, default_generator


@pointwise
def mask_and_scale(xp, x, mask, scale):
    return xp.where(mask, x * scale, 0)


def apply_dropout_mask(xp, x, mask, p):
    """``x / (1 - p)`` where `mask` is True, else 0."""
    # the scale is an argument, not a constant of the body, so that all p share one compiled kernel
    return mask_and_scale(xp, x, mask, 1 / (1 - p) if p < 1 else 0.0)


def mask_shape(input: Any, leading: int | None) -> tuple[int, ...]:
    """The shape of a mask for `input` that is constant along all axes but the first `leading`."""
    if leading is None:
        return input.shape
    return (*input.shape[:leading], *(1,) * (input.ndim - leading))


@op(half="exact", name="dropout")
def dropout_by_key(xp, input: Array, rng_key: Array, p: float, leading: int | None = None):
    """`dropout` in training, with the mask that `rng_key` determines.

    If `leading` is given, elements with the same index in the first `leading` axes are dropped
    together.  The pullback draws the mask again instead of keeping it.
    """
    shape = mask_shape(input, leading)

    def drop(x):
        return apply_dropout_mask(xp, x, keep_mask(rng_key, shape, p), p)

    return drop(input), (drop, None)


@dropout_by_key.faster
def dropout_with_kept_mask(xp, input, rng_key, p, leading=None):
    """`dropout_by_key` that keeps the mask, one byte per element, instead of drawing it again."""
    mask = keep_mask(rng_key, mask_shape(input, leading), p)

    def drop(x):
        return apply_dropout_mask(xp, x, mask, p)

    return drop(input), (drop, None)


def check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p must be a probability between 0 and 1, got {p}")


@checks_arguments
def dropout(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False,
            rng: Generator | None = None) -> Array:
    """Set elements to 0 with probability `p`: ``y = input * mask / (1 - p)``.

    Without `training`, ``y = input``.  The mask is drawn from `rng` or the default generator.
    `inplace` has no effect.  Raises ValueError if `p` is not between 0 and 1.
    N. Srivastava et al., JMLR 15 (2014).

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> x = gp.ones((8,))
    >>> y = F.dropout(x, 0.5, rng=gp.random.Generator(0))
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    >>> y.tolist() == F.dropout(x, 0.5, rng=gp.random.Generator(0)).tolist()
    True
    """
    check_probability("dropout", p)
    if not training or p == 0:
        return input
    return dropout_by_key(input, (rng or default_generator).noise(input), p)


# ---- dropout of channels, and dropout for selu -------------------------------------------------


def _dropout_nd(n: int, input: Array, p: float, training: bool, rng: Generator | None) -> Array:
    name = f"dropout{n}d"
    check_probability(name, p)
    if input.ndim not in (n + 1, n + 2):
        raise ValueError(f"{name}: input must have {n + 1} or {n + 2} axes, got {input.ndim} in "
                         f"shape {input.shape}")
    if not training or p == 0:
        return input
    return dropout_by_key(input, (rng or default_generator).noise(input), p, input.ndim - n)


@checks_arguments
def dropout1d(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False,
              rng: Generator | None = None) -> Array:
    """`dropout` of whole channels of an input (N, C, L) or (C, L).

    Raises ValueError for other shapes, or if `p` is not between 0 and 1.  J. Tompson et al.,
    CVPR 2015.
    """
    return _dropout_nd(1, input, p, training, rng)


@checks_arguments
def dropout2d(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False,
              rng: Generator | None = None) -> Array:
    """`dropout` of whole channels of an input (N, C, H, W) or (C, H, W).

    Raises ValueError for other shapes, or if `p` is not between 0 and 1.  J. Tompson et al.,
    CVPR 2015.
    """
    return _dropout_nd(2, input, p, training, rng)


@checks_arguments
def dropout3d(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False,
              rng: Generator | None = None) -> Array:
    """`dropout` of whole channels of an input (N, C, D, H, W) or (C, D, H, W).

    Raises ValueError for other shapes, or if `p` is not between 0 and 1.  J. Tompson et al.,
    CVPR 2015.
    """
    return _dropout_nd(3, input, p, training, rng)


def _alpha_dropout(name: str, input: Array, leading: int | None, p: float, training: bool,
                   rng: Generator | None) -> Array:
    check_probability(name, p)
    if not training or p == 0:
        return input
    rng_key = (rng or default_generator).noise(input)
    if p == 1:
        return dropout_by_key(input, rng_key, p)
    return drop_for_selu(input, keep_mask(rng_key, mask_shape(input, leading), p), p)


@composed(full=True)
def drop_for_selu(input: Array, keep: Array, p: float) -> Array:
    """`input` where `keep` is True, else -1.758, scaled and shifted as in `alpha_dropout`."""
    low = -1.7580993408473766  # the limit of selu(x) for x -> -inf
    scale = 1 / math.sqrt((1 + low * low * p) * (1 - p))
    return (where(keep, input, low) - low * p) * scale


@checks_arguments
def alpha_dropout(input: Array, p: float = 0.5, training: bool = False, inplace: bool = False,
                  rng: Generator | None = None) -> Array:
    """Dropout for `selu`: ``y = a * (input if mask else low) + b``.

    With probability `p` an element is replaced by ``low = -1.758``, the limit of `selu` at
    -infinity.  The constants a and b keep an input of mean 0 and variance 1 at that mean and
    variance.  With ``p=1`` the output is 0.  Without `training`, ``y = input``.  The mask is drawn
    from `rng` or the default generator.  `inplace` has no effect.  Raises ValueError if `p` is not
    between 0 and 1.  G. Klambauer et al., NeurIPS 2017.
    """
    return _alpha_dropout("alpha_dropout", input, None, p, training, rng)


@checks_arguments
def feature_alpha_dropout(input: Array, p: float = 0.5, training: bool = False,
                          inplace: bool = False, rng: Generator | None = None) -> Array:
    """`alpha_dropout` of whole channels of (N, C, ...).

    Raises ValueError if `input` has fewer than 2 axes or `p` is not between 0 and 1.
    """
    if training and input.ndim < 2:
        raise ValueError(f"feature_alpha_dropout: input must be (N, C, ...), got shape "
                         f"{input.shape}")
    return _alpha_dropout("feature_alpha_dropout", input, 2, p, training, rng)
