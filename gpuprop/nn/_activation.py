"""Activations: see the function of the same name in `gpuprop.functional`, whose options these take."""

from __future__ import annotations

from typing import Any

import gpuprop.functional as F
from gpuprop._core.tensor import Parameter
from gpuprop.nn._function import Function
from gpuprop.nn._module import Module
from gpuprop.nn.init import new


class Threshold(Function):
    function = staticmethod(F.threshold)


class ReLU(Function):
    function = staticmethod(F.relu)


class ReLU6(Function):
    function = staticmethod(F.relu6)


class Hardtanh(Function):
    function = staticmethod(F.hardtanh)


class Hardswish(Function):
    function = staticmethod(F.hardswish)


class Hardsigmoid(Function):
    function = staticmethod(F.hardsigmoid)


class Hardshrink(Function):
    function = staticmethod(F.hardshrink)


class Softshrink(Function):
    function = staticmethod(F.softshrink)


class Tanhshrink(Function):
    function = staticmethod(F.tanhshrink)


class ELU(Function):
    function = staticmethod(F.elu)


class SELU(Function):
    function = staticmethod(F.selu)


class CELU(Function):
    function = staticmethod(F.celu)


class LeakyReLU(Function):
    function = staticmethod(F.leaky_relu)


class GLU(Function):
    function = staticmethod(F.glu)


class GELU(Function):
    function = staticmethod(F.gelu)


class SiLU(Function):
    function = staticmethod(F.silu)


class Mish(Function):
    function = staticmethod(F.mish)


class Sigmoid(Function):
    function = staticmethod(F.sigmoid)


class LogSigmoid(Function):
    function = staticmethod(F.logsigmoid)


class Tanh(Function):
    function = staticmethod(F.tanh)


class Softplus(Function):
    function = staticmethod(F.softplus)


class Softsign(Function):
    function = staticmethod(F.softsign)


class Softmax(Function):
    function = staticmethod(F.softmax)


class Softmax2d(Module):
    """Shares of the channels of (N, C, H, W) or (C, H, W) at each place."""

    def forward(self, input: Any) -> Any:
        if input.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: input is (N, C, H, W) or (C, H, W), not of shape {input.shape}")
        return F.softmax(input, -3)


class Softmin(Function):
    function = staticmethod(F.softmin)


class LogSoftmax(Function):
    function = staticmethod(F.log_softmax)


class RReLU(Function):
    """Leaky, with a slope drawn between `lower` and `upper` for every element in training, and their mean in use."""

    function = staticmethod(F.rrelu)

    def forward(self, input: Any) -> Any:
        return F.rrelu(input, **self.options(), training=self.training)


class PReLU(Module):
    """Leaky, with a learnt slope for all channels or for each: `weight` is (num_parameters,)."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: str | None = None,
                 dtype: Any = None) -> None:
        self.num_parameters = num_parameters
        self.weight = Parameter(new((num_parameters,), device, dtype, value=init))

    def forward(self, input: Any) -> Any:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
