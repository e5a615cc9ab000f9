"""Cross-entropy, the negative log-likelihood of labels, and one-hot encoding."""

from __future__ import annotations

import math
from typing import Any

from gpuprop._array.activation import log_softmax
from gpuprop._array.scatter import put_along_axis
from gpuprop._core.composed import checks_arguments, composed
from gpuprop._core.dtypes import check_floating
from gpuprop._core.ops import op
from gpuprop._core.signature import Array
from gpuprop._core.tensor import asnumpy
from gpuprop.functional._loss_common import match_dtype, reduce_loss, reduced


def class_axis(input: Any) -> int:
    """The axis of the classes: 1 in (N, C, ...), 0 in (C,) for one sample."""
    return min(input.ndim - 1, 1)


def expand_class_weight(weight: Any, input: Any) -> Any:
    """Class weights (C,) reshaped to broadcast with `input`."""
    return weight.reshape(-1, *(1,) * (input.ndim - class_axis(input) - 1))


def label_message(name: str, classes: int) -> str:
    return f"{name}: label out of range: expected 0 <= label < {classes}"


def counted_labels(xp, name, input, target, weight, ignore_index):
    """The mask of the samples that are not ignored, the labels and the class weights of the labels.

    Labels and weights of ignored samples are 0.
    """
    classes = input.shape[class_axis(input)]
    counted = target != ignore_index
    label = target * counted
    xp.check((label >= 0) & (label < classes),
             f"{label_message(name, classes)} or label == {ignore_index} (ignore_index)", label)
    label_weight = counted if weight is None else weight[label] * counted
    return counted, label, label_weight.astype(input.dtype)


def smoothed_nll(xp, name, log_p, target, weight, ignore_index, reduction, label_smoothing):
    """The output and the pullback of `nll_loss` with label smoothing.

    ``y = -(1 - s) * weight[label] * log_p[label] - s / C * sum_c(weight[c] * log_p[c])``, where s
    is `label_smoothing`.
    """
    axis = class_axis(log_p)
    classes = log_p.shape[axis]
    share = label_smoothing / max(classes, 1)  # of each class
    with_class_axis = (*(slice(None),) * axis, None)  # an index that inserts the class axis
    counted, label, label_weight = counted_labels(xp, name, log_p, target, weight, ignore_index)
    picked = xp.take_along_axis(log_p, label[with_class_axis], axis=axis).reshape(label.shape)
    losses = -label_weight * xp.where(counted, picked, 0)
    if label_smoothing:
        class_weight = 1
        if weight is not None:
            class_weight = expand_class_weight(weight.astype(log_p.dtype), log_p)
        over_classes = xp.where(counted, (log_p * class_weight).sum(axis=axis), 0)
        losses = (1 - label_smoothing) * losses - share * over_classes
    loss, to_each = reduced(xp, losses, label_weight.sum(), reduction)

    def pullback(d):
        d = xp.where(counted, to_each(d), 0)
        at_labels = ((label_smoothing - 1) * label_weight * d)[with_class_axis]
        dx = put_along_axis.on(xp, at_labels, label[with_class_axis], axis=axis, n=classes)
        if label_smoothing:
            uniform_part = d * share
            dx = dx - uniform_part[with_class_axis] * class_weight
        return dx, None, None

    return loss, pullback


@op(precision="full")
def nll_loss(xp, input: Array, target: Array, weight: Array = None, ignore_index: int = -100,
             reduction: str = "mean"):
    """Negative log-likelihood: ``y = -weight[target] * input[target]``.

    `input` holds log-probabilities (N, C, ...) or (C,), and `target` class indices (N, ...) or ().
    `weight` is (C,).  Samples whose label is `ignore_index` have loss 0.  `reduction` is "mean",
    "sum" or "none"; "mean" divides by the sum of the class weights of all other samples.  Raises
    ValueError for other shapes, TypeError if labels are not integers, and IndexError if one is out
    of range (on a device, when a value is next read).
    """
    check_labels("nll_loss", input, target, weight)
    return smoothed_nll(xp, "nll_loss", input, target, weight, ignore_index, reduction, 0.0)


@op(precision="full", name="cross_entropy")
def cross_entropy_from_indices(xp, input: Array, target: Array, weight: Array = None,
                               ignore_index: int = -100, reduction: str = "mean",
                               label_smoothing: float = 0.0):
    """`cross_entropy` with a target of class indices."""
    log_p, (to_input,) = log_softmax.fn(xp, input, class_axis(input))
    loss, to_log_p = smoothed_nll(xp, "cross_entropy", log_p, target, weight, ignore_index,
                                  reduction, label_smoothing)
    return loss, lambda d: (to_input(to_log_p(d)[0]), None, None)


@cross_entropy_from_indices.faster
def fused_cross_entropy(xp, input, target, weight=None, ignore_index=-100, reduction="mean",
                        label_smoothing=0.0):
    """For logits (N, C): the gradient, the softmax minus 1 at the label, in one pass."""
    if input.ndim != 2 or label_smoothing or not input.size:
        return cross_entropy_from_indices.fn(
            xp, input, target, weight, ignore_index, reduction, label_smoothing)
    counted, label, label_weight = counted_labels(
        xp, "cross_entropy", input, target, weight, ignore_index)
    z = input - input.max(axis=1, keepdims=True)
    at_labels = xp.arange(len(label)), label
    picked = z[at_labels]
    p = xp.exp(z, out=z)
    total = p.sum(axis=1)
    losses = xp.where(counted, xp.log(total) - picked, 0)
    scale = None if weight is None else label_weight
    if scale is not None:
        losses *= scale
    loss, to_each = reduced(xp, losses, label_weight.sum(), reduction)

    def pullback(d):
        d = xp.where(counted, to_each(d), 0)
        if scale is not None:
            d *= scale
        dx = p * (d / total)[:, None]
        dx[at_labels] -= d
        return dx, None, None

    return loss, pullback


