"""Rows of the CTC loss and of the linear cross entropy for large vocabularies."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpuprop.functional as F
from gpuprop.functional._ctc import ctc_nll
from gpuprop.functional._linear_cross_entropy import linear_cross_entropy_per_sample
from gpuprop.testing.rows import Row, floats, integers

OF_LOGITS = "by definition that of the logits from which log_probs are computed"
READS_LENGTHS = "the host reads the lengths of concatenated targets"


def small(*shape: int) -> np.ndarray:
    """Small floats: for nearly equal rows the gradient is a difference of nearly equal terms."""
    return floats(*shape, low=-0.5, high=0.5)


def lengths(*values: int) -> np.ndarray:
    return np.array(values, "int64")


def log_probs(*shape: int) -> np.ndarray:
    x = floats(*shape)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def ctc_of_logits(logits: Any, *args: Any) -> Any:
    """The CTC loss as a function of logits: the gradient of `ctc_loss` is correct for these."""
    return F.ctc_loss(F.log_softmax(logits, -1), *args)


def ctc_of_log_probs():
    for shape, target_length, input_lengths, target_lengths, blank in (
        ((5, 3, 4), 2, (5, 4, 5), (2, 1, 0), 3),
        ((1, 1, 1), 0, (1,), (0,), 0),
        ((1, 1, 3), 1, (1,), (1,), 0),
        ((4, 0, 3), 2, (), (), 1),
        ((0, 2, 3), 0, (0, 0), (0, 0), 0),
    ):
        yield Row(ctc_nll, log_probs(*shape), integers(3, shape[1], target_length),
                  lengths(*input_lengths), lengths(*target_lengths), blank)
    targets = np.array([[1, 1, 1], [1, 2, 2]])
    yield Row(ctc_nll, log_probs(3, 2, 3), targets, lengths(3, 0), lengths(3, 1),
              zero_infinity=True)
    for reduction in ("mean", "sum", "none"):
        yield Row(F.ctc_loss, log_probs(5, 2, 4), integers(3, 2, 2), lengths(5, 4), lengths(2, 1),
                  3, reduction)
    yield Row(F.ctc_loss, log_probs(4, 0, 3), integers(3, 0, 2), lengths(), lengths(),
              reduction="sum")
    yield Row(F.ctc_loss, log_probs(1, 1, 2), integers(2, 1, 1), lengths(1), lengths(1), blank=1,
              zero_infinity=True)
    yield Row(F.ctc_loss, log_probs(4, 3), lengths(1, 1), np.array(4), np.array(2),
              reduction="none")
    concatenated = Row(F.ctc_loss, log_probs(5, 2, 4), lengths(1, 1, 2), (5, 4), (2, 1))
    yield concatenated.skip(capture=READS_LENGTHS)


def ctc_gradients():
    targets = np.array([[1, 1], [3, 2]])
    for reduction in ("mean", "none"):
        for target_length in (2, 0):
            yield Row(ctc_of_logits, floats(6, 2, 4), targets, lengths(6, 4),
                      lengths(2, target_length), 0, reduction)
    yield Row(ctc_of_logits, floats(4, 0, 3), integers(3, 0, 2), lengths(), lengths(), 0, "sum")
    yield Row(ctc_of_logits, floats(1, 1, 2), integers(2, 1, 1), lengths(1), lengths(1), 1)


ROWS = [row.skip(gradient=OF_LOGITS) for row in ctc_of_log_probs()]

CLASS_WEIGHTS = integers(5, 3, low=1)  # integers, since weights of classes have no gradient
VARIANTS: tuple[tuple[Any, ...], ...] = (  # bias, weight, ignore_index, label_smoothing
    (None, None, -100, 0.0),
    (None, None, 1, 0.3),
    (small(3), CLASS_WEIGHTS, 2, 0.0),
    (small(3), CLASS_WEIGHTS, -100, 0.2),
)


def linear_cross_entropy():
    for n in (4, 1, 0):
        for bias, *options in VARIANTS:
            yield Row(linear_cross_entropy_per_sample, small(n, 2), small(3, 2), bias,
                      integers(3, n), *options)
    yield Row(linear_cross_entropy_per_sample, small(2, 3), small(3 * 4, 3), small(3 * 4),
              integers(3, 2, 2, 2), CLASS_WEIGHTS, 0, 0.1)
    for reduction in ("mean", "sum", "none"):
        for bias, weight, ignore_index, label_smoothing in VARIANTS:
            yield Row(F.linear_cross_entropy, small(4, 2), small(3, 2), integers(3, 4),
                      linear_bias=bias, weight=weight, reduction=reduction,
                      ignore_index=ignore_index, label_smoothing=label_smoothing)
    yield Row(F.linear_cross_entropy, small(2, 3), small(4, 2, 3), integers(4, 2, 2))
    yield Row(F.linear_cross_entropy, small(3), small(4, 3), np.array(2), reduction="none")
    yield Row(F.linear_cross_entropy, small(0, 3), small(4, 3), integers(4, 0), reduction="sum")
    yield Row(F.linear_cross_entropy, small(2, 3), small(4, 3), floats(2, 4, low=0.1, high=0.9))


ROWS += [*ctc_gradients(), *linear_cross_entropy()]
