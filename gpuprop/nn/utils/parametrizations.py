"""Parametrizations of weights: weight and spectral normalization, orthogonal matrices.

They have PyTorch's names in state dicts, such as ``parametrizations.weight.original0``.
"""

from __future__ import annotations

from typing import TypeVar

from gpuprop._core.graph import raw
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Tensor
from gpuprop.functional import normalize
from gpuprop.nn._module import Module
from gpuprop.nn.utils._orthogonal import MAPS, Orthogonal
from gpuprop.nn.utils._spectral_norm import (
    as_matrix,
    default_dim,
    divided,
    random_direction,
    singular_vectors,
)
from gpuprop.nn.utils._weight_norm import norm_except, scaled
from gpuprop.nn.utils.parametrize import register_parametrization

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]

_Layer = TypeVar("_Layer", bound=Module)


class _WeightNorm(Module):
    """``original0 * original1 / |original1|``"""

    def __init__(self, dim: int | None) -> None:
        self.dim = dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return scaled(weight_g, weight_v, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return norm_except(weight, self.dim), weight


@checks_options
def weight_norm(module: _Layer, name: str = "weight", dim: int | None = 0) -> _Layer:
    """Write a parameter as the product of a norm, `original0`, and a direction, `original1`.

    There is one norm for each index of axis `dim`, or a single norm for ``dim=None``.  Returns the
    module.

    T. Salimans and D. P. Kingma, NeurIPS 2016.
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    return module


class _SpectralNorm(Module):
    """The weight, divided by its largest singular value."""

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        self.dim = dim
        self.n_power_iterations = n_power_iterations
        self.eps = eps
        if weight.ndim > 1:
            matrix = as_matrix(weight.detach(), dim)
            u, v = (random_direction(raw(weight), n, eps) for n in matrix.shape)
            singular_vectors(matrix.T, v, u, 15, eps)
            self.register_buffer("_u", u)
            self.register_buffer("_v", v)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return normalize(weight, 2.0, 0, self.eps)
        steps = self.n_power_iterations if self.training else 0
        matrix = as_matrix(weight, self.dim)
        # u first, in other than the order of the older `spectral_norm`, as in PyTorch
        v, u = singular_vectors(
            matrix.T, vars(self)["_v"], vars(self)["_u"], steps, self.eps)
        return divided(weight, self.dim, u, v)

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


@checks_options(n_power_iterations=1)
def spectral_norm(module: _Layer, name: str = "weight", n_power_iterations: int = 1,
                  eps: float = 1e-12, dim: int | None = None) -> _Layer:
    """Divide a parameter by its largest singular value at each access.

    The weight is treated as a matrix whose rows are the indices of axis `dim`, by default 1 for a
    transposed convolution and 0 otherwise.  Its first singular vectors are approximated by 15 steps
    of power iteration, and by `n_power_iterations` more at each access in training.  Returns the
    module.

    T. Miyato et al., ICLR 2018.
    """
    weight = _weight("spectral_norm", module, name, 1)
    axis = default_dim(module) if dim is None else dim
    axis = axis if axis >= 0 else axis + weight.ndim
    normalization = _SpectralNorm(weight, n_power_iterations, axis, eps)
    register_parametrization(module, name, normalization)
    return module


def _weight(function: str, module: Module, name: str, ndim: int) -> Tensor:
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor) or weight.ndim < ndim:
        raise ValueError(f"{function}: {type(module).__name__} has no parameter or buffer {name!r} "
                         f"with at least {ndim} axes")
    return weight


@checks_options
def orthogonal(module: _Layer, name: str = "weight", orthogonal_map: str | None = None, *,
               use_trivialization: bool = True) -> _Layer:
    """Keep a parameter orthogonal: the columns of each matrix are orthonormal, or its rows.

    `orthogonal_map` computes an orthogonal matrix from any one: "matrix_exp" or "cayley", of its
    skew-symmetric part, or "householder", a product of reflections.  The default is "matrix_exp"
    for square matrices and "householder" for others.  With `use_trivialization` the result is
    multiplied by the present weight, so that the training starts there.  "matrix_exp" is exact
    while the norm of the skew-symmetric part is at most 100.  Returns the module.

    M. Lezcano-Casado, "Trivializations for gradient-based optimization on manifolds", NeurIPS 2019.
    """
    weight = _weight("orthogonal", module, name, 2)
    if orthogonal_map is None:
        is_square = weight.shape[-2] == weight.shape[-1]
        orthogonal_map = "matrix_exp" if is_square else "householder"
    if orthogonal_map not in MAPS:
        raise ValueError(f"orthogonal: orthogonal_map must be one of {', '.join(MAPS)}, got "
                         f"{orthogonal_map!r}")
    parametrization = Orthogonal(weight, orthogonal_map, use_trivialization)
    register_parametrization(module, name, parametrization, unsafe=True)
    return module