@checks_arguments
def cross_entropy(input: Array, target: Array, weight: Array = None, ignore_index: int = -100,
                  reduction: str = "mean", label_smoothing: float = 0.0) -> Array:
    """Cross entropy: ``y = -(weight * q * log_softmax(input, 1)).sum(1)``.

    `input` holds logits (N, C, ...) or (C,), and `weight` is (C,).  `target` has one of two forms:

    - class indices (N, ...) or (): q is their one-hot encoding.  Samples whose label is
      `ignore_index` have loss 0.  The mean divides by the sum of the class weights of all other
      samples.
    - class probabilities q in the shape of `input`.  The mean divides by the number of samples;
      `ignore_index` cannot be used.

    With `label_smoothing` q is mixed with the uniform distribution:
    ``(1 - label_smoothing) * q + label_smoothing / C``.  `reduction` is "mean", "sum" or "none".
    Raises ValueError for other shapes, TypeError for dtypes that do not fit the form, and
    IndexError if a label is out of range (on a device, when a value is next read).

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> logits = gp.tensor([[0.0, 0.0], [100.0, 0.0]])
    >>> F.cross_entropy(logits, gp.tensor([0, 1]), reduction="none").numpy()
    array([  0.6931472, 100.       ], dtype=float32)
    >>> F.cross_entropy(logits, gp.tensor([0, -100])).item()
    0.6931471824645996
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(
            f"cross_entropy: label_smoothing must be between 0 and 1, got {label_smoothing}")
    if target.shape != input.shape:
        check_labels("cross_entropy", input, target, weight)
        return cross_entropy_from_indices(
            input, target, weight, ignore_index, reduction, label_smoothing)
    reason = (f"cross_entropy: target has the shape of input, {input.shape}, so it must hold class "
              f"probabilities")
    if target.dtype.kind in "iub":
        raise TypeError(f"{reason} and cannot be {target.dtype.name}")
    if ignore_index >= 0:
        raise TypeError(f"{reason}, which ignore_index={ignore_index} cannot ignore")
    return cross_entropy_from_probabilities(input, target, weight, reduction, label_smoothing)


@composed(full=True)
def cross_entropy_from_probabilities(input: Any, target: Any, weight: Any, reduction: str,
                                     label_smoothing: float) -> Any:
    """`cross_entropy` with a target of class probabilities."""
    axis = class_axis(input)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / max(input.shape[axis], 1)
    if weight is not None:
        weight = match_dtype("cross_entropy", target, weight, "weight")
        target = target * expand_class_weight(weight, input)
    return reduce_loss(-(log_softmax(input, axis) * target).sum(axis=axis), None, reduction)


def check_labels(loss: str, input: Any, target: Any, weight: Any = None) -> None:
    """Raise TypeError or ValueError unless there is one integer label per sample of `input`.

    `weight` must be (C,) or None.
    """
    axis = class_axis(input)
    shape = input.shape[:axis] + input.shape[axis + 1:]
    if input.ndim == 0 or target.shape != shape:
        raise ValueError(f"{loss}: target must have shape {shape} for input {input.shape}, one "
                         f"label per sample, got {target.shape}")
    check_floating(loss, input)
    if target.dtype.kind not in "iu":
        raise TypeError(f"{loss}: target must hold integer labels, got {target.dtype.name}")
    if weight is not None and weight.shape != (input.shape[axis],):
        raise ValueError(f"{loss}: weight must have shape ({input.shape[axis]},), one per class, "
                         f"got {weight.shape}")


@op(name="one_hot")
def encode_one_hot(xp, input: Array, num_classes: int, name: str = "one_hot"):
    """`one_hot` with a given number of classes; messages use `name`."""
    xp.check((input >= 0) & (input < num_classes), label_message(name, num_classes), input)
    return (input[..., None] == xp.arange(num_classes)).astype("int64"), None


@checks_arguments
def one_hot(input: Array, num_classes: int = -1) -> Array:
    """One-hot encoding: ``y[..., c] = 1 if input[...] == c else 0``, in int64.

    (...) integers -> (..., num_classes).  The default of `num_classes` is ``input.max() + 1``; to
    find it, the host waits for the device.  Raises TypeError if `input` does not hold integers,
    ValueError if it is empty and `num_classes` is not given, and IndexError if a label is out of
    range (on a device, when a value is next read).

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> F.one_hot(gp.tensor([0, 2]), num_classes=3).tolist()
    [[1, 0, 0], [0, 0, 1]]
    """
    if input.dtype.kind not in "iu":
        raise TypeError(f"one_hot: input must hold integer labels, got {input.dtype.name}")
    if num_classes == -1:
        if math.prod(input.shape) == 0:
            raise ValueError("one_hot: input is empty: give num_classes")
        num_classes = max(int(asnumpy(input).max()) + 1, 1)
    return encode_one_hot(input, num_classes)
