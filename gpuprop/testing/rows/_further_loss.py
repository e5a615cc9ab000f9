"""Rows of losses beyond PyTorch's."""

from __future__ import annotations

from typing import Any

import gpuprop.functional as F
from gpuprop.testing.rows import Row, floats, integers

INCREMENTS = "products with increments of the Jaccard loss that are 0"
REDUCTIONS = ("none", "mean", "sum")


def probabilities(*shape: int) -> Any:
    return floats(*shape, low=0.1, high=0.9)


def sum_if_empty(shape: tuple[int, ...]) -> dict[str, str]:
    """The sum for an empty shape, whose mean is NaN; otherwise the default reduction."""
    return {"reduction": "sum"} if 0 in shape else {}


def of_elements():
    for shape in ((4, 5), (), (1,), (0, 3)):
        for alpha, gamma in ((0.25, 2), (-1.0, 1.5), (0.6, 0)):
            yield Row(F.sigmoid_focal_loss, floats(*shape), integers(2, *shape), alpha, gamma)
            yield Row(F.sigmoid_focal_loss, floats(*shape), probabilities(*shape), alpha, gamma)
    for reduction in REDUCTIONS:
        yield Row(F.sigmoid_focal_loss, floats(4, 5), integers(2, 4, 5), reduction=reduction)


def of_regions():
    for shape in ((3, 4, 5), (2, 4), (1, 1), (0, 3)):
        options = sum_if_empty(shape)
        for target in (integers(2, *shape), probabilities(*shape)):
            yield Row(F.dice_loss, probabilities(*shape), target, **options)
            yield Row(F.tversky_loss, probabilities(*shape), target, 0.3, 0.7, **options)
        row = Row(F.lovasz_hinge_loss, floats(*shape), integers(2, *shape), **options)
        yield row.skip(hidden=INCREMENTS)
    for reduction in REDUCTIONS:
        for op in (F.dice_loss, F.tversky_loss, F.lovasz_hinge_loss):
            row = Row(op, probabilities(3, 4), integers(2, 3, 4), reduction=reduction)
            yield row.skip(hidden=INCREMENTS) if op is F.lovasz_hinge_loss else row
    for shape in ((3, 4, 5), (6, 2), (1, 1)):
        labels = integers(shape[1], shape[0], *shape[2:])
        yield Row(F.lovasz_softmax_loss, probabilities(*shape), labels).skip(hidden=INCREMENTS)


def of_embeddings():
    for op in (F.info_nce_loss, F.nt_xent_loss):
        for shape in ((4, 5), (2, 3), (1, 1), (0, 3)):
            yield Row(op, floats(*shape), floats(*shape), 0.5, **sum_if_empty(shape))
        for reduction in REDUCTIONS:
            yield Row(op, floats(3, 4), floats(3, 4), reduction=reduction)
    for op in (F.arcface_logits, F.cosface_logits):
        for n, width, classes in ((4, 5, 3), (2, 3, 1), (1, 1, 1), (0, 3, 2)):
            yield Row(op, floats(n, width), floats(classes, width), integers(classes, n), 1.0)


ROWS = [*of_elements(), *of_regions(), *of_embeddings()]
