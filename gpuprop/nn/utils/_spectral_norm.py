"""Spectral normalization: a weight divided by its largest singular value, which one product a step follows."""

from __future__ import annotations

from typing import Any, TypeVar

from gpuprop._array.products import matmul
from gpuprop._array.shape import moveaxis
from gpuprop._core.dtypes import compute_dtype, widened
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import kernel
from gpuprop._core.placement import on_device_of_arguments
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor
from gpuprop.nn._convolution import TransposedConvolution
from gpuprop.nn._module import Module
from gpuprop.nn.init import normal_
from gpuprop.nn.utils._computed import Recipe

Layer = TypeVar("Layer", bound=Module)


@kernel
def singular_vectors(xp, matrix: Array, u: Array, v: Array, steps, eps):
    """Turn u and v towards the vectors of the largest singular value of (h, w), in place; returns copies of both."""
    full = compute_dtype(matrix.dtype)
    for _ in range(steps):
        v[...] = unit(xp, xp.matmul(matrix.T, u, dtype=full), eps)
        u[...] = unit(xp, xp.matmul(matrix, v, dtype=full), eps)
    return xp.copy(u), xp.copy(v)  # which a pullback can keep while the next forward turns them on


def unit(xp, x, eps):
    x = widened(x)
    return x / xp.maximum(xp.sqrt((x * x).sum()), eps)


class SpectralNorm(Recipe):
    """``weight_orig / (weight_u @ weight_orig @ weight_v)``, the weight as a matrix with `dim` as its rows."""

    word = "spectral_norm"

    def __init__(self, name: str, steps: int, eps: float, dim: int) -> None:
        super().__init__(name)
        self.steps, self.eps, self.dim = steps, eps, dim

    def matrix(self, weight: Tensor) -> Tensor:
        return moveaxis(weight, self.dim, 0).reshape(weight.shape[self.dim], -1)

    def weight(self, module: Module, training: bool) -> Tensor:
        original, u, v = (getattr(module, f"{self.name}_{part}") for part in ("orig", "u", "v"))
        matrix = self.matrix(original)
        u, v = singular_vectors(matrix, u, v, self.steps if training else 0, self.eps)
        sigma = (matmul(matrix, v, dtype=compute_dtype(matrix.dtype)) * widened(u)).sum()
        return (widened(original) / sigma).astype(original.dtype)


def spectral_norm(module: Layer, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12,
                  dim: int | None = None) -> Layer:
    """Divide a parameter, from now on called `name`_orig, by its largest singular value before each forward.

    The parameter is a matrix with `dim` as its rows: by default 1 of a transposed convolution, else 0.  The singular
    vectors are the buffers `name`_u and `name`_v; each forward in training improves them by `n_power_iterations`.
    Returns the module.  T. Miyato et al., ICLR 2018.
    """
    if n_power_iterations < 1:
        raise ValueError(f"spectral_norm: n_power_iterations must be at least 1, not {n_power_iterations}")
    recipe = SpectralNorm(name, n_power_iterations, eps,
                          int(isinstance(module, TransposedConvolution)) if dim is None else dim)
    weight = recipe.take(module)
    setattr(module, f"{name}_orig", weight)
    recipe.put(module, weight.detach())
    for part, n in zip("uv", recipe.matrix(weight.detach()).shape, strict=True):
        module.register_buffer(f"{name}_{part}", drawn(raw(weight), n, eps))
    module.register_forward_pre_hook(recipe)
    return module


@on_device_of_arguments
def drawn(like: Any, n: int, eps: float) -> Tensor:
    """A random direction."""
    xp = namespace(like)
    return Tensor(unit(xp, raw(normal_(Tensor(xp.zeros(n, like.dtype)))), eps).astype(like.dtype))


def remove_spectral_norm(module: Layer, name: str = "weight") -> Layer:
    """Make a weight that `spectral_norm` took a parameter again, divided as it is in use.  Returns the module."""
    SpectralNorm.leave(module, name, "_orig", "_u", "_v")
    return module
