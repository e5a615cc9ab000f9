"""Linear and bilinear layers, and layers that return or reshape the input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gpuprop.functional as F
from gpuprop._array.shape import flatten
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.nn._module import Module, initialize, new_tensor
from gpuprop.nn.init import uniform_
from gpuprop.random import Generator


class Identity(Module):
    """Return the input.  The constructor accepts and ignores any arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def forward(self, input: Any) -> Any:
        return input


class Linear(Module):
    """``y = input @ weight.T + bias``

    Input (..., in_features), output (..., out_features).  `weight` (out_features, in_features) and
    `bias` (out_features,) are initialized uniformly in [-k, k], with k = 1 / sqrt(in_features).

    >>> from gpuprop import nn
    >>> layer = nn.Linear(4, 3)
    >>> layer(gpuprop.ones(2, 4)).shape
    (2, 3)
    >>> layer
    Linear(in_features=4, out_features=3, bias=True)
    """

    @checks_options
    def __init__(self, in_features: int, out_features: int, bias: bool = True,
                 device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(new_tensor((out_features, in_features), device, dtype))
        self.bias = Parameter(new_tensor((out_features,), device, dtype)) if bias else None
        initialize(self, rng)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Initialize the parameters again, with new random numbers."""
        _draw_uniform(1 / math.sqrt(self.in_features or 1), rng, self.weight, self.bias)

    def forward(self, input: Any) -> Any:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, out_features={self.out_features}, "
                f"bias={self.bias is not None}")


class Bilinear(Module):
    """``y[..., i] = input1 @ weight[i] @ input2 + bias[i]``

    Inputs (..., in1_features) and (..., in2_features), output (..., out_features).  `weight`
    (out_features, in1_features, in2_features) and `bias` (out_features,) are initialized uniformly
    in [-k, k], with k = 1 / sqrt(in1_features).
    """

    @checks_options
    def __init__(self, in1_features: int, in2_features: int, out_features: int,
                 bias: bool = True, device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        shape = (out_features, in1_features, in2_features)
        self.weight = Parameter(new_tensor(shape, device, dtype))
        self.bias = Parameter(new_tensor((out_features,), device, dtype)) if bias else None
        initialize(self, rng)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Initialize the parameters again, with new random numbers."""
        _draw_uniform(1 / math.sqrt(self.in1_features or 1), rng, self.weight, self.bias)

    def forward(self, input1: Any, input2: Any) -> Any:
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
                f"out_features={self.out_features}, bias={self.bias is not None}")


class Flatten(Module):
    """Merge the axes from `start_dim` to `end_dim` into one: (N, C, H, W) -> (N, C * H * W)."""

    @checks_options
    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Any) -> Any:
        return flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Split the axis `dim` into axes of the sizes `unflattened_size`.

    One of the sizes may be -1: it is inferred from the others.

    >>> from gpuprop import nn
    >>> nn.Unflatten(1, (3, -1))(gpuprop.ones(2, 12)).shape
    (2, 3, 4)
    """

    @checks_options
    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        self.dim = dim
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, input: Any) -> Any:
        shape = input.shape
        dim = self.dim % input.ndim
        known = math.prod(n for n in self.unflattened_size if n != -1)
        inferred = shape[dim] // (known or 1)
        sizes = tuple(inferred if n == -1 else n for n in self.unflattened_size)
        if math.prod(sizes) != shape[dim]:
            raise ValueError(f"Unflatten: axis {self.dim} has {shape[dim]} elements, which cannot "
                             f"be reshaped to {self.unflattened_size}")
        return input.reshape(*shape[:dim], *sizes, *shape[dim + 1:])

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


def _draw_uniform(bound: float, rng: Generator | None, *tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None:
            uniform_(tensor, -bound, bound, rng)
