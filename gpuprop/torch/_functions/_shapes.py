"""Functions that move elements: shapes, axes, parts and joints."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop import _array as G
from gpuprop._core.graph import raw
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch._functions._arguments import along, axes_of, listed
from gpuprop.torch._tensor import Size

__all__ = [
    "broadcast_shapes", "broadcast_to", "cat", "chunk", "clone", "concat", "concatenate",
    "diag", "diagonal", "expand_as", "flatten", "flip", "fliplr", "flipud", "hstack",
    "meshgrid", "moveaxis", "movedim", "narrow", "numel", "permute", "repeat_interleave",
    "reshape", "roll", "rot90", "select", "split", "squeeze", "stack", "swapaxes", "swapdims",
    "t", "tensor_split", "tile", "trace", "transpose", "tril", "triu", "unbind", "unflatten",
    "unsqueeze", "vstack",
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
    return input[along(input, dim, slice(start, start + length))]


def select(input: Any, dim: int, index: int) -> Any:
    return input[along(input, dim, index)]


def split(tensor: Any, split_size_or_sections: Any, dim: int = 0) -> Any:
    """Parts of this size (the last one may be shorter), or of these sizes."""
    n = tensor.shape[dim]
    size = split_size_or_sections
    sizes = [size] * (n // size) + [n % size] * (n % size > 0) if isinstance(size, int) else size
    starts = np.cumsum([0, *sizes]).tolist()
    return tuple(narrow(tensor, dim, start, length)
                 for start, length in zip(starts[:-1], sizes, strict=True))


def chunk(input: Any, chunks: int, dim: int = 0) -> Any:
    return split(input, -(-input.shape[dim] // chunks), dim)


def tensor_split(input: Any, indices_or_sections: Any, dim: int = 0) -> Any:
    n = input.shape[dim]
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


def repeat_interleave(input: Any, repeats: Any, dim: int | None = None) -> Any:
    repeats = repeats.tolist() if isinstance(repeats, Plain) else repeats
    return G.repeat(input, repeats, dim)


def flip(input: Any, dims: Any) -> Any:
    return G.flip(input, axes_of(dims))


def fliplr(input: Any) -> Any:
    return G.flip(input, 1)


def flipud(input: Any) -> Any:
    return G.flip(input, 0)


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
    return G.diagonal(input, offset, dim1, dim2)


def trace(input: Any) -> Any:
    return G.trace(input)


def clone(input: Any, *, memory_format: Any = None) -> Any:
    return G.copy(input)


def numel(input: Any) -> int:
    return raw(input).size


def meshgrid(*tensors: Any, indexing: str = "ij") -> Any:
    tensors = listed(tensors)
    if indexing == "xy":
        return tuple(transpose(g, 0, 1) for g in meshgrid(*tensors))
    shape = tuple(numel(t) for t in tensors)
    return tuple(G.broadcast_to(reshape(t, tuple(-1 if i == k else 1 for k in range(len(shape)))),
                                shape) for i, t in enumerate(tensors))


def broadcast_shapes(*shapes: Any) -> Size:
    return Size(np.broadcast_shapes(*shapes))
