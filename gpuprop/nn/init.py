"""Initialization schemes with PyTorch's names.  Each fills a Tensor in place and returns it.

Random numbers are drawn on the host, from the stream `INIT` of the generator, so that a seed gives
the same bits on every backend.  The default `generator` is the one that `gpuprop.manual_seed`
seeds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuprop._core.graph import raw
from gpuprop._core.options import checks_options
from gpuprop._core.placement import write
from gpuprop._core.registry import on_host
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.random import INIT, Generator, default_generator

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


def _fill(tensor: Tensor, values: Any) -> Tensor:
    """Write host values into the tensor."""
    write(raw(tensor), values)
    if isinstance(tensor, Parameter):
        tensor.touch()
    return tensor


def _draw(tensor: Tensor, rng: Generator | None, distribution: str, *parameters: float,
          shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A float64 NumPy array of random numbers, by default of the tensor's shape.

    `distribution` is the name of a method of Generator, which is called with `parameters`.
    """
    if shape is None:
        shape = tensor.shape
    with on_host():
        draw = getattr(rng or default_generator, distribution)
        return draw(shape, *parameters, dtype="float64", stream=INIT)


@checks_options
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0,
             generator: Generator | None = None) -> Tensor:
    """Fill with random numbers from the uniform distribution on [a, b)."""
    return _fill(tensor, _draw(tensor, generator, "uniform", a, b))


@checks_options
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0,
            generator: Generator | None = None) -> Tensor:
    """Fill with random numbers from the normal distribution N(mean, std**2)."""
    return _fill(tensor, _draw(tensor, generator, "normal", mean, std))


@checks_options
def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0,
                  b: float = 2.0, generator: Generator | None = None) -> Tensor:
    """Fill with random numbers from N(mean, std**2), truncated to [a, b]."""
    return _fill(tensor, _draw(tensor, generator, "truncated_normal", mean, std, a, b))


@checks_options
def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with `val`."""
    return _fill(tensor, val)


@checks_options
def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return _fill(tensor, 1.0)


@checks_options
def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return _fill(tensor, 0.0)


@checks_options
def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with ones on the diagonal and zeros elsewhere."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: expected a matrix, got shape {tensor.shape}")
    return _fill(tensor, np.eye(*tensor.shape))


@checks_options
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill the weight (out, in, ...) of a convolution that copies its input channels.

    In each group, filter i is 1 at the centre of channel i, and 0 elsewhere.
    """
    if tensor.ndim not in (3, 4, 5):
        raise ValueError(f"dirac_: expected filters (out, in, ...) with 1 to 3 spatial dimensions, "
                         f"got shape {tensor.shape}")
    out, channels, *size = tensor.shape
    if out % groups:
        raise ValueError(f"dirac_: groups={groups} must divide the {out} filters")
    filters_per_group = out // groups
    centre = [n // 2 for n in size]
    values = np.zeros(tensor.shape)
    for group in range(groups):
        for i in range(min(filters_per_group, channels)):
            values[(group * filters_per_group + i, i, *centre)] = 1.0
    return _fill(tensor, values)


GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75,
         **{f"conv{kind}{n}d": 1.0 for n in (1, 2, 3) for kind in ("", "_transpose")}}
CHOICES: dict[str, Any] = {"mode": ("fan_in", "fan_out"), "nonlinearity": ("leaky_relu", *GAINS)}


@checks_options(**CHOICES)
def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which the standard deviation of a weight is scaled for an activation.

    `nonlinearity` is the name of the activation after the layer, such as "relu" or "tanh".  `param`
    is the negative slope of "leaky_relu", 0.01 by default.

    >>> from gpuprop.nn import init
    >>> round(init.calculate_gain("relu"), 4)
    1.4142
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2 / (1 + slope**2))
    return GAINS[nonlinearity]


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, ...): inputs per output, and outputs per input."""
    if tensor.ndim < 2:
        raise ValueError(f"expected a weight (out, in, ...), got shape {tensor.shape}")
    out, channels, *size = tensor.shape
    return channels * math.prod(size), out * math.prod(size)


@checks_options
def xavier_uniform_(tensor: Tensor, gain: float = 1.0,
                    generator: Generator | None = None) -> Tensor:
    """Fill with uniform random numbers in [-a, a], ``a = gain * sqrt(6 / (fan_in + fan_out))``.

    X. Glorot and Y. Bengio, AISTATS 2010.
    """
    bound = gain * math.sqrt(6 / (sum(_fans(tensor)) or 1))
    return uniform_(tensor, -bound, bound, generator)


@checks_options
def xavier_normal_(tensor: Tensor, gain: float = 1.0,
                   generator: Generator | None = None) -> Tensor:
    """Fill with random numbers from N(0, std**2), ``std = gain * sqrt(2 / (fan_in + fan_out))``.

    X. Glorot and Y. Bengio, AISTATS 2010.
    """
    std = gain * math.sqrt(2 / (sum(_fans(tensor)) or 1))
    return normal_(tensor, 0.0, std, generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    """``gain / sqrt(fan)``"""
    fan_in, fan_out = _fans(tensor)
    fan = fan_in if mode == "fan_in" else fan_out
    return calculate_gain(nonlinearity, a) / math.sqrt(fan or 1)


@checks_options(**CHOICES)
def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in",
                     nonlinearity: str = "leaky_relu",
                     generator: Generator | None = None) -> Tensor:
    """Fill with uniform random numbers in [-bound, bound], ``bound = gain * sqrt(3 / fan)``.

    fan is the number of inputs of an output ("fan_in") or vice versa ("fan_out"), as chosen by
    `mode`.  gain is ``calculate_gain(nonlinearity, a)``, where `a` is the slope of "leaky_relu".
    K. He et al., ICCV 2015.
    """
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


@checks_options(**CHOICES)
def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in",
                    nonlinearity: str = "leaky_relu",
                    generator: Generator | None = None) -> Tensor:
    """Fill with random numbers from N(0, std**2), ``std = gain / sqrt(fan)``.

    For gain, fan and `mode` see `kaiming_uniform_`.
    K. He et al., ICCV 2015.
    """
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


@checks_options
def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with a random (semi-)orthogonal matrix times `gain`.

    The matrix has the tensor's first axis as rows, and all other axes, flattened, as columns.
    A. Saxe et al., ICLR 2014.
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: expected at least 2 axes, got shape {tensor.shape}")
    if not tensor.size:
        return tensor
    rows = tensor.shape[0]
    columns = tensor.size // rows
    shape = (max(rows, columns), min(rows, columns))
    q, r = np.linalg.qr(_draw(tensor, generator, "normal", shape=shape))
    q *= np.sign(np.diag(r))  # makes q uniformly distributed over the orthogonal matrices
    matrix = q.T if rows < columns else q
    return _fill(tensor, gain * matrix.reshape(tensor.shape))


@checks_options
def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01,
            generator: Generator | None = None) -> Tensor:
    """Fill a matrix from N(0, std**2), and set the fraction `sparsity` of each column to zero.

    J. Martens, ICML 2010.
    """
    if tensor.ndim != 2:
        raise ValueError(f"sparse_: expected a matrix, got shape {tensor.shape}")
    rows, columns = tensor.shape
    values = _draw(tensor, generator, "normal", 0.0, std)
    order = np.argsort(_draw(tensor, generator, "uniform"), axis=0)
    zeros = math.ceil(sparsity * rows)
    values[order[:zeros], np.arange(columns)] = 0.0
    return _fill(tensor, values)
