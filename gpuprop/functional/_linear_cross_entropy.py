"""Cross entropy of the outputs of a linear layer, computed for some classes at a time."""

from __future__ import annotations

import math
from typing import Any

from gpuprop._array.activation import log_softmax
from gpuprop._array.indexing import take
from gpuprop._core.composed import composed
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.signature import Array
from gpuprop.functional._checks import check_dtypes
from gpuprop.functional._cross_entropy import (
    check_labels,
    class_axis,
    counted_labels,
    cross_entropy,
    smoothed_nll,
)
from gpuprop.functional._linear import linear
from gpuprop.functional._loss_common import reduce_loss

NAME = "linear_cross_entropy"
MIN_CLASSES = 1024  # per chunk: products of fewer classes are slower


@op(precision="full", name=NAME)
def linear_cross_entropy_per_sample(xp, input: Array, linear_weight: Array,
                                    linear_bias: Array | None, target: Array,
                                    weight: Array | None, ignore_index: int,
                                    label_smoothing: float):
    """`cross_entropy` of ``linear(input, linear_weight, linear_bias)``, not reduced.

    (N, F), (C * K, F), (C * K,), labels (N, ...), class weights (C,) -> (N, ...).  K is the product
    of the sizes "...".
    """
    check_dtypes(NAME, input, linear_weight, linear_bias)
    logits, to_linear = linear.fn(xp, input, linear_weight, linear_bias)
    by_class = logits.reshape(logits_shape(input, linear_weight, target))
    log_p, (to_by_class,) = log_softmax.fn(xp, by_class, class_axis(by_class))
    losses, to_log_p = smoothed_nll(xp, NAME, log_p, target, weight, ignore_index, "none",
                                    label_smoothing)

    def pullback(d):
        dy = to_by_class(to_log_p(d)[0]).reshape(logits.shape)
        return *(pull(dy) for pull in to_linear), None, None

    return losses, pullback


def logits_shape(input: Any, linear_weight: Any, target: Any) -> tuple[int, ...]:
    """(N, C, ...), from (N, F), (C * K, F) and (N, ...)."""
    rest = target.shape[1:]
    classes = len(linear_weight) // (math.prod(rest) or 1)
    return len(input), classes, *rest


@linear_cross_entropy_per_sample.faster
def chunked_linear_cross_entropy(xp, input, linear_weight, linear_bias, target, weight,
                                 ignore_index, label_smoothing):
    """Compute the logits of one chunk of classes at a time, and again for the gradient.

    A chunk has as many classes as there are features, but at least `MIN_CLASSES`, so that the
    logits take no more memory than the input.
    """
    check_dtypes(NAME, input, linear_weight, linear_bias)
    shape = logits_shape(input, linear_weight, target)
    n, classes, *rest = shape
    inner = math.prod(rest)
    step = max(input.shape[1], MIN_CLASSES) // (inner or 1) or 1
    shape_only = xp.broadcast_to(xp.zeros((), input.dtype), shape)
    counted, label, label_weight = counted_labels(
        xp, NAME, shape_only, target, weight, ignore_index)
    if weight is None:
        class_weight, weight_sum = None, classes
    else:
        class_weight = weight.astype(input.dtype).reshape(-1, *(1,) * len(rest))
        weight_sum = class_weight.sum()
    # loss = q_sum * logsumexp - q @ logits, where q is the smoothed target times the class weights
    smooth = label_smoothing / classes * counted.astype(input.dtype)
    q_sum = (1 - label_smoothing) * label_weight + smooth * weight_sum
    label_weight = label_weight * (1 - label_smoothing)

    def chunks():
        """Yield (classes, rows of the weight, logits, is_here, index) for each chunk.

        `is_here` marks the labels in the chunk, and `index` is their index in it, 0 for others.
        """
        for i in range(0, classes, step):
            j = min(i + step, classes)
            rows = slice(i * inner, j * inner)
            logits = xp.matmul(input, linear_weight[rows].T)
            if linear_bias is not None:
                logits += linear_bias[rows]
            is_here = (label >= i) & (label < j)
            index = xp.where(is_here, label - i, 0)[:, None]
            yield slice(i, j), rows, logits.reshape(n, j - i, *rest), is_here, index

    losses = xp.zeros(target.shape, input.dtype)
    top = xp.full(target.shape, -math.inf, input.dtype)  # the largest logit so far
    total = xp.zeros(target.shape, input.dtype)  # the sum of exp(logit - top)
    for chunk, _, logits, is_here, index in chunks():
        at_label = xp.take_along_axis(logits, index, axis=1)[:, 0]
        losses -= label_weight * xp.where(is_here & counted, at_label, 0)
        if label_smoothing:
            weighted = logits if class_weight is None else logits * class_weight[chunk]
            losses -= smooth * weighted.sum(axis=1)
        new_top = xp.maximum(top, logits.max(axis=1))
        shift = xp.where(new_top == -math.inf, 0, new_top)
        logits -= shift[:, None]
        total = total * xp.exp(top - shift) + xp.exp(logits, out=logits).sum(axis=1)
        top = new_top
    logsumexp = xp.log(total) + top
    losses = xp.where(counted, losses + q_sum * logsumexp, 0)

    def pullback(d):
        d = xp.where(counted, d, 0)
        dx = xp.zeros_like(input)
        dw = xp.empty(linear_weight.shape, input.dtype)
        db = None if linear_bias is None else xp.empty(linear_bias.shape, input.dtype)
        for chunk, rows, logits, is_here, index in chunks():
            logits -= logsumexp[:, None]
            dy = xp.exp(logits, out=logits)
            dy *= (d * q_sum)[:, None]
            if label_smoothing:
                dy -= (d * smooth)[:, None] * (1 if class_weight is None else class_weight[chunk])
            at_label = xp.where(is_here, d * label_weight, 0)[:, None]
            xp.put_along_axis(dy, index, xp.take_along_axis(dy, index, axis=1) - at_label, 1)
            dy = dy.reshape(n, len(linear_weight[rows]))
            dx += xp.matmul(dy, linear_weight[rows])
            dw[rows] = xp.matmul(dy.T, input)
            if db is not None:
                db[rows] = dy.sum(axis=0)
        return dx, dw, db, None, None

    return losses, pullback


