"""Dropout."""

from __future__ import annotations

from gpuprop.ops import Array, op
from gpuprop.pointwise import pointwise
from gpuprop.random import Generator, default_generator, keep_mask


@pointwise
def masked(xp, x, mask, p):
    return x * mask * (1 / (1 - p) if p < 1 else 0)


@op
def drop(xp, input: Array, ticket: Array, p: float):
    """Zeros with probability `p`, and the rest divided by 1 - p; which ones, `ticket` says, now and in the gradient."""
    shape = input.shape
    through = lambda x: masked(xp, x, keep_mask(ticket, shape, p), p=p)
    return through(input), (through, None)


@drop.faster
def drop_by_one_mask(xp, input, ticket, p):
    """The mask is kept, a byte an element, rather than drawn twice."""
    mask = keep_mask(ticket, input.shape, p)
    through = lambda x: masked(xp, x, mask, p=p)
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
