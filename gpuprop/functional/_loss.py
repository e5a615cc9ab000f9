"""Losses: one number for every element or sample, then the mean of them or what else `reduction` says."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop._array.activation import log_softmax, relu
from gpuprop._array.arithmetic import minimum, where
from gpuprop._array.reduction import cumsum
from gpuprop._array.scatter import put_along_axis
from gpuprop._core.composed import composed
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.pointwise import pointwise_op
from gpuprop._core.signature import Array
from gpuprop._core.tensor import asnumpy
from gpuprop.functional._activation import log1p_exp, logsigmoid
from gpuprop.functional._distance import cosine_similarity, pairwise_distance


@op(precision="full")
def reduced(xp, loss: Array, total: Array = None, reduction: str = "mean"):
    """The losses as they are ("none"), their "sum", or the "mean", which is the sum over `total`, or else their number.

    The mean of nothing is NaN, as in PyTorch.
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction is 'none', 'mean' or 'sum', not {reduction!r}")
    if reduction == "none":
        return loss, (lambda d: d, lambda d: xp.zeros_like(total))
    shape, whole = loss.shape, loss.sum()
    if reduction == "sum":
        return whole, (lambda d: xp.broadcast_to(d, shape), lambda d: xp.zeros_like(total))
    n = math.prod(shape) or math.nan if total is None else total + (total == 0)  # so that a NaN has no gradient
    mean = whole / (n if total is None else xp.where(total == 0, math.nan, total))
    return mean, (lambda d: xp.broadcast_to(d / n, shape), lambda d: -d * mean / n)


# ---- of numbers -----------------------------------------------------------------------------------------------------


def fitting(loss: str, input: Any, other: Any, name: str = "target") -> Any:
    """`other`, of the shape of `input`, in a dtype that does not widen it."""
    if input.shape != other.shape:
        raise ValueError(f"{loss}: input {input.shape} and {name} {other.shape} must have the same shape")
    return in_dtype(loss, input, other, name)


def in_dtype(loss: str, input: Any, other: Any, name: str = "target") -> Any:
    """`other` in a dtype that does not widen `input`."""
    if other.dtype.kind in "iub":
        return other.astype(input.dtype)
    if other.dtype == "float64" != input.dtype:
        own = input.dtype.name
        raise TypeError(f"{loss}: input is {own} and {name} float64: use {name}.astype({own!r})")
    return other


def negated(body: Callable) -> Callable:
    """The gradient of `target`, where that of `input` is `body`: of a function of their difference."""

    @functools.wraps(body)
    def minus(xp: Any, *arrays: Any, **constants: Any) -> Any:
        return -body(xp, *arrays, **constants)

    return minus


@pointwise_op(precision="full")
def squared_error(xp, input: Array, target: Array):
    """``(input - target)**2``."""
    d = input - target
    return d * d


@squared_error.backward
def squared_error_backward(xp, input, target, dy):
    return 2 * dy * (input - target)


@pointwise_op(precision="full")
def absolute_error(xp, input: Array, target: Array):
    """``|input - target|``."""
    return xp.abs(input - target)


@absolute_error.backward
def absolute_error_backward(xp, input, target, dy):
    return dy * xp.sign(input - target)


@pointwise_op(precision="full")
def huber(xp, input: Array, target: Array, delta: float):
    """Half the square of ``d = input - target`` where ``|d| < delta``, and beyond the tangents to it there."""
    d = input - target
    inner = xp.clip(d, -delta, delta)
    return inner * (d - 0.5 * inner)


@huber.backward
def huber_backward(xp, input, target, dy, delta):
    return dy * xp.clip(input - target, -delta, delta)


squared_error.backward(negated(squared_error_backward))
absolute_error.backward(negated(absolute_error_backward))
huber.backward(negated(huber_backward))


@composed(full=True)
def mse_loss(input: Array, target: Array, reduction: str = "mean", weight: Array = None) -> Array:
    """``(input - target)**2``, times `weight`, whose sum then divides the mean."""
    return weighted("mse_loss", squared_error, input, target, reduction, weight)


