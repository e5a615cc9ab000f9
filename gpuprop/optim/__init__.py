"""Optimizers and learning rate schedules, with PyTorch's names, defaults and semantics."""

from gpuprop.optim import lr_scheduler, swa_utils
from gpuprop.optim._adadelta import Adadelta
from gpuprop.optim._adafactor import Adafactor
from gpuprop.optim._adagrad import Adagrad
from gpuprop.optim._adam import Adam, AdamW
from gpuprop.optim._adamax import Adamax
from gpuprop.optim._asgd import ASGD
from gpuprop.optim._lamb import LAMB
from gpuprop.optim._lbfgs import LBFGS
from gpuprop.optim._lion import Lion
from gpuprop.optim._muon import Muon
from gpuprop.optim._nadam import NAdam
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._radam import RAdam
from gpuprop.optim._rmsprop import RMSprop
from gpuprop.optim._rprop import Rprop
from gpuprop.optim._schedule_free import AdamWScheduleFree
from gpuprop.optim._sgd import SGD
from gpuprop.optim._sparse_adam import SparseAdam

__all__ = ["ASGD", "LAMB", "LBFGS", "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW",
           "AdamWScheduleFree", "Adamax", "Lion", "Muon", "NAdam", "Optimizer", "RAdam", "RMSprop",
           "Rprop", "SparseAdam", "lr_scheduler", "swa_utils"]
