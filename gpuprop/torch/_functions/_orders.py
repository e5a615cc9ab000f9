"""Orders, ranks and counts of elements."""

from __future__ import annotations

import builtins
import math
from typing import Any, NamedTuple

import numpy as np

from gpuprop import _array as G
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch._functions._arguments import host, is_integer, new
from gpuprop.torch._functions._reductions import ValuesAndIndices
from gpuprop.torch._functions._shapes import narrow, reshape, squeeze, unsqueeze
from gpuprop.torch._tensor import as_torch

__all__ = [
    "argsort", "argwhere", "bincount", "bucketize", "histc", "histogram", "isin", "kthvalue",
    "median", "mode", "msort", "nanmedian", "nanquantile", "quantile", "searchsorted", "sort",
    "topk", "unique", "unique_consecutive",
]


def sort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """The elements in order along an axis, and their indices."""
    indices = argsort(input, dim, descending)
    if not input.array.ndim:
        return ValuesAndIndices(G.copy(input), indices)
    return ValuesAndIndices(G.take_along_axis(input, indices, dim), indices)


def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    if not input.array.ndim:
        return as_torch(G.zeros_like(input.detach(), "int64"))
    return Plain.argsort(input, dim, descending)


def msort(input: Any) -> Any:
    return sort(input, 0)[0]


def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    if not input.array.ndim:
        return sort(input)
    return ValuesAndIndices(*G.topk(input, k, dim, largest, sorted))


