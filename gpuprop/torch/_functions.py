"""PyTorch's functions by gpuprop's: each has PyTorch's name, arguments and meaning.

Those whose first parameter is `input` are methods of Tensor, too.
"""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

import gpuprop.functional as F
import gpuprop.random as random
from gpuprop import _array as G
from gpuprop._array.scatter import put
from gpuprop._core.graph import raw
from gpuprop._core.namespace import get_array_module
from gpuprop._core.tensor import Tensor as Plain
from gpuprop._core.tensor import asnumpy
from gpuprop._core.tensor import tensor as plain_tensor
from gpuprop.torch import _results
from gpuprop.torch._tensor import Size, Tensor, as_torch, wrap


def _named(fn: Any, *names: str) -> Callable:
    """An op with other names of its first parameters: the same code, at the same cost."""
    code = fn.__code__
    renamed = FunctionType(code.replace(co_varnames=(*names, *code.co_varnames[len(names):])),
                           fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    renamed.__kwdefaults__ = fn.__kwdefaults__
    renamed.__module__ = __name__
    renamed.__doc__ = fn.__doc__
    return renamed


def _unary(fn: Any) -> Callable:
    return _named(fn, "input")


def _binary(fn: Any) -> Callable:
    return _named(fn, "input", "other")


# ---- elementwise ---------------------------------------------------------------------------------

abs = absolute = _unary(G.abs)
acos = arccos = _unary(G.arccos)
acosh = arccosh = _unary(G.arccosh)
asin = arcsin = _unary(G.arcsin)
asinh = arcsinh = _unary(G.arcsinh)
atan = arctan = _unary(G.arctan)
atanh = arctanh = _unary(G.arctanh)
ceil = _unary(G.ceil)
cos = _unary(G.cos)
cosh = _unary(G.cosh)
digamma = _unary(G.digamma)
erf = _unary(G.erf)
erfc = _unary(G.erfc)
erfinv = _unary(G.erfinv)
exp = _unary(G.exp)
exp2 = _unary(G.exp2)
expm1 = _unary(G.expm1)
floor = _unary(G.floor)
isfinite = _unary(G.isfinite)
isinf = _unary(G.isinf)
isnan = _unary(G.isnan)
lgamma = _unary(G.lgamma)
log = _unary(G.log)
log10 = _unary(G.log10)
log1p = _unary(G.log1p)
log2 = _unary(G.log2)
logical_not = _unary(G.logical_not)
neg = negative = _unary(G.negative)
positive = _unary(G.positive)
reciprocal = _unary(G.reciprocal)
relu = _unary(F.relu)
rsqrt = _unary(G.rsqrt)
sigmoid = _unary(G.sigmoid)
sign = _unary(G.sign)
sin = _unary(G.sin)
sinh = _unary(G.sinh)
sqrt = _unary(G.sqrt)
square = _unary(G.square)
tan = _unary(G.tan)
tanh = _unary(G.tanh)
trunc = fix = _unary(G.trunc)

arctan2 = atan2 = _binary(G.arctan2)
bitwise_and = _binary(G.bitwise_and)
bitwise_or = _binary(G.bitwise_or)
bitwise_xor = _binary(G.bitwise_xor)
eq = _binary(G.equal)
floor_divide = _binary(G.floor_divide)
fmax = _binary(G.fmax)
fmin = _binary(G.fmin)
fmod = _binary(G.fmod)
ge = greater_equal = _binary(G.greater_equal)
gt = greater = _binary(G.greater)
le = less_equal = _binary(G.less_equal)
logaddexp = _binary(G.logaddexp)
logical_and = _binary(G.logical_and)
logical_or = _binary(G.logical_or)
logical_xor = _binary(G.logical_xor)
lt = less = _binary(G.less)
matmul = _binary(G.matmul)
maximum = _binary(G.maximum)
minimum = _binary(G.minimum)
mul = multiply = _binary(G.multiply)
ne = not_equal = _binary(G.not_equal)
pow = _named(G.power, "input", "exponent")
remainder = _binary(G.remainder)
true_divide = _binary(G.divide)


def add(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    return G.add(input, other if alpha == 1 else other * alpha)


def sub(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    return G.subtract(input, other if alpha == 1 else other * alpha)


subtract = sub


def rsub(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    return sub(other, input, alpha=alpha)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return G.floor_divide(input, other)
    quotient = G.divide(input, other)
    return quotient if rounding_mode is None else G.trunc(quotient)


divide = div


def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    return input + value * tensor1 * tensor2


def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    return input + value * tensor1 / tensor2


def lerp(input: Any, end: Any, weight: Any) -> Any:
    return input + weight * (end - input)


def clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    return G.clip(input, min, max)


clip = clamp


def clamp_min(input: Any, min: Any) -> Any:
    return G.clip(input, min, None)


def clamp_max(input: Any, max: Any) -> Any:
    return G.clip(input, None, max)


def round(input: Any, *, decimals: int = 0) -> Any:
    return G.round(input, decimals) if decimals else G.round(input)


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """The elements of `input` where `condition` holds, else of `other`; or, alone, its indices."""
    if input is None:
        return nonzero(condition, as_tuple=True)
    return G.where(condition, input, other)


def nan_to_num(input: Any, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    return G.nan_to_num(input, nan, posinf, neginf)


def logit(input: Any, eps: float | None = None) -> Any:
    x = input if eps is None else clamp(input, eps, 1 - eps)
    return G.log(x / (1 - x))


def isclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8,
            equal_nan: bool = False) -> Any:
    return _new(np.isclose(_host(input), _host(other), rtol, atol, equal_nan))


def allclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8,
             equal_nan: bool = False) -> bool:
    return builtins.bool(np.allclose(_host(input), _host(other), rtol, atol, equal_nan))


def equal(input: Any, other: Any) -> bool:
    """True if both have the same shape and elements."""
    return builtins.bool(np.array_equal(_host(input), _host(other)))


# ---- reductions ----------------------------------------------------------------------------------


def _axes(dim: Any) -> Any:
    return tuple(dim) or None if isinstance(dim, list | tuple) else dim


def _cast(x: Any, dtype: Any) -> Any:
    return x if dtype is None else x.to(dtype)


def sum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return G.sum(_cast(input, dtype), _axes(dim), keepdim)


def mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if input.array.dtype.kind in "iub" and dtype is None:
        raise RuntimeError("mean(): could not infer output dtype. Input dtype must be either a "
                           "floating point or complex dtype: write x.float().mean()")
    return G.mean(_cast(input, dtype), _axes(dim), keepdim)


def prod(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return G.prod(_cast(input, dtype), dim, keepdim)


def _ddof(unbiased: bool | None, correction: Any) -> Any:
    return correction if unbiased is None else int(unbiased)


def var(input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
        correction: Any = 1) -> Any:
    if isinstance(dim, builtins.bool):
        dim, unbiased = None, dim
    return G.var(input, _axes(dim), _ddof(unbiased, correction), keepdim)


def std(input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
        correction: Any = 1) -> Any:
    if isinstance(dim, builtins.bool):
        dim, unbiased = None, dim
    return G.std(input, _axes(dim), _ddof(unbiased, correction), keepdim)


def var_mean(input: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    return var(input, dim, correction=correction, keepdim=keepdim), mean(input, dim, keepdim)


def std_mean(input: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    return std(input, dim, correction=correction, keepdim=keepdim), mean(input, dim, keepdim)


def amax(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.max(input, _axes(dim), keepdim)


def amin(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.min(input, _axes(dim), keepdim)


class ValuesAndIndices(NamedTuple):
    """The result of `max(dim)`, `sort`, `topk` and the like."""

    values: Any
    indices: Any


def max(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """``max(x)``; ``max(x, dim)``, values and indices; ``max(x, y)``, elementwise."""
    return _extreme(input, dim if other is None else other, keepdim, G.max, G.argmax, G.maximum)


def min(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """``min(x)``; ``min(x, dim)``, values and indices; ``min(x, y)``, elementwise."""
    return _extreme(input, dim if other is None else other, keepdim, G.min, G.argmin, G.minimum)


def _extreme(x: Any, dim: Any, keepdim: bool, values: Callable, places: Callable,
             of_two: Callable) -> Any:
    if isinstance(dim, Plain):
        return of_two(x, dim)
    if dim is None:
        return values(x)
    indices = places(x, dim, True)
    found = G.take_along_axis(x, indices, dim)  # one element takes the gradient, as in PyTorch
    if keepdim:
        return ValuesAndIndices(found, indices)
    return ValuesAndIndices(squeeze(found, dim), squeeze(indices, dim))


def argmax(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.argmax(input, dim, keepdim)


def argmin(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.argmin(input, dim, keepdim)


def any(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.any(input, _axes(dim), keepdim)


def all(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return G.all(input, _axes(dim), keepdim)


def count_nonzero(input: Any, dim: Any = None) -> Any:
    return G.count_nonzero(input, _axes(dim))


def cumsum(input: Any, dim: int, *, dtype: Any = None) -> Any:
    return G.cumsum(_cast(input, dtype), dim)


def cumprod(input: Any, dim: int, *, dtype: Any = None) -> Any:
    return G.cumprod(_cast(input, dtype), dim)


def logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Any:
    return G.logsumexp(input, _axes(dim), keepdim)


def softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    return F.softmax(_cast(input, dtype), dim)


def log_softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    return F.log_softmax(_cast(input, dtype), dim)


def norm(input: Any, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Any:
    return G.norm(input, 2 if p in ("fro", None) else p, _axes(dim), keepdim)


def dist(input: Any, other: Any, p: float = 2) -> Any:
    return G.norm(input - other, p)


def sort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    indices = argsort(input, dim, descending)
    return ValuesAndIndices(G.take_along_axis(input, indices, dim), indices)


def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    return Plain.argsort(input, dim, descending)


def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    return ValuesAndIndices(*G.topk(input, k, dim, largest, sorted))


def kthvalue(input: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    values, indices = sort(input, dim)
    found = ValuesAndIndices(narrow(values, dim, k - 1, 1), narrow(indices, dim, k - 1, 1))
    return found if keepdim else ValuesAndIndices(*(squeeze(t, dim) for t in found))


def median(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The lower median; with `dim`, values and indices."""
    if dim is None:
        return kthvalue(reshape(input, (-1,)), (input.array.size + 1) // 2)[0]
    return kthvalue(input, (input.shape[dim] + 1) // 2, dim, keepdim)


def quantile(input: Any, q: Any, dim: Any = None, keepdim: bool = False, *,
             interpolation: str = "linear") -> Any:
    array = np.quantile(  # type: ignore[call-overload]
        _host(input), _host(q), dim, keepdims=keepdim, method=interpolation)
    return _new(array.astype(input.array.dtype))


def bincount(input: Any, weights: Any = None, minlength: int = 0) -> Any:
    counts = np.bincount(_host(input), None if weights is None else _host(weights), minlength)
    return _new(counts if weights is None else counts.astype(weights.array.dtype))


def unique(input: Any, sorted: bool = True, return_inverse: bool = False,
           return_counts: bool = False, dim: int | None = None) -> Any:
    found: Any = np.unique(  # type: ignore[call-overload]
        _host(input), False, return_inverse, return_counts, dim)
    return tuple(map(_new, found)) if isinstance(found, tuple) else _new(found)


# ---- shapes --------------------------------------------------------------------------------------


def listed(args: tuple) -> tuple:
    """The sizes of ``f(2, 3)`` or ``f((2, 3))``."""
    one = len(args) == 1 and isinstance(args[0], tuple | list)
    return tuple(args[0]) if one else args


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
    return input[_along(input, dim, slice(start, start + length))]


def select(input: Any, dim: int, index: int) -> Any:
    return input[_along(input, dim, index)]


def _along(x: Any, dim: int, key: Any) -> tuple:
    """An index along one axis."""
    return (*(slice(None),) * (dim % x.array.ndim), key)


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
    return tuple(input[_along(input, dim, slice(a, b))]
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
    return G.flip(input, _axes(dims))


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


# ---- indices -------------------------------------------------------------------------------------


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
    return replaced(input, _along(input, dim, raw(index)), value)


def index_copy(input: Any, dim: int, index: Any, source: Any) -> Any:
    return replaced(input, _along(input, dim, raw(index)), source)


def _put_rows(x: Any, dim: int, index: Any, rows: Any) -> Any:
    return put(rows, key=_along(x, dim, raw(index)), shape=tuple(x.shape))


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
    found = [_new(i) for i in np.nonzero(_host(input))]
    return tuple(found) if as_tuple else stack(found, 1)


# ---- products ------------------------------------------------------------------------------------


def mm(input: Any, mat2: Any) -> Any:
    return G.matmul(input, mat2)


def bmm(input: Any, mat2: Any) -> Any:
    return G.matmul(input, mat2)


def mv(input: Any, vec: Any) -> Any:
    return G.matmul(input, vec)


def dot(input: Any, tensor: Any) -> Any:
    return G.dot(input, tensor)


def inner(input: Any, other: Any) -> Any:
    return G.inner(input, other)


def outer(input: Any, vec2: Any) -> Any:
    return G.outer(input, vec2)


ger = outer


def addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return beta * input + alpha * G.matmul(mat1, mat2)


def addmv(input: Any, mat: Any, vec: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return beta * input + alpha * G.matmul(mat, vec)


def addbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return beta * input + alpha * G.sum(G.matmul(batch1, batch2), 0)


def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return beta * input + alpha * G.matmul(batch1, batch2)


def einsum(equation: str, *operands: Any) -> Any:
    return G.einsum(equation, *listed(operands))


def cdist(x1: Any, x2: Any, p: float = 2.0) -> Any:
    return G.norm(unsqueeze(x1, -2) - unsqueeze(x2, -3), p, -1)


# ---- creation ------------------------------------------------------------------------------------


def _host(x: Any) -> Any:
    return asnumpy(x)


def _new(array: Any) -> Any:
    return as_torch(plain_tensor(array))


def default_dtype() -> str:
    return _results.default_dtype[0]


def get_default_dtype() -> Any:
    """The dtype of floats that a program gives as Python numbers."""
    return np.dtype(default_dtype())


def set_default_dtype(d: Any) -> None:
    _results.default_dtype[0] = np.dtype(d).name


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
           pin_memory: bool = False) -> Any:
    """A copy of `data`; Python floats have the default dtype."""
    if isinstance(data, list | tuple) and data and isinstance(data[0], Plain):
        data = [d.tolist() for d in data]
    t = plain_tensor(data, dtype=dtype)
    if dtype is None and not hasattr(data, "dtype") and t.dtype == "float32":
        t = plain_tensor(data, dtype=default_dtype())
    return _placed(t, device, requires_grad)


def _placed(t: Any, device: Any, requires_grad: bool) -> Any:
    t = as_torch(t if device is None else t.to(device))
    t.requires_grad = requires_grad
    return t


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Any:
    """`data` as a Tensor, without a copy if possible."""
    t = data if isinstance(data, Plain) else None
    if isinstance(data, np.ndarray):
        t = from_numpy(data)
    if t is None:
        return tensor(data, dtype=dtype, device=device)
    return as_torch(t.to(device=device, dtype=dtype))


def from_numpy(ndarray: Any) -> Any:
    """A Tensor in the memory of a NumPy array."""
    return wrap(ndarray)


def _filled(make: Callable, size: tuple, dtype: Any, device: Any, requires_grad: bool) -> Any:
    t = make(listed(size), dtype=dtype or default_dtype(), device=device)
    return _placed(t, None, requires_grad)


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
          **_: Any) -> Any:
    return _filled(G.zeros, size, dtype, device, requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
         **_: Any) -> Any:
    return _filled(G.ones, size, dtype, device, requires_grad)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
          **_: Any) -> Any:
    return _filled(G.empty, size, dtype, device, requires_grad)


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
         requires_grad: bool = False) -> Any:
    if dtype is None and isinstance(fill_value, float):
        dtype = default_dtype()
    return _placed(G.full(tuple(size), fill_value, dtype, device), None, requires_grad)


def zeros_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
               memory_format: Any = None) -> Any:
    return _placed(G.zeros_like(input.detach(), dtype), device, requires_grad)


def ones_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
              memory_format: Any = None) -> Any:
    return _placed(G.ones_like(input.detach(), dtype), device, requires_grad)


def full_like(input: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
              requires_grad: bool = False) -> Any:
    return _placed(G.full_like(input.detach(), fill_value, dtype), device, requires_grad)


empty_like = zeros_like


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None,
        requires_grad: bool = False) -> Any:
    return _placed(G.eye(n, m, dtype or default_dtype(), device), None, requires_grad)


def arange(start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None,
           requires_grad: bool = False) -> Any:
    numbers = start, end, step
    if dtype is None and not builtins.all(n is None or isinstance(n, int) for n in numbers):
        dtype = default_dtype()
    return _placed(G.arange(start, end, step, dtype, device), None, requires_grad)


def linspace(start: Any, end: Any, steps: int, *, dtype: Any = None, device: Any = None,
             requires_grad: bool = False) -> Any:
    t = G.linspace(float(start), float(end), steps, dtype or default_dtype(), device)
    return _placed(t, None, requires_grad)


def logspace(start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: Any = None,
             device: Any = None, requires_grad: bool = False) -> Any:
    t = base ** linspace(start, end, steps, dtype="float64", device=device)
    return _placed(t.to(dtype or default_dtype()), None, requires_grad)


def tril_indices(row: int, col: int, offset: int = 0, *, device: Any = None) -> Any:
    return _placed(plain_tensor(np.stack(np.tril_indices(row, offset, col))), device, False)


def triu_indices(row: int, col: int, offset: int = 0, *, device: Any = None) -> Any:
    return _placed(plain_tensor(np.stack(np.triu_indices(row, offset, col))), device, False)


# ---- random numbers ------------------------------------------------------------------------------


def _source(generator: Any) -> Any:
    return random.default_generator if generator is None else generator


def randn(*size: Any, generator: Any = None, dtype: Any = None, device: Any = None,
          requires_grad: bool = False, **_: Any) -> Any:
    array = _source(generator).normal(listed(size), dtype=dtype or default_dtype())
    return _placed(wrap(raw(array)), device, requires_grad)


def rand(*size: Any, generator: Any = None, dtype: Any = None, device: Any = None,
         requires_grad: bool = False, **_: Any) -> Any:
    array = _source(generator).uniform(listed(size), dtype=dtype or default_dtype())
    return _placed(wrap(raw(array)), device, requires_grad)


def randint(low: int, high: Any, size: Any = None, *, generator: Any = None, dtype: Any = None,
            device: Any = None, requires_grad: bool = False) -> Any:
    if size is None:
        low, high, size = 0, low, high
    array = raw(_source(generator).integers(low, high, tuple(size)))
    t = wrap(array)
    return _placed(t if dtype is None else t.to(dtype), device, requires_grad)


def randperm(n: int, *, generator: Any = None, dtype: Any = None, device: Any = None) -> Any:
    t = wrap(raw(_source(generator).permutation(n)))
    return _placed(t if dtype is None else t.to(dtype), device, False)


def rand_like(input: Any, *, dtype: Any = None, device: Any = None,
              requires_grad: bool = False) -> Any:
    return rand(*input.shape, dtype=dtype or input.array.dtype, device=device or input.device,
                requires_grad=requires_grad)


def randn_like(input: Any, *, dtype: Any = None, device: Any = None,
               requires_grad: bool = False) -> Any:
    return randn(*input.shape, dtype=dtype or input.array.dtype, device=device or input.device,
                 requires_grad=requires_grad)


def normal(mean: Any, std: Any = 1.0, size: Any = None, *, generator: Any = None) -> Any:
    shape = size
    if shape is None:
        shape = np.broadcast_shapes(*(getattr(v, "shape", ()) for v in (mean, std)))
    return mean + std * randn(*shape, generator=generator)


def bernoulli(input: Any, *, generator: Any = None) -> Any:
    draws = rand(*input.shape, generator=generator, device=input.device)
    return (draws < input).to(input.array.dtype)


def multinomial(input: Any, num_samples: int, replacement: bool = False, *,
                generator: Any = None) -> Any:
    """Indices drawn with probabilities proportional to the weights in each row."""
    weights = _host(input).astype("float64")
    shape = (*weights.shape[:-1], num_samples)
    if replacement:
        draws = _host(rand(*shape, generator=generator, dtype="float64"))
        sums = np.cumsum(weights, -1)
        found = (draws[..., None] * sums[..., None, -1:] >= sums[..., None, :]).sum(-1)
    else:  # the largest keys of exponential variables: Efraimidis and Spirakis 2006
        draws = _host(rand(*weights.shape, generator=generator, dtype="float64"))
        with np.errstate(divide="ignore"):
            keys = np.where(weights > 0, np.log1p(-draws) / weights, -np.inf)
        found = np.argsort(-keys, -1)[..., :num_samples]
    return _placed(plain_tensor(found), input.device, False)


# ---- questions -----------------------------------------------------------------------------------


def is_tensor(obj: Any) -> bool:
    return isinstance(obj, Tensor)


def is_floating_point(input: Any) -> bool:
    return input.array.dtype.kind not in "iub"


def result_type(tensor1: Any, tensor2: Any) -> Any:
    return np.result_type(*(t.dtype if isinstance(t, Plain) else t for t in (tensor1, tensor2)))


def broadcast_shapes(*shapes: Any) -> Size:
    return Size(np.broadcast_shapes(*shapes))


__all__ = [name for name, value in globals().items()
           if isinstance(value, FunctionType) and value.__module__ == __name__
           and not name.startswith("_") and name not in ("listed", "replaced", "default_dtype")]
