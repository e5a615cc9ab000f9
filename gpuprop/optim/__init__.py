"""Optimizers and learning rate schedules, with PyTorch's names, defaults and semantics."""

from gpuprop.optim import lr_scheduler
from gpuprop.optim._adam import Adam, AdamW
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rmsprop import RMSprop
from gpuprop.optim._sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "lr_scheduler"]
