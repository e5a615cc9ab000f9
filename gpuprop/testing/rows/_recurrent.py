"""Rows of recurrent layers, and of batches of sequences of several lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop.functional._recurrent import CELLS, pack, scan, stack_padded, unpack
from gpuprop.testing.rows import Row, floats

STATES = "the gradient of the weight is a product with states that are 0; so in PyTorch"


def weights(*shape: int) -> np.ndarray:
    return floats(*shape, low=-0.7, high=0.7)


def scan_row(mode: str, sizes: tuple[int, ...], features: int = 3, hidden: int = 2,
             bias: bool = True, projected: int = 0, padded: bool = False, **options: Any) -> Row:
    """A scan over sequences, of which ``sizes[t]`` have a step t.

    The input is packed, or (steps, batch, features) if `padded`.
    """
    gate_rows = CELLS[mode].gates * hidden
    outputs = projected or hidden
    cell = weights(sizes[0], hidden) if CELLS[mode].states == 2 else None
    biases = [weights(gate_rows) if bias else None for _ in range(2)]
    lead = (len(sizes), sizes[0]) if padded else (sum(sizes),)
    row = Row(
        scan,
        floats(*lead, features),
        weights(sizes[0], outputs),
        cell,
        weights(gate_rows, features),
        weights(gate_rows, outputs),
        *biases,
        weights(projected, hidden) if projected else None,
        mode=mode,
        sizes=sizes,
        **options,
    )
    row.skip(large="gates saturate: their gradients are rounding errors")
    return row.skip(hidden=STATES) if mode == "RNN_RELU" else row


def scans():
    for mode in CELLS:
        for reverse in (False, True):
            for sizes in ((2, 2, 2), (3, 2, 2, 1), (4,), (0, 0)):
                yield scan_row(mode, sizes, reverse=reverse)
    for mode in CELLS:
        yield scan_row(mode, (2, 1), bias=False)
    for mode in CELLS:
        yield scan_row(mode, (1,), 1, 1)
    for mode in CELLS:
        for sizes in ((2, 2, 2), (0, 0)):
            yield scan_row(mode, sizes, padded=True)
    for reverse in (False, True):
        for sizes in ((2, 2), (3, 1, 1)):
            row = scan_row("LSTM", sizes, hidden=3, projected=2, reverse=reverse)
            yield row.skip(half="with long states, gates saturate as with large numbers")
    yield scan_row("LSTM", (2, 1), projected=1, bias=False)


def sequences():
    for shape, sizes in (
        ((3, 2), (2, 2, 1)),
        ((4, 3, 2), (3, 1)),
        ((1, 1), (1,)),
        ((2, 0, 3), (0, 0)),
    ):
        yield Row(pack, floats(*shape), sizes)
    yield Row(unpack, floats(5), (2, 2, 1), 3)
    yield Row(unpack, floats(4, 2), (3, 1), 4, -1.5)
    yield Row(unpack, floats(1, 1), (1,), 1)
    yield Row(unpack, floats(0, 3), (0, 0), 2)
    for lengths, features in (
        ((3, 1, 2), ()),
        ((2, 4), (2,)),
        ((1,), (1,)),
        ((0, 2), (3,)),
        ((0,), ()),
    ):
        for batch_first in (False, True):
            for left in (False, True):
                arrays = [floats(n, *features) for n in lengths]
                yield Row(stack_padded, arrays, batch_first, 0.5, left)


ROWS = [*scans(), *sequences()]
