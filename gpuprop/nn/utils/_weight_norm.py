"""Weight normalization: write a weight as the product of a norm and a direction."""

from __future__ import annotations

from typing import TypeVar

from gpuprop._array.reduction import norm
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.nn._module import Module
from gpuprop.nn.utils._reparametrization import Reparametrization

Layer = TypeVar("Layer", bound=Module)


def norm_except(v: Tensor, dim: int | None) -> Tensor:
    """The norm of `v` over all axes except `dim`, which keeps the number of axes."""
    if dim is None or dim == -1:  # as in PyTorch, -1 means None
        return norm(v, 2, None, False)
    axes = tuple(i for i in range(v.ndim) if i != dim % v.ndim)
    return norm(v, 2, axes, True)


def scaled(g: Tensor, v: Tensor, dim: int | None) -> Tensor:
    """``g * v / |v|``"""
    return v * (g / norm_except(v, dim))


class WeightNorm(Reparametrization):
    """``weight_g * weight_v / |weight_v|``"""

    function_name = "weight_norm"

    def __init__(self, name: str, dim: int | None) -> None:
        super().__init__(name)
        self.dim = dim

    def compute(self, module: Module, training: bool) -> Tensor:
        g = getattr(module, f"{self.name}_g")
        v = getattr(module, f"{self.name}_v")
        return scaled(g, v, self.dim)


@checks_options
def weight_norm(module: Layer, name: str = "weight", dim: int | None = 0) -> Layer:
    """Replace a parameter by two: its norm `name`_g and its direction `name`_v.

    Each forward first computes ``weight = weight_g * weight_v / |weight_v|``.  There is one norm
    for each index of axis `dim`, or a single norm for ``dim=None``.  Returns the module.

    T. Salimans and D. P. Kingma, NeurIPS 2016.

    >>> from gpuprop import nn
    >>> layer = nn.utils.weight_norm(nn.Linear(3, 2))
    >>> {name: p.shape for name, p in layer.named_parameters()}
    {'bias': (2,), 'weight_g': (2, 1), 'weight_v': (2, 3)}
    """
    reparametrization = WeightNorm(name, dim)
    weight = reparametrization.pop_parameter(module)
    g = Parameter(norm_except(weight.detach(), dim), weight.requires_grad)
    setattr(module, f"{name}_g", g)
    setattr(module, f"{name}_v", Parameter(weight, weight.requires_grad))
    reparametrization(module)
    module.register_forward_pre_hook(reparametrization)
    return module


def remove_weight_norm(module: Layer, name: str = "weight") -> Layer:
    """Undo `weight_norm`: the current weight becomes a parameter.  Returns the module."""
    WeightNorm.remove(module, name, "_g", "_v")
    return module
