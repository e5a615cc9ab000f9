"""Losses: one value per element or sample, which `reduction` reduces to their mean or sum."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from gpuprop._array.activation import relu
from gpuprop._array.arithmetic import minimum, where
from gpuprop._array.reduction import cumsum
from gpuprop._core.composed import checks_arguments, composed
from gpuprop._core.dtypes import check_floating
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.pointwise import pointwise_op
from gpuprop._core.signature import Array
from gpuprop.functional._activation import log1p_exp, logsigmoid
from gpuprop.functional._checks import broadcasts_to
from gpuprop.functional._cross_entropy import check_labels, encode_one_hot
from gpuprop.functional._distance import cosine_similarity, pairwise_distance
from gpuprop.functional._loss_common import match_dtype, match_shape_and_dtype, reduce_loss

# ---- regression ---------------------------------------------------------------------------------


def negated(body: Callable) -> Callable:
    """Minus `body`: the gradient of `target`, for a loss that is a function of input - target."""

    @functools.wraps(body)
    def minus(xp: Any, *arrays: Any, **constants: Any) -> Any:
        return -body(xp, *arrays, **constants)

    return minus


@pointwise_op(precision="full", promote=True, name="mse_loss")
def squared_error(xp, input: Array, target: Array):
    """``(input - target)**2``."""
    d = input - target
    return d * d


@squared_error.backward
def squared_error_backward(xp, input, target, dy):
    return 2 * dy * (input - target)


@pointwise_op(precision="full", promote=True, name="l1_loss")
def absolute_error(xp, input: Array, target: Array):
    """``|input - target|``."""
    return xp.abs(input - target)


@absolute_error.backward
def absolute_error_backward(xp, input, target, dy):
    return dy * xp.sign(input - target)


@pointwise_op(precision="full", promote=True, name="huber_loss")
def huber_error(xp, input: Array, target: Array, delta: float):
    """``d**2 / 2 if |d| < delta else delta * (|d| - delta / 2)``, where d is input - target."""
    d = input - target
    clipped = xp.clip(d, -delta, delta)
    return clipped * (d - 0.5 * clipped)


@huber_error.backward
def huber_error_backward(xp, input, target, dy, delta):
    return dy * xp.clip(input - target, -delta, delta)


squared_error.backward(negated(squared_error_backward))
absolute_error.backward(negated(absolute_error_backward))
huber_error.backward(negated(huber_error_backward))


@composed(full=True)
def mse_loss(input: Array, target: Array, reduction: str = "mean", weight: Array = None) -> Array:
    """Mean squared error: ``y = weight * (input - target)**2``.

    All arrays have the same shape; otherwise ValueError is raised.  `reduction` is "mean", "sum" or
    "none".  If `weight` is given, "mean" divides by the sum of `weight`.

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> F.mse_loss(gp.tensor([1.0, 2.0]), gp.tensor([1.0, 4.0])).item()
    2.0
    """
    return weighted_loss("mse_loss", squared_error, input, target, reduction, weight)


@composed(full=True)
def l1_loss(input: Array, target: Array, reduction: str = "mean", weight: Array = None) -> Array:
    """Mean absolute error: ``y = weight * |input - target|``.

    All arrays have the same shape; otherwise ValueError is raised.  `reduction` is "mean", "sum" or
    "none".  If `weight` is given, "mean" divides by the sum of `weight`.
    """
    return weighted_loss("l1_loss", absolute_error, input, target, reduction, weight)


def weighted_loss(name: str, error: Callable, input: Any, target: Any, reduction: str,
                  weight: Any) -> Any:
    """The reduced `error(input, target)`; with `weight`, "mean" is the weighted average."""
    loss = error(input, match_shape_and_dtype(name, input, target))
    if weight is None:
        return reduce_loss(loss, None, reduction)
    weight = match_shape_and_dtype(name, loss, weight, "weight")
    return reduce_loss(loss * weight, weight.sum(), reduction)


@composed(full=True)
def huber_loss(input: Array, target: Array, reduction: str = "mean", delta: float = 1.0,
               weight: Array = None) -> Array:
    """Huber loss: half the squared error up to `delta`, linear beyond.

    ``y = weight * (d**2 / 2 if |d| < delta else delta * (|d| - delta / 2))``, where
    ``d = input - target``.  All arrays have the same shape.  `reduction` is "mean", "sum" or
    "none"; "mean" divides by the number of elements, also if `weight` is given.  Raises ValueError
    if shapes differ or `delta` is not positive.  P. J. Huber, 1964.
    """
    if delta <= 0:
        raise ValueError(f"huber_loss: delta must be positive, got {delta}")
    loss = huber_error(input, match_shape_and_dtype("huber_loss", input, target), delta)
    if weight is not None:
        loss = loss * match_shape_and_dtype("huber_loss", loss, weight, "weight")
    return reduce_loss(loss, None, reduction)


@composed(full=True)
def smooth_l1_loss(input: Array, target: Array, reduction: str = "mean",
                   beta: float = 1.0) -> Array:
    """Smooth L1 loss: ``y = huber_loss(input, target, delta=beta) / beta``.

    It equals `l1_loss` for ``beta=0``.  `input` and `target` have the same shape.  `reduction` is
    "mean", "sum" or "none".  Raises ValueError if shapes differ or `beta` is negative.
    R. Girshick, ICCV 2015.
    """
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    if beta == 0:
        return l1_loss(input, target, reduction)
    loss = huber_error(input, match_shape_and_dtype("smooth_l1_loss", input, target), beta)
    return reduce_loss(loss, None, reduction) / beta


@pointwise_op(precision="full", promote=True, name="gaussian_nll_loss")
def gaussian_nll(xp, input: Array, target: Array, var: Array, eps: float):
    """``(log(var) + (input - target)**2 / var) / 2``; `var` is at least `eps`.

    The gradient ignores that `var` is clamped.
    """
    var = xp.maximum(var, eps)
    d = input - target
    return 0.5 * (xp.log(var) + d * d / var)


@gaussian_nll.backward
def gaussian_nll_backward(xp, input, target, var, dy, eps):
    return dy * (input - target) / xp.maximum(var, eps)


gaussian_nll.backward(negated(gaussian_nll_backward))


@gaussian_nll.backward
def gaussian_nll_backward_var(xp, input, target, var, dy, eps):
    var = xp.maximum(var, eps)
    d = input - target
    return 0.5 * dy * (1 - d * d / var) / var


@composed(full=True)
def gaussian_nll_loss(input: Array, target: Array, var: Array, full: bool = False,
                      eps: float = 1e-6, reduction: str = "mean") -> Array:
    """Negative log-likelihood of a normal distribution with mean `input` and variance `var`.

    ``y = (log(var) + (input - target)**2 / var) / 2``, plus ``log(2 pi) / 2`` with `full`.  `var`
    is clamped to at least `eps`.  It is a number or has the shape of `input`, perhaps with size 1
    along some axes or without the last axis.  `target` broadcasts to `input`.  `reduction` is
    "mean", "sum" or "none".  Raises ValueError for other shapes, and IndexError if a variance is
    negative (on a device, when a value is next read).
    """
    check_floating("gaussian_nll_loss", input)
    if not hasattr(var, "shape"):
        var = namespace(input).full_like(input, var)
    elif var.shape == input.shape[:-1] != input.shape:
        var = var[..., None]
    if var.ndim != input.ndim or not broadcasts_to(var.shape, input.shape):
        raise ValueError(f"gaussian_nll_loss: var {var.shape} must have the shape of input "
                         f"{input.shape}, or size 1 along some of its axes, or lack its last axis")
    if not broadcasts_to(target.shape, input.shape):
        raise ValueError(f"gaussian_nll_loss: target {target.shape} does not broadcast to input "
                         f"{input.shape}")
    namespace(raw(var)).check(raw(var) >= 0, "gaussian_nll_loss: var must not be negative")
    loss = gaussian_nll(input, match_dtype("gaussian_nll_loss", input, target), var, eps)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduce_loss(loss, None, reduction)


@pointwise_op(precision="full", promote=True, name="poisson_nll_loss")
def poisson_nll(xp, input: Array, target: Array, log_input: bool, full: bool, eps: float):
    """``rate - target * log(rate)``; `full` adds Stirling's approximation of ``log(target!)``."""
    loss = xp.exp(input) - target * input if log_input else input - target * xp.log(input + eps)
    if full:
        n = xp.maximum(target, 1)
        loss = loss + (n * xp.log(n) - n + 0.5 * xp.log(2 * math.pi * n)) * (target > 1)
    return loss


