"""The cross entropy of a linear layer's outputs, which never exist all at once."""

from __future__ import annotations

import math
from typing import Any

from gpuprop._array.indexing import take
from gpuprop._core.composed import composed
from gpuprop._core.dtypes import compute_dtype, widened
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.signature import Array
from gpuprop.functional._checks import check_dtypes
from gpuprop.functional._linear import linear
from gpuprop.functional._loss import (
    check_labels,
    cross_entropy,
    labelled_cross_entropy,
    labels,
    reduced,
)

CLASSES = 1024  # at least, whose logits exist at a time: with fewer, products lose speed


@op(precision="full")
def losses_of_rows(xp, input: Array, linear_weight: Array, linear_bias: Array, target: Array, weight: Array,
                   ignore_index, label_smoothing):
    """`cross_entropy` of ``linear(input, linear_weight, linear_bias)``, not reduced.

    (N, F), (C * K, F), (C * K,), labels (N, ...) with K in place of the dots, and class weights (C,) -> (N, ...).
    """
    check_dtypes("linear_cross_entropy", input, linear_weight, linear_bias)
    logits, backs = linear.fn(xp, input, linear_weight, linear_bias)
    by_class = logits.reshape(logits_shape(input, linear_weight, target))
    losses, back = labelled_cross_entropy.fn(xp, by_class, target, weight, ignore_index, "none", label_smoothing)

    def pullback(d):
        dy = back(d)[0].reshape(logits.shape)
        return *(f(dy) for f in backs), None, None

    return losses, pullback


def logits_shape(input, linear_weight, target):
    rest = target.shape[1:]
    return len(input), len(linear_weight) // (math.prod(rest) or 1), *rest


@losses_of_rows.faster
def some_classes_at_a_time(xp, input, linear_weight, linear_bias, target, weight, ignore_index, label_smoothing):
    """As many as there are features, so that logits take no more memory than the input; once more for the gradient."""
    check_dtypes("linear_cross_entropy", input, linear_weight, linear_bias)
    n, classes, *rest = shape = logits_shape(input, linear_weight, target)
    inner = math.prod(rest)
    step = max(input.shape[1], CLASSES) // (inner or 1) or 1
    counts, label, own = labels(xp, xp.broadcast_to(xp.zeros((), input.dtype), shape), target, weight, ignore_index)
    every = None if weight is None else weight.astype(input.dtype).reshape(-1, *(1,) * len(rest))
    smooth = label_smoothing / classes * counts.astype(input.dtype)
    mass = (1 - label_smoothing) * own + smooth * (classes if weight is None else every.sum())  # of the softmax
    own = own * (1 - label_smoothing)

    def parts():
        """Where the classes of a part begin and end, their rows of the weight, logits, and who has a label there."""
        for i in range(0, classes, step):
            j = min(i + step, classes)
            rows = slice(i * inner, j * inner)
            logits = xp.matmul(input, linear_weight[rows].T)
            if linear_bias is not None:
                logits += linear_bias[rows]
            here = (label >= i) & (label < j)
            yield slice(i, j), rows, logits.reshape(n, j - i, *rest), here, xp.where(here, label - i, 0)[:, None]

    top, total = xp.full(target.shape, -math.inf, input.dtype), xp.zeros(target.shape, input.dtype)
    losses = xp.zeros(target.shape, input.dtype)
    for own_classes, _, logits, here, place in parts():
        losses -= own * xp.where(here & counts, xp.take_along_axis(logits, place, axis=1)[:, 0], 0)
        if label_smoothing:
            losses -= smooth * (logits if weight is None else logits * every[own_classes]).sum(axis=1)
        higher = xp.maximum(top, logits.max(axis=1))
        shift = xp.where(higher == -math.inf, 0, higher)
        logits -= shift[:, None]
        total = total * xp.exp(top - shift) + xp.exp(logits, out=logits).sum(axis=1)
        top = higher
    norm = xp.log(total) + top
    losses += xp.where(counts, mass * norm, 0)

    def pullback(d):
        dx, dw = xp.zeros_like(input), xp.empty(linear_weight.shape, input.dtype)
        db = None if linear_bias is None else xp.empty(linear_bias.shape, input.dtype)
        for own_classes, rows, logits, here, place in parts():
            logits -= norm[:, None]
            dy = xp.exp(logits, out=logits)
            dy *= (d * mass)[:, None]
            if label_smoothing:
                dy -= (d * smooth)[:, None] * (1 if weight is None else every[own_classes])
            less = xp.where(here, d * own, 0)[:, None]
            xp.put_along_axis(dy, place, xp.take_along_axis(dy, place, axis=1) - less, 1)
            dy = dy.reshape(n, len(linear_weight[rows]))
            dx += xp.matmul(dy, linear_weight[rows])
            dw[rows] = xp.matmul(dy.T, input)
            if db is not None:
                db[rows] = dy.sum(axis=0)
        return dx, dw, db, None, None

    return losses, pullback


