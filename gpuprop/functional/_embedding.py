"""Embedding: rows of a table, one by one or a bag of them at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gpuprop._array.arithmetic import divide, maximum, multiply, where
from gpuprop._array.indexing import take, take_along_axis
from gpuprop._array.reduction import argmax, norm
from gpuprop._array.scatter import put_rows
from gpuprop._array.shape import astype
from gpuprop._core.dtypes import compute_dtype, widened
from gpuprop._core.graph import raw
from gpuprop._core.ops import kernel, op
from gpuprop._core.placement import on_device_of_arguments
from gpuprop._core.signature import Array


@op(half="exact")
def rows_of(xp, input: Array, weight: Array, padding_idx=None, scale_grad_by_freq=False):
    """The rows of `weight` that `input` names; no gradient comes from where it names `padding_idx`."""
    n = len(weight)
    xp.check((input >= 0) & (input < n), f"embedding: input names rows of weight, 0 to {n - 1}: another was found")

    def to_weight(d):
        if padding_idx is not None:
            d = xp.where((input == padding_idx)[..., None], 0, d)
        if scale_grad_by_freq:
            times = put_rows.on(xp, xp.ones(input.shape, compute_dtype(d.dtype)), input, axis=0, n=n)
            d = d / xp.take(times, input, axis=0)[..., None]
        return put_rows.on(xp, d, input, axis=0, n=n)

    return xp.take(weight, input, axis=0), (None, to_weight)


def embedding(input: Array, weight: Array, padding_idx: int | None = None, max_norm: float | None = None,
              norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False) -> Array:
    """The rows of `weight` (n, D) that the integers of `input` (...) name: (..., D).

    Row `padding_idx` gets no gradient.  Rows longer than `max_norm` by the `norm_type`-norm are first shortened to it,
    in place.  `scale_grad_by_freq` divides a row's gradient by how often the input names it.  `sparse` is accepted and
    ignored: gradients are dense.  A row that is not there is an IndexError, on a device when a value is read next.
    """
    check("embedding", input, weight)
    padding_idx = within("embedding", padding_idx, len(weight))
    if max_norm is not None:
        shorten(weight, input, max_norm, norm_type)
    return rows_of(input, weight, padding_idx, scale_grad_by_freq)


def check(what: str, input: Any, weight: Any) -> None:
    """The input is of integers, and the weight a table."""
    if weight.ndim != 2:
        raise ValueError(f"{what}: weight is (rows, features), not of shape {weight.shape}")
    if input.dtype.kind not in "iu":
        raise TypeError(f"{what}: input names rows of weight, and must be integers, not {input.dtype.name}")


def within(what: str, padding_idx: int | None, n: int) -> int | None:
    """`padding_idx` of n rows, counted from the first."""
    if padding_idx is None:
        return None
    if not -n <= padding_idx < n:
        raise ValueError(f"{what}: padding_idx={padding_idx} is none of the {n} rows")
    return padding_idx % n


@on_device_of_arguments
def shorten(weight: Any, input: Any, max_norm: float, norm_type: float) -> None:
    """Scale the rows that `input` names to `max_norm`, in place, where they are longer."""
    weight, index = raw(weight), raw(input).reshape(-1)
    rows = take(weight, index, 0)
    length = norm(rows, norm_type, 1, True)
    replace_rows(weight, index, rows * where(length > max_norm, max_norm / (length + 1e-7), 1))


@kernel
def replace_rows(xp, x: Array, index: Array, rows: Array):
    """Write rows into `x` where `index` says; those that go to one place are equal."""
    x[index] = rows


# ---- bags -----------------------------------------------------------------------------------------------------------


@on_device_of_arguments
def embedding_bag(input: Array, weight: Array, offsets: Array = None, max_norm: float | None = None,
                  norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
                  per_sample_weights: Array = None, include_last_offset: bool = False,
                  padding_idx: int | None = None) -> Array:
    """The "sum", "mean" or "max" of each bag of rows of `weight` (n, D): (bags, D).

    Bags are the rows of `input`, or, if it is 1-D, stretches of it that begin at `offsets`, the last of which is an end
    if `include_last_offset`.  Where `input` names row `padding_idx` nothing counts; an empty bag is 0.
    `per_sample_weights`, in the shape of `input`, multiply what is summed.  The other options are `embedding`'s.
    """
    check("embedding_bag", input, weight)
    check_bags(input, offsets, mode, scale_grad_by_freq, per_sample_weights)
    padding_idx = within("embedding_bag", padding_idx, len(weight))
    if max_norm is not None:
        shorten(weight, input, max_norm, norm_type)
    input = raw(input)
    rows = widened(rows_of(input, weight, None, scale_grad_by_freq))
    if per_sample_weights is not None:
        rows = multiply(rows, widened(per_sample_weights)[..., None])
    total, best = in_rows() if offsets is None else in_stretches(raw(offsets), len(input))
    counts = input == input if padding_idx is None else input != padding_idx
    many = total(counts.astype(rows.dtype))[:, None]
    if mode == "max" and math.prod(input.shape):
        pooled = where(many > 0, best(rows, where(counts[..., None], raw(rows), -math.inf)), 0)
    else:
        pooled = total(rows if padding_idx is None else where(counts[..., None], rows, 0))
        if mode == "mean":
            pooled = divide(pooled, maximum(many, 1))
    pooled = pooled if pooled.dtype == weight.dtype else astype(pooled, weight.dtype)
    return pooled[:-1] if include_last_offset and offsets is not None else pooled


def in_rows() -> tuple[Callable, Callable]:
    """The total of each bag, and of each its largest `among` what counts, of bags (bags, size, ...)."""
    return lambda a: a.sum(axis=1), lambda rows, among: take_along_axis(rows, argmax(among, 1, True), 1)[:, 0]


def in_stretches(offsets: Any, n: int) -> tuple[Callable, Callable]:
    """The same of bags that are stretches of n rows, (n, ...)."""
    bags, count = bags_of(offsets, n), len(offsets)
    return (lambda a: put_rows(a, bags, 0, count),
            lambda rows, among: take_along_axis(rows, largest(among, bags, count), 0))


def check_bags(input: Any, offsets: Any, mode: str, scale_grad_by_freq: bool, per_sample_weights: Any) -> None:
    """What `embedding_bag` takes together."""
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: mode is 'sum', 'mean' or 'max', not {mode!r}")
    if input.ndim not in (1, 2) or (offsets is None) != (input.ndim == 2):
        raise ValueError(f"embedding_bag: input is (bags, size) without offsets, or (n,) with offsets, "
                         f"not {input.shape} {'without' if offsets is None else 'with'} offsets")
    if offsets is not None and (offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets)):
        raise ValueError(f"embedding_bag: offsets are integers, one or more, not {offsets.dtype.name} of shape "
                         f"{offsets.shape}")
    if mode == "max" and scale_grad_by_freq:
        raise ValueError("embedding_bag: scale_grad_by_freq is not for mode='max'")
    if per_sample_weights is not None and (mode != "sum" or per_sample_weights.shape != input.shape):
        raise ValueError(f"embedding_bag: per_sample_weights are for mode='sum', in the shape of input, {input.shape}; "
                         f"not for mode={mode!r} in shape {per_sample_weights.shape}")


@kernel
def bags_of(xp, offsets: Array, n):
    """Which bag each of n places is in, by where the bags begin."""
    xp.check(offsets[:1] == 0, "embedding_bag: the first of offsets must be 0")
    xp.check((offsets[1:] >= offsets[:-1]) & (offsets[1:] <= n),
               "embedding_bag: offsets must ascend, and not beyond the elements of input")
    return xp.searchsorted(offsets, xp.arange(n), side="right") - 1


@kernel
def largest(xp, rows: Array, bags: Array, n):
    """Which row has the largest number in each of n bags, the first of equals: (rows, D), (rows,) -> (n, D)."""
    many, features = rows.shape
    rows = rows.astype(compute_dtype(rows.dtype), copy=False)
    rows, place = xp.where(rows == rows, rows + 0.0, math.inf), xp.arange(many, dtype="int32")[:, None]
    to = (bags[:, None] * features + xp.arange(features)).reshape(many * features)
    best, first = xp.full(n * features, -math.inf, rows.dtype), xp.full(n * features, many - 1, "int32")
    best = as_ordered(best)
    xp.maximum.at(best, to, as_ordered(rows.reshape(many * features)))  # whose order changes nothing
    here = as_ordered(rows) == best[to].reshape(many, features)
    xp.minimum.at(first, to, xp.where(here, place, many - 1).reshape(many * features))
    return first.reshape(n, features)


def as_ordered(x: Any) -> Any:
    """Integers of the same size in the same order as floats, the bits of which they are: CUDA has no float64 maximum.

    The order is total: NaNs lie at its ends, and -0.0 is below 0.0.
    """
    bits = 8 * x.dtype.itemsize
    signed = x.view(f"int{bits}")
    return signed ^ ((signed >> bits - 1) & 2 ** (bits - 1) - 1)