@composed(full=True)
def l1_loss(input: Array, target: Array, reduction: str = "mean", weight: Array = None) -> Array:
    """``|input - target|``, times `weight`, whose sum then divides the mean."""
    return weighted("l1_loss", absolute_error, input, target, reduction, weight)


def weighted(name: str, error: Callable, input: Any, target: Any, reduction: str, weight: Any) -> Any:
    """The reduced `error`, the mean being that of a distribution."""
    loss = error(input, fitting(name, input, target))
    if weight is None:
        return reduced(loss, None, reduction)
    weight = fitting(name, loss, weight, "weight")
    return reduced(loss * weight, weight.sum(), reduction)


@composed(full=True)
def huber_loss(input: Array, target: Array, reduction: str = "mean", delta: float = 1.0, weight: Array = None) -> Array:
    """Half the square of ``input - target`` up to `delta`, linear beyond, times `weight`.  P. J. Huber, 1964."""
    if delta <= 0:
        raise ValueError(f"huber_loss: delta must be above 0, not {delta}")
    loss = huber(input, fitting("huber_loss", input, target), delta)
    return reduced(loss if weight is None else loss * fitting("huber_loss", loss, weight, "weight"), None, reduction)


@composed(full=True)
def smooth_l1_loss(input: Array, target: Array, reduction: str = "mean", beta: float = 1.0) -> Array:
    """``huber_loss(delta=beta) / beta``, which goes to `l1_loss` with beta = 0.  R. Girshick, ICCV 2015."""
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta cannot be negative, and is {beta}")
    if beta == 0:
        return l1_loss(input, target, reduction)
    return reduced(huber(input, fitting("smooth_l1_loss", input, target), beta), None, reduction) / beta


@pointwise_op(precision="full")
def gaussian_nll(xp, input: Array, target: Array, var: Array, eps: float):
    """``(log(var) + (input - target)**2 / var) / 2``; `var` counts at least `eps`, though not in its gradient."""
    var, d = xp.maximum(var, eps), input - target
    return 0.5 * (xp.log(var) + d * d / var)


@gaussian_nll.backward
def gaussian_nll_backward(xp, input, target, var, dy, eps):
    return dy * (input - target) / xp.maximum(var, eps)


gaussian_nll.backward(negated(gaussian_nll_backward))


@gaussian_nll.backward
def gaussian_nll_backward_var(xp, input, target, var, dy, eps):
    var, d = xp.maximum(var, eps), input - target
    return 0.5 * dy * (1 - d * d / var) / var


@composed(full=True)
def gaussian_nll_loss(input: Array, target: Array, var: Array, full: bool = False, eps: float = 1e-6,
                      reduction: str = "mean") -> Array:
    """-log of the normal density of `target` about `input`; `var` has its shape, lacks the last axis, or has 1 there.

    `target` broadcasts; `full` adds the constant ``log(2 pi) / 2``.
    """
    if not hasattr(var, "shape"):
        var = namespace(input).full_like(input, var)
    elif var.shape == input.shape[:-1] != input.shape:
        var = var[..., None]
    if var.ndim != input.ndim or any(v not in (1, n) for v, n in zip(var.shape, input.shape, strict=True)):
        raise ValueError(f"gaussian_nll_loss: var {var.shape} does not fit input {input.shape}")
    if np.broadcast_shapes(input.shape, target.shape) != input.shape:
        raise ValueError(f"gaussian_nll_loss: target {target.shape} does not broadcast to input {input.shape}")
    namespace(raw(var)).check(raw(var) >= 0, "gaussian_nll_loss: a variance cannot be negative")
    loss = gaussian_nll(input, in_dtype("gaussian_nll_loss", input, target), var, eps)
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, None, reduction)


@pointwise_op(precision="full")
def poisson_nll(xp, input: Array, target: Array, log_input: bool, full: bool, eps: float):
    """Rate minus `target` times its log, the constant by Stirling's formula if `full`."""
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
def poisson_nll_loss(input: Array, target: Array, log_input: bool = True, full: bool = False, eps: float = 1e-8,
                     reduction: str = "mean") -> Array:
    """-log of Poisson's probability of `target`: `input` is the rate or its log; `full` adds Stirling's constant."""
    target = fitting("poisson_nll_loss", input, target)
    return reduced(poisson_nll(input, target, log_input, full, eps), None, reduction)