@composed
def linear_cross_entropy(input: Array, linear_weight: Array, target: Array, *, linear_bias: Array = None,
                         weight: Array = None, reduction: str = "mean", ignore_index: int | None = None,
                         label_smoothing: float = 0.0, options: Any = None) -> Array:
    """`cross_entropy` of ``linear(input, linear_weight, linear_bias)``: (N, F) or (F,), (C, F), labels (N,) or ().

    The logits of labels exist for some classes at a time only, so a large vocabulary takes little memory.  With
    `linear_weight` (C, ..., F) and `linear_bias` (C, ...) the target is (N, ...).  A target in the shape of the logits
    is one of probabilities, and nothing is ignored then.  `options`, of PyTorch's chunks, are accepted and ignored.
    """
    check_linear(input, linear_weight, linear_bias)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"linear_cross_entropy: label_smoothing lies between 0 and 1, and is {label_smoothing}")
    *lead, features = input.shape
    classes, *rest = linear_weight.shape[:-1]
    flat = math.prod(rest) * classes
    rows, bias = linear_weight.reshape(flat, features), None if linear_bias is None else linear_bias.reshape(flat)
    shape = (*lead, classes, *rest)
    if target.shape == shape:
        if ignore_index is not None:
            raise ValueError(f"linear_cross_entropy: target has the shape of the logits, {shape}, so it is one of "
                             f"probabilities, of which ignore_index={ignore_index} cannot ignore any")
        logits = linear(input, rows, bias).reshape(shape)
        return cross_entropy(logits, target, weight, reduction=reduction, label_smoothing=label_smoothing)
    xp = namespace(input)
    check_labels("linear_cross_entropy", xp.broadcast_to(xp.zeros(()), shape), target, weight)
    if not lead:
        input, target = input[None], target[None]
    ignore_index = -100 if ignore_index is None else ignore_index
    losses = losses_of_rows(input, rows, bias, target, weight, ignore_index, label_smoothing)
    counts = target != ignore_index
    total = counts if weight is None else take(weight.detach(), target * counts) * counts
    dtype = losses.dtype
    losses = reduced(widened(losses), total.astype(compute_dtype(dtype)).sum(), reduction).astype(dtype)
    return losses[0] if losses.ndim and not lead else losses


def check_linear(input: Any, linear_weight: Any, linear_bias: Any) -> None:
    """What `linear_cross_entropy` takes together."""
    what = "linear_cross_entropy"
    if input.ndim not in (1, 2) or linear_weight.ndim < 2 or input.shape[-1] != linear_weight.shape[-1]:
        raise ValueError(f"{what}: input is (N, F) or (F,) and linear_weight (C, F) or (C, ..., F), "
                         f"not {input.shape} and {linear_weight.shape}")
    if linear_weight.ndim > 2 and input.ndim == 1:
        raise ValueError(f"{what}: with linear_weight {linear_weight.shape} input is (N, F), not {input.shape}")
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        raise ValueError(f"{what}: linear_bias has the shape of linear_weight without its last axis, "
                         f"{linear_weight.shape[:-1]}, not {linear_bias.shape}")
