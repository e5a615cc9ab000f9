"""Random Tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpuprop.random as random
from gpuprop._core.graph import raw
from gpuprop._core.tensor import tensor as plain_tensor
from gpuprop.torch._functions._arguments import default_dtype, host, listed, new, placed
from gpuprop.torch._tensor import wrap

__all__ = [
    "bernoulli",
    "binomial",
    "get_rng_state",
    "initial_seed",
    "multinomial",
    "normal",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
    "seed",
    "set_rng_state", ]


def _source(generator: Any) -> Any:
    return random.default_generator if generator is None else generator


def randn(*sizes: Any, size: Any = (), generator: Any = None, dtype: Any = None, device: Any = None,
          requires_grad: bool = False, layout: Any = None, pin_memory: bool = False,
          memory_format: Any = None) -> Any:
    array = _source(generator).normal(listed(sizes or (size,)), dtype=dtype or default_dtype())
    return placed(wrap(raw(array)), device, requires_grad)


def rand(*sizes: Any, size: Any = (), generator: Any = None, dtype: Any = None, device: Any = None,
         requires_grad: bool = False, layout: Any = None, pin_memory: bool = False,
         memory_format: Any = None) -> Any:
    array = _source(generator).uniform(listed(sizes or (size,)), dtype=dtype or default_dtype())
    return placed(wrap(raw(array)), device, requires_grad)


def randint(low: int = 0, high: Any = None, size: Any = None, *, generator: Any = None,
            dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
    if high is None:
        low, high = 0, low
    elif size is None:
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


def normal(mean: Any, std: Any = 1.0, size: Any = None, *, generator: Any = None,
           dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
    shape = size
    if shape is None:
        shape = np.broadcast_shapes(*(getattr(v, "shape", ()) for v in (mean, std)))
    drawn = randn(*shape, generator=generator, dtype=dtype, device=device)
    return placed(mean + std * drawn, None, requires_grad)


def bernoulli(input: Any, *, generator: Any = None) -> Any:
    draws = rand(*input.shape, generator=generator, device=input.device)
    return (draws < input).to(input.array.dtype)


def multinomial(input: Any, num_samples: int, replacement: bool = False, *,
                generator: Any = None) -> Any:
    """Indices drawn with probabilities proportional to the weights in each row."""
    weights = host(input).astype("float64")
    if not (np.isfinite(weights) & (weights >= 0)).all() or not (weights.sum(-1) > 0).all():
        raise RuntimeError("multinomial: input must have weights that are finite, at least 0 and "
                           "not all 0")
    if not replacement and num_samples > weights.shape[-1]:
        raise RuntimeError(f"multinomial: cannot draw {num_samples} of {weights.shape[-1]} without "
                           f"replacement=True")
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


def randint_like(input: Any, low: int, high: Any = None, *, dtype: Any = None,
                 device: Any = None) -> Any:
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, tuple(input.shape), dtype=dtype or input.array.dtype,
                   device=device or input.device)


def poisson(input: Any, generator: Any = None) -> Any:
    """Poisson numbers with these rates."""
    return new(_numpy_generator(generator).poisson(host(input)).astype(input.array.dtype), input)


def binomial(count: Any, prob: Any, generator: Any = None) -> Any:
    """Numbers of successes in `count` trials."""
    drawn = _numpy_generator(generator).binomial(host(count).astype("int64"), host(prob))
    return new(drawn.astype(prob.array.dtype), prob)


def _numpy_generator(generator: Any) -> np.random.Generator:
    """A generator of NumPy, seeded by a draw of gpuprop's."""
    return np.random.default_rng(int(_source(generator).integers(0, 2**31 - 1)))


# ---- seeds and states ----------------------------------------------------------------------------


def seed() -> int:
    """Seed the default generator with a random number, which is returned."""
    import secrets

    number = secrets.randbits(63)
    random.manual_seed(number)
    return number


def initial_seed() -> int:
    return random.default_generator.get_state()["seed"]


def get_rng_state() -> Any:
    """The state of the default generator, as a Tensor of bytes."""
    import json

    text = json.dumps(random.default_generator.get_state()).encode()
    return wrap(np.frombuffer(text, "uint8").copy())


def set_rng_state(new_state: Any) -> None:
    import json

    random.default_generator.set_state(json.loads(bytes(host(new_state))))
