"""Functions that move elements: shapes, axes, parts and joints."""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop import _array as G
from gpuprop._core.graph import raw
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch._functions._arguments import along, listed, new
from gpuprop.torch._tensor import Size

__all__ = [
    "adjoint", "as_strided", "atleast_1d", "atleast_2d", "atleast_3d", "block_diag",
    "broadcast_shapes", "broadcast_tensors", "broadcast_to", "cartesian_prod", "cat", "chunk",
    "clone", "column_stack", "combinations", "concat", "concatenate", "constant_pad_nd",
    "detach", "diag", "diag_embed", "diagflat", "diagonal", "dsplit", "dstack", "expand_as",
    "flatten", "flip", "fliplr", "flipud", "hsplit", "hstack", "is_same_size", "meshgrid",
    "moveaxis", "movedim", "narrow", "numel", "permute", "ravel", "repeat_interleave",
    "reshape", "roll", "rot90", "row_stack", "select", "split", "split_with_sizes", "squeeze",
    "stack", "sum_to_size", "swapaxes", "swapdims", "t", "tensor_split", "tile", "trace",
    "transpose", "tril", "triu", "unbind", "unflatten", "unsafe_chunk", "unsqueeze", "vsplit",
    "vstack",
]


def reshape(input: Any, shape: Any) -> Any:
    return G.reshape(input, tuple(shape))


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    return G.flatten(input, start_dim, end_dim)


def unflatten(input: Any, dim: int, sizes: Sequence[int]) -> Any:
    dim %= input.array.ndim
    return G.reshape(input, (*input.shape[:dim], *sizes, *input.shape[dim + 1:]))


def t(input: Any) -> Any:
    return G.transpose(input) if input.array.ndim == 2 else input


def transpose(input: Any, dim0: int, dim1: int) -> Any:
    if not input.array.ndim:
        return G.reshape(input, ())
    return G.swapaxes(input, dim0, dim1)


swapaxes = swapdims = transpose


def permute(input: Any, dims: Any) -> Any:
    return G.transpose(input, tuple(dims))


def movedim(input: Any, source: Any, destination: Any) -> Any:
    return G.moveaxis(input, source, destination)


moveaxis = movedim


def unsqueeze(input: Any, dim: int) -> Any:
    return G.expand_dims(input, dim)


