"""Key-value cache for generation by attention."""

from __future__ import annotations

from typing import Any

from gpuprop._array.indexing import take
from gpuprop._core.graph import raw
from gpuprop._core.ops import kernel
from gpuprop._core.placement import write
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor
from gpuprop.nn._module import Module, new_tensor


class KeyValueCache(Module):
    """The keys and values of past positions, so that generation processes only new positions.

    Holds keys and values (N, heads, L, dim) of up to `max_length` positions.  Use it under
    ``no_grad()``::

        keys, values = cache.update(key, value)
        mask = cache.mask(query.shape[-2])
        y = F.scaled_dot_product_attention(query, keys, values, mask)

    `update` returns the whole buffers, so shapes are constant.  `length`, the number of cached
    positions, is a 0-d tensor that `update` increments in place.  A generation step can
    therefore be captured.  Before `update`, `length` is the position of the first new element:
    ``rotary(query, input_pos=cache.length)``, ``embedding(cache.length + gpuprop.arange(L))``.
    `reset` starts a new sequence.

    For cross-attention, whose keys and values do not change, call `update` once with all of
    them and then read ``cache.keys`` and ``cache.values``.

    Keys, values and length are buffers that are not saved.  PyTorch has no such layer.
    """

    keys: Tensor
    values: Tensor
    length: Tensor

    def __init__(self, batch: int, max_length: int, heads: int, dim: int,
                 device: str | None = None, dtype: Any = None) -> None:
        for name in ("keys", "values"):
            buffer = new_tensor((batch, heads, max_length, dim), device, dtype)
            self.register_buffer(name, buffer, persistent=False)
        self.register_buffer("length", new_tensor((), device, "int64", 0), persistent=False)

    def update(self, key: Any, value: Any) -> tuple[Tensor, Tensor]:
        """Append new keys and values (N, heads, L, dim); returns the buffers of all positions.

        Raises IndexError if `max_length` is exceeded: immediately on NumPy, at the next read
        of a value on a device.
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
                raise RuntimeError(f"KeyValueCache: {name} requires a gradient, which a cache "
                                   f"does not propagate: generate under no_grad()")
        if key.shape[-2] > max_length:
            raise IndexError(OVERFLOW.format(max_length))
        cache_append(self.keys, self.values, self.length, key, value)
        return self.keys, self.values

    def mask(self, queries: int = 1, window: int | None = None) -> Tensor:
        """The causal mask of the last `queries` positions: bools (queries, max_length).

        True where `scaled_dot_product_attention` may attend: a position itself and the earlier
        ones, with `window` at most `window` earlier ones.
        """
        return Tensor(cache_mask(self.length, queries, self.keys.shape[2], window))

    def reorder(self, index: Any) -> None:
        """Continue sample i from sample ``index[i]``, as `gpuprop.decoding.beam_search` needs."""
        for buffer in (self.keys, self.values):
            write(buffer.data, take(buffer.data, raw(index), 0))

    def reset(self) -> None:
        """Remove all positions."""
        for buffer in self.buffers():
            write(buffer.data, 0)

    def extra_repr(self) -> str:
        n, heads, max_length, dim = self.keys.shape
        return f"batch={n}, max_length={max_length}, heads={heads}, dim={dim}"


OVERFLOW = ("KeyValueCache: the sequence is longer than max_length={}: increase max_length, or "
            "call reset()")


@kernel
def cache_append(xp, keys: Array, values: Array, length: Array, key: Array, value: Array):
    """Write new keys and values at positions from `length` on, and increase `length`; in place."""
    n = key.shape[2]
    max_length = keys.shape[2]
    xp.check(length + n <= max_length, OVERFLOW.format(max_length))
    positions = length + xp.arange(n)
    keys[:, :, positions] = key
    values[:, :, positions] = value
    length += n


@kernel
def cache_mask(xp, length: Array, queries, max_length, window):
    """Bools (queries, max_length): may the query, one of the last before `length`, attend?"""
    query_positions = length - queries + xp.arange(queries)[:, None]
    distance = query_positions - xp.arange(max_length)
    return distance >= 0 if window is None else (distance >= 0) & (distance <= window)