@poisson_nll.backward
def poisson_nll_backward(xp, input, target, dy, log_input, full, eps):
    return dy * (xp.exp(input) - target if log_input else 1 - target / (input + eps))


@poisson_nll.backward
def poisson_nll_backward_target(xp, input, target, dy, log_input, full, eps):
    slope = -input if log_input else -xp.log(input + eps)
    if full:
        n = xp.maximum(target, 1)
        slope = slope + (xp.log(n) + 0.5 / n) * (target > 1)
    return dy * slope


@composed(full=True)
def poisson_nll_loss(input: Array, target: Array, log_input: bool = True, full: bool = False,
                     eps: float = 1e-8, reduction: str = "mean") -> Array:
    """Negative log-likelihood of a Poisson distribution: ``y = exp(input) - target * input``.

    `input` is the logarithm of the rate.  With ``log_input=False`` it is the rate itself, and
    ``y = input - target * log(input + eps)``.  With `full`, Stirling's approximation of
    ``log(target!)`` is added where ``target > 1``:
    ``target * log(target) - target + log(2 pi target) / 2``.  `input` and `target` have the same
    shape; otherwise ValueError is raised.  `reduction` is "mean", "sum" or "none".
    """
    target = match_shape_and_dtype("poisson_nll_loss", input, target)
    return reduce_loss(poisson_nll(input, target, log_input, full, eps), None, reduction)