def squeeze(input: Any, dim: Any = None) -> Any:
    """`input` without axes of length 1; of those in `dim`, an axis that is longer stays."""
    dims = range(input.array.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    ones = tuple(d for d in dims if input.shape[d] == 1) if input.array.ndim else ()
    return G.squeeze(input, ones) if ones else G.reshape(input, tuple(input.shape))


def expand_as(input: Any, other: Any) -> Any:
    return Plain.expand(input, *other.shape)


def broadcast_to(input: Any, size: Any) -> Any:
    return G.broadcast_to(input, tuple(size))


def narrow(input: Any, dim: int, start: int, length: int) -> Any:
    """`length` elements along an axis from `start` on."""
    n = input.shape[dim]
    first = int(start) % n if -n <= start < 0 else int(start)
    if length < 0 or not 0 <= first <= n - length:
        raise RuntimeError(f"narrow: start must be from 0 to {n}, the size of axis {dim}, and "
                           f"start + length too, got start {start} and length {length}")
    return input[along(input, dim, slice(first, first + length))]


def select(input: Any, dim: int, index: int) -> Any:
    return input[along(input, dim, index)]


def split(tensor: Any, split_size_or_sections: Any, dim: int = 0) -> Any:
    """Parts of this size (the last one may be shorter), or of these sizes."""
    n = tensor.shape[dim]
    size = split_size_or_sections
    if isinstance(size, Plain):
        size = size.tolist()
    if isinstance(size, int):
        if size < (n > 0):
            raise RuntimeError(f"split: split_size must be positive, got {size}")
        sizes = [size] * (n // size) + [n % size] * (n % size > 0) if n else [0]
    else:
        sizes = list(map(int, size))
        if sum(sizes) != n or min(sizes, default=0) < 0:
            raise RuntimeError(f"split: the sizes must be at least 0 and add up to {n}, the size "
                               f"of axis {dim}, got {sizes}")
    starts = np.cumsum([0, *sizes]).tolist()
    return tuple(narrow(tensor, dim, start, length)
                 for start, length in zip(starts[:-1], sizes, strict=True))


def chunk(input: Any, chunks: int, dim: int = 0) -> Any:
    if chunks < 1:
        raise RuntimeError(f"chunk: chunks must be positive, got {chunks}")
    n = input.shape[dim]
    return split(input, -(-n // chunks) if n else (0,) * chunks, dim)


def tensor_split(input: Any, indices_or_sections: Any, dim: int = 0) -> Any:
    n = input.shape[dim]
    if isinstance(indices_or_sections, Plain):
        indices_or_sections = indices_or_sections.tolist()
    if isinstance(indices_or_sections, int):
        parts = indices_or_sections
        ends = np.cumsum([n // parts + (i < n % parts) for i in range(parts)]).tolist()[:-1]
    else:
        ends = list(indices_or_sections)
    limits = [0, *ends, n]
    return tuple(input[along(input, dim, slice(a, b))]
                 for a, b in itertools.pairwise(limits))


def unbind(input: Any, dim: int = 0) -> Any:
    return G.unstack(input, dim)


def cat(tensors: Any, dim: int = 0) -> Any:
    """Tensors joined along an axis; empty ones of one axis are skipped, as in PyTorch."""
    tensors = [t for t in tensors if t.shape != (0,)] or list(tensors)
    return G.concatenate(tensors, axis=dim)


concat = concatenate = cat


def stack(tensors: Any, dim: int = 0) -> Any:
    return G.stack(tensors, axis=dim)


def hstack(tensors: Any) -> Any:
    return cat(tensors, 0 if tensors[0].array.ndim <= 1 else 1)


def vstack(tensors: Any) -> Any:
    return cat([reshape(t, (1, -1)) if t.array.ndim <= 1 else t for t in tensors], 0)


def tile(input: Any, dims: Any) -> Any:
    return G.tile(input, tuple(dims))


def repeat_interleave(input: Any, repeats: Any, dim: int | None = None, *,
                      output_size: int | None = None) -> Any:
    repeats = repeats.tolist() if isinstance(repeats, Plain) else repeats
    return G.repeat(input, repeats, dim)


def flip(input: Any, dims: Any) -> Any:
    """`input` in reverse order along axes, as a copy."""
    return G.copy(G.flip(input, tuple(dims) if isinstance(dims, list | tuple) else dims))


def fliplr(input: Any) -> Any:
    return flip(input, 1)


def flipud(input: Any) -> Any:
    return flip(input, 0)


def rot90(input: Any, k: int = 1, dims: Any = (0, 1)) -> Any:
    a, b = dims
    turned = {0: lambda x: clone(x), 1: lambda x: flip(transpose(x, a, b), a),
              2: lambda x: flip(x, (a, b)), 3: lambda x: transpose(flip(x, a), a, b)}
    return turned[k % 4](input)


def roll(input: Any, shifts: Any, dims: Any = None) -> Any:
    return G.roll(input, shifts, dims)


def tril(input: Any, diagonal: int = 0) -> Any:
    return G.tril(input, diagonal)


def triu(input: Any, diagonal: int = 0) -> Any:
    return G.triu(input, diagonal)


def diag(input: Any, diagonal: int = 0) -> Any:
    return G.diag(input, diagonal)


def diagonal(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonal of the first two axes, or of `dim1` and `dim2`, as a view."""
    t = G.diagonal(input, offset, dim1, dim2)
    if isinstance(t.array, np.ndarray):  # NumPy's is read-only
        planes = np.moveaxis(raw(input), (dim1, dim2), (-2, -1))
        corner = planes[..., max(-offset, 0):, max(offset, 0):]
        t.array = np.lib.stride_tricks.as_strided(corner, t.array.shape, t.array.strides)
    return t


def trace(input: Any) -> Any:
    return G.trace(input)


def clone(input: Any, *, memory_format: Any = None) -> Any:
    return G.copy(input)


def numel(input: Any) -> int:
    return raw(input).size


def meshgrid(*tensors: Any, indexing: str = "ij") -> Any:
    tensors = listed(tensors)
    if indexing == "xy" and len(tensors) > 1:
        return tuple(transpose(g, 0, 1) for g in meshgrid(*tensors))
    shape = tuple(numel(t) for t in tensors)
    return tuple(G.broadcast_to(reshape(t, tuple(-1 if i == k else 1 for k in range(len(shape)))),
                                shape) for i, t in enumerate(tensors))


def broadcast_shapes(*shapes: Any) -> Size:
    return Size(np.broadcast_shapes(*shapes))


def ravel(input: Any) -> Any:
    return G.reshape(input, (-1,))


def adjoint(input: Any) -> Any:
    return G.swapaxes(input, -1, -2)


def detach(input: Any) -> Any:
    return input.detach()


def is_same_size(input: Any, other: Any) -> bool:
    return input.shape == other.shape


def atleast_1d(*tensors: Any) -> Any:
    return _of_each(lambda t: G.reshape(t, (1,)) if t.array.ndim == 0 else t, tensors)


def atleast_2d(*tensors: Any) -> Any:
    return _of_each(lambda t: G.reshape(t, (1, -1)) if t.array.ndim < 2 else t, tensors)


def atleast_3d(*tensors: Any) -> Any:
    def extended(t: Any) -> Any:
        n = t.array.ndim
        return unsqueeze(t, 2) if n == 2 else G.reshape(t, (1, -1, 1)) if n < 2 else t

    return _of_each(extended, tensors)


def _of_each(f: Callable, tensors: tuple) -> Any:
    """The result for one tensor, or a tuple of those for several."""
    if len(tensors) == 1 and isinstance(tensors[0], Plain):
        return f(tensors[0])
    return tuple(map(f, listed(tensors)))


def broadcast_tensors(*tensors: Any) -> Any:
    tensors = listed(tensors)
    shape = np.broadcast_shapes(*(tuple(t.shape) for t in tensors))
    return tuple(G.broadcast_to(t, shape) for t in tensors)


def cartesian_prod(*tensors: Any) -> Any:
    """All tuples with one element of each vector, as rows."""
    tensors = listed(tensors)
    if len(tensors) == 1:
        return tensors[0]
    return stack([G.reshape(g, (-1,)) for g in meshgrid(*tensors)], 1)


def combinations(input: Any, r: int = 2, with_replacement: bool = False) -> Any:
    """All combinations of `r` elements of a vector, as rows."""
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = np.array([*choose(range(numel(input)), r)], "int64").reshape(-1, r)
    return input[new(rows, input)] if r else input[:0]


def block_diag(*tensors: Any) -> Any:
    """A matrix with these matrices on its diagonal."""
    blocks = [atleast_2d(t) for t in listed(tensors)]
    width = sum(b.shape[1] for b in blocks)
    rows, left = [], 0
    for b in blocks:
        right = width - left - b.shape[1]
        rows.append(G.pad(b, ((0, 0), (left, right))))
        left += b.shape[1]
    return cat(rows, 0)


def column_stack(tensors: Any) -> Any:
    return cat([G.reshape(t, (-1, 1)) if t.array.ndim < 2 else t for t in tensors], 1)


row_stack = vstack


def dstack(tensors: Any) -> Any:
    return cat([atleast_3d(t) for t in tensors], 2)


def hsplit(input: Any, indices_or_sections: Any) -> Any:
    return _split_evenly(input, indices_or_sections, 0 if input.array.ndim == 1 else 1, "hsplit")


def vsplit(input: Any, indices_or_sections: Any) -> Any:
    return _split_evenly(input, indices_or_sections, 0, "vsplit")


def dsplit(input: Any, indices_or_sections: Any) -> Any:
    return _split_evenly(input, indices_or_sections, 2, "dsplit")


def _split_evenly(x: Any, parts: Any, dim: int, name: str) -> Any:
    if isinstance(parts, int) and x.shape[dim] % parts:
        raise RuntimeError(f"{name}: expected a number of parts that divides the size "
                           f"{x.shape[dim]} of axis {dim}, got {parts}; tensor_split accepts any")
    return tensor_split(x, parts, dim)


def split_with_sizes(input: Any, split_sizes: Any, dim: int = 0) -> Any:
    return split(input, list(split_sizes), dim)


def unsafe_chunk(input: Any, chunks: int, dim: int = 0) -> Any:
    return chunk(input, chunks, dim)


def diag_embed(input: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Matrices with the last axis of `input` as their diagonal, along two new axes."""
    n = input.shape[-1] + builtins.abs(offset)
    places = np.eye(n, n, offset)
    above = max(offset, 0), max(-offset, 0)
    rows = G.pad(input, ((0, 0),) * (input.array.ndim - 1) + ((above[1], above[0]),))
    found = G.expand_dims(rows, -1) * new(places.astype(input.array.dtype), input)
    found = G.where(new(places.astype("bool"), input), found, G.zeros_like(found.detach()))
    ndim = input.array.ndim + 1
    if dim1 % ndim > dim2 % ndim:
        found = G.swapaxes(found, -1, -2)
    return G.moveaxis(found, (-2, -1), tuple(sorted((dim1 % ndim, dim2 % ndim))))


def diagflat(input: Any, offset: int = 0) -> Any:
    return diag_embed(ravel(input), offset)


def constant_pad_nd(input: Any, pad: Any, value: Any = 0) -> Any:
    import gpuprop.functional as F

    return F.pad(input, tuple(pad), "constant", int(value) if value is True else value)


def sum_to_size(input: Any, *size: Any) -> Any:
    """The sum over the axes along which `size` would be broadcast."""
    shape = listed(size)
    extra = input.array.ndim - len(shape)
    axes = [i for i, n in enumerate(input.shape) if i < extra or n != shape[i - extra]]
    summed = G.sum(input, tuple(axes), True) if axes else input
    return G.reshape(summed, shape)


def as_strided(input: Any, size: Any, stride: Any, storage_offset: int | None = None) -> Any:
    """Elements of the memory of `input` at these strides; written as a copy."""
    if min(*size, *stride, 0) < 0:
        raise RuntimeError(f"as_strided: sizes and strides must be at least 0, got {tuple(size)} "
                           f"and {tuple(stride)}")
    places = np.full((), storage_offset or 0)
    for n, step in zip(size, stride, strict=True):
        places = places[..., None] + np.arange(n) * step
    return G.take(ravel(input), new(places, input))