@composed(full=True)
def linear_cross_entropy(input: Array, linear_weight: Array, target: Array, *,
                         linear_bias: Array = None, weight: Array = None, reduction: str = "mean",
                         ignore_index: int | None = None, label_smoothing: float = 0.0,
                         options: Any = None) -> Array:
    """Cross entropy of a linear layer.

    ``y = cross_entropy(linear(input, linear_weight, linear_bias), target, weight)``

    `input` is (N, F) or (F,), `linear_weight` (C, F), `linear_bias` (C,), the class weights
    `weight` (C,), and `target` holds class indices (N,) or ().  With `linear_weight` (C, ..., F)
    and `linear_bias` (C, ...), `target` is (N, ...).  For class indices the logits are computed for
    some classes at a time, so a large vocabulary takes little memory.  A target in the shape of the
    logits holds class probabilities; `ignore_index` cannot be used with it.

    The other parameters are those of `cross_entropy`; `options`, for PyTorch's chunks, has no
    effect.  Raises ValueError for other shapes, TypeError for other dtypes, and IndexError if a
    label is out of range (on a device, when a value is next read).

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> x, weight, target = gp.ones((2, 3)), gp.ones((10, 3)), gp.tensor([0, 9])
    >>> F.linear_cross_entropy(x, weight, target).item()  # log(10)
    2.3025851249694824
    """
    check_linear(input, linear_weight, linear_bias)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{NAME}: label_smoothing must be between 0 and 1, got {label_smoothing}")
    *batch, features = input.shape
    classes, *rest = linear_weight.shape[:-1]
    outputs = math.prod(rest) * classes
    rows = linear_weight.reshape(outputs, features)
    bias = None if linear_bias is None else linear_bias.reshape(outputs)
    shape = (*batch, classes, *rest)
    if target.shape == shape:
        if ignore_index is not None:
            raise ValueError(f"{NAME}: target has the shape of the logits, {shape}, so it must "
                             f"hold class probabilities, which ignore_index={ignore_index} cannot "
                             f"ignore")
        logits = linear(input, rows, bias).reshape(shape)
        return cross_entropy(
            logits, target, weight, reduction=reduction, label_smoothing=label_smoothing)
    xp = namespace(input)
    check_labels(NAME, xp.broadcast_to(xp.zeros(()), shape), target, weight)
    if not batch:
        input = input[None]
        target = target[None]
    if ignore_index is None:
        ignore_index = -100
    losses = linear_cross_entropy_per_sample(
        input, rows, bias, target, weight, ignore_index, label_smoothing)
    counted = target != ignore_index
    label_weight = counted
    if weight is not None:
        label_weight = take(weight.detach(), target * counted) * counted
    losses = reduce_loss(losses, label_weight.astype(losses.dtype).sum(), reduction)
    return losses[0] if losses.ndim and not batch else losses


def check_linear(input: Any, linear_weight: Any, linear_bias: Any) -> None:
    """Raise ValueError unless the shapes of the linear layer and of its input fit together."""
    if (input.ndim not in (1, 2) or linear_weight.ndim < 2
            or input.shape[-1] != linear_weight.shape[-1]):
        raise ValueError(f"{NAME}: input must be (N, F) or (F,) and linear_weight (C, F) or "
                         f"(C, ..., F), got {input.shape} and {linear_weight.shape}")
    if linear_weight.ndim > 2 and input.ndim == 1:
        raise ValueError(f"{NAME}: input must be (N, F) with linear_weight {linear_weight.shape}, "
                         f"got {input.shape}")
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        raise ValueError(f"{NAME}: linear_bias must have the shape of linear_weight without its "
                         f"last axis, {linear_weight.shape[:-1]}, got {linear_bias.shape}")
