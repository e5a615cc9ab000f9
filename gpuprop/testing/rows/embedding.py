"""Rows of embedding."""

from __future__ import annotations

import numpy as np

import gpuprop.functional as F
from gpuprop.functional._embedding import bags_of, largest, replace_rows, rows_of
from gpuprop.testing.rows import Row, floats, integers

IN_PLACE = "it writes into its first argument"

BAGS = {"some": np.array([0, 3, 3, 4]), "one": np.array([0]), "none filled": np.array([0, 0, 5])}

ROWS = [
    *(Row(f, integers(5, *shape), floats(5, 3))
      for f in (F.embedding, rows_of) for shape in ((), (1,), (0,), (7,), (2, 4))),
    *(Row(f, integers(3, 3, 4), floats(3, 2), padding_idx=padding, scale_grad_by_freq=scaled).but(
        gradient="the option is one of gradients")
      for f in (F.embedding, rows_of) for padding, scaled in ((1, False), (None, True), (2, True))),
    Row(F.embedding, integers(1, 4), floats(1, 1)),
    Row(F.embedding, integers(4, 0), floats(4, 0)),
    *(Row(F.embedding_bag, integers(6, *shape), floats(6, 3), mode=mode, padding_idx=padding)
      for shape in ((2, 4), (1, 1), (0, 3), (3, 0)) for mode in ("sum", "mean", "max") for padding in (None, 1)),
    *(Row(F.embedding_bag, integers(6, 5), floats(6, 3), offsets, mode=mode, include_last_offset=last)
      for offsets in BAGS.values() for mode in ("sum", "mean", "max") for last in (False, True)),
    *(Row(F.embedding_bag, integers(6, 5), floats(6, 3), np.array([0, 2, 2]), mode="sum",
          per_sample_weights=floats(5), padding_idx=padding) for padding in (None, 2)),
    *(Row(largest, floats(*shape), np.arange(shape[0]) // 3, n).but(
        second="places have no gradient")
      for shape, n in (((7, 4), 3), ((1, 1), 1), ((0, 2), 2), ((5, 0), 2))),
    *(Row(bags_of, offsets, n) for offsets, n in ((np.array([0, 2, 2, 7]), 7), (np.array([0]), 3), (np.array([0]), 0))),
    Row(bags_of, np.array([], "int64"), 0),
    *(Row(replace_rows, floats(5, 3), np.array(index, "int64"), floats(len(index), 3)).but(
        gradient=IN_PLACE, parity=IN_PLACE, capture=IN_PLACE) for index in ([1, 4], [2], [])),
]
