"""What a Tensor's operators and methods mean: NumPy's words, and PyTorch's where NumPy has none.

Where both have a word and mean different things by it NumPy's meaning holds: `max(axis)` gives values only, `var` and
`std` divide by n, `transpose` lists all axes.  A call that could be either is an error that names words for both.
"""

from __future__ import annotations

import builtins
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop._array import activation, arithmetic, comparison, indexing, mathematics, products, reduction
from gpuprop._array import shape as shapes
from gpuprop._core.backend import SEVERAL, BackendMismatchError
from gpuprop._core.dtypes import as_dtype
from gpuprop._core.graph import Node, raw
from gpuprop._core.mode import is_grad_enabled
from gpuprop._core.placement import on_device_of, place, place_of, write
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Parameter, Tensor

Method = Callable[..., Tensor]
Tensors = tuple[Tensor, ...]
WORDS = {"dim": "axis", "dims": "axis", "dim1": "axis1", "dim2": "axis2", "start_dim": "start_axis",
         "end_dim": "end_axis", "keepdim": "keepdims", "correction": "ddof"}  # PyTorch's word -> NumPy's


def _op(fn: Any) -> Method:
    """An op as an operator or method: the tensor is its first argument."""
    return fn


def _reflected(fn: Any) -> Method:
    return lambda self, other: fn(other, self)


def _axes(fn: Any) -> Any:
    """A method that takes PyTorch's `dim` and `keepdim` too, and lists of axes."""

    @functools.wraps(fn)
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        plain = lambda value: tuple(value) if type(value) is list else value
        return fn(self, *map(plain, args), **{WORDS.get(word, word): plain(value) for word, value in kwargs.items()})

    several = "tuple[Tensor, ...]" if fn in (reduction.topk,) else "Tensor"
    method.takes_dim = several  # type: ignore[attr-defined]  # what the type stub says that it returns
    return method


def _compared(fn: Any) -> Any:
    """``t == None`` is for Python to answer, by identity."""
    return lambda self, other: NotImplemented if other is None or isinstance(other, str) else fn(self, other)


def _rebinding(word: str, fn: Any) -> Method:
    """``t += x`` makes a new tensor under the old name, which a leaf to be trained must not become."""

    def update(self: Tensor, other: Any) -> Tensor:
        if self.requires_grad and self.node is None:
            raise TypeError(f"t {word} x makes a new tensor, and leaves as it is the leaf t that requires a gradient: "
                            f"write t.data[...] {word} x to change t, or t = t {word[:-1]} x for a new tensor")
        return fn(self, other)

    return update


def _cast(dtype: str) -> Method:
    return lambda self: shapes.astype(self, dtype)


def _sequence(args: tuple) -> Any:
    """What ``f(2, 3)`` and ``f((2, 3))`` both mean."""
    return args[0] if len(args) == 1 and not hasattr(args[0], "__index__") else args


# ---- keys, writing, moving ------------------------------------------------------------------------------------------

BASIC = {int, slice, type(None), type(Ellipsis)}


def _key(t: Tensor, key: Any) -> Any:
    """An index in arrays of the tensor's own backend."""
    if type(key) is tuple:
        return tuple(k if type(k) in BASIC else _array_key(t, k) for k in key)
    return key if type(key) in BASIC else _array_key(t, key)


def _array_key(t: Tensor, key: Any) -> Any:
    key = raw(key)
    if isinstance(key, list | tuple | range):
        host = np.asarray(key)
        with on_device_of((t,)):
            return backend_of(raw(t)).asarray(host if host.size else host.astype("int64"))
    if isinstance(key, np.integer):
        return key.item()
    if hasattr(key, "shape"):
        _check_place(t, key, "is indexed with an array", "the index there once, not at each use", "index")
    return key


def _check_place(t: Tensor, array: Any, what: str, bring: str, name: str) -> None:
    """An array that is used with a tensor must be where this is."""
    if type(array) is type(raw(t)) and not SEVERAL:
        return
    here, there = place_of(raw(t)), place_of(array)
    if here != there:
        raise BackendMismatchError(f"a tensor on {here!r} {what} on {there!r}: bring {bring}, for example by "
                                   f"{name} = gpuprop.tensor({name}).to({here!r})")