# ---- probabilities -----------------------------------------------------------------------------


def clamped_log(xp, p):
    """``log(p)``, at least -100."""
    return xp.maximum(xp.log(xp.maximum(p, 1e-44)), -100)  # 1e-44 > 0 in float32; its log is -101


def clamped_log_complement(xp, p):
    """``log(1 - p)``, at least -100."""
    return xp.where(p < 1, xp.log1p(-p * (p < 1)), -100)


@pointwise_op(precision="full", promote=True, name="binary_cross_entropy")
def bernoulli_nll(xp, input: Array, target: Array):
    """``-target * log(input) - (1 - target) * log(1 - input)``, with logs of at least -100."""
    return (target - 1) * clamped_log_complement(xp, input) - target * clamped_log(xp, input)


@bernoulli_nll.backward
def bernoulli_nll_backward(xp, input, target, dy):
    return dy * (input - target) / xp.maximum((1 - input) * input, 1e-12)


@bernoulli_nll.backward
def bernoulli_nll_backward_target(xp, input, target, dy):
    return dy * (clamped_log_complement(xp, input) - clamped_log(xp, input))


@composed(full=True)
def binary_cross_entropy(input: Array, target: Array, weight: Array = None,
                         reduction: str = "mean") -> Array:
    """Binary cross entropy of probabilities.

    ``y = -weight * (target * log(input) + (1 - target) * log(1 - input))``.  `input` holds
    probabilities; logarithms are at least -100.  `target` has the shape of `input`, and `weight`
    broadcasts to it.  `reduction` is "mean", "sum" or "none".  Raises ValueError if shapes differ,
    and IndexError if `input` is not between 0 and 1 (on a device, when a value is next read).
    """
    target = match_shape_and_dtype("binary_cross_entropy", input, target)
    p = raw(input)
    namespace(p).check((p >= 0) & (p <= 1), "binary_cross_entropy: input must be between 0 and 1")
    loss = bernoulli_nll(input, target)
    if weight is not None:
        loss = loss * match_dtype("binary_cross_entropy", loss, weight, "weight")
    return reduce_loss(loss, None, reduction)


@pointwise_op(precision="full", promote=True, name="binary_cross_entropy_with_logits")
def logistic_nll(xp, input: Array, target: Array, pos_weight: Array):
    """`bernoulli_nll` of ``sigmoid(input)``, with `pos_weight` on the term of ``target = 1``."""
    return (1 - target) * input + ((pos_weight - 1) * target + 1) * log1p_exp(xp, -input)


