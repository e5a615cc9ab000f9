"""Rows of embeddings."""

from __future__ import annotations

import numpy as np

import gpuprop.functional as F
from gpuprop.functional._embedding import (
    assign_rows,
    bag_argmax,
    bag_of_each_index,
    embedding_lookup,
)
from gpuprop.testing.rows import Row, floats, integers

IN_PLACE = dict.fromkeys(("gradient", "parity", "capture"), "it writes into its first argument")
GRADIENT_OPTION = "the option changes the gradient only"
MODES = ("sum", "mean", "max")


def rows():
    for op in (F.embedding, embedding_lookup):
        for shape in ((), (1,), (0,), (7,), (2, 4)):
            yield Row(op, integers(5, *shape), floats(5, 3))
    for op in (F.embedding, embedding_lookup):
        for padding_idx, scaled in ((1, False), (None, True), (2, True)):
            row = Row(op, integers(3, 3, 4), floats(3, 2), padding_idx=padding_idx,
                      scale_grad_by_freq=scaled)
            yield row.skip(gradient=GRADIENT_OPTION)
    yield Row(F.embedding, integers(1, 4), floats(1, 1))
    yield Row(F.embedding, integers(4, 0), floats(4, 0))


def bags():
    for shape in ((2, 4), (1, 1), (0, 3), (3, 0)):
        for mode in MODES:
            for padding_idx in (None, 1):
                yield Row(F.embedding_bag, integers(6, *shape), floats(6, 3), mode=mode,
                          padding_idx=padding_idx)
    for offsets in ([0, 3, 3, 4], [0], [0, 0, 5]):
        for mode in MODES:
            for last in (False, True):
                yield Row(F.embedding_bag, integers(6, 5), floats(6, 3), np.array(offsets),
                          mode=mode, include_last_offset=last)
    for padding_idx in (None, 2):
        yield Row(F.embedding_bag, integers(6, 5), floats(6, 3), np.array([0, 2, 2]), mode="sum",
                  per_sample_weights=floats(5), padding_idx=padding_idx)
    for shape, bags in (((7, 4), 3), ((1, 1), 1), ((0, 2), 2), ((5, 0), 2)):
        row = Row(bag_argmax, floats(*shape), np.arange(shape[0]) // 3, bags)
        yield row.skip(second="indices have no gradient")
    yield Row(bag_of_each_index, np.array([0, 2, 2, 7]), 7)
    yield Row(bag_of_each_index, np.array([0]), 3)
    yield Row(bag_of_each_index, np.array([0]), 0)
    yield Row(bag_of_each_index, np.array([], "int64"), 0)


def assignment():
    for indices in ([1, 4], [2], []):
        row = Row(assign_rows, floats(5, 3), np.array(indices, "int64"), floats(len(indices), 3))
        yield row.skip(**IN_PLACE)


ROWS = [*rows(), *bags(), *assignment()]
