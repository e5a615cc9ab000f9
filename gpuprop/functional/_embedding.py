"""Embedding: the rows of a table by index, one per index or one per bag of indices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gpuprop._array.arithmetic import divide, maximum, multiply, where
from gpuprop._array.indexing import take, take_along_axis
from gpuprop._array.reduction import argmax, norm
from gpuprop._array.reduction import sum as sum_of
from gpuprop._array.scatter import put_rows
from gpuprop._array.shape import astype
from gpuprop._core.arguments import promoted
from gpuprop._core.composed import checks_arguments
from gpuprop._core.dtypes import compute_dtype, widened
from gpuprop._core.graph import extent, raw, written
from gpuprop._core.ops import kernel, op
from gpuprop._core.placement import on_device_of_arguments
from gpuprop._core.signature import Array


@op(half="exact", name="embedding")
def embedding_lookup(xp, input: Array, weight: Array, padding_idx: int | None = None,
                     scale_grad_by_freq: bool = False):
    """``weight[input]``; row `padding_idx` of `weight` gets no gradient."""
    n = len(weight)
    xp.check((input >= 0) & (input < n),
             f"embedding: index out of range: expected 0 <= index < {n}", input)

    def to_weight(d):
        if padding_idx is not None:
            d = xp.where((input == padding_idx)[..., None], 0, d)
        if scale_grad_by_freq:
            ones = xp.ones(input.shape, compute_dtype(d.dtype))
            counts = put_rows.on(xp, ones, input, axis=0, n=n)
            d = d / xp.take(counts, input, axis=0)[..., None]
        return put_rows.on(xp, d, input, axis=0, n=n)

    return xp.take(weight, input, axis=0), (None, to_weight)


@checks_arguments
def embedding(input: Array, weight: Array, padding_idx: int | None = None,
              max_norm: float | None = None, norm_type: float = 2.0,
              scale_grad_by_freq: bool = False, sparse: bool = False) -> Array:
    """Embedding lookup: ``y[...] = weight[input[...]]``.

    `input` holds integers (...), and `weight` is (num_embeddings, D); the output is (..., D).  Row
    `padding_idx` gets no gradient.  With `max_norm`, rows that are looked up are first scaled in
    place, so that no `norm_type`-norm exceeds `max_norm`.  `scale_grad_by_freq` divides the
    gradient of a row by the number of times that its index occurs in `input`.  Gradients are dense:
    `sparse` has no effect.  Raises ValueError if `weight` is not 2-D or has no row `padding_idx`,
    TypeError if `input` does not hold integers, and IndexError if an index is out of range (on a
    device, when a value is next read).

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> weight = gp.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    >>> F.embedding(gp.tensor([2, 1]), weight).tolist()
    [[3.0, 4.0], [1.0, 2.0]]
    """
    check_input_and_weight("embedding", input, weight)
    padding_idx = nonnegative_padding_idx("embedding", padding_idx, len(weight))
    if max_norm is not None:
        limit_row_norms(weight, input, max_norm, norm_type)
    return embedding_lookup(input, weight, padding_idx, scale_grad_by_freq)


def check_input_and_weight(name: str, input: Any, weight: Any) -> None:
    """Raise ValueError unless `weight` is 2-D, and TypeError unless `input` holds integers."""
    if weight.ndim != 2:
        raise ValueError(f"{name}: weight must be (num_embeddings, embedding_dim), got shape "
                         f"{weight.shape}")
    if input.dtype.kind not in "iu":
        raise TypeError(f"{name}: input must hold integer indices, got {input.dtype.name}")


def nonnegative_padding_idx(name: str, padding_idx: int | None, n: int) -> int | None:
    """`padding_idx`, which may be negative, as an index from 0 to n - 1."""
    if padding_idx is None:
        return None
    if not -n <= padding_idx < n:
        raise ValueError(f"{name}: padding_idx {padding_idx} is out of range for {n} embeddings")
    return padding_idx % n


@on_device_of_arguments
def limit_row_norms(weight: Any, input: Any, max_norm: float, norm_type: float) -> None:
    """Scale the rows ``weight[input]`` in place, so that no norm exceeds `max_norm`."""
    weight = raw(weight)
    index = raw(input).reshape(-1)
    rows = take(weight, index, 0)
    norms = norm(rows, norm_type, 1, True)
    assign_rows(weight, index, rows * where(norms > max_norm, max_norm / (norms + 1e-7), 1))
    written(extent(weight))


@kernel
def assign_rows(xp, x: Array, index: Array, rows: Array):
    """``x[index] = rows``; rows with the same index must be equal."""
    x[index] = rows


# ---- bags --------------------------------------------------------------------------------------


@checks_arguments
@on_device_of_arguments
def embedding_bag(input: Array, weight: Array, offsets: Array = None,
                  max_norm: float | None = None, norm_type: float = 2,
                  scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
                  per_sample_weights: Array = None, include_last_offset: bool = False,
                  padding_idx: int | None = None) -> Array:
    """Embedding lookup, reduced per bag of indices: ``y[b] = sum(weight[i] for i in bag b)``.

    `input` holds integers (bags, size) or (n,), and `weight` is (num_embeddings, D); the output is
    (bags, D).  `mode` is "sum", "mean" (the default) or "max".  If `input` is 1-D, bag b consists
    of ``input[offsets[b]:offsets[b + 1]]``; the last bag ends with `input`, or, with
    `include_last_offset`, at the last offset.  Indices that are `padding_idx` do not count.  The
    result for an empty bag is 0.  `per_sample_weights`, in the shape of `input`, multiply the rows
    (mode "sum" only).  The other parameters are those of `embedding`.  Raises ValueError if
    arguments do not fit together, TypeError if `input` does not hold integers, and IndexError if an
    index or offset is out of range (on a device, when a value is next read).

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> weight = gp.tensor([[1.0], [10.0], [100.0]])
    >>> F.embedding_bag(gp.tensor([0, 1, 2]), weight, gp.tensor([0, 2]), mode="sum").tolist()
    [[11.0], [100.0]]
    """
    check_input_and_weight("embedding_bag", input, weight)
    check_bags(input, offsets, mode, scale_grad_by_freq, per_sample_weights)
    padding_idx = nonnegative_padding_idx("embedding_bag", padding_idx, len(weight))
    if max_norm is not None:
        limit_row_norms(weight, input, max_norm, norm_type)
    input = raw(input)
    weight, per_sample_weights = promoted([weight, per_sample_weights])
    rows = widened(embedding_lookup(input, weight, None, scale_grad_by_freq))
    if per_sample_weights is not None:
        rows = multiply(rows, widened(per_sample_weights)[..., None])
    if offsets is None:
        bag_sum, bag_max = reductions_of_rows()
    else:
        bag_sum, bag_max = reductions_by_offsets(raw(offsets), len(input))
    # without padding_idx all indices are counted
    counted = input == input if padding_idx is None else input != padding_idx
    bag_size = bag_sum(counted.astype(rows.dtype))[:, None]
    if mode == "max" and math.prod(input.shape):
        candidates = where(counted[..., None], raw(rows), -math.inf)
        pooled = where(bag_size > 0, bag_max(rows, candidates), 0)
    else:
        pooled = bag_sum(rows if padding_idx is None else where(counted[..., None], rows, 0))
        if mode == "mean":
            pooled = divide(pooled, maximum(bag_size, 1))
    if pooled.dtype != weight.dtype:
        pooled = astype(pooled, weight.dtype)
    return pooled[:-1] if include_last_offset and offsets is not None else pooled


def reductions_of_rows() -> tuple[Callable, Callable]:
    """The functions ``bag_sum(a)`` and ``bag_max(rows, candidates)`` for arrays (bags, size, ...).

    ``bag_max`` picks the elements of `rows` at the indices of the largest `candidates`.
    """

    def bag_sum(a):
        return sum_of(a, 1)

    def bag_max(rows, candidates):
        return take_along_axis(rows, argmax(candidates, 1, True), 1)[:, 0]

    return bag_sum, bag_max


def reductions_by_offsets(offsets: Any, n: int) -> tuple[Callable, Callable]:
    """The functions of `reductions_of_rows` for arrays (n, ...) whose bags start at `offsets`."""
    bags = bag_of_each_index(offsets, n)
    count = len(offsets)

    def bag_sum(a):
        return put_rows(a, bags, 0, count)

    def bag_max(rows, candidates):
        return take_along_axis(rows, bag_argmax(candidates, bags, count), 0)

    return bag_sum, bag_max


def check_bags(input: Any, offsets: Any, mode: str, scale_grad_by_freq: bool,
               per_sample_weights: Any) -> None:
    """Raise ValueError unless the arguments of `embedding_bag` fit together."""
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: mode must be 'sum', 'mean' or 'max', got {mode!r}")
    if input.ndim not in (1, 2) or (offsets is None) != (input.ndim == 2):
        raise ValueError(f"embedding_bag: input must be (bags, size) without offsets, or (n,) with "
                         f"offsets, got {input.shape} {'without' if offsets is None else 'with'} "
                         f"offsets")
    if offsets is not None and (
            offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets)):
        raise ValueError(f"embedding_bag: offsets must hold one or more integers, got "
                         f"{offsets.dtype.name} of shape {offsets.shape}")
    if mode == "max" and scale_grad_by_freq:
        raise ValueError("embedding_bag: scale_grad_by_freq cannot be used with mode='max'")
    if per_sample_weights is None:
        return
    if mode != "sum":
        raise ValueError(
            f"embedding_bag: per_sample_weights can only be used with mode='sum', got {mode!r}")
    if per_sample_weights.shape != input.shape:
        raise ValueError(f"embedding_bag: per_sample_weights {per_sample_weights.shape} must have "
                         f"the shape of input, {input.shape}")


@kernel
def bag_of_each_index(xp, offsets: Array, n):
    """The number of the bag that contains each of n indices: (n,)."""
    xp.check(offsets[:1] == 0, "embedding_bag: offsets must start with 0")
    xp.check((offsets[1:] >= offsets[:-1]) & (offsets[1:] <= n),
             f"embedding_bag: offsets must not decrease or be above {n}, the size of input",
             offsets[1:])
    return xp.searchsorted(offsets, xp.arange(n), side="right") - 1


@kernel
def bag_argmax(xp, rows: Array, bags: Array, n):
    """The index of the first row with the largest element, per bag and column.

    `rows` (R, D), the bag of each row `bags` (R,) -> (n, D).
    """
    count, features = rows.shape
    rows = rows.astype(compute_dtype(rows.dtype), copy=False)
    rows = xp.where(rows == rows, rows + 0.0, math.inf)  # NaN is the largest; -0.0 becomes 0.0
    index = xp.arange(count, dtype="int32")[:, None]
    bags = bags.astype("int64", copy=False)  # flat indices overflow narrow types
    flat = (bags[:, None] * features + xp.arange(features)).reshape(count * features)
    keys = ordered_bits(rows)
    largest = ordered_bits(xp.full(n * features, -math.inf, rows.dtype))
    xp.maximum.at(largest, flat, keys.reshape(count * features))  # exact in any order
    is_largest = keys == largest[flat].reshape(count, features)
    first = xp.full(n * features, count - 1, "int32")
    xp.minimum.at(first, flat, xp.where(is_largest, index, count - 1).reshape(count * features))
    return first.reshape(n, features)


def ordered_bits(x: Any) -> Any:
    """Floats as integers of the same size and in the same order: CUDA has no float64 maximum.

    The order is total: NaNs are at its ends, and -0.0 is below 0.0.
    """
    bits = 8 * x.dtype.itemsize
    signed = x.view(f"int{bits}")
    sign = signed >> (bits - 1)  # -1 if negative, else 0
    return signed ^ (sign & (2 ** (bits - 1) - 1))