@logistic_nll.backward
def logistic_nll_backward(xp, input, target, pos_weight, dy):
    return dy * (xp.sigmoid(input) * ((pos_weight - 1) * target + 1) - pos_weight * target)


@logistic_nll.backward
def logistic_nll_backward_target(xp, input, target, pos_weight, dy):
    return dy * ((pos_weight - 1) * log1p_exp(xp, -input) - input)


@logistic_nll.backward
def logistic_nll_backward_pos_weight(xp, input, target, pos_weight, dy):
    return dy * target * log1p_exp(xp, -input)


@composed(full=True)
def binary_cross_entropy_with_logits(input: Array, target: Array, weight: Array = None,
                                     reduction: str = "mean", pos_weight: Array = None) -> Array:
    """Binary cross entropy of ``p = sigmoid(input)``, without overflow.

    ``y = -weight * (pos_weight * target * log(p) + (1 - target) * log(1 - p))``.  `target` has the
    shape of `input`; otherwise ValueError is raised.  `weight` and `pos_weight` broadcast to it.
    `reduction` is "mean", "sum" or "none".

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> logits, target = gp.tensor([0.0, 100.0]), gp.tensor([1.0, 0.0])
    >>> F.binary_cross_entropy_with_logits(logits, target, reduction="none").numpy()
    array([  0.6931472, 100.       ], dtype=float32)
    """
    name = "binary_cross_entropy_with_logits"
    pos_weight = 1 if pos_weight is None else match_dtype(name, input, pos_weight, "pos_weight")
    loss = logistic_nll(input, match_shape_and_dtype(name, input, target), pos_weight)
    if weight is not None:
        loss = loss * match_dtype(name, loss, weight, "weight")
    return reduce_loss(loss, None, reduction)


@pointwise_op(precision="full", promote=True, name="kl_div")
def relative_entropy(xp, input: Array, target: Array, log_target: bool):
    """``target * (log(target) - input)``; with `log_target`, `target` holds logarithms."""
    if log_target:
        return xp.exp(target) * (target - input)
    return target * (xp.log(xp.where(target == 0, 1, target)) - input)


@relative_entropy.backward
def relative_entropy_backward(xp, input, target, dy, log_target):
    return -dy * (xp.exp(target) if log_target else target)


@relative_entropy.backward
def relative_entropy_backward_target(xp, input, target, dy, log_target):
    if log_target:
        return dy * xp.exp(target) * (target - input + 1)
    return dy * (xp.log(xp.where(target == 0, 1, target)) - input + 1)


@composed(full=True)
def kl_div(input: Array, target: Array, reduction: str = "mean",
           log_target: bool = False) -> Array:
    """Kullback-Leibler divergence: ``y = target * (log(target) - input)``.

    `input` holds log-probabilities and `target` probabilities, or log-probabilities with
    `log_target`.  They have the same shape; otherwise ValueError is raised.  `reduction` is "mean"
    (over all elements), "batchmean" (the sum divided by the size of the first axis: the mean
    divergence of the samples), "sum" or "none".
    """
    if reduction not in ("none", "mean", "batchmean", "sum"):
        raise ValueError(f"kl_div: reduction must be 'none', 'mean', 'batchmean' or 'sum', got "
                         f"{reduction!r}")
    loss = relative_entropy(input, match_shape_and_dtype("kl_div", input, target), log_target)
    if reduction != "batchmean":
        return reduce_loss(loss, None, reduction)
    return reduce_loss(loss, None, "sum") / (len(input) if input.ndim else 1)


# ---- margins -----------------------------------------------------------------------------------


