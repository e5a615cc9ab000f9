"""Averages of a model's values over the steps of training, as `torch.optim.swa_utils`."""

from __future__ import annotations

import gpuprop.optim.swa_utils as _swa_utils
from gpuprop.optim.swa_utils import (
    SWALR,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)
from gpuprop.torch.nn._module import class_for

__all__ = ["SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn",
           "get_swa_multi_avg_fn", "update_bn"]

AveragedModel = class_for(_swa_utils.AveragedModel, __name__)
