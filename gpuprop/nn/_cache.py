"""Keys and values of what was seen before, so that a sequence is generated without seeing all of it again each time."""

from __future__ import annotations

from typing import Any

from gpuprop._array.indexing import take
from gpuprop._core.graph import raw
from gpuprop._core.ops import kernel
from gpuprop._core.placement import write
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor
from gpuprop.nn._module import Module
from gpuprop.nn.init import new


class KeyValueCache(Module):
    """Memory for the keys and values (N, heads, L, dim) of up to `max_length` positions.

    Use it under ``no_grad()``::

        keys, values = cache.update(key, value)
        y = F.scaled_dot_product_attention(query, keys, values, cache.mask(query.shape[-2]))

    `length` is a 0-d tensor, counted in place on the device, and the shapes are always those of the whole memory, so a
    step of generation can be captured, and a replay goes on counting.  Before `update` it is the position of the first
    new element: ``rotary(query, input_pos=cache.length)``, ``embedding(cache.length + gpuprop.arange(L))``.  `reset`
    begins a new sequence.  Keys and values that stay as they are, such as those of a decoder's memory, are given once
    to a cache of their length, and read as ``cache.keys`` and ``cache.values`` from then on.
    """

    keys: Tensor
    values: Tensor
    length: Tensor

    def __init__(self, batch: int, max_length: int, heads: int, dim: int, device: str | None = None,
                 dtype: Any = None) -> None:
        for name in ("keys", "values"):
            self.register_buffer(name, new((batch, heads, max_length, dim), device, dtype), persistent=False)
        self.register_buffer("length", new((), device, "int64", 0), persistent=False)

    def update(self, key: Any, value: Any) -> tuple[Tensor, Tensor]:
        """Write the next keys and values (N, heads, L, dim) behind the others; the whole memory comes out.

        Raises IndexError where `max_length` is exceeded: at once on NumPy, with the next value read on a device.
        """
        n, heads, most, dim = self.keys.shape
        for name, a in ("key", key), ("value", value):
            if a.shape != (n, heads, key.shape[-2], dim):
                raise ValueError(f"KeyValueCache: {name} is (N, heads, L, dim), here ({n}, {heads}, L, {dim}), "
                                 f"not {a.shape}")
            if a.dtype != self.keys.dtype:
                raise TypeError(f"KeyValueCache: {name} is {a.dtype.name} and the cache {self.keys.dtype.name}: "
                                f"make it with dtype={a.dtype.name!r}")
            if getattr(a, "requires_grad", False):
                raise RuntimeError(f"KeyValueCache: {name} requires a gradient, which does not pass through a cache: "
                                   f"generate under no_grad()")
        if key.shape[-2] > most:
            raise IndexError(OVERFLOW.format(most))
        store(self.keys, self.values, self.length, key, value)
        return self.keys, self.values

    def mask(self, queries: int = 1, window: int | None = None) -> Tensor:
        """What the last `queries` positions see, as (queries, max_length) booleans for `scaled_dot_product_attention`.

        Each sees itself and what comes before it, with a `window` at most so many positions before it.
        """
        return Tensor(visible(self.length, queries, self.keys.shape[2], window))

    def reorder(self, index: Any) -> None:
        """Sample i goes on from what sample ``index[i]`` saw: for `gpuprop.decoding.beam_search`."""
        for memory in (self.keys, self.values):
            write(memory.data, take(memory.data, raw(index), 0))

    def reset(self) -> None:
        """Forget all."""
        for buffer in self.buffers():
            write(buffer.data, 0)

    def extra_repr(self) -> str:
        n, heads, most, dim = self.keys.shape
        return f"batch={n}, max_length={most}, heads={heads}, dim={dim}"


OVERFLOW = "KeyValueCache: the sequence is longer than max_length={}: make it longer, or reset() it"


@kernel
def store(xp, keys: Array, values: Array, length: Array, key: Array, value: Array):
    """The new keys and values in place, at `length`, which counts on."""
    n, most = key.shape[2], keys.shape[2]
    xp.check(length + n <= most, OVERFLOW.format(most))
    places = length + xp.arange(n)
    keys[:, :, places] = key
    values[:, :, places] = value
    length += n


@kernel
def visible(xp, length: Array, queries, most, window):
    """(queries, most) booleans: is the position one that the query, among the last before `length`, sees?"""
    back = length - queries + xp.arange(queries)[:, None] - xp.arange(most)
    return back >= 0 if window is None else (back >= 0) & (back <= window)
