"""Losses of detection, segmentation and representation learning beyond PyTorch's."""

from __future__ import annotations

import math

from gpuprop._array.activation import relu
from gpuprop._array.arithmetic import clip, where
from gpuprop._array.indexing import take_along_axis
from gpuprop._array.mathematics import sigmoid, sqrt
from gpuprop._array.products import matmul
from gpuprop._array.reduction import argsort, cumsum
from gpuprop._array.shape import concatenate
from gpuprop._core.composed import composed
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor
from gpuprop.functional._cross_entropy import cross_entropy, one_hot
from gpuprop.functional._distance import normalize
from gpuprop.functional._loss import binary_cross_entropy_with_logits
from gpuprop.functional._loss_common import match_shape_and_dtype, reduce_loss


@composed(full=True)
def sigmoid_focal_loss(inputs: Array, targets: Array, alpha: float = 0.25, gamma: float = 2,
                       reduction: str = "none") -> Array:
    """``-alpha_t (1 - p_t)**gamma log(p_t)`` of logits, where p_t is the target's probability.

    alpha_t is `alpha` for target 1 and 1 - alpha for 0; a negative `alpha` means 1 for both.  Both
    arrays have the same shape.  `reduction` is "none", "mean" or "sum", as in torchvision.

    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """
    targets = match_shape_and_dtype("sigmoid_focal_loss", inputs, targets)
    p = sigmoid(inputs)
    p_t = p * targets + (1 - p) * (1 - targets)
    loss = binary_cross_entropy_with_logits(inputs, targets, reduction="none") * (1 - p_t)**gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return reduce_loss(loss, None, reduction)


@composed(full=True)
def tversky_loss(input: Array, target: Array, alpha: float = 0.5, beta: float = 0.5,
                 smooth: float = 1.0, reduction: str = "mean") -> Array:
    """``1 - (TP + s) / (TP + alpha FP + beta FN + s)`` of probabilities, one value per sample.

    TP is the sum of input * target over all axes but the first, FP that of input * (1 - target),
    FN that of (1 - input) * target, and s is `smooth`.

    S. S. M. Salehi et al., "Tversky loss function for image segmentation", 2017.
    """
    target = match_shape_and_dtype("tversky_loss", input, target)
    axes = tuple(range(1, input.ndim))
    hit = (input * target).sum(axes)
    false = (input * (1 - target)).sum(axes)
    missed = ((1 - input) * target).sum(axes)
    loss = 1 - (hit + smooth) / (hit + alpha * false + beta * missed + smooth)
    return reduce_loss(loss, None, reduction)


@composed(full=True)
def dice_loss(input: Array, target: Array, smooth: float = 1.0,
              reduction: str = "mean") -> Array:
    """``1 - (2 TP + s) / (sum of input + sum of target + s)`` of probabilities, per sample.

    TP is the sum of input * target over all axes but the first, and s is `smooth`.

    F. Milletari et al., "V-Net", 3DV 2016, with sums in place of squares.
    """
    target = match_shape_and_dtype("dice_loss", input, target)
    axes = tuple(range(1, input.ndim))
    hit = (input * target).sum(axes)
    loss = 1 - (2 * hit + smooth) / (input.sum(axes) + target.sum(axes) + smooth)
    return reduce_loss(loss, None, reduction)


def lovasz_gradient(truth):
    """The increments of the Jaccard loss along the last axis, for errors in descending order."""
    total = truth.sum(-1, keepdims=True)
    inter = total - cumsum(truth, -1)
    union = total + cumsum(1 - truth, -1)
    jaccard = 1 - inter / union
    return concatenate([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], -1)


def _lovasz(errors, truth):
    """The Lovász extension of the Jaccard loss along the last axis."""
    order = argsort(-errors.detach(), -1)
    weights = lovasz_gradient(take_along_axis(truth, order, -1))
    return (relu(take_along_axis(errors, order, -1)) * weights).sum(-1)


@composed(full=True)
def lovasz_hinge_loss(logits: Array, labels: Array, reduction: str = "mean") -> Array:
    """The Lovász extension of the Jaccard loss of hinge errors, one value per image.

    The errors are ``1 - logits * (2 * labels - 1)``, for labels 0 and 1 of the logits' shape; all
    axes but the first are one image.

    M. Berman et al., "The Lovász-Softmax loss", CVPR 2018.
    """
    truth = match_shape_and_dtype("lovasz_hinge_loss", logits, labels)
    flat = lambda a: a.reshape(a.shape[0], math.prod(a.shape[1:]))
    errors = 1 - flat(logits) * (2 * flat(truth) - 1)
    return reduce_loss(_lovasz(errors, flat(truth)), None, reduction)


