"""Losses: see the function of the same name in `gpuprop.functional`, whose options these take."""

from __future__ import annotations

import gpuprop.functional as F
from gpuprop.nn.function import Function


class L1Loss(Function):
    function, inputs = staticmethod(F.l1_loss), 2


class MSELoss(Function):
    function, inputs = staticmethod(F.mse_loss), 2


class SmoothL1Loss(Function):
    function, inputs = staticmethod(F.smooth_l1_loss), 2


class HuberLoss(Function):
    function, inputs = staticmethod(F.huber_loss), 2


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
