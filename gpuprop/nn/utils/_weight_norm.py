"""Weight normalization: the length of a weight's vectors and their direction as parameters of their own."""

from __future__ import annotations

from typing import TypeVar

from gpuprop._array.reduction import norm
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.nn._module import Module
from gpuprop.nn.utils._computed import Recipe

Layer = TypeVar("Layer", bound=Module)


class WeightNorm(Recipe):
    """``weight_g * weight_v / |weight_v|``."""

    word = "weight_norm"

    def __init__(self, name: str, dim: int | None) -> None:
        super().__init__(name)
        self.dim = -1 if dim is None else dim  # -1 is PyTorch's word for none

    def length(self, v: Tensor) -> Tensor:
        axes = None if self.dim == -1 else tuple(i for i in range(v.ndim) if i != self.dim % v.ndim)
        return norm(v, 2, axes, axes is not None)

    def weight(self, module: Module, training: bool) -> Tensor:
        g, v = getattr(module, f"{self.name}_g"), getattr(module, f"{self.name}_v")
        return v * (g / self.length(v))


def weight_norm(module: Layer, name: str = "weight", dim: int | None = 0) -> Layer:
    """Train the length `name`_g and the direction `name`_v in place of a parameter: one length for each index of `dim`.

    With None, the whole has one.  Before each forward the weight is computed from them.  Returns the module.
    T. Salimans and D. P. Kingma, NeurIPS 2016.
    """
    recipe = WeightNorm(name, dim)
    weight = recipe.take(module)
    setattr(module, f"{name}_g", Parameter(recipe.length(weight.detach()), weight.requires_grad))
    setattr(module, f"{name}_v", Parameter(weight, weight.requires_grad))
    recipe(module)
    module.register_forward_pre_hook(recipe)
    return module


def remove_weight_norm(module: Layer, name: str = "weight") -> Layer:
    """Make a weight that `weight_norm` took a parameter again, with the values it has.  Returns the module."""
    WeightNorm.leave(module, name, "_g", "_v")
    return module
