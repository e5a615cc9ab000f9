"""Layers, with PyTorch's names, signatures and parameter names."""

from gpuprop.autograd import Parameter
from gpuprop.nn import init, utils
from gpuprop.nn.activation import (
    CELU,
    ELU,
    GELU,
    GLU,
    SELU,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    RReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softmin,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from gpuprop.nn.container import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from gpuprop.nn.convolution import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Fold,
    Unfold,
)
from gpuprop.nn.dropout import Dropout
from gpuprop.nn.function import Function
from gpuprop.nn.linear import Bilinear, Flatten, Identity, Linear, Unflatten
from gpuprop.nn.loss import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from gpuprop.nn.module import Module

__all__ = [name for name in dir() if name[0].isupper()] + ["init", "utils"]
