"""Losses: see the function of the same name in `gpuprop.functional`, whose options these take."""

from __future__ import annotations

import gpuprop.functional as F
from gpuprop.nn.function import Function


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
