"""Losses: see the function of the same name in `gpuprop.functional`, whose options these take."""

from __future__ import annotations

import math
from typing import Any

import gpuprop.functional as F
from gpuprop._core.graph import raw
from gpuprop._core.tensor import Tensor
from gpuprop.nn._function import Function
from gpuprop.nn._linear import Linear
from gpuprop.nn._module import Module
from gpuprop.random import Generator


class L1Loss(Function):
    function, inputs = staticmethod(F.l1_loss), 2
    hidden = ("weight",)


class MSELoss(Function):
    function, inputs = staticmethod(F.mse_loss), 2
    hidden = ("weight",)


class SmoothL1Loss(Function):
    function, inputs = staticmethod(F.smooth_l1_loss), 2


class HuberLoss(Function):
    function, inputs = staticmethod(F.huber_loss), 2
    hidden = ("weight",)


class CrossEntropyLoss(Function):
    function, inputs = staticmethod(F.cross_entropy), 2


class NLLLoss(Function):
    function, inputs = staticmethod(F.nll_loss), 2


class BCELoss(Function):
    function, inputs = staticmethod(F.binary_cross_entropy), 2


class BCEWithLogitsLoss(Function):
    function, inputs = staticmethod(F.binary_cross_entropy_with_logits), 2


class KLDivLoss(Function):
    function, inputs = staticmethod(F.kl_div), 2


class SoftMarginLoss(Function):
    function, inputs = staticmethod(F.soft_margin_loss), 2


class PoissonNLLLoss(Function):
    function, inputs = staticmethod(F.poisson_nll_loss), 2


class GaussianNLLLoss(Function):
    function, inputs = staticmethod(F.gaussian_nll_loss), 3


class HingeEmbeddingLoss(Function):
    function, inputs = staticmethod(F.hinge_embedding_loss), 2


class CosineEmbeddingLoss(Function):
    function, inputs = staticmethod(F.cosine_embedding_loss), 3


class MarginRankingLoss(Function):
    function, inputs = staticmethod(F.margin_ranking_loss), 3


class MultiMarginLoss(Function):
    function, inputs = staticmethod(F.multi_margin_loss), 2


class MultiLabelMarginLoss(Function):
    function, inputs = staticmethod(F.multilabel_margin_loss), 2


class MultiLabelSoftMarginLoss(Function):
    function, inputs = staticmethod(F.multilabel_soft_margin_loss), 2


class TripletMarginLoss(Function):
    function, inputs = staticmethod(F.triplet_margin_loss), 3


class TripletMarginWithDistanceLoss(Function):
    function, inputs = staticmethod(F.triplet_margin_with_distance_loss), 3


class CTCLoss(Function):
    function, inputs = staticmethod(F.ctc_loss), 4


class LinearCrossEntropyLoss(Module):
    """The cross entropy of a `Linear` layer's outputs, which never exist all at once: see `F.linear_cross_entropy`.

    (N, in_features) or (in_features,), and labels (N, *out_features) or (); the layer's weight is
    (num_classes * prod(out_features), in_features).  `options`, PyTorch's for its chunks, are accepted and ignored.
    """

    weight: Tensor | None

    def __init__(self, in_features: int, num_classes: int, *, out_features: tuple[int, ...] = (), bias: bool = False,
                 device: str | None = None, dtype: Any = None, reduction: str = "mean", weight: Tensor | None = None,
                 ignore_index: int | None = None, label_smoothing: float = 0.0, options: Any = None,
                 rng: Generator | None = None) -> None:
        if weight is not None and weight.shape != (num_classes,):
            raise ValueError(f"LinearCrossEntropyLoss: weight is one a class, ({num_classes},), not {weight.shape}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"LinearCrossEntropyLoss: label_smoothing lies between 0 and 1, and is {label_smoothing}")
        self.num_classes, self.out_features, self.reduction = num_classes, tuple(out_features), reduction
        self.ignore_index, self.label_smoothing, self.options = ignore_index, label_smoothing, options
        self.register_buffer("weight", None if weight is None else Tensor(raw(weight)))
        self.linear = Linear(in_features, num_classes * math.prod(self.out_features), bias, device, dtype, rng)

    def forward(self, input: Any, target: Any) -> Any:
        shape, bias = (self.num_classes, *self.out_features), self.linear.bias
        return F.linear_cross_entropy(
            input, self.linear.weight.reshape(*shape, self.linear.in_features), target, weight=self.weight,
            linear_bias=None if bias is None else bias.reshape(shape), reduction=self.reduction,
            ignore_index=self.ignore_index, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        return (f"num_classes={self.num_classes}, out_features={self.out_features}, reduction={self.reduction!r}, "
                f"ignore_index={self.ignore_index}, label_smoothing={self.label_smoothing}")