# ---- of probabilities -----------------------------------------------------------------------------------------------


def log_probability(xp, p):
    """``log(p)``, at least -100."""
    return xp.maximum(xp.log(xp.maximum(p, 1e-44)), -100)  # log(1e-44) is -101.3, and 1e-44 above 0 in float32 too


def log_complement(xp, p):
    """``log(1 - p)``, at least -100."""
    return xp.where(p < 1, xp.log1p(-p * (p < 1)), -100)


@pointwise_op(precision="full")
def bernoulli_nll(xp, input: Array, target: Array):
    """-log of the probability of `target`, 0 or 1 or between, where that of 1 is `input`; logs are at least -100."""
    return (target - 1) * log_complement(xp, input) - target * log_probability(xp, input)


@bernoulli_nll.backward
def bernoulli_nll_backward(xp, input, target, dy):
    return dy * (input - target) / xp.maximum((1 - input) * input, 1e-12)


@bernoulli_nll.backward
def bernoulli_nll_backward_target(xp, input, target, dy):
    return dy * (log_complement(xp, input) - log_probability(xp, input))


@composed(full=True)
def binary_cross_entropy(input: Array, target: Array, weight: Array = None, reduction: str = "mean") -> Array:
    """``-target * log(input) - (1 - target) * log(1 - input)``, times `weight`; no logarithm is below -100."""
    target, p = fitting("binary_cross_entropy", input, target), raw(input)
    namespace(p).check((p >= 0) & (p <= 1), "binary_cross_entropy: input must lie between 0 and 1")
    loss = bernoulli_nll(input, target)
    if weight is not None:
        loss = loss * in_dtype("binary_cross_entropy", loss, weight, "weight")
    return reduced(loss, None, reduction)


@pointwise_op(precision="full")
def logistic_nll(xp, input: Array, target: Array, pos_weight: Array):
    """`bernoulli_nll` of ``sigmoid(input)``, what is due to ``target = 1`` times `pos_weight`."""
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
def binary_cross_entropy_with_logits(input: Array, target: Array, weight: Array = None, reduction: str = "mean",
                                     pos_weight: Array = None) -> Array:
    """`binary_cross_entropy` of ``sigmoid(input)``, stable; `pos_weight` multiplies what is due to ``target = 1``.

    Both weights broadcast.
    """
    name = "binary_cross_entropy_with_logits"
    pos_weight = 1 if pos_weight is None else in_dtype(name, input, pos_weight, "pos_weight")
    loss = logistic_nll(input, fitting(name, input, target), pos_weight)
    if weight is not None:
        loss = loss * in_dtype(name, loss, weight, "weight")
    return reduced(loss, None, reduction)


@pointwise_op(precision="full")
def relative_entropy(xp, input: Array, target: Array, log_target: bool):
    """``target * (log(target) - input)``, `target` itself given by its log if `log_target`."""
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
def kl_div(input: Array, target: Array, reduction: str = "mean", log_target: bool = False) -> Array:
    """Relative entropy of `target`, probabilities (or their logs if `log_target`), to `input`, log-probabilities.

    "mean" divides by the number of elements; "batchmean", the divergence, by the length of the first axis.
    """
    loss = relative_entropy(input, fitting("kl_div", input, target), log_target)
    if reduction != "batchmean":
        return reduced(loss, None, reduction)
    return reduced(loss, None, "sum") / (len(input) if input.ndim else 1)


# ---- of classes -----------------------------------------------------------------------------------------------------