def kthvalue(input: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    n = input.shape[dim] if input.array.ndim else 1
    if not 1 <= k <= n:
        raise RuntimeError(f"kthvalue: k must be from 1 to {n}, the size of axis {dim}, got {k}")
    return _at_rank(input, k - 1, dim, keepdim)


def _at_rank(x: Any, rank: Any, dim: int, keepdim: bool) -> Any:
    """The elements of a rank along an axis, and their indices."""
    values, indices = sort(x, dim)
    if not x.array.ndim:
        return ValuesAndIndices(values, indices)
    if isinstance(rank, int):
        found = ValuesAndIndices(*(narrow(t, dim, rank, 1) for t in (values, indices)))
    else:
        found = ValuesAndIndices(*(G.take_along_axis(t, rank, dim) for t in (values, indices)))
    return found if keepdim else ValuesAndIndices(*(squeeze(t, dim) for t in found))


def median(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The lower median, NaN if there is one; with `dim`, values and indices."""
    return _median(input, dim, keepdim, skips_nan=False)


def nanmedian(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The lower median of the elements that are not NaN; with `dim`, values and indices."""
    return _median(input, dim, keepdim, skips_nan=True)


def _median(x: Any, dim: Any, keepdim: bool, skips_nan: bool) -> Any:
    if dim is None:
        return _median(reshape(x, (-1,)), 0, False, skips_nan)[0]
    n = x.shape[dim] if x.array.ndim else 1
    if is_integer(x) or not x.array.ndim:
        return _at_rank(x, (n - 1) // 2, dim, keepdim)
    numbers = n - G.sum(G.isnan(x), dim, True)  # NaN comes last
    middle = G.maximum(numbers - 1, 0) // 2
    return _at_rank(x, middle if skips_nan else G.where(numbers < n, n - 1, middle), dim, keepdim)


def quantile(input: Any, q: Any, dim: Any = None, keepdim: bool = False, *,
             interpolation: str = "linear") -> Any:
    """The q-th quantiles along an axis, NaN if there is one; `q` is a number or a vector."""
    return _quantile(input, q, dim, keepdim, interpolation, skips_nan=False)


def nanquantile(input: Any, q: Any, dim: Any = None, keepdim: bool = False, *,
                interpolation: str = "linear") -> Any:
    """The q-th quantiles of the elements that are not NaN."""
    return _quantile(input, q, dim, keepdim, interpolation, skips_nan=True)


def _quantile(x: Any, q: Any, dim: Any, keepdim: bool, interpolation: str,
              skips_nan: bool) -> Any:
    flat = reshape(x, (-1,)) if dim is None or not x.array.ndim else x
    axis = 0 if flat is not x else dim
    q = q if isinstance(q, Plain) else new(np.asarray(q, x.array.dtype), x)
    values = G.moveaxis(sort(flat, axis)[0], axis, -1)
    n = values.shape[-1]
    numbers = n - G.sum(G.isnan(values), -1, True)
    last = G.maximum(numbers - 1, 0) if skips_nan else G.where(numbers < n, 0, numbers - 1)
    rank = reshape(q, (-1,)) * last.to(q.array.dtype)
    below = {"nearest": G.round, "higher": G.ceil}.get(interpolation, G.floor)(rank)
    found = _at(values, below)
    if interpolation in ("linear", "midpoint"):
        weight = rank - below if interpolation == "linear" else 0.5
        found = found + weight * (_at(values, G.ceil(rank)) - found)
    if not skips_nan:
        found = G.where(numbers < n, math.nan, found)
    found = G.moveaxis(found, -1, 0)
    if keepdim:
        found = reshape(found, (-1, *(1 for _ in x.shape))) if dim is None else unsqueeze(
            found, 1 + dim % builtins.max(x.array.ndim, 1)) if x.array.ndim else found
    return found if q.array.ndim else found[0]


def _at(values: Any, rank: Any) -> Any:
    return G.take_along_axis(values, rank.detach().to("int64"), -1)


def mode(input: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """The most frequent element along an axis, of several the smallest, and its last index."""
    if not input.array.ndim:
        return sort(input)
    a = np.moveaxis(host(input), dim, -1)
    rows = a.reshape(-1, a.shape[-1])
    places = np.empty((len(rows), 1), "int64")
    for i, row in enumerate(rows):
        values, counts = np.unique(row, return_counts=True)
        places[i] = np.flatnonzero(row == values[counts.argmax()])[-1]
    found = new(np.moveaxis(places.reshape(*a.shape[:-1], 1), -1, dim), input)
    both = ValuesAndIndices(G.take_along_axis(input, found, dim), found)
    return both if keepdim else ValuesAndIndices(*(squeeze(t, dim) for t in both))


# ---- counts, computed on the host without a gradient ---------------------------------------------


def bincount(input: Any, weights: Any = None, minlength: int = 0) -> Any:
    counts = np.bincount(host(input), None if weights is None else host(weights), minlength)
    if weights is not None:
        counts = counts.astype("float32" if weights.dtype == "float32" else "float64")
    return new(counts, input)


def unique(input: Any, sorted: bool = True, return_inverse: bool = False,
           return_counts: bool = False, dim: int | None = None) -> Any:
    found: Any = np.unique(  # type: ignore[call-overload]
        host(input), False, return_inverse, return_counts, dim)
    if isinstance(found, tuple):
        return tuple(new(a, input) for a in found)
    return new(found, input)


def unique_consecutive(input: Any, return_inverse: bool = False, return_counts: bool = False,
                       dim: int | None = None) -> Any:
    """`input` without elements, or slices, that equal the one before."""
    a = host(input)
    a = a.reshape(-1) if dim is None else np.moveaxis(a, dim, 0)
    n = len(a)
    differs = (a[1:] != a[:-1]).any(tuple(range(1, a.ndim)))
    starts = np.flatnonzero(np.concatenate([np.ones(builtins.min(n, 1), "bool"), differs]))
    values = a[starts] if dim is None else np.moveaxis(a[starts], 0, dim)
    counts = np.diff(np.append(starts, n))
    inverse = np.repeat(np.arange(len(starts)), counts)
    inverse = inverse.reshape(input.shape) if dim is None else inverse
    found = [values] + [inverse] * return_inverse + [counts] * return_counts
    return tuple(new(f, input) for f in found) if len(found) > 1 else new(values, input)


def histc(input: Any, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """The numbers of elements in bins of equal width; equal limits mean the range of `input`."""
    a = host(input)
    if min == max and a.size:
        min, max = a.min(), a.max()
    if min == max:
        min, max = min - 1, max + 1
    return new(np.histogram(a, bins, (min, max))[0].astype(a.dtype), input)


class Histogram(NamedTuple):
    """The result of `histogram`."""

    hist: Any
    bin_edges: Any


def histogram(input: Any, bins: Any, *, range: Any = None, weight: Any = None,
              density: bool = False) -> Any:
    limits = None if isinstance(bins, Plain) else range
    found = np.histogram(host(input), host(bins), limits, density,
                         None if weight is None else host(weight))
    return Histogram(*(new(f.astype(input.array.dtype), input) for f in found))


def searchsorted(sorted_sequence: Any, input: Any, *, out_int32: bool = False,
                 right: bool = False, side: str | None = None, sorter: Any = None) -> Any:
    """Where `input` would be inserted into the last axis of `sorted_sequence`."""
    keys, values = host(sorted_sequence), np.asarray(host(input))
    if sorter is not None:
        keys = np.take_along_axis(keys, host(sorter), -1)
    at: Any = side or ("right" if right else "left")
    if keys.ndim == 1:
        found = np.searchsorted(keys, values, at)
    else:
        n = math.prod(keys.shape[:-1])
        rows = zip(keys.reshape(n, keys.shape[-1]), values.reshape(n, values.shape[-1]),
                   strict=True)
        found = np.array([np.searchsorted(k, v, at) for k, v in rows]).reshape(values.shape)
    return new(np.asarray(found).astype("int32" if out_int32 else "int64"), sorted_sequence)


def bucketize(input: Any, boundaries: Any, *, out_int32: bool = False,
              right: bool = False) -> Any:
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False,
         invert: bool = False) -> Any:
    like = elements if isinstance(elements, Plain) else test_elements
    return new(np.isin(host(elements), host(test_elements), invert=invert), like)


def argwhere(input: Any) -> Any:
    return new(np.argwhere(host(input)), input)
