"""Learning rate schedules.

Call ``scheduler.step()`` after each epoch or batch: it sets the learning rate of each parameter
group.  Below, *epoch* is the number of these calls, and `initial_lr` is the learning rate that a
group had when its first schedule was created.
"""

from gpuprop.optim.lr_scheduler._base import LRScheduler
from gpuprop.optim.lr_scheduler._combined import ChainedScheduler, SequentialLR
from gpuprop.optim.lr_scheduler._cyclic import CyclicLR
from gpuprop.optim.lr_scheduler._formulas import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from gpuprop.optim.lr_scheduler._one_cycle import OneCycleLR
from gpuprop.optim.lr_scheduler._plateau import ReduceLROnPlateau
from gpuprop.optim.lr_scheduler._restarts import CosineAnnealingWarmRestarts

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]

_LRScheduler = LRScheduler  # PyTorch's former name
