"""Dropout."""

from __future__ import annotations

from gpuprop.ops import Array, op
from gpuprop.pointwise import pointwise
from gpuprop.random import Generator, default_generator, keep_mask


@pointwise
def kept(xp, x, mask, scale):
    return x * mask * scale


@op
def drop(xp, input: Array, ticket: Array, p: float):
    """Zeros with probability `p`, and the rest divided by 1 - p; which ones, `ticket` says, now and in the gradient."""
    shape, scale = input.shape, 1 / (1 - p) if p < 1 else 0
    through = lambda x: kept(xp, x, keep_mask(ticket, shape, p), scale=scale)
    return through(input), (through, None)


@drop.faster
def drop_again(xp, input, ticket, p):
    """Keeps the mask, a byte an element, rather than draw it twice."""
    mask, scale = keep_mask(ticket, input.shape, p), 1 / (1 - p) if p < 1 else 0
    through = lambda x: kept(xp, x, mask, scale=scale)
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
