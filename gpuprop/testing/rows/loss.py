"""Rows of losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import gpuprop.functional as F
from gpuprop.functional import _loss as L
from gpuprop.testing.rows import Row, floats, integers, pointwise

REDUCTIONS = ("none", "mean", "sum")
SHAPES = ((4, 5), (), (1,), (0, 3))
probabilities = lambda *shape: floats(*shape, low=0.1, high=0.9)
wide = lambda *shape: floats(*shape, low=-9, high=9)
rates = lambda *shape: floats(*shape, low=0.5, high=4)
signs = lambda *shape: np.asarray(2 * integers(2, *shape) - 1)
shares = lambda classes: integers(5, classes, low=1)  # weights of classes, which carry no gradient
some = lambda shape: {"reduction": "sum"} if 0 in shape else {}  # the mean of nothing is NaN


def of_numbers() -> Iterator[Row]:
    """Losses of an input and a target of one shape."""
    kinds: list[tuple[Callable, Callable, Callable, dict[str, Any]]] = [
        (F.mse_loss, floats, floats, {}), (F.l1_loss, floats, floats, {}), (F.smooth_l1_loss, floats, floats, {}),
        (F.smooth_l1_loss, floats, floats, {"beta": 0.25}), (F.smooth_l1_loss, floats, floats, {"beta": 0.0}),
        (F.huber_loss, floats, floats, {}), (F.huber_loss, floats, floats, {"delta": 0.5}),
        (F.binary_cross_entropy, probabilities, probabilities, {}),
        (F.binary_cross_entropy_with_logits, floats, probabilities, {}), (F.kl_div, floats, probabilities, {}),
        (F.kl_div, floats, floats, {"log_target": True}), (F.poisson_nll_loss, floats, probabilities, {}),
        (F.poisson_nll_loss, probabilities, rates, {"log_input": False, "full": True}),
        (F.soft_margin_loss, floats, signs, {}), (F.hinge_embedding_loss, floats, signs, {}),
        (F.hinge_embedding_loss, floats, signs, {"margin": 0.5}),
    ]
    for op, input, target, options in kinds:
        yield from (Row(op, input(*shape), target(*shape), **options, **some(shape)) for shape in SHAPES)
        yield from (Row(op, input(4, 5), target(4, 5), reduction=r, **options) for r in REDUCTIONS)
    for op in (F.mse_loss, F.l1_loss, F.huber_loss):
        yield from (Row(op, floats(4, 5), floats(4, 5), reduction=r, weight=probabilities(4, 5)) for r in REDUCTIONS)
    for weight, positive in ((floats(5), None), (None, floats(5)), (floats(4, 1), floats(4, 5))):
        yield Row(F.binary_cross_entropy_with_logits, wide(4, 5), probabilities(4, 5), weight, pos_weight=positive)
    yield Row(F.binary_cross_entropy, probabilities(4, 5), integers(2, 4, 5), weight=floats(5))
    yield from (Row(F.kl_div, floats(*shape), probabilities(*shape), "batchmean") for shape in ((4, 5), (), (1,)))
    yield from (Row(F.gaussian_nll_loss, floats(4, 5), floats(4, 5), probabilities(*shape), True, reduction=r)
                for shape in ((4, 5), (4,), (4, 1)) for r in REDUCTIONS)
    yield from (Row(F.gaussian_nll_loss, floats(*shape), floats(*shape), 0.5, **some(shape)) for shape in SHAPES)


def smoothed_cross_entropy(*args: Any, **kwargs: Any) -> Any:
    """`cross_entropy` with label smoothing."""
    return F.cross_entropy(*args, label_smoothing=0.25, **kwargs)


def of_classes() -> Iterator[Row]:
    """Losses of scores of classes, and their labels."""
    for shape in ((6, 5), (5,), (2, 3, 4), (2, 3, 2, 2), (1, 1), (0, 3)):
        axis = L.class_axis(floats(*shape))
        classes, samples = shape[axis], shape[:axis] + shape[axis + 1:]
        label = integers(classes, *samples)
        for r in ("none", "sum") if 0 in shape else REDUCTIONS:
            for weight in (None, shares(classes)):
                yield Row(F.nll_loss, floats(*shape), label, weight, reduction=r)
                for smoothing in (0.0, 0.25):
                    yield Row(F.cross_entropy, wide(*shape), label, weight, -100, r, smoothing)
                    soft = Row(F.cross_entropy, floats(*shape), probabilities(*shape), weight, -100, r, smoothing)
                    yield soft if len(shape) > 1 else soft.skip(layouts="of one repeated number the gradient is 0")
    ignored, spatial = np.array([1, -100, 0, 4, -100, 2]), np.array([[0, 7, 1], [7, 2, 7]])
    for op in (F.nll_loss, F.cross_entropy, smoothed_cross_entropy, L.cross_entropy_from_indices):
        yield from (Row(op, floats(6, 5), ignored, *weight, reduction=r)
                    for weight in ((), (shares(5),)) for r in REDUCTIONS)
        yield from (Row(op, floats(2, 3, 3), spatial, None, 7, r) for r in REDUCTIONS)
        yield from (Row(op, floats(*shape), integers(shape[1], shape[0]), **some(shape)) for shape in ((1, 1), (0, 3)))
    yield from (Row(F.one_hot, integers(5, *shape), 5) for shape in ((3, 4), (), (1,), (0, 2)))
    yield from (Row(L.encode_one_hot, integers(5, *shape), 6) for shape in ((3, 4), (), (1,), (0, 2)))
    for shape in ((4, 5), (5,), (1, 1), (0, 3)):
        label, weight = integers(shape[-1], *shape[:-1]), probabilities(shape[-1])
        yield Row(F.multi_margin_loss, floats(*shape), label, **some(shape))
        yield Row(F.multi_margin_loss, floats(*shape), label, 2, 0.5, weight, "sum")


def of_several_labels() -> Iterator[Row]:
    """Losses of samples with any number of labels."""
    for shape in ((4, 5), (5,), (1, 1), (0, 3)):
        yield Row(F.multilabel_soft_margin_loss, floats(*shape), integers(2, *shape), **some(shape))
        weight = probabilities(shape[-1])
        yield Row(F.multilabel_soft_margin_loss, floats(*shape), probabilities(*shape), weight, "none")
        yield Row(F.multilabel_margin_loss, floats(*shape), integers(shape[-1], *shape, low=-1), **some(shape))
        yield Row(F.multilabel_margin_loss, floats(*shape), integers(shape[-1], *shape), "none")


def of_pairs() -> Iterator[Row]:
    """Losses of pairs and triplets."""
    for shape in SHAPES:
        yield Row(F.margin_ranking_loss, floats(*shape), floats(*shape), signs(*shape), 0.25, **some(shape))
    for shape in ((4, 5), (5,), (1, 1), (0, 3)):
        triplet = [floats(*shape) for _ in range(3)]
        yield Row(F.cosine_embedding_loss, *triplet[:2], signs(*shape[:-1]), -0.5, **some(shape))
        yield Row(F.triplet_margin_loss, *triplet, **some(shape))
        yield Row(F.triplet_margin_loss, *triplet, 2.0, 3.0, 1e-3, True, "none")
        yield Row(F.triplet_margin_with_distance_loss, *triplet, swap=True, reduction="sum")


ROWS = [
    *(row for op in (L.squared_error, L.absolute_error) for row in pointwise(op, 2)),
    *(Row(L.huber_error, floats(*shape), floats(*shape), 0.5) for shape in SHAPES),
    *(Row(L.relative_entropy, floats(*shape), probabilities(*shape), log) for shape in SHAPES for log in (False, True)),
    *(Row(L.bernoulli_nll, probabilities(*shape), probabilities(*shape)) for shape in SHAPES),
    *(Row(L.logistic_nll, wide(*shape), probabilities(*shape), rates(*shape)) for shape in SHAPES),
    *(Row(L.gaussian_nll, floats(*shape), floats(*shape), probabilities(*shape), 1e-6) for shape in SHAPES),
    *(Row(L.poisson_nll, probabilities(*shape), rates(*shape), log, True, 1e-8)
      for shape in SHAPES for log in (False, True)),
    *pointwise(L.hinge),
    *(Row(L.reduce_loss, floats(*shape), reduction=r) for shape in ((4, 5), (), (1,)) for r in REDUCTIONS),
    *(Row(L.reduce_loss, floats(0, 3), reduction=r) for r in ("none", "sum")),
    *(Row(L.reduce_loss, floats(4, 5), probabilities(), reduction=r) for r in REDUCTIONS),
    *of_numbers(),
    *of_classes(),
    *of_several_labels(),
    *of_pairs(),
]
