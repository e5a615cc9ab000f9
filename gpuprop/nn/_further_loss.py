"""Layers of the losses beyond PyTorch's, and of the logits of margin losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Parameter
from gpuprop.nn._function import Function
from gpuprop.nn._loss import Loss
from gpuprop.nn._module import Module, initialize, new_tensor
from gpuprop.nn.init import xavier_uniform_
from gpuprop.random import Generator


def batch_size(input: Any, *others: Any, **options: Any) -> int:
    """The length of the first axis."""
    return len(input)


def view_count(first: Any, *others: Any, **options: Any) -> int:
    """The number of the views in two batches."""
    return 2 * len(first)


class FocalLoss(Loss):
    """`gpuprop.functional.sigmoid_focal_loss`, whose default here is the mean of all elements.

    ``-alpha_t (1 - p_t)**gamma log(p_t)`` of logits and targets of the same shape, where p_t is the
    target's probability.  alpha_t is `alpha` for target 1 and 1 - alpha for 0; a negative `alpha`
    means 1 for both.

    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """

    function = staticmethod(F.sigmoid_focal_loss)
    alpha: float = 0.25
    gamma: float = 2
    reduction: str = "mean"


class DiceLoss(Loss):
    function = staticmethod(F.dice_loss)
    mean_divisor = staticmethod(batch_size)
    smooth: float = 1.0
    reduction: str = "mean"


class TverskyLoss(Loss):
    function = staticmethod(F.tversky_loss)
    mean_divisor = staticmethod(batch_size)
    alpha: float = 0.5
    beta: float = 0.5
    smooth: float = 1.0
    reduction: str = "mean"


class LovaszHingeLoss(Loss):
    function = staticmethod(F.lovasz_hinge_loss)
    mean_divisor = staticmethod(batch_size)
    reduction: str = "mean"


class LovaszSoftmaxLoss(Function):
    function = staticmethod(F.lovasz_softmax_loss)


class InfoNCELoss(Loss):
    function = staticmethod(F.info_nce_loss)
    mean_divisor = staticmethod(batch_size)
    temperature: float = 0.1
    reduction: str = "mean"


class NTXentLoss(Loss):
    function = staticmethod(F.nt_xent_loss)
    mean_divisor = staticmethod(view_count)
    temperature: float = 0.5
    reduction: str = "mean"


class _MarginLogits(Module):
    """Abstract: logits of classes by the angles between embeddings and the rows of `weight`."""

    function: ClassVar[Callable]

    def __init__(self, in_features: int, num_classes: int, scale: float, margin: float,
                 device: str | None, dtype: Any, rng: Generator | None) -> None:
        self.in_features = in_features
        self.num_classes = num_classes
        self.scale = scale
        self.margin = margin
        self.weight = Parameter(new_tensor((num_classes, in_features), device, dtype))
        initialize(self, rng)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Initialize the parameters again, with new random numbers."""
        xavier_uniform_(self.weight, generator=rng)

    def forward(self, embedding: Any, labels: Any) -> Any:
        return type(self).function(embedding, self.weight, labels, self.scale, self.margin)

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, num_classes={self.num_classes}, "
                f"scale={self.scale}, margin={self.margin}")


class ArcFace(_MarginLogits):
    """``scale * cos(angle + margin)`` at the label's class, ``scale * cos(angle)`` at the others.

    Embeddings (N, in_features), labels (N,), output (N, num_classes).  The angles are those between
    an embedding and the rows of `weight` (num_classes, in_features), which are initialized
    uniformly in [-k, k], with k = sqrt(6 / (in_features + num_classes)).  The loss is the cross
    entropy of the output.  See `gpuprop.functional.arcface_logits`.

    >>> from gpuprop import nn
    >>> head = nn.ArcFace(8, 3)
    >>> labels = gpuprop.tensor([0, 2])
    >>> nn.CrossEntropyLoss()(head(gpuprop.ones(2, 8), labels), labels).shape
    ()
    """

    function = staticmethod(F.arcface_logits)

    @checks_options(num_classes=1, scale="(0, inf)", margin=f"[0, {math.pi}]")
    def __init__(self, in_features: int, num_classes: int, scale: float = 64.0,
                 margin: float = 0.5, device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        super().__init__(in_features, num_classes, scale, margin, device, dtype, rng)


class CosFace(_MarginLogits):
    """``scale * (cos(angle) - margin)`` at the label's class, ``scale * cos(angle)`` at the others.

    For the shapes and the weight see `ArcFace`; for the angle, `gpuprop.functional.cosface_logits`.
    """

    function = staticmethod(F.cosface_logits)

    @checks_options(num_classes=1, scale="(0, inf)", margin="[0, inf)")
    def __init__(self, in_features: int, num_classes: int, scale: float = 64.0,
                 margin: float = 0.35, device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        super().__init__(in_features, num_classes, scale, margin, device, dtype, rng)
