"""Random Tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpuprop.random as random
from gpuprop._core.graph import raw
from gpuprop._core.tensor import tensor as plain_tensor
from gpuprop.torch._functions._arguments import default_dtype, host, listed, placed
from gpuprop.torch._tensor import wrap

__all__ = [
    "bernoulli", "multinomial", "normal", "rand", "rand_like", "randint", "randn", "randn_like",
    "randperm",
]


def _source(generator: Any) -> Any:
    return random.default_generator if generator is None else generator


def randn(*sizes: Any, size: Any = (), generator: Any = None, dtype: Any = None, device: Any = None,
          requires_grad: bool = False, **_: Any) -> Any:
    array = _source(generator).normal(listed(sizes or (size,)), dtype=dtype or default_dtype())
    return placed(wrap(raw(array)), device, requires_grad)


def rand(*sizes: Any, size: Any = (), generator: Any = None, dtype: Any = None, device: Any = None,
         requires_grad: bool = False, **_: Any) -> Any:
    array = _source(generator).uniform(listed(sizes or (size,)), dtype=dtype or default_dtype())
    return placed(wrap(raw(array)), device, requires_grad)


def randint(low: int, high: Any, size: Any = None, *, generator: Any = None, dtype: Any = None,
            device: Any = None, requires_grad: bool = False) -> Any:
    if size is None:
        low, high, size = 0, low, high
    array = raw(_source(generator).integers(low, high, tuple(size)))
    t = wrap(array)
    return placed(t if dtype is None else t.to(dtype), device, requires_grad)


def randperm(n: int, *, generator: Any = None, dtype: Any = None, device: Any = None) -> Any:
    t = wrap(raw(_source(generator).permutation(n)))
    return placed(t if dtype is None else t.to(dtype), device, False)


def rand_like(input: Any, *, dtype: Any = None, device: Any = None,
              requires_grad: bool = False) -> Any:
    return rand(*input.shape, dtype=dtype or input.array.dtype, device=device or input.device,
                requires_grad=requires_grad)


def randn_like(input: Any, *, dtype: Any = None, device: Any = None,
               requires_grad: bool = False) -> Any:
    return randn(*input.shape, dtype=dtype or input.array.dtype, device=device or input.device,
                 requires_grad=requires_grad)


def normal(mean: Any, std: Any = 1.0, size: Any = None, *, generator: Any = None) -> Any:
    shape = size
    if shape is None:
        shape = np.broadcast_shapes(*(getattr(v, "shape", ()) for v in (mean, std)))
    return mean + std * randn(*shape, generator=generator)


def bernoulli(input: Any, *, generator: Any = None) -> Any:
    draws = rand(*input.shape, generator=generator, device=input.device)
    return (draws < input).to(input.array.dtype)


def multinomial(input: Any, num_samples: int, replacement: bool = False, *,
                generator: Any = None) -> Any:
    """Indices drawn with probabilities proportional to the weights in each row."""
    weights = host(input).astype("float64")
    shape = (*weights.shape[:-1], num_samples)
    if replacement:
        draws = host(rand(*shape, generator=generator, dtype="float64"))
        sums = np.cumsum(weights, -1)
        found = (draws[..., None] * sums[..., None, -1:] >= sums[..., None, :]).sum(-1)
    else:  # the largest keys of exponential variables: Efraimidis and Spirakis 2006
        draws = host(rand(*weights.shape, generator=generator, dtype="float64"))
        with np.errstate(divide="ignore"):
            keys = np.where(weights > 0, np.log1p(-draws) / weights, -np.inf)
        found = np.argsort(-keys, -1)[..., :num_samples]
    return placed(plain_tensor(found), input.device, False)
