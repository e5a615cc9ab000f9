"""Initial values: PyTorch's schemes, drawn on the host from the generator's stream 0: equal bits on every backend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuprop._array.creation import full
from gpuprop._core.graph import raw
from gpuprop._core.placement import write
from gpuprop._core.registry import on_host
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.random import INIT, Generator, default_generator


def new(shape: tuple[int, ...], device: str | None = None, dtype: Any = None, value: float = 0.0) -> Tensor:
    """A Tensor for a parameter, float32 on the backend in use if nothing else is asked."""
    return full(shape, value, dtype or "float32", device)


def _fill(tensor: Tensor, values: Any) -> Tensor:
    """Write host values where the tensor is."""
    write(raw(tensor), values)
    if isinstance(tensor, Parameter):
        tensor.touch()
    return tensor


def _drawn(tensor: Tensor, rng: Generator | None, distribution: str, *parameters: float,
           shape: tuple[int, ...] | None = None) -> np.ndarray:
    """float64 on the host, whatever the backend in use."""
    with on_host():
        draw = getattr(rng or default_generator, distribution)
        return draw(tensor.shape if shape is None else shape, *parameters, dtype="float64", stream=INIT)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform in [a, b)."""
    return _fill(tensor, _drawn(tensor, generator, "uniform", a, b))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal."""
    return _fill(tensor, _drawn(tensor, generator, "normal", mean, std))


def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0,
                  generator: Generator | None = None) -> Tensor:
    """Normal, given that it lies within [a, b]."""
    return _fill(tensor, _drawn(tensor, generator, "truncated_normal", mean, std, a, b))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """`val` everywhere."""
    return _fill(tensor, val)


def ones_(tensor: Tensor) -> Tensor:
    """1 everywhere."""
    return _fill(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """0 everywhere."""
    return _fill(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity in a matrix, as far as it goes."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_ fills a matrix, not a tensor of shape {tensor.shape}")
    return _fill(tensor, np.eye(*tensor.shape))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Filters (out, in, ...) that hand their channel on: 1 at the centre of filter i of each group, for channel i."""
    if tensor.ndim not in (3, 4, 5):
        raise ValueError(f"dirac_ fills filters (out, in, ...) of 1 to 3 dimensions, not a tensor {tensor.shape}")
    out, channels, *size = tensor.shape
    if out % groups:
        raise ValueError(f"dirac_: {out} filters do not divide into {groups} groups")
    values = np.zeros(tensor.shape)
    for g in range(groups):
        for i in range(min(out // groups, channels)):
            values[(g * (out // groups) + i, i, *(n // 2 for n in size))] = 1.0
    return _fill(tensor, values)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """What a layer's scale is to be multiplied by for the function that follows; `param` is leaky_relu's slope."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    known = dict.fromkeys(("linear", "sigmoid", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3))), 1.0)
    known |= {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}
    if nonlinearity not in known:
        raise ValueError(f"no gain is known for {nonlinearity!r}; known: leaky_relu, {', '.join(known)}")
    return known[nonlinearity]


def _fans(tensor: Tensor) -> tuple[int, int]:
    """How many inputs an output has, and outputs an input: (fan_in, fan_out) of a weight (out, in, ...)."""
    if tensor.ndim < 2:
        raise ValueError(f"this scheme needs a weight (out, in, ...), not a tensor of shape {tensor.shape}")
    out, channels, *size = tensor.shape
    return channels * math.prod(size), out * math.prod(size)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform within gain * sqrt(6 / (fan_in + fan_out)); X. Glorot and Y. Bengio, AISTATS 2010."""
    bound = gain * math.sqrt(6 / (sum(_fans(tensor)) or 1))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with deviation gain * sqrt(2 / (fan_in + fan_out)); X. Glorot and Y. Bengio, AISTATS 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / (sum(_fans(tensor)) or 1)), generator)


def _kaiming(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is 'fan_in' or 'fan_out', not {mode!r}")
    return calculate_gain(nonlinearity, a) / math.sqrt(_fans(tensor)[mode == "fan_out"] or 1)


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
                     generator: Generator | None = None) -> Tensor:
    """Uniform within gain * sqrt(3 / fan); K. He et al., ICCV 2015."""
    bound = math.sqrt(3) * _kaiming(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
                    generator: Generator | None = None) -> Tensor:
    """Normal with deviation gain / sqrt(fan); K. He et al., ICCV 2015."""
    return normal_(tensor, 0.0, _kaiming(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """A (semi-)orthogonal matrix times `gain`, later axes as columns; A. Saxe et al., ICLR 2014."""
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_ needs at least 2 axes, not shape {tensor.shape}")
    if not tensor.size:
        return tensor
    rows, columns = tensor.shape[0], tensor.size // tensor.shape[0]
    q, r = np.linalg.qr(_drawn(tensor, generator, "normal", shape=(max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))  # makes the distribution uniform
    return _fill(tensor, gain * (q.T if rows < columns else q).reshape(tensor.shape))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> Tensor:
    """A matrix with the fraction `sparsity` of each column zero, the rest normal; J. Martens, ICML 2010."""
    if tensor.ndim != 2:
        raise ValueError(f"sparse_ fills a matrix, not a tensor of shape {tensor.shape}")
    rows, columns = tensor.shape
    values = _drawn(tensor, generator, "normal", 0.0, std)
    order = np.argsort(_drawn(tensor, generator, "uniform"), axis=0)
    values[order[:math.ceil(sparsity * rows)], np.arange(columns)] = 0.0
    return _fill(tensor, values)