def _write(t: Tensor, key: Any, value: Any) -> Tensor:
    """Write in place, where no recorded op can have read what was there."""
    recorded = is_grad_enabled() and (t.requires_grad or getattr(value, "requires_grad", False))
    if t.node is not None or recorded or isinstance(t.data, Tensor):
        raise TypeError("writing into a tensor is not recorded, and this one or the value is part of a graph: make a "
                        "new one with gpuprop.where or index_add, or write t.data[...] = v, outside of all gradients")
    value = value.item() if isinstance(value, np.generic) else raw(value)
    if hasattr(value, "shape") and not isinstance(value, np.ndarray):
        _check_place(t, value, "is written to from an array", "the values there", "values")
    write(t.data, value, key)
    if isinstance(t, Parameter):
        t.touch()
    return t


def destination(words: Sequence, device: Any = None, dtype: Any = None) -> tuple[str | None, Any]:
    """The device and dtype that ``to(...)`` names in any order: "cuda:1", "numpy", "float32", a dtype, a Tensor."""
    for word in words:
        if isinstance(word, Tensor):
            device, dtype = word.device, word.dtype
        elif isinstance(word, str) and not _is_dtype(word):
            device = word
        elif word is not None:
            dtype = word
    return device, None if dtype is None else as_dtype(dtype)


def _is_dtype(word: str) -> bool:
    try:
        as_dtype(word)
    except TypeError:
        return False
    return True


def _moved(a: Any, device: str) -> Any:
    """An array or Tensor on another device; the gradient comes back the same way."""
    if not isinstance(a, Tensor):
        return place(a, device)
    before, data = a.device, _moved(a.data, device)
    if data is a.data:
        return a
    if not (a.requires_grad and is_grad_enabled()):
        return Tensor(data)
    return Tensor(data, True, Node(TO, (a.node or a,), (lambda d: _moved(d, before),), data.shape, data.dtype))


class _To:
    """In place of the `Spec` of an op: a copy from one device to another, which is no op of either."""

    def label(self, shape: Any) -> str:
        return "to"


TO = _To()


