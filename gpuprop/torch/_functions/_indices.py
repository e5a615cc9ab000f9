"""Reading and writing at indices."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from gpuprop import _array as G
from gpuprop._array.scatter import put
from gpuprop._core.graph import raw
from gpuprop._core.namespace import get_array_module
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch._functions._arguments import along, host, new
from gpuprop.torch._functions._shapes import stack
from gpuprop.torch._tensor import wrap

__all__ = [
    "gather", "index_add", "index_copy", "index_fill", "index_select", "masked_fill",
    "masked_select", "nonzero", "scatter", "scatter_add", "take_along_dim", "where",
]


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """The elements of `input` where `condition` holds, else of `other`; or, alone, its indices."""
    if input is None:
        return nonzero(condition, as_tuple=True)
    return G.where(condition, input, other)


def gather(input: Any, dim: int, index: Any) -> Any:
    return G.gather(input, dim, index)


def take_along_dim(input: Any, indices: Any, dim: int) -> Any:
    return G.take_along_axis(input, indices, dim)


def index_select(input: Any, dim: int, index: Any) -> Any:
    return G.index_select(input, dim, index)


def masked_select(input: Any, mask: Any) -> Any:
    return input[mask]


def masked_fill(input: Any, mask: Any, value: Any) -> Any:
    if not isinstance(value, Plain) and input.array.dtype.kind in "iub":
        value = input.array.dtype.type(value).item()
    return G.masked_fill(input, mask, value)


def scatter_add(input: Any, dim: int, index: Any, src: Any) -> Any:
    return G.scatter_add(input, dim, index, src)


def scatter(input: Any, dim: int, index: Any, src: Any = None, *, value: Any = None) -> Any:
    """`input` with the elements of `src`, or `value`, at the indices along `dim`."""
    new = src if value is None else value
    if not isinstance(new, Plain):
        new = G.full_like(index, new, input.array.dtype)
    there = G.scatter_add(G.zeros_like(input), dim, index, G.ones_like(index, input.array.dtype))
    return G.where(there > 0, G.scatter_add(G.zeros_like(input), dim, index, new), input)


def index_add(input: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    return input + _put_rows(input, dim, index, source * alpha)


def index_fill(input: Any, dim: int, index: Any, value: Any) -> Any:
    return replaced(input, along(input, dim, raw(index)), value)


def index_copy(input: Any, dim: int, index: Any, source: Any) -> Any:
    return replaced(input, along(input, dim, raw(index)), source)


def _put_rows(x: Any, dim: int, index: Any, rows: Any) -> Any:
    return put(rows, key=along(x, dim, raw(index)), shape=tuple(x.shape))


def replaced(x: Any, key: Any, value: Any) -> Any:
    """`x` with `value` at an index, as an op with a gradient for both."""
    xp = get_array_module(x)
    there = xp.zeros(tuple(x.shape), builtins.bool)
    there[key] = True
    shape = x.array[key].shape
    if not isinstance(value, Plain):
        value = wrap(xp.asarray(value, x.array.dtype))
    value = G.broadcast_to(value.to(x.array.dtype), shape)
    return G.where(there, put(value, key=key, shape=tuple(x.shape)), x)


def nonzero(input: Any, *, as_tuple: bool = False) -> Any:
    found = [new(i) for i in np.nonzero(host(input))]
    return tuple(found) if as_tuple else stack(found, 1)
