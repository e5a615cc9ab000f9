"""Layers that are one product, and the ones that only change a shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gpuprop.functional as F
from gpuprop._array.shape import flatten
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.nn._module import Module
from gpuprop.nn.init import new, uniform_
from gpuprop.random import Generator


class Identity(Module):
    """The input itself; any arguments are taken and ignored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def forward(self, input: Any) -> Any:
        return input


class Linear(Module):
    """``input @ weight.T + bias``: (..., in_features) -> (..., out_features), weight (out, in).

    Both start uniform within 1/sqrt(in_features), as PyTorch's do.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(new((out_features, in_features), device, dtype))
        self.bias = Parameter(new((out_features,), device, dtype)) if bias else None
        self.reset_parameters(rng)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Draw the parameters anew."""
        _within(1 / math.sqrt(self.in_features or 1), rng, self.weight, self.bias)

    def forward(self, input: Any) -> Any:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """``input1[n] @ weight[k] @ input2[n] + bias[k]``: weight (out, in1, in2)."""

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True,
                 device: str | None = None, dtype: Any = None, rng: Generator | None = None) -> None:
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = Parameter(new((out_features, in1_features, in2_features), device, dtype))
        self.bias = Parameter(new((out_features,), device, dtype)) if bias else None
        self.reset_parameters(rng)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Draw the parameters anew."""
        _within(1 / math.sqrt(self.in1_features or 1), rng, self.weight, self.bias)

    def forward(self, input1: Any, input2: Any) -> Any:
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
                f"out_features={self.out_features}, bias={self.bias is not None}")


class Flatten(Module):
    """The axes from `start_dim` to `end_dim` as one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Any) -> Any:
        return flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """The axis `dim` as several, of the sizes given; one -1 is inferred."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, input: Any) -> Any:
        shape, dim, sizes = input.shape, self.dim % input.ndim, self.unflattened_size
        known = math.prod(n for n in sizes if n != -1)
        sizes = tuple(shape[dim] // (known or 1) if n == -1 else n for n in sizes)
        if math.prod(sizes) != shape[dim]:
            raise ValueError(f"Unflatten: axis {self.dim} has {shape[dim]} elements, "
                             f"which do not make {self.unflattened_size}")
        return input.reshape(*shape[:dim], *sizes, *shape[dim + 1:])

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


def _within(bound: float, rng: Generator | None, *tensors: Tensor | None) -> None:
    for t in tensors:
        if t is not None:
            uniform_(t, -bound, bound, rng)
