"""Rows of recurrent layers, and of batches of sequences of several lengths."""

from __future__ import annotations

from gpuprop.functional._recurrent import CELLS, pack, scan, stack_padded, unpack
from gpuprop.testing.rows import Row, floats


def weights(*shape):
    return floats(*shape, low=-0.7, high=0.7)


def layer(mode, sizes, features=3, hidden=2, bias=True, projected=0, apart=False, **how):
    """A scan along sequences, of which ``sizes[t]`` have a step t; with `apart` the steps have an axis."""
    rows, outputs = CELLS[mode].gates * hidden, projected or hidden
    cell = weights(sizes[0], hidden) if CELLS[mode].states == 2 else None
    biases = [weights(rows) if bias else None for _ in range(2)]
    lead = (len(sizes), sizes[0]) if apart else (sum(sizes),)
    return Row(scan, floats(*lead, features), weights(sizes[0], outputs), cell, weights(rows, features),
               weights(rows, outputs), *biases, weights(projected, hidden) if projected else None, mode=mode,
               sizes=sizes, **how)


ROWS = [
    *(layer(mode, sizes, reverse=reverse) for mode in CELLS for reverse in (False, True)
      for sizes in ((2, 2, 2), (3, 2, 2, 1), (4,), (0, 0))),
    *(layer(mode, (2, 1), bias=False) for mode in CELLS),
    *(layer(mode, (1,), 1, 1) for mode in CELLS),
    *(layer(mode, sizes, apart=True) for mode in CELLS for sizes in ((2, 2, 2), (0, 0))),
    *(layer("LSTM", sizes, hidden=3, projected=2, reverse=reverse) for reverse in (False, True)
      for sizes in ((2, 2), (3, 1, 1))),
    layer("LSTM", (2, 1), projected=1, bias=False),
    *(Row(pack, floats(*shape), sizes) for shape, sizes in (((3, 2), (2, 2, 1)), ((4, 3, 2), (3, 1)), ((1, 1), (1,)),
                                                           ((2, 0, 3), (0, 0)))),
    *(Row(unpack, floats(*shape), sizes, total, *value) for shape, sizes, total, *value in (
        ((5,), (2, 2, 1), 3), ((4, 2), (3, 1), 4, -1.5), ((1, 1), (1,), 1), ((0, 3), (0, 0), 2))),
    *(Row(stack_padded, [floats(n, *rest) for n in lengths], first, 0.5, left)
      for lengths, rest in (((3, 1, 2), ()), ((2, 4), (2,)), ((1,), (1,)), ((0, 2), (3,)), ((0,), ()))
      for first in (False, True) for left in (False, True)),
]