@composed(full=True)
def multi_margin_loss(input: Array, target: Array, p: int = 1, margin: float = 1.0,
                      weight: Array = None, reduction: str = "mean") -> Array:
    """Multi-class hinge loss, a sum over the classes j other than the label.

    ``y = sum_j weight[target] * max(0, margin - input[target] + input[j])**p / C``

    `input` is (N, C) or (C,), or () for one class, `target` holds labels (N,) or (), and `weight`
    is (C,).  For one sample `target` may also be (1,), as is then the result.  `p` is 1 or 2.
    `reduction` is "mean", "sum" or "none".  Raises ValueError for other shapes or `p`, TypeError if
    labels are not integers, and IndexError if one is out of range (on a device, when a value is
    next read).
    """
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: p must be 1 or 2, got {p}")
    if input.ndim == 0:
        input = input[None]
    if input.ndim == 1 and target.shape == (1,):  # a batch of one
        input = input[None]
    check_labels("multi_margin_loss", input, target, weight)
    classes = input.shape[-1]
    is_label = encode_one_hot(target, classes, "multi_margin_loss") == 1
    at_label = where(is_label, input, 0).sum(axis=-1, keepdims=True)
    excess = where(is_label, 0, relu(margin - at_label + input) ** p)
    if weight is not None:
        excess = excess * weight[target][..., None]
    return reduce_loss(excess.sum(axis=-1) / classes, None, reduction)


@composed(full=True)
def multilabel_margin_loss(input: Array, target: Array, reduction: str = "mean") -> Array:
    """Multi-label hinge loss, a sum over the labels i of a sample and all other classes j.

    ``y = sum_ij max(0, 1 - input[i] + input[j]) / C``

    `input` and `target` are (N, C) or (C,), or () for one class.  The labels of a sample are the
    elements of `target` before the first negative one, usually -1.  `reduction` is "mean", "sum" or
    "none".  Raises ValueError for other shapes, TypeError if labels are not integers, and
    IndexError if one is out of range (on a device, when a value is next read).
    """
    name = "multilabel_margin_loss"
    if {input.shape, target.shape} <= {(), (1,)}:
        input, target = input.reshape(1), target.reshape(1)
    if input.shape != target.shape:
        raise ValueError(f"{name}: input {input.shape} and target {target.shape} must both have "
                         f"shape (N, C) or (C,)")
    check_labels(name, input, target[..., 0])
    classes = input.shape[-1]
    is_given = cumsum(target < 0, -1) == 0  # before the first -1
    is_given = is_given[..., None]
    is_label = is_given & (encode_one_hot(where(is_given[..., 0], target, 0), classes, name) == 1)
    is_other = is_given & ~is_label.any(axis=-2, keepdims=True)
    scores = input[..., None, :]
    at_label = where(is_label, scores, 0).sum(axis=-1, keepdims=True)
    excess = where(is_other, relu(1 - at_label + scores), 0)  # (N, labels, C)
    return reduce_loss(excess.sum(axis=(-1, -2)) / classes, None, reduction)


@composed(full=True)
def multilabel_soft_margin_loss(input: Array, target: Array, weight: Array = None,
                                reduction: str = "mean") -> Array:
    """`binary_cross_entropy_with_logits`, averaged over the classes: (N, C) -> (N,), or (C,) -> ().

    `target` has the shape of `input`; otherwise ValueError is raised.  `weight` broadcasts to it.
    `reduction` is "mean", "sum" or "none".
    """
    losses = binary_cross_entropy_with_logits(input, target, weight, "none")
    return reduce_loss(losses.mean(axis=-1), None, reduction)


# ---- pairs, whose target is 1 or -1 ------------------------------------------------------------


@pointwise_op
def hinge(xp, input: Array):
    """``max(input, 0)``, with gradient 1 at 0, as in PyTorch's losses."""
    return xp.maximum(input, 0)


@hinge.backward
def hinge_backward(xp, input, dy):
    return xp.where(input >= 0, dy, 0)


@composed(full=True)
def soft_margin_loss(input: Array, target: Array, reduction: str = "mean") -> Array:
    """Logistic loss of labels 1 and -1: ``y = log(1 + exp(-target * input))``.

    `input` and `target` have the same shape; otherwise ValueError is raised.  `reduction` is
    "mean", "sum" or "none".
    """
    target = match_shape_and_dtype("soft_margin_loss", input, target)
    return reduce_loss(-logsigmoid(target * input), None, reduction)


