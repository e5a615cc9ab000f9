"""Reading and writing at indices."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop import _array as G
from gpuprop._array.scatter import put as put_op
from gpuprop._core.graph import raw
from gpuprop._core.namespace import get_array_module
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch._functions._arguments import (
    along,
    host,
    is_integer,
    new,
    not_negative,
    of_scalar,
)
from gpuprop.torch._functions._shapes import broadcast_tensors, narrow, reshape
from gpuprop.torch._tensor import wrap

__all__ = [
    "diagonal_scatter", "gather", "index_add", "index_copy", "index_fill", "index_put",
    "index_select", "masked_fill", "masked_scatter", "masked_select", "nonzero", "put",
    "scatter", "scatter_add", "scatter_reduce", "select_scatter", "slice_scatter", "take",
    "take_along_dim", "unravel_index", "where",
]


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """The elements of `input` where `condition` holds, else of `other`; or, alone, its indices."""
    if input is None:
        return nonzero(condition, as_tuple=True)
    return G.where(condition, input, other)


def gather(input: Any, dim: int, index: Any) -> Any:
    not_negative("gather", index)
    if not input.array.ndim:
        return G.gather(reshape(input, (1,)), 0, reshape(index, (-1,))).reshape(index.shape)
    return G.gather(input, dim, index)


def take_along_dim(input: Any, indices: Any, dim: int | None = None) -> Any:
    if dim is None:
        return G.take(input, reshape(indices, (-1,)))
    return G.take_along_axis(input, indices, dim)


def index_select(input: Any, dim: int, index: Any) -> Any:
    not_negative("index_select", index)
    if not input.array.ndim:
        return of_scalar(index_select, input, dim, index)
    return G.index_select(input, dim, index)


def masked_select(input: Any, mask: Any) -> Any:
    input, mask = broadcast_tensors(input, mask)
    return input[mask]


def masked_fill(input: Any, mask: Any, value: Any) -> Any:
    if not isinstance(value, Plain) and is_integer(input):
        value = input.array.dtype.type(value).item()
    return G.masked_fill(input, mask, value)


def scatter_add(input: Any, dim: int, index: Any, src: Any) -> Any:
    not_negative("scatter_add", index)
    if not input.array.ndim:
        return of_scalar(scatter_add, input, dim, index, src)
    return G.scatter_add(input, dim, index, src)


def scatter(input: Any, dim: int, index: Any, src: Any = None, *, value: Any = None,
            reduce: str | None = None) -> Any:
    """`input` with the elements of `src`, or `value`, at the indices along `dim`."""
    not_negative("scatter", index)
    if not input.array.ndim:
        return of_scalar(scatter, input, dim, index, src, value=value, reduce=reduce)
    new = src if value is None else value
    if not isinstance(new, Plain):
        new = G.full_like(index, new, input.array.dtype)
    if reduce is not None:
        fold = {"add": "sum", "multiply": "prod"}[reduce]
        return scatter_reduce(input, dim, index, new, fold)
    there = G.scatter_add(G.zeros_like(input), dim, index, G.ones_like(index, input.array.dtype))
    return G.where(there > 0, G.scatter_add(G.zeros_like(input), dim, index, new), input)


def index_add(input: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    not_negative("index_add", index)
    if not input.array.ndim:
        return of_scalar(index_add, input, dim, index, source, alpha=alpha)
    return input + _put_rows(input, dim, index, source if alpha == 1 else source * alpha)


def index_fill(input: Any, dim: int, index: Any, value: Any) -> Any:
    if not input.array.ndim:
        return of_scalar(index_fill, input, dim, index, value)
    return replaced(input, along(input, dim, raw(index)), value)


def index_copy(input: Any, dim: int, index: Any, source: Any) -> Any:
    not_negative("index_copy", index)
    if not input.array.ndim:
        return of_scalar(index_copy, input, dim, index, source)
    return replaced(input, along(input, dim, raw(index)), source)


def _put_rows(x: Any, dim: int, index: Any, rows: Any) -> Any:
    return put_op(rows, key=along(x, dim, raw(index)), shape=tuple(x.shape))


def replaced(x: Any, key: Any, value: Any) -> Any:
    """`x` with `value` at an index, as an op with a gradient for both."""
    xp = get_array_module(x)
    shape = x.array[key].shape
    if not isinstance(value, Plain):
        value = wrap(xp.asarray(value, x.array.dtype))
    extra = value.array.ndim - len(shape)
    if extra > 0 and value.shape[:extra] == (1,) * extra:
        value = reshape(value, value.shape[extra:])
    value = G.broadcast_to(value.to(x.array.dtype), shape)
    if not value.array.size:
        return G.copy(x)
    source = xp.full(tuple(x.shape), -1, "int64")  # of an index given twice, one value is taken
    source[key] = xp.arange(value.array.size).reshape(shape)
    return G.where(source >= 0, G.take(value, xp.maximum(source, 0)), x)


def nonzero(input: Any, *, as_tuple: bool = False) -> Any:
    if as_tuple:
        return tuple(new(i, input) for i in np.nonzero(np.atleast_1d(host(input))))
    return new(np.argwhere(host(input)), input)


def take(input: Any, index: Any) -> Any:
    """The elements of the flattened tensor at these indices."""
    return G.take(input, index)


def index_put(input: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    """`input` with `values` at an index, or with `values` added there."""
    key = tuple(raw(i) for i in indices)
    if not accumulate:
        return replaced(input, key, values)
    shape = input.array[key].shape
    return input + put_op(G.broadcast_to(values, shape), key=key, shape=tuple(input.shape))


def put(input: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    """`input` with `source` at indices of the flattened tensor."""
    flat, key, values = (reshape(t, (-1,)) for t in (input, index, source))
    return reshape(index_put(flat, (key,), values, accumulate), tuple(input.shape))


def masked_scatter(input: Any, mask: Any, source: Any) -> Any:
    """`input` with the elements of `source`, one after the other, where `mask` holds."""
    x, mask = broadcast_tensors(input, mask)
    number = int(host(mask).sum())
    return replaced(x, raw(mask), reshape(source, (-1,))[:number])


def scatter_reduce(input: Any, dim: int, index: Any, src: Any, reduce: str, *,
                   include_self: bool = True) -> Any:
    """The sum, mean, product, largest or smallest of the elements of `src` at each index."""
    not_negative("scatter_reduce", index)
    if not input.array.ndim:
        row, index, src = (reshape(t, (1,)) for t in (input, index, src))
        found = scatter_reduce(row, 0, index, src, reduce, include_self=include_self)
        return reshape(found, ())
    src = src[tuple(slice(n) for n in index.shape)]
    count = G.scatter_add(G.zeros_like(input.detach()), dim, index, G.ones_like(src.detach()))
    if reduce not in ("sum", "mean"):
        fold = {"prod": G.multiply, "amax": G.maximum, "amin": G.minimum}[reduce]
        return _folded(input, dim, index, src, fold, include_self)
    total = G.scatter_add(input if include_self else masked_fill(input, count > 0, 0), dim, index,
                          src)
    if reduce == "sum":
        return total
    count = count + 1 if include_self else G.maximum(count, 1)
    return total // count if is_integer(input) else total / count


def _folded(x: Any, dim: int, index: Any, src: Any, fold: Callable, include_self: bool) -> Any:
    """Fold the slices of `src` along an axis into `x`, one after the other."""
    result, is_set = x, G.full_like(x.detach(), include_self, "bool")
    for i in range(index.shape[dim]):
        at, value = narrow(index, dim, i, 1), narrow(src, dim, i, 1)
        there = scatter(G.zeros_like(is_set), dim, at, value=True)
        value = scatter(result, dim, at, value)
        folded = G.where(is_set, fold(result, value), value)
        result = G.where(there, folded, result)
        is_set = is_set | there
    return result


def select_scatter(input: Any, src: Any, dim: int, index: int) -> Any:
    return replaced(input, along(input, dim, index), src)


def slice_scatter(input: Any, src: Any, dim: int = 0, start: int | None = None,
                  end: int | None = None, step: int = 1) -> Any:
    return replaced(input, along(input, dim, slice(start, end, step)), src)


def diagonal_scatter(input: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    x = G.moveaxis(input, (dim1, dim2), (-2, -1))
    n = src.shape[-1]
    key = (..., np.arange(n) + builtins.max(-offset, 0), np.arange(n) + builtins.max(offset, 0))
    return G.moveaxis(replaced(x, key, src), (-2, -1), (dim1, dim2))


def unravel_index(indices: Any, shape: Any) -> Any:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return tuple(new(a, indices) for a in np.unravel_index(host(indices), shape))