class Size(int):
    """The number of elements, an int; called, as in PyTorch, it gives the shape, or the size of one axis."""

    __array_ufunc__ = None  # so NumPy leaves arithmetic to the operators below: to it an int's subclass widens float32
    shape: tuple

    def __new__(cls, t: Tensor) -> Size:
        self = super().__new__(cls, t.data.size)
        self.shape = t.shape
        return self

    def __call__(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def __reduce__(self) -> tuple:
        return int, (int(self),)


def _as_int(fn: Callable) -> tuple[Callable, Callable]:
    return lambda self, other: fn(int(self), other), lambda self, other: fn(other, int(self))


for _word in "add sub mul truediv floordiv mod pow".split():
    for _side, _operator in zip(("", "r"), _as_int(getattr(operator, _word)), strict=True):
        setattr(Size, f"__{_side}{_word}__", _operator)


# ---- the methods ----------------------------------------------------------------------------------------------------


class Methods:
    """The operators and methods of a Tensor."""

    __slots__ = ()

    __add__ = __radd__ = _op(arithmetic.add)
    __mul__ = __rmul__ = _op(arithmetic.multiply)
    __sub__, __rsub__ = _op(arithmetic.subtract), _reflected(arithmetic.subtract)
    __truediv__, __rtruediv__ = _op(arithmetic.divide), _reflected(arithmetic.divide)
    __floordiv__, __rfloordiv__ = _op(arithmetic.floor_divide), _reflected(arithmetic.floor_divide)
    __mod__, __rmod__ = _op(arithmetic.remainder), _reflected(arithmetic.remainder)
    __pow__, __rpow__ = _op(arithmetic.power), _reflected(arithmetic.power)
    __matmul__, __rmatmul__ = _op(products.matmul), _reflected(products.matmul)
    __and__ = __rand__ = _op(comparison.bitwise_and)
    __or__ = __ror__ = _op(comparison.bitwise_or)
    __xor__ = __rxor__ = _op(comparison.bitwise_xor)
    __lshift__, __rlshift__ = _op(comparison.left_shift), _reflected(comparison.left_shift)
    __rshift__, __rrshift__ = _op(comparison.right_shift), _reflected(comparison.right_shift)
    __iadd__, __isub__ = _rebinding("+=", arithmetic.add), _rebinding("-=", arithmetic.subtract)
    __imul__, __itruediv__ = _rebinding("*=", arithmetic.multiply), _rebinding("/=", arithmetic.divide)
    __ipow__, __imatmul__ = _rebinding("**=", arithmetic.power), _rebinding("@=", products.matmul)
    __lt__, __le__ = _op(comparison.less), _op(comparison.less_equal)
    __gt__, __ge__ = _op(comparison.greater), _op(comparison.greater_equal)
    __eq__, __ne__ = _compared(comparison.equal), _compared(comparison.not_equal)
    __pos__, __neg__ = _op(mathematics.positive), _op(mathematics.negative)
    __abs__, __invert__ = _op(mathematics.absolute), _op(comparison.invert)
    __round__ = _op(mathematics.round)
    __hash__ = object.__hash__

    def __divmod__(self: Any, other: Any) -> Tensors:
        return self // other, self % other

    def __rdivmod__(self: Any, other: Any) -> Tensors:
        return other // self, other % self

    def __contains__(self: Any, value: Any) -> builtins.bool:
        return builtins.bool((self == value).any())

    def __format__(self: Any, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else str(self), spec)

    def __getitem__(self: Any, key: Any) -> Tensor:
        return indexing.getitem(self, _key(self, key))

    def __setitem__(self: Any, key: Any, value: Any) -> None:
        """Write in place, into a tensor that is part of no graph."""
        _write(self, _key(self, key), value)

    # ---- element by element

    abs = absolute = _op(mathematics.absolute)
    neg = negative = _op(mathematics.negative)
    add = _op(arithmetic.add)
    sub = subtract = _op(arithmetic.subtract)
    mul = multiply = _op(arithmetic.multiply)
    div = divide = true_divide = _op(arithmetic.divide)
    floor_divide = _op(arithmetic.floor_divide)
    remainder = _op(arithmetic.remainder)
    fmod = _op(arithmetic.fmod)
    pow = _op(arithmetic.power)
    maximum = _op(arithmetic.maximum)
    minimum = _op(arithmetic.minimum)
    clip = clamp = _op(arithmetic.clip)
    sign = _op(mathematics.sign)
    floor = _op(mathematics.floor)
    ceil = _op(mathematics.ceil)
    trunc = _op(mathematics.trunc)
    round = _op(mathematics.round)
    square = _op(mathematics.square)
    sqrt = _op(mathematics.sqrt)
    rsqrt = _op(mathematics.rsqrt)
    reciprocal = _op(mathematics.reciprocal)
    exp = _op(mathematics.exp)
    exp2 = _op(mathematics.exp2)
    expm1 = _op(mathematics.expm1)
    log = _op(mathematics.log)
    log2 = _op(mathematics.log2)
    log10 = _op(mathematics.log10)
    log1p = _op(mathematics.log1p)
    logaddexp = _op(arithmetic.logaddexp)
    sin = _op(mathematics.sin)
    cos = _op(mathematics.cos)
    tan = _op(mathematics.tan)
    asin = arcsin = _op(mathematics.arcsin)
    acos = arccos = _op(mathematics.arccos)
    atan = arctan = _op(mathematics.arctan)
    atan2 = arctan2 = _op(arithmetic.arctan2)
    sinh = _op(mathematics.sinh)
    cosh = _op(mathematics.cosh)
    tanh = _op(mathematics.tanh)
    asinh = arcsinh = _op(mathematics.arcsinh)
    acosh = arccosh = _op(mathematics.arccosh)
    atanh = arctanh = _op(mathematics.arctanh)
    sigmoid = _op(mathematics.sigmoid)
    erf = _op(mathematics.erf)
    erfc = _op(mathematics.erfc)
    erfinv = _op(mathematics.erfinv)
    lgamma = _op(mathematics.lgamma)
    digamma = _op(mathematics.digamma)
    relu = _op(activation.relu)
    softmax, log_softmax = _op(activation.softmax), _op(activation.log_softmax)

    eq, ne = _op(comparison.equal), _op(comparison.not_equal)
    lt, le = _op(comparison.less), _op(comparison.less_equal)
    gt, ge = _op(comparison.greater), _op(comparison.greater_equal)
    logical_and = _op(comparison.logical_and)
    logical_or = _op(comparison.logical_or)
    logical_xor = _op(comparison.logical_xor)
    logical_not = _op(comparison.logical_not)
    isnan = _op(comparison.isnan)
    isinf = _op(comparison.isinf)
    isfinite = _op(comparison.isfinite)

    # ---- reductions and order

    sum: Method = _axes(reduction.sum)
    mean: Method = _axes(reduction.mean)
    var: Method = _axes(reduction.var)
    std: Method = _axes(reduction.std)
    max: Method = _axes(reduction.max)
    min: Method = _axes(reduction.min)
    amax: Method = _axes(reduction.max)
    amin: Method = _axes(reduction.min)
    prod: Method = _axes(reduction.prod)
    argmax: Method = _axes(reduction.argmax)
    argmin: Method = _axes(reduction.argmin)
    any: Method = _axes(reduction.any)
    all: Method = _axes(reduction.all)
    count_nonzero: Method = _axes(reduction.count_nonzero)
    cumsum: Method = _axes(reduction.cumsum)
    cumprod: Method = _axes(reduction.cumprod)
    logsumexp: Method = _axes(reduction.logsumexp)
    norm: Method = _axes(reduction.norm)
    topk: Callable[..., Tensors] = _axes(reduction.topk)

    @_axes
    def argsort(self: Any, axis: builtins.int = -1, descending: Any = False, stable: builtins.bool = True) -> Tensor:
        """The places of the elements in ascending or descending order along an axis; always stable."""
        if descending is True:  # a string here is NumPy's `kind`
            return reduction.topk(self, self.shape[axis], axis)[1]
        return reduction.argsort(self, axis)

    def sort(self: Any, *_: Any, **__: Any) -> Any:
        raise TypeError("t.sort() sorts in place in NumPy and gives values and indices in PyTorch: write "
                        "gpuprop.sort(t, axis), t.argsort(axis) or t.topk(k)")

    # ---- products

    matmul = mm = _op(products.matmul)
    bmm = _op(products.bmm)
    dot = _op(products.dot)
    inner = _op(products.inner)
    outer = _op(products.outer)
    trace = _op(reduction.trace)

    def t(self: Any) -> Tensor:
        """A matrix transposed; vectors as they are."""
        if self.ndim > 2:
            raise ValueError(f"t() transposes a matrix, not {self.ndim} axes: see swapaxes, permute, .mT")
        return shapes.transpose(self)

    # ---- shapes

    @property
    def T(self: Any) -> Tensor:
        """The axes in reverse order."""
        return shapes.transpose(self)

    @property
    def mT(self: Any) -> Tensor:
        """The last two axes exchanged."""
        return shapes.swapaxes(self, -2, -1)

    def reshape(self: Any, *shape: Any) -> Tensor:
        """The same elements in another shape; one -1 is inferred."""
        return shapes.reshape(self, _sequence(shape))

    def view(self: Any, *shape: Any) -> Tensor:
        """`reshape`; elements are not read as another dtype."""
        new = _sequence(shape)
        if not isinstance(new, tuple | list):
            raise TypeError(f"view({new!r}): a tensor is viewed in another shape only; astype converts its elements")
        return shapes.reshape(self, new)

    def transpose(self: Any, *axes: Any) -> Tensor:
        """All axes in the order given, or reversed."""
        if len(axes) == 2 and (self.ndim != 2 or axes[0] % 2 == 0):
            words = f"{axes[0]}, {axes[1]}"
            raise TypeError(f"t.transpose({words}) exchanges two axes in PyTorch and lists all {self.ndim} in NumPy: "
                            f"write t.swapaxes({words}), or t.permute(...) with all axes")
        return shapes.transpose(self, _sequence(axes) if axes else None)

    def permute(self: Any, *axes: Any) -> Tensor:
        """All axes in the order given."""
        return shapes.transpose(self, _sequence(axes))

    swapaxes = _op(shapes.swapaxes)
    moveaxis = _op(shapes.moveaxis)
    ravel = _op(shapes.ravel)
    flatten: Method = _axes(shapes.flatten)
    squeeze: Method = _axes(shapes.squeeze)
    unsqueeze: Method = _axes(shapes.expand_dims)
    roll: Method = _axes(shapes.roll)
    tile = _op(shapes.tile)
    diagonal: Method = _axes(indexing.diagonal)
    diag = _op(indexing.diag)
    tril = _op(indexing.tril)
    triu = _op(indexing.triu)
    chunk: Callable[..., Tensors] = _axes(shapes.chunk)
    unbind: Callable[..., Tensors] = _axes(shapes.unstack)

    @_axes
    def flip(self: Any, *axes: Any, axis: Any = None) -> Tensor:
        """Elements in reverse order along these axes, or along all."""
        return shapes.flip(self, _sequence(axes) if axes else axis)

    def repeat_interleave(self: Any, repeats: Any, dim: builtins.int | None = None, output_size: Any = None) -> Tensor:
        """Each element so many times in a row, along an axis or of the flat array; a tensor's numbers are read."""
        return shapes.repeat(self, repeats.tolist() if isinstance(repeats, Tensor) else repeats, dim)

    @_axes
    def repeat(self: Any, *repeats: Any, axis: Any = "unsaid") -> Tensor:
        """Each element so many times in a row along an axis, which is given by name."""
        if axis == "unsaid":
            words = ", ".join(map(str, repeats))
            raise TypeError(f"t.repeat({words}) repeats elements in NumPy, the whole in PyTorch: write t.tile({words}) "
                            f"or, for elements, t.repeat(n, axis=...), t.repeat_interleave(n, dim)")
        return shapes.repeat(self, repeats[0], axis)

    def split(self: Any, size: Any, dim: builtins.int = 0) -> Tensors:
        """Parts of an axis, of one size (the last what is left) or of those listed; gpuprop.split is NumPy's."""
        n = self.shape[dim]
        ends = list(range(size, n, size)) if isinstance(size, builtins.int) else np.cumsum(size)[:-1].tolist()
        if not isinstance(size, builtins.int) and builtins.sum(size) != n:
            raise ValueError(f"split: sizes {list(size)} do not add up to the axis' {n}")
        return shapes.split(self, ends, dim)

    def expand(self: Any, *sizes: Any) -> Tensor:
        """Axes of size 1 repeated, without memory, to these sizes; -1 leaves a size as it is."""
        sizes = _sequence(sizes)
        new = len(sizes) - self.ndim
        return shapes.broadcast_to(self, tuple(self.shape[i - new] if n == -1 else n for i, n in enumerate(sizes)))

    def expand_as(self: Any, other: Any) -> Tensor:
        return shapes.broadcast_to(self, other.shape)

    def reshape_as(self: Any, other: Any) -> Tensor:
        return shapes.reshape(self, other.shape)

    view_as = reshape_as

    def contiguous(self: Any) -> Tensor:
        """The tensor itself: every op takes any strides."""
        return self

    size = property(Size)

    def dim(self: Any) -> builtins.int:
        return self.ndim

    def numel(self: Any) -> builtins.int:
        return self.data.size

    # ---- reading and writing at places

    take: Method = _axes(indexing.take)
    gather: Method = _axes(indexing.gather)
    scatter_add: Method = _axes(indexing.scatter_add)
    index_select: Method = _axes(indexing.index_select)
    index_add: Method = _axes(indexing.index_add)
    masked_fill = _op(indexing.masked_fill)

    def where(self: Any, condition: Any, other: Any) -> Tensor:
        """This where the condition holds, else `other`."""
        return arithmetic.where(condition, self, other)

    def zero_(self: Any) -> Tensor:
        """Write zeros in place; as all such methods, into a tensor that is part of no graph, or under no_grad()."""
        return _write(self, ..., 0)

    def fill_(self: Any, value: Any) -> Tensor:
        """Write a number in place."""
        return _write(self, ..., value)

    def copy_(self: Any, source: Any) -> Tensor:
        """Write values in place, from wherever they are."""
        source = raw(source)
        return _write(self, ..., place(source, place_of(self.data)) if hasattr(source, "shape") else source)

    # ---- types and devices

    copy = clone = _op(shapes.copy)
    astype = _op(shapes.astype)
    float, double, half = _cast("float32"), _cast("float64"), _cast("float16")
    long, int, bool = _cast("int64"), _cast("int32"), _cast("bool")

    @property
    def device(self: Any) -> str:
        """Where the array is, as `to` takes it: "numpy", "cupy:1"."""
        return place_of(raw(self))

    def to(self: Any, *where: Any, device: str | None = None, dtype: Any = None,
           non_blocking: builtins.bool = False) -> Tensor:
        """On another backend or device ("cpu", "cuda:1", "numpy", as another Tensor), in another dtype, or both.

        Gradients come back the same way.  `non_blocking` is accepted and ignored.
        """
        device, dtype = destination(where, device, dtype)
        moved = self if device is None else _moved(self, device)
        return moved if dtype is None or moved.dtype == dtype else shapes.astype(moved, dtype)

    def type_as(self: Any, other: Any) -> Tensor:
        return self.to(other)

    def cpu(self: Any) -> Tensor:
        return self.to("cpu")

    def cuda(self: Any, device: builtins.int | None = None) -> Tensor:
        return self.to("cuda" if device is None else f"cuda:{device}")


for _name, _value in vars(Methods).items():
    if callable(_value) or isinstance(_value, property):
        setattr(Tensor, _name, _value)