@composed(full=True)
def hinge_embedding_loss(input: Array, target: Array, margin: float = 1.0,
                         reduction: str = "mean") -> Array:
    """Hinge loss of distances: ``y = input if target == 1 else max(0, margin - input)``.

    `target` holds 1 (similar) and -1 (dissimilar) in the shape of `input`; otherwise ValueError is
    raised.  `reduction` is "mean", "sum" or "none".
    """
    target = match_shape_and_dtype("hinge_embedding_loss", input, target)
    loss = where(target == -1, 0, input) + where(target == 1, 0, hinge(margin - input))
    return reduce_loss(loss, None, reduction)


@composed(full=True)
def cosine_embedding_loss(input1: Array, input2: Array, target: Array, margin: float = 0.0,
                          reduction: str = "mean") -> Array:
    """Loss of cosine similarities: ``y = 1 - cos if target == 1 else max(0, cos - margin)``.

    cos is ``cosine_similarity(input1, input2)``.  (N, D), (N, D), (N,) -> (N,), or (D,), (D,), ()
    -> ().  `target` holds 1 and -1.  `reduction` is "mean", "sum" or "none".  Raises ValueError for
    other shapes.
    """
    if input1.shape != input2.shape or target.shape != input1.shape[:-1]:
        raise ValueError(f"cosine_embedding_loss: input1 {input1.shape} and input2 {input2.shape} "
                         f"must have the same shape, and target this shape without the last axis, "
                         f"got {target.shape}")
    cosine = cosine_similarity(input1, input2, -1)
    similar = where(target == 1, 1 - cosine, 0)
    loss = similar + where(target == -1, hinge(cosine - margin), 0)
    return reduce_loss(loss, None, reduction)


@composed(full=True)
def margin_ranking_loss(input1: Array, input2: Array, target: Array, margin: float = 0.0,
                        reduction: str = "mean") -> Array:
    """Ranking loss: ``y = max(0, margin - target * (input1 - input2))``.

    `target` is 1 where `input1` should be larger, and -1 where `input2` should.  All arrays have
    the same shape; otherwise ValueError is raised.  `reduction` is "mean", "sum" or "none".
    """
    name = "margin_ranking_loss"
    difference = input1 - match_shape_and_dtype(name, input1, input2, "input2")
    target = match_shape_and_dtype(name, difference, target)
    return reduce_loss(hinge(margin - target * difference), None, reduction)


@composed(full=True)
def triplet_margin_with_distance_loss(
        anchor: Array, positive: Array, negative: Array, *,
        distance_function: Callable | None = None, margin: float = 1.0, swap: bool = False,
        reduction: str = "mean") -> Array:
    """Triplet loss: ``y = max(0, margin + d(anchor, positive) - d(anchor, negative))``.

    d is `distance_function`, by default `pairwise_distance`: (N, D), (N, D) -> (N,).  With `swap`,
    ``d(positive, negative)`` replaces ``d(anchor, negative)`` where it is smaller.  `reduction` is
    "mean", "sum" or "none".  Raises ValueError if `margin` is not positive.
    V. Balntas et al., BMVC 2016.
    """
    if margin <= 0:
        raise ValueError(f"triplet_margin_loss: margin must be positive, got {margin}")
    distance = distance_function or pairwise_distance
    to_positive = distance(anchor, positive)
    to_negative = distance(anchor, negative)
    if swap:
        to_negative = minimum(to_negative, distance(positive, negative))
    return reduce_loss(hinge(margin + to_positive - to_negative), None, reduction)


@checks_arguments
def triplet_margin_loss(anchor: Array, positive: Array, negative: Array, margin: float = 1.0,
                        p: float = 2.0, eps: float = 1e-6, swap: bool = False,
                        reduction: str = "mean") -> Array:
    """Triplet loss: ``y = max(0, margin + d(anchor, positive) - d(anchor, negative))``.

    ``d(a, b) = pairwise_distance(a, b, p, eps)``: (N, D), (N, D) -> (N,).  With `swap`,
    ``d(positive, negative)`` replaces ``d(anchor, negative)`` where it is smaller.  `reduction` is
    "mean", "sum" or "none".  Raises ValueError if `margin` is not positive.
    V. Balntas et al., BMVC 2016.
    """
    distance = lambda a, b: pairwise_distance(a, b, p, eps)
    return triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=distance, margin=margin, swap=swap,
        reduction=reduction)
