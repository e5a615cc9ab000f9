"""Key-value cache for autoregressive generation with attention."""

from __future__ import annotations

from typing import Any

from gpuprop._array.indexing import take
from gpuprop._core.graph import extent, raw, written
from gpuprop._core.ops import kernel
from gpuprop._core.options import checks_options
from gpuprop._core.placement import write
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor
from gpuprop.nn._module import Module, new_tensor


class KeyValueCache(Module):
    """Store the keys and values of past positions, so that attention needs only the new ones.

    The buffers `keys` and `values` are (N, heads, max_length, dim), and `length` is the number of
    cached positions, a 0-d Tensor.  Use the cache under ``no_grad()``::

        keys, values = cache.update(key, value)
        mask = cache.mask(query.shape[-2])
        y = F.scaled_dot_product_attention(query, keys, values, mask)

    `update` returns the whole buffers, so shapes are constant, and increments `length` in place.  A
    generation step can therefore be captured.  Before `update`, `length` is the position of the
    first new element: ``rotary(query, input_pos=cache.length)``,
    ``embedding(cache.length + gpuprop.arange(L))``.  `reset` starts a new sequence.

    The keys and values of cross-attention do not change.  For them, set `max_length` to the length
    of the source, call `update` once, and then read ``cache.keys`` and ``cache.values``.

    The buffers are not part of `state_dict`.  PyTorch has no such layer.
    """

    keys: Tensor
    values: Tensor
    length: Tensor

    @checks_options(dim=1)
    def __init__(self, batch: int, max_length: int, heads: int, dim: int,
                 device: str | None = None, dtype: Any = None) -> None:
        for name in ("keys", "values"):
            buffer = new_tensor((batch, heads, max_length, dim), device, dtype)
            self.register_buffer(name, buffer, persistent=False)
        self.register_buffer("length", new_tensor((), device, "int64", 0), persistent=False)

    def update(self, key: Any, value: Any) -> tuple[Tensor, Tensor]:
        """Append new keys and values (N, heads, L, dim); returns the buffers of all positions.

        Raises IndexError if the sequence exceeds `max_length`: on NumPy immediately, on a device
        when a value is next read.
        """
        n, heads, max_length, dim = self.keys.shape
        for name, a in ("key", key), ("value", value):
            if a.shape != (n, heads, key.shape[-2], dim):
                raise ValueError(f"KeyValueCache: {name} must be (N, heads, L, dim) = "
                                 f"({n}, {heads}, L, {dim}), got {a.shape}")
            if a.dtype != self.keys.dtype:
                raise TypeError(f"KeyValueCache: {name} is {a.dtype.name} but the cache is "
                                f"{self.keys.dtype.name}: create it with dtype={a.dtype.name!r}")
            if getattr(a, "requires_grad", False):
                raise RuntimeError(f"KeyValueCache: {name} requires a gradient, but a cache does "
                                   f"not propagate gradients: call it under no_grad()")
        if key.shape[-2] > max_length:
            raise IndexError(OVERFLOW.format(max_length))
        cache_append(self.keys, self.values, self.length, key, value)
        for buffer in self.buffers():
            written(extent(buffer.array))
        return self.keys, self.values

    def mask(self, queries: int = 1, window: int | None = None) -> Tensor:
        """The causal mask (queries, max_length) for the last `queries` positions, a bool Tensor.

        True where `scaled_dot_product_attention` may attend: to the query's own position and to all
        earlier ones, or with `window` only to the last `window` of these.  Call it after `update`.
        """
        return Tensor(cache_mask(self.length, queries, self.keys.shape[2], window))

    def reorder(self, index: Any) -> None:
        """Replace sample i by sample ``index[i]``, as `gpuprop.decoding.beam_search` requires."""
        for buffer in (self.keys, self.values):
            write(buffer.array, take(buffer.array, raw(index), 0))

    def reset(self) -> None:
        """Remove all positions."""
        for buffer in self.buffers():
            write(buffer.array, 0)

    def extra_repr(self) -> str:
        n, heads, max_length, dim = self.keys.shape
        return f"batch={n}, max_length={max_length}, heads={heads}, dim={dim}"


OVERFLOW = ("KeyValueCache: the sequence is longer than max_length={}: increase max_length, or "
            "call reset()")


@kernel
def cache_append(xp, keys: Array, values: Array, length: Array, key: Array, value: Array):
    """Write new keys and values at the positions from `length`, and increase `length`, in place."""
    n = key.shape[2]
    max_length = keys.shape[2]
    xp.check(length + n <= max_length, OVERFLOW.format(max_length))
    positions = length + xp.arange(n)
    keys[:, :, positions] = key
    values[:, :, positions] = value
    length += n


@kernel
def cache_mask(xp, length: Array, queries, max_length, window):
    """The mask (queries, max_length) of `KeyValueCache.mask`, for the positions before `length`."""
    query_positions = length - queries + xp.arange(queries)[:, None]
    distance = query_positions - xp.arange(max_length)
    return distance >= 0 if window is None else (distance >= 0) & (distance <= window)
