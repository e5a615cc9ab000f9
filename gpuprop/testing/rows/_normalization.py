"""Rows of normalization."""

from __future__ import annotations

import numpy as np

import gpuprop.functional as F
from gpuprop.functional._normalization import (
    count_batch,
    normalize_by_stats,
    response_norm,
    standardize,
    update_running_stats,
)
from gpuprop.testing.rows import Row, floats, integers

IN_PLACE = dict.fromkeys("gradient hidden parity capture".split(), "it writes into its arguments")
CHANNELS = ((4, 3), (2, 3, 5), (2, 3, 2, 3), (2, 1, 2, 1, 2), (0, 3, 2))  # shapes (N, C, ...)


def positive(*shape: int) -> np.ndarray:
    return floats(*shape, low=0.5, high=2.0)


def of_ops():
    """Rows of internal ops."""
    for shape, weight, axes in (
        ((4, 5), (5,), (1,)),
        ((4, 3), (3,), (0,)),
        ((2, 3, 4), (3, 1), (0, 2)),
        ((1, 1), (1,), (1,)),
        ((0, 3), (3,), (0,)),
        ((0, 3), (3,), (1,)),
        ((2, 2, 2, 3), (2, 2, 1), (2, 3)),
        ((3, 2, 2, 2), (2, 2, 1), (2, 3)),
        ((2, 3, 2), (2, 3, 1), (0, 2)),
    ):
        for subtract_mean, return_stats in ((True, False), (False, False), (True, True)):
            yield Row(standardize, floats(*shape), floats(*weight), floats(*weight), axes, 1e-5,
                      subtract_mean, return_stats)
    yield Row(standardize, floats(4, 5), None, None, (1,), 1e-5)
    yield Row(standardize, floats(5), floats(5), floats(5), (0,), 1e-5)
    yield Row(standardize, floats(4, 5), floats(5), None, (1,), 0.1)
    for shape in ((2, 3, 4), (0, 3, 4)):
        yield Row(normalize_by_stats, floats(*shape), floats(3, 1), positive(3, 1), floats(3, 1),
                  floats(3, 1), 1e-5)
    yield Row(normalize_by_stats, floats(1, 1), floats(1), positive(1), None, None, 0.1)


def of_layers():
    for shape, normalized in (
        ((4, 5), (5,)),
        ((2, 3, 4), (3, 4)),
        ((2, 3, 4), (4,)),
        ((1, 1), (1,)),
        ((0, 5), (5,)),
    ):
        for parameters in (0, 1, 2):
            weight_and_bias = [shape[-len(normalized):]] * parameters
            yield Row(F.layer_norm, floats(*shape), normalized,
                      *(floats(*s) for s in weight_and_bias))
    for shape, normalized in (((4, 5), (5,)), ((2, 3, 4), (3, 4)), ((0, 5), (5,))):
        for eps in (None, 1e-3):
            yield Row(F.rms_norm, floats(*shape), normalized, floats(*normalized), eps)
    yield Row(F.rms_norm, floats(1, 1), 1, floats(1), 0.1)
    for shape in CHANNELS:
        c = shape[1]
        yield Row(F.batch_norm, floats(*shape), floats(c), positive(c), floats(c), floats(c))
    for shape in CHANNELS:
        c = shape[1]
        yield Row(F.batch_norm, floats(*shape), None, None, floats(c), floats(c), True)
    for shape, groups in (
        ((4, 6), 2),
        ((2, 6, 5), 3),
        ((2, 4, 2, 3), 1),
        ((1, 1, 1), 1),
        ((0, 4, 2), 2),
    ):
        c = shape[1]
        yield Row(F.group_norm, floats(*shape), groups, floats(c), floats(c), 1e-3)
    for shape in CHANNELS[1:]:
        c = shape[1]
        yield Row(F.instance_norm, floats(*shape), None, None, floats(c), floats(c))
    yield Row(F.instance_norm, floats(2, 3, 4), floats(3), positive(3), use_input_stats=False)
    for op in (F.local_response_norm, response_norm):
        for size in (1, 2, 3, 5):
            for shape in ((2, 4, 3), (1, 1, 1), (0, 3, 2)):
                yield Row(op, floats(*shape), size, 0.3, 0.7, 2.0)


def of_kernels():
    for n in (0, 1, 3):
        row = Row(update_running_stats, floats(n), positive(n), floats(1, n, 1),
                  positive(1, n, 1), 0.1, 4)
        yield row.skip(**IN_PLACE)
    for shape in ((), (1,), (0,)):
        yield Row(count_batch, integers(9, *shape)).skip(**IN_PLACE)


ROWS = [*of_ops(), *of_layers(), *of_kernels()]
