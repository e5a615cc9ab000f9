"""Comparison, logic and bit operations, with NumPy's names and broadcasting.

No gradient passes.
"""

from __future__ import annotations

from gpuprop._core.ops import op
from gpuprop._core.signature import Array

__all__ = [
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "equal",
    "greater",
    "greater_equal",
    "invert",
    "isfinite",
    "isinf",
    "isnan",
    "left_shift",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "not_equal",
    "right_shift",
    "signbit",
]


@op(promote=True, half="exact")
def equal(xp, x1: Array, x2: Array):
    """``x1 == x2``, elementwise."""
    return x1 == x2, None


@op(promote=True, half="exact")
def not_equal(xp, x1: Array, x2: Array):
    """``x1 != x2``, elementwise."""
    return x1 != x2, None


@op(promote=True, half="exact")
def less(xp, x1: Array, x2: Array):
    """``x1 < x2``, elementwise."""
    return x1 < x2, None


@op(promote=True, half="exact")
def less_equal(xp, x1: Array, x2: Array):
    """``x1 <= x2``, elementwise."""
    return x1 <= x2, None


@op(promote=True, half="exact")
def greater(xp, x1: Array, x2: Array):
    """``x1 > x2``, elementwise."""
    return x1 > x2, None


@op(promote=True, half="exact")
def greater_equal(xp, x1: Array, x2: Array):
    """``x1 >= x2``, elementwise."""
    return x1 >= x2, None


@op(half="exact")
def logical_and(xp, x1: Array, x2: Array):
    """True where both are nonzero."""
    return xp.logical_and(x1, x2), None


@op(half="exact")
def logical_or(xp, x1: Array, x2: Array):
    """True where at least one is nonzero."""
    return xp.logical_or(x1, x2), None


@op(half="exact")
def logical_xor(xp, x1: Array, x2: Array):
    """True where exactly one is nonzero."""
    return xp.logical_xor(x1, x2), None


@op(half="exact")
def logical_not(xp, x: Array):
    """True where `x` is zero."""
    return xp.logical_not(x), None


@op
def bitwise_and(xp, x1: Array, x2: Array):
    """``x1 & x2`` of integers or bools."""
    return x1 & x2, None


@op
def bitwise_or(xp, x1: Array, x2: Array):
    """``x1 | x2`` of integers or bools."""
    return x1 | x2, None


@op
def bitwise_xor(xp, x1: Array, x2: Array):
    """``x1 ^ x2`` of integers or bools."""
    return x1 ^ x2, None


@op
def invert(xp, x: Array):
    """``~x`` of integers or bools."""
    return ~x, None


@op
def left_shift(xp, x1: Array, x2: Array):
    """``x1 << x2`` of integers."""
    return x1 << x2, None


@op
def right_shift(xp, x1: Array, x2: Array):
    """``x1 >> x2`` of integers."""
    return x1 >> x2, None


@op(half="exact")
def isnan(xp, x: Array):
    """True where `x` is NaN."""
    return xp.isnan(x), None


@op(half="exact")
def isinf(xp, x: Array):
    """True where `x` is inf or -inf."""
    return xp.isinf(x), None


@op(half="exact")
def isfinite(xp, x: Array):
    """True where `x` is neither NaN nor infinite."""
    return xp.isfinite(x), None


@op(half="exact")
def signbit(xp, x: Array):
    """True where the sign bit is set, as in -0.0."""
    return xp.signbit(x), None
