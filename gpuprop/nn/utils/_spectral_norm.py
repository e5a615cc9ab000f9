"""Spectral normalization: divide a weight by its largest singular value."""

from __future__ import annotations

from typing import Any, TypeVar

from gpuprop._array.products import matmul
from gpuprop._array.shape import moveaxis
from gpuprop._core.dtypes import compute_dtype, widened
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import kernel
from gpuprop._core.options import checks_options
from gpuprop._core.placement import on_device_of_arguments
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor
from gpuprop.nn._convolution import TransposedConvolution
from gpuprop.nn._module import Module
from gpuprop.nn.init import normal_
from gpuprop.nn.utils._reparametrization import Reparametrization

Layer = TypeVar("Layer", bound=Module)


@kernel
def singular_vectors(xp, matrix: Array, u: Array, v: Array, steps, eps):
    """Improve `u` and `v`, the first singular vectors of `matrix`, in place, by power iteration.

    Returns copies of both: the next forward changes `u` and `v`, but the pullback of this one still
    needs them.
    """
    dtype = compute_dtype(matrix.dtype)
    for _ in range(steps):
        v[...] = normalize(xp, xp.matmul(matrix.T, u, dtype=dtype), eps)
        u[...] = normalize(xp, xp.matmul(matrix, v, dtype=dtype), eps)
    return xp.copy(u), xp.copy(v)


def normalize(xp, x, eps):
    """``x / max(|x|, eps)``"""
    x = widened(x)
    return x / xp.maximum(xp.sqrt((x * x).sum()), eps)


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """The weight as a matrix (size of `dim`, product of the other sizes)."""
    return moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1)


def default_dim(module: Module) -> int:
    """The axis of a layer's weight that has its outputs."""
    return 1 if isinstance(module, TransposedConvolution) else 0


def divided(weight: Tensor, dim: int, u: Tensor, v: Tensor) -> Tensor:
    """``weight / (u @ M @ v)``, where M is the weight as a matrix."""
    matrix = as_matrix(weight, dim)
    product = matmul(matrix, v, dtype=compute_dtype(matrix.dtype))
    sigma = (product * widened(u)).sum()
    return (widened(weight) / sigma).astype(weight.dtype)


class SpectralNorm(Reparametrization):
    """``weight_orig / (weight_u @ M @ weight_v)``, where M is weight_orig as a matrix."""

    function_name = "spectral_norm"

    def __init__(self, name: str, steps: int, eps: float, dim: int) -> None:
        super().__init__(name)
        self.steps = steps
        self.eps = eps
        self.dim = dim

    def compute(self, module: Module, training: bool) -> Tensor:
        original = getattr(module, f"{self.name}_orig")
        u = getattr(module, f"{self.name}_u")
        v = getattr(module, f"{self.name}_v")
        steps = self.steps if training else 0
        u, v = singular_vectors(as_matrix(original, self.dim), u, v, steps, self.eps)
        return divided(original, self.dim, u, v)


@checks_options
def spectral_norm(module: Layer, name: str = "weight", n_power_iterations: int = 1,
                  eps: float = 1e-12, dim: int | None = None) -> Layer:
    """Divide a parameter by its largest singular value before each forward.

    The trained parameter is renamed to `name`_orig.  It is treated as a matrix whose rows are the
    indices of axis `dim`, by default 1 for a transposed convolution and 0 otherwise.  The buffers
    `name`_u and `name`_v approximate the first singular vectors; in training, each forward improves
    them by `n_power_iterations` steps of power iteration.  Returns the module.

    T. Miyato et al., ICLR 2018.
    """
    if n_power_iterations < 1:
        raise ValueError(f"spectral_norm: n_power_iterations must be at least 1, "
                         f"got {n_power_iterations}")
    if dim is None:
        dim = default_dim(module)
    reparametrization = SpectralNorm(name, n_power_iterations, eps, dim)
    weight = reparametrization.pop_parameter(module)
    setattr(module, f"{name}_orig", weight)
    reparametrization.assign(module, weight.detach())
    rows, columns = as_matrix(weight.detach(), dim).shape
    module.register_buffer(f"{name}_u", random_direction(raw(weight), rows, eps))
    module.register_buffer(f"{name}_v", random_direction(raw(weight), columns, eps))
    module.register_forward_pre_hook(reparametrization)
    return module


@on_device_of_arguments
def random_direction(like: Any, n: int, eps: float) -> Tensor:
    """A random unit vector of length n, with the dtype and device of `like`."""
    xp = namespace(like)
    values = raw(normal_(Tensor(xp.zeros(n, like.dtype))))
    return Tensor(normalize(xp, values, eps).astype(like.dtype))


def remove_spectral_norm(module: Layer, name: str = "weight") -> Layer:
    """Undo `spectral_norm`: the normalized weight becomes a parameter.  Returns the module."""
    SpectralNorm.remove(module, name, "_orig", "_u", "_v")
    return module
