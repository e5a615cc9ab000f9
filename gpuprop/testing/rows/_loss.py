"""Rows of losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import gpuprop.functional as F
from gpuprop.functional import _loss as L
from gpuprop.functional._cross_entropy import class_axis, cross_entropy_from_indices, encode_one_hot
from gpuprop.functional._loss_common import reduce_loss
from gpuprop.testing.rows import Row, floats, integers, pointwise

REDUCTIONS = ("none", "mean", "sum")
SHAPES = ((4, 5), (), (1,), (0, 3))
CLASS_SHAPES = ((4, 5), (5,), (1, 1), (0, 3))  # (N, C) or (C,)


def probabilities(*shape: int) -> np.ndarray:
    return floats(*shape, low=0.1, high=0.9)


def wide(*shape: int) -> np.ndarray:
    return floats(*shape, low=-9, high=9)


def rates(*shape: int) -> np.ndarray:
    return floats(*shape, low=0.5, high=4)


def signs(*shape: int) -> np.ndarray:
    return np.asarray(2 * integers(2, *shape) - 1)


def class_weights(classes: int) -> np.ndarray:
    """Integers, since weights of classes have no gradient."""
    return integers(5, classes, low=1)


def sum_if_empty(shape: tuple[int, ...]) -> dict[str, str]:
    """The sum for an empty shape, whose mean is NaN; otherwise the default reduction."""
    return {"reduction": "sum"} if 0 in shape else {}


ELEMENTWISE: list[tuple[Callable, Callable, Callable, dict[str, Any]]] = [
    # loss, input, target, options
    (F.mse_loss, floats, floats, {}),
    (F.l1_loss, floats, floats, {}),
    (F.smooth_l1_loss, floats, floats, {}),
    (F.smooth_l1_loss, floats, floats, {"beta": 0.25}),
    (F.smooth_l1_loss, floats, floats, {"beta": 0.0}),
    (F.huber_loss, floats, floats, {}),
    (F.huber_loss, floats, floats, {"delta": 0.5}),
    (F.binary_cross_entropy, probabilities, probabilities, {}),
    (F.binary_cross_entropy_with_logits, floats, probabilities, {}),
    (F.kl_div, floats, probabilities, {}),
    (F.kl_div, floats, floats, {"log_target": True}),
    (F.poisson_nll_loss, floats, probabilities, {}),
    (F.poisson_nll_loss, probabilities, rates, {"log_input": False, "full": True}),
    (F.soft_margin_loss, floats, signs, {}),
    (F.hinge_embedding_loss, floats, signs, {}),
    (F.hinge_embedding_loss, floats, signs, {"margin": 0.5}),
]


def elementwise():
    """Losses of an input and a target of the same shape."""
    for op, input, target, options in ELEMENTWISE:
        for shape in SHAPES:
            yield Row(op, input(*shape), target(*shape), **options, **sum_if_empty(shape))
        for reduction in REDUCTIONS:
            yield Row(op, input(4, 5), target(4, 5), reduction=reduction, **options)
    for op in (F.mse_loss, F.l1_loss, F.huber_loss):
        for reduction in REDUCTIONS:
            yield Row(op, floats(4, 5), floats(4, 5), reduction=reduction,
                      weight=probabilities(4, 5))
    for weight, pos_weight in (
        (floats(5), None),
        (None, floats(5)),
        (floats(4, 1), floats(4, 5)),
    ):
        yield Row(F.binary_cross_entropy_with_logits, wide(4, 5), probabilities(4, 5), weight,
                  pos_weight=pos_weight)
    yield Row(F.binary_cross_entropy, probabilities(4, 5), integers(2, 4, 5), weight=floats(5))
    for shape in ((4, 5), (), (1,)):
        yield Row(F.kl_div, floats(*shape), probabilities(*shape), "batchmean")
    for shape in ((4, 5), (4,), (4, 1)):
        for reduction in REDUCTIONS:
            yield Row(F.gaussian_nll_loss, floats(4, 5), floats(4, 5), probabilities(*shape), True,
                      reduction=reduction)
    for shape in SHAPES:
        yield Row(F.gaussian_nll_loss, floats(*shape), floats(*shape), 0.5, **sum_if_empty(shape))


def smoothed_cross_entropy(*args, **kwargs):
    """`cross_entropy` with label smoothing."""
    return F.cross_entropy(*args, label_smoothing=0.25, **kwargs)


def cross_entropy_of_shape(shape):
    axis = class_axis(floats(*shape))
    classes = shape[axis]
    labels = integers(classes, *shape[:axis], *shape[axis + 1:])
    for reduction in ("none", "sum") if 0 in shape else REDUCTIONS:
        for weight in (None, class_weights(classes)):
            yield Row(F.nll_loss, floats(*shape), labels, weight, reduction=reduction)
            for smoothing in (0.0, 0.25):
                arguments = (weight, -100, reduction, smoothing)
                yield Row(F.cross_entropy, wide(*shape), labels, *arguments)
                row = Row(F.cross_entropy, floats(*shape), probabilities(*shape), *arguments)
                if len(shape) == 1:
                    row.skip(layouts="for one repeated number the gradient is 0")
                yield row


def of_classes():
    """Losses of scores of classes, with one class for each sample."""
    for shape in ((6, 5), (5,), (2, 3, 4), (2, 3, 2, 2), (1, 1), (0, 3)):
        yield from cross_entropy_of_shape(shape)
    ignored = np.array([1, -100, 0, 4, -100, 2])
    spatial = np.array([[0, 7, 1], [7, 2, 7]])
    for op in (F.nll_loss, F.cross_entropy, smoothed_cross_entropy, cross_entropy_from_indices):
        for weight in ((), (class_weights(5),)):
            for reduction in REDUCTIONS:
                yield Row(op, floats(6, 5), ignored, *weight, reduction=reduction)
        for reduction in REDUCTIONS:
            yield Row(op, floats(2, 3, 3), spatial, None, 7, reduction)
        for shape in ((1, 1), (0, 3)):
            yield Row(op, floats(*shape), integers(shape[1], shape[0]), **sum_if_empty(shape))
        yield Row(op, floats(0, 0), integers(1, 0), reduction="sum")
    yield Row(F.cross_entropy, floats(0, 0), floats(0, 0), None, -100, "sum", 0.25)
    for shape in ((3, 4), (), (1,), (0, 2)):
        yield Row(F.one_hot, integers(5, *shape), 5)
    for shape in ((3, 4), (), (1,), (0, 2)):
        yield Row(encode_one_hot, integers(5, *shape), 6)
    for shape in CLASS_SHAPES:
        labels = integers(shape[-1], *shape[:-1])
        weight = probabilities(shape[-1])
        yield Row(F.multi_margin_loss, floats(*shape), labels, **sum_if_empty(shape))
        row = Row(F.multi_margin_loss, floats(*shape), labels, 2, 0.5, weight, "sum")
        yield row.skip(hidden="the gradient of the weight is a product with losses that are 0")


def of_several_labels():
    """Losses of scores of classes, with any number of classes for each sample."""
    for shape in CLASS_SHAPES:
        classes = shape[-1]
        options = sum_if_empty(shape)
        yield Row(F.multilabel_soft_margin_loss, floats(*shape), integers(2, *shape), **options)
        weight = probabilities(classes)
        yield Row(F.multilabel_soft_margin_loss, floats(*shape), probabilities(*shape), weight,
                  "none")
        yield Row(F.multilabel_margin_loss, floats(*shape), integers(classes, *shape, low=-1),
                  **options)
        yield Row(F.multilabel_margin_loss, floats(*shape), integers(classes, *shape), "none")


def of_pairs_and_triplets():
    for shape in SHAPES:
        yield Row(F.margin_ranking_loss, floats(*shape), floats(*shape), signs(*shape), 0.25,
                  **sum_if_empty(shape))
    for shape in CLASS_SHAPES:
        triplet = [floats(*shape) for _ in range(3)]
        options = sum_if_empty(shape)
        yield Row(F.cosine_embedding_loss, *triplet[:2], signs(*shape[:-1]), -0.5, **options)
        yield Row(F.triplet_margin_loss, *triplet, **options)
        yield Row(F.triplet_margin_loss, *triplet, 2.0, 3.0, 1e-3, True, "none")
        yield Row(F.triplet_margin_with_distance_loss, *triplet, swap=True, reduction="sum")


def of_ops():
    """Rows of internal ops."""
    for op in (L.squared_error, L.absolute_error):
        yield from pointwise(op, 2)
    for shape in SHAPES:
        yield Row(L.huber_error, floats(*shape), floats(*shape), 0.5)
    for shape in SHAPES:
        for log_target in (False, True):
            yield Row(L.relative_entropy, floats(*shape), probabilities(*shape), log_target)
    for shape in SHAPES:
        yield Row(L.bernoulli_nll, probabilities(*shape), probabilities(*shape))
    for shape in SHAPES:
        yield Row(L.logistic_nll, wide(*shape), probabilities(*shape), rates(*shape))
    for shape in SHAPES:
        yield Row(L.gaussian_nll, floats(*shape), floats(*shape), probabilities(*shape), 1e-6)
    for shape in SHAPES:
        for log_input in (False, True):
            yield Row(L.poisson_nll, probabilities(*shape), rates(*shape), log_input, True, 1e-8)
    yield from pointwise(L.hinge)
    for shape in ((4, 5), (), (1,)):
        for reduction in REDUCTIONS:
            yield Row(reduce_loss, floats(*shape), reduction=reduction)
    for reduction in ("none", "sum"):
        yield Row(reduce_loss, floats(0, 3), reduction=reduction)
    for reduction in REDUCTIONS:
        yield Row(reduce_loss, floats(4, 5), probabilities(), reduction=reduction)


ROWS = [
    *of_ops(),
    *elementwise(),
    *of_classes(),
    *of_several_labels(),
    *of_pairs_and_triplets(),
]
