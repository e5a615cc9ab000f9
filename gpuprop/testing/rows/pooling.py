"""Rows of pooling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import gpuprop.functional as F
from gpuprop.functional import _pooling as P
from gpuprop.testing.rows import Row, floats, integers

SPACE = {1: (7,), 2: (6, 7), 3: (4, 5, 4)}
OPTIONS: list[dict[str, Any]] = [{}, dict(stride=1), dict(padding=1, ceil_mode=True), dict(stride=2, ceil_mode=True)]
POSITIVE = dict(low=0.5, high=2)


def named(kind: str, n: int) -> Any:
    return getattr(F, f"{kind}{n}d")


def distinct(*shape: int) -> np.ndarray:
    """Floats no two of which are near: what is largest stays so in float32 and nearby."""
    size = int(np.prod(shape))
    return np.random.default_rng(size).permutation(size).reshape(shape) / max(size, 1) + 0.0


def of_dimensions() -> Iterator[Row]:
    """What goes for any number of dimensions."""
    for n in (1, 2, 3):
        for lead in ((2, 3), (3,), (0, 2)):
            yield Row(named("max_pool", n), distinct(*lead, *SPACE[n]), 2)
            yield Row(named("avg_pool", n), floats(*lead, *SPACE[n]), 2)
            yield Row(named("lp_pool", n), floats(*lead, *SPACE[n], **POSITIVE), 2.0, 2)
            for size in (2, 3, None):
                yield Row(named("adaptive_avg_pool", n), floats(*lead, *SPACE[n]), size)
                yield Row(named("adaptive_max_pool", n), distinct(*lead, *SPACE[n]), size, size == 2)
        for options in OPTIONS:
            yield Row(named("max_pool", n), distinct(2, 2, *SPACE[n]), 3, **options)
            yield Row(named("max_pool", n), distinct(2, 2, *SPACE[n]), 3, return_indices=True, **options)
            yield Row(named("avg_pool", n), floats(2, 2, *SPACE[n]), 3, **options)
            yield Row(named("avg_pool", n), floats(2, 2, *SPACE[n]), 3, count_include_pad=False, **options)
            if "padding" not in options:
                yield Row(named("lp_pool", n), floats(2, 2, *SPACE[n], **POSITIVE), 3.0, 3, **options)
        yield Row(named("max_pool", n), distinct(2, 2, *SPACE[n]), 2, 1, 1, 3)
        for batch in (1, 0):
            places = np.arange(batch * 2 ** n).reshape(batch, 1, *(2,) * n) * 2
            yield Row(named("max_unpool", n), floats(*places.shape), places, 2)
        yield Row(named("max_unpool", n), floats(1, 1, *(1,) * n), integers(1, 1, 1, *(1,) * n), 1)
        for op in (named(kind, n) for kind in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")):
            yield Row(op, floats(1, 1, *(1,) * n), 1)
        yield Row(named("lp_pool", n), floats(1, 1, *(1,) * n, **POSITIVE), 2, 1)
    for n in (2, 3):
        samples = floats(2, 2, n, low=0.1, high=0.9)
        random = dict(_random_samples=samples, return_indices=True)
        fractional, x = named("fractional_max_pool", n), distinct(2, 2, *SPACE[n])
        but = dict(gradient="steps of whole elements")
        yield Row(fractional, x, 2, 3, **random).but(**but, layouts="repeated samples")
        yield Row(fractional, x, 2, output_ratio=0.5, _random_samples=samples).but(**but, layouts="repeated samples")
        yield from (Row(fractional, distinct(*s), 1, s[-1], _random_samples=floats(*s[:2], n)).but(**but)
                    for s in ((1, 1, *(1,) * n), (0, 2, *(3,) * n)))
        yield Row(named("avg_pool", n), floats(2, 2, *SPACE[n]), 2, divisor_override=3)


ROWS = [
    *of_dimensions(),
    Row(F.max_pool2d, distinct(2, 2, 6, 7), (2, 3), (2, 1), (1, 0), (1, 2)),
    Row(F.max_pool2d, integers(90, 2, 2, 6, 7), 2, padding=1),
    Row(F.adaptive_avg_pool2d, floats(2, 2, 6, 7), (3, None)),
    Row(F.adaptive_max_pool2d, distinct(2, 2, 6, 7), (None, 4)),
    Row(F.adaptive_avg_pool2d, floats(2, 2, 6, 7), 0),
    *(Row(F.max_unpool1d, floats(*s, 3), np.broadcast_to([0, 3, 4], (*s, 3)), 2, output_size=size)
      for s in ((2,), (0, 2)) for size in (None, (7,), (5,))),
    *(Row(P.max_in, distinct(n, 1, 6), (2,), (3,), (2,), ((0, 0),), (1,), i) for n in (0, 2) for i in (True, False)),
    Row(P.max_in, floats(1, 1, 1), (1,), (1,), (1,), ((0, 0),), (1,), False),
    *(Row(P.max_at, distinct(n, 2, 6), integers(6, *lead, 3, 2), (3,)) for n, *lead in ((2,), (2, 2, 2), (0,))),
    Row(P.max_at, floats(1, 1, 1), integers(1, 1, 1), (1,)),
]
