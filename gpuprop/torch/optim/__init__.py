"""Optimizers and schedules, as `torch.optim`."""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING

import gpuprop.optim as _optim
from gpuprop.optim import lr_scheduler
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._paths import also_at
from gpuprop.torch.optim import swa_utils
from gpuprop.torch.optim._optimizer import Optimizer, class_for

__all__ = ["Optimizer", "lr_scheduler", "swa_utils"]

for _name in _optim.__all__:
    _value = getattr(_optim, _name)
    is_rule = isinstance(_value, type) and issubclass(_value, _optim.Optimizer)
    if is_rule and _value is not _optim.Optimizer:
        globals()[_name] = class_for(_value)
        __all__.append(_name)

also_at(__name__, """adadelta adagrad adam adamax adamw asgd lbfgs nadam optimizer radam rmsprop
    rprop sgd sparse_adam""")
also_at(__name__, "lr_scheduler", "gpuprop.optim.lr_scheduler")

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
