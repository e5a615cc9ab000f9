"""Rows of losses of sequences and of large vocabularies."""

from __future__ import annotations

import numpy as np

import gpuprop.functional as F
from gpuprop.functional._ctc import aligned_nll
from gpuprop.functional._linear_cross_entropy import losses_of_rows
from gpuprop.testing.rows import Row, floats, integers

TO_LOGITS = "the gradient is by the logits that log_probs come from"
READS = "the host reads the lengths of targets that are joined"

small = lambda *shape: floats(*shape, low=-0.5, high=0.5)  # of equal rows the gradient is 0, and has the terms' error
counts = lambda *values: np.array(values, "int64")


def log_probs(*shape):
    x = floats(*shape)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def ctc_of_scores(scores, *args):
    """Whose gradient is what `ctc_loss` says it is."""
    return F.ctc_loss(F.log_softmax(scores, -1), *args)


ALIGNED = [
    *(Row(aligned_nll, log_probs(*shape), integers(3, shape[1], size), counts(*steps), counts(*sizes), blank)
      for shape, size, steps, sizes, blank in (
          ((5, 3, 4), 2, (5, 4, 5), (2, 1, 0), 3), ((1, 1, 1), 0, (1,), (0,), 0), ((1, 1, 3), 1, (1,), (1,), 0),
          ((4, 0, 3), 2, (), (), 1), ((0, 2, 3), 0, (0, 0), (0, 0), 0))),
    Row(aligned_nll, log_probs(3, 2, 3), np.array([[1, 1, 1], [1, 2, 2]]), counts(3, 0), counts(3, 1),
        zero_infinity=True),
    *(Row(F.ctc_loss, log_probs(5, 2, 4), integers(3, 2, 2), counts(5, 4), counts(2, 1), 3, reduction)
      for reduction in ("mean", "sum", "none")),
    Row(F.ctc_loss, log_probs(4, 0, 3), integers(3, 0, 2), counts(), counts(), reduction="sum"),
    Row(F.ctc_loss, log_probs(1, 1, 2), integers(2, 1, 1), counts(1), counts(1), blank=1, zero_infinity=True),
    Row(F.ctc_loss, log_probs(4, 3), counts(1, 1), np.array(4), np.array(2), reduction="none"),
    Row(F.ctc_loss, log_probs(5, 2, 4), counts(1, 1, 2), (5, 4), (2, 1)).but(capture=READS),
]
CLASS_WEIGHTS = integers(5, 3, low=1)  # they carry no gradient
VARIANTS: tuple[tuple, ...] = (  # bias, weight, ignore_index, label_smoothing
    (None, None, -100, 0.0), (None, None, 1, 0.3), (small(3), CLASS_WEIGHTS, 2, 0.0),
    (small(3), CLASS_WEIGHTS, -100, 0.2))

ROWS = [
    *(row.but(gradient=TO_LOGITS) for row in ALIGNED),
    *(Row(ctc_of_scores, floats(6, 2, 4), np.array([[1, 1], [3, 2]]), counts(6, 4), counts(2, sizes), 0, reduction)
      for reduction in ("mean", "none") for sizes in (2, 0)),
    Row(ctc_of_scores, floats(4, 0, 3), integers(3, 0, 2), counts(), counts(), 0, "sum"),
    Row(ctc_of_scores, floats(1, 1, 2), integers(2, 1, 1), counts(1), counts(1), 1),
    *(Row(losses_of_rows, small(n, 2), small(3, 2), bias, integers(3, n), *options)
      for n in (4, 1, 0) for bias, *options in VARIANTS),
    Row(losses_of_rows, small(2, 3), small(3 * 4, 3), small(3 * 4), integers(3, 2, 2, 2), CLASS_WEIGHTS, 0, 0.1),
    *(Row(F.linear_cross_entropy, small(4, 2), small(3, 2), integers(3, 4), linear_bias=bias, weight=weight,
          reduction=reduction, ignore_index=ignored, label_smoothing=smoothing)
      for reduction in ("mean", "sum", "none") for bias, weight, ignored, smoothing in VARIANTS),
    Row(F.linear_cross_entropy, small(2, 3), small(4, 2, 3), integers(4, 2, 2)),
    Row(F.linear_cross_entropy, small(3), small(4, 3), np.array(2), reduction="none"),
    Row(F.linear_cross_entropy, small(0, 3), small(4, 3), integers(4, 0), reduction="sum"),
    Row(F.linear_cross_entropy, small(2, 3), small(4, 3), floats(2, 4, low=0.1, high=0.9)),
]