@composed(full=True)
def lovasz_softmax_loss(probabilities: Array, labels: Array) -> Array:
    """The mean over the present classes of the Lovász extension of each class's Jaccard loss.

    `probabilities` (N, C, ...) are a softmax over axis 1, `labels` (N, ...) class indices; all
    pixels of the batch are ranked together.

    M. Berman et al., "The Lovász-Softmax loss", CVPR 2018.
    """
    classes = probabilities.shape[1]
    rows = probabilities.swapaxes(0, 1).reshape(classes, -1)
    truth = one_hot(labels.reshape(-1), classes).T.astype(probabilities.dtype)
    errors = where(truth > 0, 1 - rows, rows)
    is_present = truth.sum(-1) > 0
    losses = where(is_present, _lovasz(errors, truth), 0)
    return losses.sum() / is_present.astype(probabilities.dtype).sum()


@composed(full=True)
def info_nce_loss(query: Array, key: Array, temperature: float = 0.1,
                  reduction: str = "mean") -> Array:
    """Cross entropy of the cosine similarities / `temperature`: key i belongs to query i.

    Shapes: (N, D), (N, D).  The other keys of the batch are the negatives.

    A. van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018.
    """
    logits = matmul(normalize(query, 2.0, 1), normalize(key, 2.0, 1).T) / temperature
    return cross_entropy(logits, _range(query), reduction=reduction)


@composed(full=True)
def nt_xent_loss(first: Array, second: Array, temperature: float = 0.5,
                 reduction: str = "mean") -> Array:
    """SimCLR's loss: each of the 2 N views must find its other view among the other 2 N - 1.

    Shapes: (N, D), (N, D), two views of N samples; cosine similarities / `temperature`.

    T. Chen et al., "A Simple Framework for Contrastive Learning", ICML 2020.
    """
    views = normalize(concatenate([first, second]), 2.0, 1)
    n = len(first)
    xp = namespace(raw(first))
    itself = Tensor(xp.eye(2 * n, dtype="bool"))
    logits = where(itself, -1e9, matmul(views, views.T) / temperature)
    other = Tensor((xp.arange(2 * n) + n) % (2 * n))
    return cross_entropy(logits, other, reduction=reduction)


def _range(like):
    return Tensor(namespace(raw(like)).arange(len(like)))


@composed(full=True)
def arcface_logits(embedding: Array, weight: Array, labels: Array, scale: float = 64.0,
                   margin: float = 0.5) -> Array:
    """``scale * cos(angle + margin)`` at the label's class, ``scale * cos(angle)`` at the others.

    The angle is that between an embedding (N, D) and the row of a class in `weight` (C, D).  Where
    angle + margin is above pi, the value goes on as ``cos(angle) - margin * sin(margin)``, so that
    it decreases with the angle.  The loss is the cross entropy of these logits.

    J. Deng et al., "ArcFace", CVPR 2019.
    """
    cosine = matmul(normalize(embedding, 2.0, 1), normalize(weight, 2.0, 1).T)
    sine = sqrt(clip(1 - cosine * cosine, 1e-12, None))
    moved = cosine * math.cos(margin) - sine * math.sin(margin)
    moved = where(cosine > -math.cos(margin), moved, cosine - margin * math.sin(margin))
    hot = one_hot(labels, weight.shape[0])
    return where(hot > 0, moved, cosine) * scale


@composed(full=True)
def cosface_logits(embedding: Array, weight: Array, labels: Array, scale: float = 64.0,
                   margin: float = 0.35) -> Array:
    """``scale * (cos(angle) - margin)`` at the label's class, ``scale * cos(angle)`` at the others.

    For the angle and the shapes see `arcface_logits`.

    H. Wang et al., "CosFace", CVPR 2018.
    """
    cosine = matmul(normalize(embedding, 2.0, 1), normalize(weight, 2.0, 1).T)
    hot = one_hot(labels, weight.shape[0])
    return where(hot > 0, cosine - margin, cosine) * scale
