"""Activation layers.  Most are the layer form of a function in `gpuprop.functional`."""

from __future__ import annotations

from typing import Any

import gpuprop.functional as F
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Parameter
from gpuprop.nn._function import Function, option_values
from gpuprop.nn._module import Module, new_tensor


class Threshold(Function):
    function = staticmethod(F.threshold)
    threshold: float
    value: float
    inplace: bool = False


class ReLU(Function):
    function = staticmethod(F.relu)
    inplace: bool = False


class ReLU6(Function):
    function = staticmethod(F.relu6)
    inplace: bool = False


class Hardtanh(Function):
    function = staticmethod(F.hardtanh)
    min_val: float = -1.0
    max_val: float = 1.0
    inplace: bool = False

    def _check_combination(self) -> None:
        if not self.min_val < self.max_val:
            raise ValueError(f"{type(self).__name__}: min_val must be below max_val, got "
                             f"min_val={self.min_val} and max_val={self.max_val}")


class Hardswish(Function):
    function = staticmethod(F.hardswish)
    inplace: bool = False


class Hardsigmoid(Function):
    function = staticmethod(F.hardsigmoid)
    inplace: bool = False


class Hardshrink(Function):
    function = staticmethod(F.hardshrink)
    lambd: float = 0.5


class Softshrink(Function):
    _limits = {"lambd": "[0, inf)"}
    function = staticmethod(F.softshrink)
    lambd: float = 0.5


class Tanhshrink(Function):
    function = staticmethod(F.tanhshrink)


class ELU(Function):
    function = staticmethod(F.elu)
    alpha: float = 1.0
    inplace: bool = False


class SELU(Function):
    function = staticmethod(F.selu)
    inplace: bool = False


class CELU(Function):
    function = staticmethod(F.celu)
    alpha: float = 1.0
    inplace: bool = False


class LeakyReLU(Function):
    function = staticmethod(F.leaky_relu)
    negative_slope: float = 0.01
    inplace: bool = False


class GLU(Function):
    function = staticmethod(F.glu)
    dim: int = -1


class GELU(Function):
    function = staticmethod(F.gelu)
    approximate: str = "none"


class SiLU(Function):
    function = staticmethod(F.silu)
    inplace: bool = False


class Mish(Function):
    function = staticmethod(F.mish)
    inplace: bool = False


class Sigmoid(Function):
    function = staticmethod(F.sigmoid)


class LogSigmoid(Function):
    function = staticmethod(F.logsigmoid)


class Tanh(Function):
    function = staticmethod(F.tanh)


class Softplus(Function):
    function = staticmethod(F.softplus)
    beta: float = 1.0
    threshold: float = 20.0


class Softsign(Function):
    function = staticmethod(F.softsign)


class Softmax(Function):
    function = staticmethod(F.softmax)
    dim: int | None = None


class Softmax2d(Module):
    """Softmax over the channels of (N, C, H, W) or (C, H, W), at every spatial position."""

    def forward(self, input: Any) -> Any:
        if input.ndim not in (3, 4):
            raise ValueError(
                f"Softmax2d: expected input (N, C, H, W) or (C, H, W), got {input.shape}")
        return F.softmax(input, -3)


class Softmin(Function):
    function = staticmethod(F.softmin)
    dim: int | None = None


class LogSoftmax(Function):
    function = staticmethod(F.log_softmax)
    dim: int | None = None


class RReLU(Function):
    """Leaky ReLU with a random slope: ``y = max(x, 0) + slope * min(x, 0)``.

    In training, the slope of each element is drawn uniformly from [lower, upper]; in eval mode, it
    is (lower + upper) / 2.  `inplace` has no effect.  B. Xu et al., 2015.
    """

    function = staticmethod(F.rrelu)
    lower: float = 1 / 8
    upper: float = 1 / 3
    inplace: bool = False

    def forward(self, input: Any) -> Any:
        return F.rrelu(input, **option_values(self), training=self.training)


class PReLU(Module):
    """Leaky ReLU with a learned slope: ``y = max(x, 0) + weight * min(x, 0)``.

    `weight` (num_parameters,) has one slope for all elements, or one for each channel of an input
    (N, C, ...).  Its initial value is `init`.  K. He et al., ICCV 2015.
    """

    @checks_options
    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: str | None = None,
                 dtype: Any = None) -> None:
        self.num_parameters = num_parameters
        self.weight = Parameter(new_tensor((num_parameters,), device, dtype, value=init))

    def forward(self, input: Any) -> Any:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