@op(precision="full")
def labelled_nll(xp, input: Array, target: Array, weight: Array = None, ignore_index: int = -100,
                 reduction: str = "mean", label_smoothing: float = 0.0):
    """``-input`` at the label times its class's weight: (N, C, ...) log-probabilities, (N, ...) labels, (C,) weights.

    The mean is over the weights of the labels.  Smoothing gives its part of a sample's weight to all classes alike.
    """
    axis = class_axis(input)
    classes, along = input.shape[axis], (*(slice(None),) * axis, None)  # puts the axis of classes back
    counts, label, own = labels(xp, input, target, weight, ignore_index)
    picked = xp.take_along_axis(input, label[along], axis=axis).reshape(label.shape)
    losses = -own * xp.where(counts, picked, 0)
    if label_smoothing:
        every = 1 if weight is None else on_device_of(weight.astype(input.dtype), input)
        rest = (input * every).sum(axis=axis) * counts
        losses = (1 - label_smoothing) * losses - label_smoothing / classes * rest
    loss, (spread, _) = reduced.fn(xp, losses, own.sum(), reduction)

    def pullback(d):
        d = spread(d)
        dx = put_along_axis.on(xp, ((label_smoothing - 1) * own * d)[along], label[along], axis=axis, n=classes)
        if label_smoothing:
            dx = dx - (counts * d * (label_smoothing / classes))[along] * every
        return dx, None, None

    return loss, pullback


@op(precision="full")
def labelled_cross_entropy(xp, input: Array, target: Array, weight: Array = None, ignore_index: int = -100,
                           reduction: str = "mean", label_smoothing: float = 0.0):
    """`labelled_nll` of ``log_softmax(input)``."""
    log_p, (to_input,) = log_softmax.fn(xp, input, class_axis(input))
    loss, to_log_p = labelled_nll.fn(xp, log_p, target, weight, ignore_index, reduction, label_smoothing)
    return loss, lambda d: (to_input(to_log_p(d)[0]), None, None)


@labelled_cross_entropy.faster
def softmax_minus_one(xp, input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """The gradient of (N, C) logits in one pass: the softmax, less 1 at the label."""
    if input.ndim != 2 or label_smoothing:
        return labelled_cross_entropy.fn(xp, input, target, weight, ignore_index, reduction, label_smoothing)
    counts, label, own = labels(xp, input, target, weight, ignore_index)
    z, place = input - input.max(axis=1, keepdims=True), (xp.arange(len(label)), label)
    picked = z[place]
    p = xp.exp(z, out=z)
    total = p.sum(axis=1)
    losses = own * xp.where(counts, xp.log(total) - picked, 0)
    loss, (spread, _) = reduced.fn(xp, losses, own.sum(), reduction)

    def pullback(d):
        d = spread(d) * own
        dx = p * (d / total)[:, None]
        dx[place] -= d
        return dx, None, None

    return loss, pullback


def labels(xp, input, target, weight, ignore_index):
    """Which samples count, their labels (0 for the others), and the weight of each, 0 for the others."""
    counts, classes = target != ignore_index, input.shape[class_axis(input)]
    label = target * counts
    xp.check((label >= 0) & (label < classes), f"labels of {classes} classes are 0 to {classes - 1}, "
                                                 f"or {ignore_index} where ignored: another was found")
    return counts, label, (counts if weight is None else weight[label] * counts).astype(input.dtype)


def class_axis(input: Any) -> int:
    """Where the classes are: (N, C, ...), or (C,) for one sample."""
    return min(input.ndim - 1, 1)


def on_device_of(weight: Any, input: Any) -> Any:
    """(C,) weights of classes, so that they broadcast with `input`."""
    return weight.reshape(-1, *(1,) * (input.ndim - class_axis(input) - 1))


def nll_loss(input: Array, target: Array, weight: Array = None, ignore_index: int = -100,
             reduction: str = "mean") -> Array:
    """``-input`` at the label times its class's weight: (N, C, ...) or (C,) log-probabilities, (N, ...) or () labels.

    Labels equal to `ignore_index` count nothing; the mean is over the weights of the others.  A label out of range is
    an IndexError, on a device when a value is read next.
    """
    check_labels("nll_loss", input, target, weight)
    return labelled_nll(input, target, weight, ignore_index, reduction)


def cross_entropy(input: Array, target: Array, weight: Array = None, ignore_index: int = -100, reduction: str = "mean",
                  label_smoothing: float = 0.0) -> Array:
    """`nll_loss` of ``log_softmax(input)``: (N, C, ...) or (C,) logits, and (N, ...) or () labels.

    `label_smoothing` mixes the target with the uniform distribution.  In the shape of `input` the target is one of
    probabilities: the mean is then over the samples, and nothing is ignored.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing lies between 0 and 1, and is {label_smoothing}")
    if target.shape != input.shape:
        check_labels("cross_entropy", input, target, weight)
        return labelled_cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
    if target.dtype.kind in "iub" or ignore_index >= 0:
        raise TypeError(f"cross_entropy: target has the shape of input, {input.shape}, so it is one of probabilities: "
                        f"they cannot be {target.dtype.name}, nor ignored by ignore_index={ignore_index}")
    return probable_cross_entropy(input, target, weight, reduction, label_smoothing)


@composed(full=True)
def probable_cross_entropy(input: Any, target: Any, weight: Any, reduction: str, label_smoothing: float) -> Any:
    """`cross_entropy` with a target of probabilities."""
    axis = class_axis(input)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / input.shape[axis]
    if weight is not None:
        target = target * on_device_of(in_dtype("cross_entropy", target, weight, "weight"), input)
    return reduced(-(log_softmax(input, axis) * target).sum(axis=axis), None, reduction)


def check_labels(loss: str, input: Any, target: Any, weight: Any = None) -> None:
    """Labels are integers in the shape of `input` without its classes, and weights one a class."""
    axis = class_axis(input)
    shape = input.shape[:axis] + input.shape[axis + 1:]
    if input.ndim == 0 or target.shape != shape:
        raise ValueError(f"{loss}: input {input.shape} takes target {shape}, one label a sample, not {target.shape}")
    if target.dtype.kind not in "iu":
        raise TypeError(f"{loss}: target holds labels, and must be integers, not {target.dtype.name}")
    if weight is not None and weight.shape != (input.shape[axis],):
        raise ValueError(f"{loss}: weight is one a class, ({input.shape[axis]},), not {weight.shape}")


@op
def hot(xp, input: Array, num_classes: int):
    """1 where the new last axis counts to the label, 0 elsewhere: (...) integers -> (..., num_classes)."""
    xp.check((input >= 0) & (input < num_classes),
               f"labels of {num_classes} classes are 0 to {num_classes - 1}: another was found")
    return (input[..., None] == xp.arange(num_classes)).astype("int64"), None


def one_hot(input: Array, num_classes: int = -1) -> Array:
    """1 where the new last axis counts to the label, 0 elsewhere: (...) integers -> (..., num_classes), int64.

    By default there are as many classes as the labels need; to find how many, the host waits for the device.
    """
    if input.dtype.kind not in "iu":
        raise TypeError(f"one_hot: labels must be integers, not {input.dtype.name}")
    if num_classes == -1:
        if math.prod(input.shape) == 0:
            raise ValueError("one_hot: no labels to tell the number of classes from: give num_classes")
        num_classes = int(asnumpy(input).max()) + 1
    return hot(input, num_classes)


@composed(full=True)
def multi_margin_loss(input: Array, target: Array, p: int = 1, margin: float = 1.0, weight: Array = None,
                      reduction: str = "mean") -> Array:
    """``max(0, margin - input[label] + input)**p`` summed over the other classes and divided by C: (N, C) or (C,)."""
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: p is 1 or 2, not {p}")
    check_labels("multi_margin_loss", input, target, weight)
    own = one_hot(target, input.shape[-1])
    excess = relu(margin - (input * own).sum(axis=-1, keepdims=True) + input) ** p * (1 - own)
    if weight is not None:
        excess = excess * weight[target][..., None]
    return reduced(excess.sum(axis=-1) / input.shape[-1], None, reduction)


@composed(full=True)
def multilabel_margin_loss(input: Array, target: Array, reduction: str = "mean") -> Array:
    """``max(0, 1 - input[label] + input)`` summed over a sample's labels and its other classes, and divided by C.

    (N, C) or (C,) scores, and as many integers: labels, which end at the first -1.
    """
    if input.shape != target.shape or input.ndim == 0:
        raise ValueError(f"multilabel_margin_loss: input {input.shape} and target {target.shape} must both be (N, C)")
    check_labels("multilabel_margin_loss", input, target[..., 0])
    named = cumsum(target < 0, -1) == 0
    own = one_hot(where(named, target, 0), input.shape[-1]) * named[..., None]  # (N, labels, C)
    others = named[..., None] * (1 - own.max(axis=-2, keepdims=True))
    excess = relu(1 - (own * input[..., None, :]).sum(axis=-1, keepdims=True) + input[..., None, :]) * others
    return reduced(excess.sum(axis=(-1, -2)) / input.shape[-1], None, reduction)


@composed(full=True)
def multilabel_soft_margin_loss(input: Array, target: Array, weight: Array = None, reduction: str = "mean") -> Array:
    """The mean over C classes of `binary_cross_entropy_with_logits`, times `weight`: (N, C) or (C,), and as many."""
    return reduced(binary_cross_entropy_with_logits(input, target, weight, "none").mean(axis=-1), None, reduction)


# ---- of pairs, labelled 1 or -1 -------------------------------------------------------------------------------------


@pointwise_op
def hinge(xp, input: Array):
    """``max(input, 0)``, but with gradient 1 at 0, as PyTorch's losses have."""
    return xp.maximum(input, 0)


@hinge.backward
def hinge_backward(xp, input, dy):
    return dy * (input >= 0)


@composed(full=True)
def soft_margin_loss(input: Array, target: Array, reduction: str = "mean") -> Array:
    """``log(1 + exp(-target * input))``."""
    return reduced(-logsigmoid(fitting("soft_margin_loss", input, target) * input), None, reduction)


@composed(full=True)
def hinge_embedding_loss(input: Array, target: Array, margin: float = 1.0, reduction: str = "mean") -> Array:
    """The distance `input` where `target` is 1, and what it lacks of `margin` where it is -1."""
    target = fitting("hinge_embedding_loss", input, target)
    return reduced(input * (target != -1) + hinge(margin - input) * (target != 1), None, reduction)


@composed(full=True)
def cosine_embedding_loss(input1: Array, input2: Array, target: Array, margin: float = 0.0,
                          reduction: str = "mean") -> Array:
    """1 less the cosine where `target` is 1, and its excess over `margin` where it is -1: (N, D), (N, D), (N,)."""
    if input1.shape != input2.shape or target.shape != input1.shape[:-1]:
        raise ValueError(f"cosine_embedding_loss: inputs {input1.shape} and {input2.shape} must have one shape, "
                         f"and target that without the last axis, not {target.shape}")
    cosine = cosine_similarity(input1, input2, -1)
    return reduced((1 - cosine) * (target == 1) + hinge(cosine - margin) * (target == -1), None, reduction)


@composed(full=True)
def margin_ranking_loss(input1: Array, input2: Array, target: Array, margin: float = 0.0,
                        reduction: str = "mean") -> Array:
    """What ``input1 - input2`` lacks of `margin` where `target` is 1, and ``input2 - input1`` where it is -1."""
    difference = input1 - fitting("margin_ranking_loss", input1, input2, "input2")
    return reduced(hinge(margin - fitting("margin_ranking_loss", input1, target) * difference), None, reduction)


@composed(full=True)
def triplet_margin_with_distance_loss(anchor: Array, positive: Array, negative: Array, *,
                                      distance_function: Callable | None = None, margin: float = 1.0,
                                      swap: bool = False, reduction: str = "mean") -> Array:
    """What the negative's distance from the anchor lacks of the positive's plus `margin`.

    With `swap` the negative's distance from the positive counts where that is smaller.
    """
    if margin <= 0:
        raise ValueError(f"triplet_margin_loss: margin must be above 0, not {margin}")
    distance = distance_function or pairwise_distance
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = minimum(far, distance(positive, negative))
    return reduced(hinge(margin + near - far), None, reduction)


def triplet_margin_loss(anchor: Array, positive: Array, negative: Array, margin: float = 1.0, p: float = 2.0,
                        eps: float = 1e-6, swap: bool = False, reduction: str = "mean") -> Array:
    """`triplet_margin_with_distance_loss` of the `p`-norm.  V. Balntas et al., BMVC 2016."""
    distance = lambda a, b: pairwise_distance(a, b, p, eps)
    return triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=distance, margin=margin, swap=swap, reduction=reduction)
