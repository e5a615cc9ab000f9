"""The operators and methods of Tensor: NumPy's names, and PyTorch's where NumPy has none.

Where both have a name with different meanings, NumPy's meaning holds: `max(axis)` returns values
only, `var` and `std` divide by n, `transpose` takes all axes.  Calls that could mean either raise
TypeError, and the message names unambiguous alternatives.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from gpuprop._array import (
    activation,
    arithmetic,
    comparison,
    indexing,
    mathematics,
    products,
    reduction,
)
from gpuprop._array import shape as shapes
from gpuprop._array.scatter import normalize_axis
from gpuprop._core.backend import MULTI_DEVICE, BackendMismatchError
from gpuprop._core.checks import as_integer
from gpuprop._core.composed import checks_arguments
from gpuprop._core.dtypes import as_dtype
from gpuprop._core.failures import no_array_error
from gpuprop._core.graph import Node, raw
from gpuprop._core.mode import is_grad_enabled
from gpuprop._core.options import as_sizes
from gpuprop._core.placement import on_device_of, place, place_of, write
from gpuprop._core.registry import backend_of
from gpuprop._core.signature import takes_pytorch_names
from gpuprop._core.tensor import Parameter, Tensor

Method = Callable[..., Tensor]
Tensors = tuple[Tensor, ...]


def _op(fn: Any) -> Any:
    """An op as an operator or method, in which the tensor is the first argument."""
    return fn


def _reflected(fn: Any) -> Method:
    """A reflected operator such as `__rsub__`, in which the tensor is the second argument."""
    return lambda self, other: fn(other, self)


def _compared(fn: Any) -> Any:
    """A comparison operator; Python compares a tensor with None or a str by identity."""

    def compare(self: Tensor, other: Any) -> Any:
        return NotImplemented if other is None or isinstance(other, str) else fn(self, other)

    return compare


def _augmented(sign: str, fn: Any) -> Method:
    """``t += x``, which makes t a new tensor.  Raises TypeError if t is a leaf with a gradient."""

    def update(self: Tensor, other: Any) -> Tensor:
        if self.requires_grad and self.node is None:
            raise TypeError(f"t {sign} x would replace t, a leaf that requires a gradient, by a "
                            f"new tensor: write t.data[...] {sign} x to change t, or "
                            f"t = t {sign[:-1]} x for a new tensor")
        return fn(self, other)

    return update


def _cast(dtype: str) -> Method:
    return lambda self: shapes.astype(self, dtype)


def _shape_of(name: str, other: Any) -> Any:
    if not hasattr(other, "shape"):
        raise no_array_error(f"{name}()", "other", other)
    return other.shape


def _sequence(args: tuple) -> Any:
    """The arguments of ``f(2, 3)`` or ``f((2, 3))`` as one sequence."""
    return args[0] if len(args) == 1 and not hasattr(args[0], "__index__") else args


# ---- indices, writing, moving ------------------------------------------------------------------

BASIC = {int, slice, type(None), type(Ellipsis)}


def _key(t: Tensor, key: Any) -> Any:
    """An index with arrays of the tensor's own backend."""
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
        _check_device(t, key, "index", "to convert it once and not at each use")
    return key


def _check_device(t: Tensor, array: Any, name: str, why: str) -> None:
    """Raise BackendMismatchError unless the array is on the tensor's device."""
    if type(array) is type(raw(t)) and not MULTI_DEVICE:
        return
    expected = place_of(raw(t))
    device = place_of(array)
    if device != expected:
        raise BackendMismatchError(
            f"the tensor is on {expected!r}, but {name} is an array on {device!r}: write "
            f"{name} = gpuprop.tensor({name}).to({expected!r}) {why}")


def _write(t: Tensor, key: Any, value: Any) -> Tensor:
    """Write in place.  Raises TypeError if a recorded op may have read the old values."""
    recorded = is_grad_enabled() and (t.requires_grad or getattr(value, "requires_grad", False))
    if t.node is not None or recorded or isinstance(t.array, Tensor):
        raise TypeError("in-place writes are not recorded, but this tensor or the value is part of "
                        "a graph: make a new tensor with gpuprop.where or index_add, or write "
                        "t.data[...] = v, which no gradient sees")
    value = value.item() if isinstance(value, np.generic) else raw(value)
    if hasattr(value, "shape") and not isinstance(value, np.ndarray):
        _check_device(t, value, "value", "before the write")
    write(t.array, value, key)
    if isinstance(t, Parameter):
        t.touch()
    return t


def destination(args: Sequence, device: Any = None, dtype: Any = None) -> tuple[str | None, Any]:
    """The device and dtype of the arguments of ``to(...)``.

    Each argument is a device ("cuda:1", "numpy"), a dtype or its name, or a Tensor.
    """
    for arg in args:
        if isinstance(arg, Tensor):
            device = arg.device
            dtype = arg.dtype
        elif isinstance(arg, str) and not _is_dtype(arg):
            device = arg
        elif arg is not None:
            dtype = arg
    return device, None if dtype is None else as_dtype(dtype)


def _is_dtype(name: str) -> bool:
    """True for the name of a dtype, also of one that tensors cannot have."""
    try:
        np.dtype(name)
    except TypeError:
        return name == "bfloat16"
    return True


def moved(a: Any, device: str) -> Any:
    """An array or Tensor copied to a device; the gradient is copied back."""
    if not isinstance(a, Tensor):
        return place(a, device)
    source = a.device
    data = moved(a.array, device)
    if data is a.array:
        return a
    if not (a.requires_grad and is_grad_enabled()):
        return Tensor(data)
    pullbacks = (lambda d: moved(d, source),)
    return Tensor(data, True, Node(MOVE, (a.node or a,), pullbacks, data.shape, data.dtype))


class _Move:
    """In place of an op's `Spec`, since a copy between devices is not an op of one backend."""

    def label(self, shape: Any) -> str:
        return "to"


MOVE = _Move()


class Size(int):
    """The number of elements, as an int; ``t.size()`` and ``t.size(dim)`` work as in PyTorch."""

    # NumPy treats a subclass of int as an int64 scalar, which widens float32.  None makes NumPy
    # leave arithmetic to the operators below, which use a plain int.
    __array_ufunc__ = None
    _shape: tuple

    def __new__(cls, t: Tensor) -> Size:
        self = super().__new__(cls, t.array.size)
        self._shape = t.shape
        return self

    def __call__(self, dim: int | None = None) -> Any:
        return self._shape if dim is None else self._shape[dim]

    def __reduce__(self) -> tuple:
        return int, (int(self),)


def _as_int(fn: Callable) -> tuple[Callable, Callable]:
    """An operator and the reflected operator of `Size`, on a plain int."""
    return lambda self, other: fn(int(self), other), lambda self, other: fn(other, int(self))


for _name in "add sub mul truediv floordiv mod pow".split():
    _operator, _reflected_operator = _as_int(getattr(operator, _name))
    setattr(Size, f"__{_name}__", _operator)
    setattr(Size, f"__r{_name}__", _reflected_operator)


# ---- the methods -------------------------------------------------------------------------------


class Methods:
    """The operators and methods of a Tensor."""

    __slots__ = ()

    __add__ = __radd__ = _op(arithmetic.add)
    __mul__ = __rmul__ = _op(arithmetic.multiply)
    __sub__ = _op(arithmetic.subtract)
    __rsub__ = _reflected(arithmetic.subtract)
    __truediv__ = _op(arithmetic.divide)
    __rtruediv__ = _reflected(arithmetic.divide)
    __floordiv__ = _op(arithmetic.floor_divide)
    __rfloordiv__ = _reflected(arithmetic.floor_divide)
    __mod__ = _op(arithmetic.remainder)
    __rmod__ = _reflected(arithmetic.remainder)
    __pow__ = _op(arithmetic.power)
    __rpow__ = _reflected(arithmetic.power)
    __matmul__ = _op(products.matmul)
    __rmatmul__ = _reflected(products.matmul)
    __and__ = __rand__ = _op(comparison.bitwise_and)
    __or__ = __ror__ = _op(comparison.bitwise_or)
    __xor__ = __rxor__ = _op(comparison.bitwise_xor)
    __lshift__ = _op(comparison.left_shift)
    __rlshift__ = _reflected(comparison.left_shift)
    __rshift__ = _op(comparison.right_shift)
    __rrshift__ = _reflected(comparison.right_shift)
    __iadd__ = _augmented("+=", arithmetic.add)
    __isub__ = _augmented("-=", arithmetic.subtract)
    __imul__ = _augmented("*=", arithmetic.multiply)
    __itruediv__ = _augmented("/=", arithmetic.divide)
    __ifloordiv__ = _augmented("//=", arithmetic.floor_divide)
    __imod__ = _augmented("%=", arithmetic.remainder)
    __ipow__ = _augmented("**=", arithmetic.power)
    __imatmul__ = _augmented("@=", products.matmul)
    __lt__ = _op(comparison.less)
    __le__ = _op(comparison.less_equal)
    __gt__ = _op(comparison.greater)
    __ge__ = _op(comparison.greater_equal)
    __eq__ = _compared(comparison.equal)
    __ne__ = _compared(comparison.not_equal)
    __pos__ = _op(mathematics.positive)
    __neg__ = _op(mathematics.negative)
    __abs__ = _op(mathematics.absolute)
    __invert__ = _op(comparison.invert)
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
        """Write in place.  Raises TypeError if the tensor is part of a graph.

        Backward through an op that has read the old values raises.
        """
        _write(self, _key(self, key), value)

    # ---- elementwise

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
    softmax = _op(activation.softmax)
    log_softmax = _op(activation.log_softmax)

    eq = _op(comparison.equal)
    ne = _op(comparison.not_equal)
    lt = _op(comparison.less)
    le = _op(comparison.less_equal)
    gt = _op(comparison.greater)
    ge = _op(comparison.greater_equal)
    logical_and = _op(comparison.logical_and)
    logical_or = _op(comparison.logical_or)
    logical_xor = _op(comparison.logical_xor)
    logical_not = _op(comparison.logical_not)
    isnan = _op(comparison.isnan)
    isinf = _op(comparison.isinf)
    isfinite = _op(comparison.isfinite)

    # ---- reductions and order

    sum: Method = _op(reduction.sum)
    mean: Method = _op(reduction.mean)
    var: Method = _op(reduction.var)
    std: Method = _op(reduction.std)
    max: Method = _op(reduction.max)
    min: Method = _op(reduction.min)
    amax: Method = _op(reduction.max)
    amin: Method = _op(reduction.min)
    prod: Method = _op(reduction.prod)
    argmax: Method = _op(reduction.argmax)
    argmin: Method = _op(reduction.argmin)
    any: Method = _op(reduction.any)
    all: Method = _op(reduction.all)
    count_nonzero: Method = _op(reduction.count_nonzero)
    cumsum: Method = _op(reduction.cumsum)
    cumprod: Method = _op(reduction.cumprod)
    logsumexp: Method = _op(reduction.logsumexp)
    norm: Method = _op(reduction.norm)
    topk: Callable[..., tuple[Tensor, Tensor]] = _op(reduction.topk)

    @checks_arguments
    def argsort(self: Any, axis: builtins.int = -1, descending: Any = False,
                stable: builtins.bool = True) -> Tensor:
        """The indices that sort in ascending or descending order along an axis; always stable."""
        if descending is True:  # a string is NumPy's second argument, `kind`
            n = self.shape[normalize_axis(self, as_integer("argsort: axis", axis))]
            return reduction.topk(self, n, axis)[1]
        return reduction.argsort(self, axis)

    def sort(self: Any, *_: Any, **__: Any) -> NoReturn:
        """Raises TypeError: use `gpuprop.sort`, `argsort` or `topk`."""
        raise TypeError("t.sort() is ambiguous: it sorts in place in NumPy and returns values and "
                        "indices in PyTorch; write gpuprop.sort(t, axis), t.argsort(axis) or "
                        "t.topk(k)")

    # ---- products

    matmul = mm = _op(products.matmul)
    bmm = _op(products.bmm)
    dot = _op(products.dot)
    inner = _op(products.inner)
    outer = _op(products.outer)
    trace = _op(reduction.trace)

    def t(self: Any) -> Tensor:
        """The transpose of a matrix; a vector unchanged."""
        if self.ndim > 2:
            raise ValueError(f"t(): expected at most 2 axes, got {self.ndim}; "
                             f"use swapaxes, permute or .mT")
        return shapes.transpose(self)

    # ---- shapes

    @property
    def T(self: Any) -> Tensor:
        """The transpose: all axes reversed."""
        return shapes.transpose(self)

    @property
    def mT(self: Any) -> Tensor:
        """The last two axes exchanged."""
        return shapes.swapaxes(self, -2, -1)

    def reshape(self: Any, *shape: Any) -> Tensor:
        """The same elements in another shape; one size may be -1, which is inferred."""
        return shapes.reshape(self, _sequence(shape))

    def view(self: Any, *shape: Any) -> Tensor:
        """The same as `reshape`.  Raises TypeError for a dtype."""
        new = _sequence(shape)
        if not isinstance(new, tuple | list):
            raise TypeError(f"view({new!r}): expected a shape; astype converts to another dtype")
        return shapes.reshape(self, new)

    def transpose(self: Any, *axes: Any) -> Tensor:
        """The tensor with its axes in the given order, or reversed."""
        if len(axes) == 2 and (self.ndim != 2 or axes[0] in (0, -2)):
            given = f"{axes[0]}, {axes[1]}"
            raise TypeError(f"t.transpose({given}) is ambiguous: it exchanges two axes in PyTorch "
                            f"and takes all {self.ndim} in NumPy; write t.swapaxes({given}), or "
                            f"t.permute(...) with all axes")
        return shapes.transpose(self, _sequence(axes) if axes else None)

    def permute(self: Any, *axes: Any) -> Tensor:
        """The tensor with its axes in the given order."""
        return shapes.transpose(self, _sequence(axes))

    swapaxes = _op(shapes.swapaxes)
    moveaxis = _op(shapes.moveaxis)
    ravel = _op(shapes.ravel)
    flatten: Method = _op(shapes.flatten)
    squeeze: Method = _op(shapes.squeeze)
    unsqueeze: Method = _op(shapes.expand_dims)
    roll: Method = _op(shapes.roll)
    tile = _op(shapes.tile)
    diagonal: Method = _op(indexing.diagonal)
    diag = _op(indexing.diag)
    tril = _op(indexing.tril)
    triu = _op(indexing.triu)
    chunk: Callable[..., Tensors] = _op(shapes.chunk)
    unbind: Callable[..., Tensors] = _op(shapes.unstack)

    @takes_pytorch_names
    def flip(self: Any, *axes: Any, axis: Any = None) -> Tensor:
        """The tensor with its elements in reverse order along the given axes, or along all."""
        return shapes.flip(self, _sequence(axes) if axes else axis)

    def repeat_interleave(self: Any, repeats: Any, dim: builtins.int | None = None,
                          output_size: Any = None) -> Tensor:
        """Each element repeated along an axis; if `dim` is None, the tensor is flattened first.

        The host waits for the device if `repeats` is a Tensor.  `output_size` is ignored.
        """
        counts = repeats.tolist() if isinstance(repeats, Tensor) else repeats
        return shapes.repeat(self, counts, dim)

    @takes_pytorch_names
    def repeat(self: Any, *repeats: Any, axis: Any = "missing") -> Tensor:
        """Each element repeated along an axis, which is a required keyword argument."""
        if axis == "missing":
            given = ", ".join(map(str, repeats))
            raise TypeError(f"t.repeat({given}) is ambiguous: it repeats elements in NumPy and the "
                            f"whole tensor in PyTorch; write t.tile({given}) for the whole tensor, "
                            f"or t.repeat(n, axis=...) or t.repeat_interleave(n, dim) for elements")
        return shapes.repeat(self, repeats[0], axis)

    @checks_arguments
    def split(self: Any, size: Any, dim: builtins.int = 0) -> Tensors:
        """PyTorch's `split`: a tuple of parts of one size, or of the listed sizes.

        The last part is smaller if one size does not divide the axis.  `gpuprop.split` is NumPy's.
        """
        n = self.shape[normalize_axis(self, as_integer("split: dim", dim))]
        if isinstance(size, builtins.int | np.integer):
            size = as_integer("split: size", size, 1)
            return shapes.split(self, list(range(size, n, size)), dim)
        size = as_sizes("split: size", size, 0)
        if builtins.sum(size) != n:
            raise ValueError(f"split: sizes {list(size)} do not add up to {n}, the size of axis "
                             f"{dim}")
        return shapes.split(self, np.cumsum(size)[:-1].tolist(), dim)

    def expand(self: Any, *sizes: Any) -> Tensor:
        """Broadcast to these sizes, as a view; -1 keeps a size."""
        sizes = as_sizes("expand: sizes", _sequence(sizes))
        new = len(sizes) - self.ndim
        if -1 in sizes[:max(new, 0)]:
            raise ValueError(f"expand: -1 keeps the size of an axis, but axis {sizes.index(-1)} of "
                             f"{tuple(sizes)} is new for shape {self.shape}")
        shape = tuple(self.shape[i - new] if n == -1 else n for i, n in enumerate(sizes))
        return shapes.broadcast_to(self, shape)

    def expand_as(self: Any, other: Any) -> Tensor:
        """Broadcast to the shape of `other`, as a view."""
        return shapes.broadcast_to(self, _shape_of("expand_as", other))

    def reshape_as(self: Any, other: Any) -> Tensor:
        """The same elements in the shape of `other`."""
        return shapes.reshape(self, _shape_of("reshape_as", other))

    view_as = reshape_as

    def contiguous(self: Any) -> Tensor:
        """The tensor itself: ops accept any strides."""
        return self

    size = property(Size)

    def dim(self: Any) -> builtins.int:
        """The number of axes."""
        return self.ndim

    def numel(self: Any) -> builtins.int:
        """The number of elements."""
        return self.array.size

    # ---- reading and writing at indices

    take: Method = _op(indexing.take)
    gather: Method = _op(indexing.gather)
    scatter_add: Method = _op(indexing.scatter_add)
    index_select: Method = _op(indexing.index_select)
    index_add: Method = _op(indexing.index_add)
    masked_fill = _op(indexing.masked_fill)

    def where(self: Any, condition: Any, other: Any) -> Tensor:
        """The tensor where `condition` is True, else `other`."""
        return arithmetic.where(condition, self, other)

    def zero_(self: Any) -> Tensor:
        """Write zeros in place.

        Like all in-place methods it raises TypeError if the tensor is part of a graph; under
        no_grad() leaves are accepted.
        """
        return _write(self, ..., 0)

    def fill_(self: Any, value: Any) -> Tensor:
        """Write a number in place."""
        return _write(self, ..., value)

    def copy_(self: Any, source: Any) -> Tensor:
        """Write the values of an array or Tensor on any device in place."""
        source = raw(source)
        if hasattr(source, "shape"):
            source = place(source, place_of(self.array))
        return _write(self, ..., source)

    # ---- types and devices

    copy = clone = _op(shapes.copy)
    astype = _op(shapes.astype)
    float = _cast("float32")
    double = _cast("float64")
    half = _cast("float16")
    long = _cast("int64")
    int = _cast("int32")
    bool = _cast("bool")

    @property
    def device(self: Any) -> str:
        """The device of the array, such as "numpy" or "cupy:1", as `to` accepts it."""
        return place_of(raw(self))

    def to(self: Any, *args: Any, device: str | None = None, dtype: Any = None,
           non_blocking: builtins.bool = False) -> Tensor:
        """The tensor on another device, in another dtype, or both.

        Arguments are devices ("cpu", "cuda:1", "numpy"), dtypes or a Tensor with both.  Gradients
        are copied back.  `non_blocking` is ignored.
        """
        device, dtype = destination(args, device, dtype)
        there = self if device is None else moved(self, device)
        return there if dtype is None or there.dtype == dtype else shapes.astype(there, dtype)

    def type_as(self: Any, other: Any) -> Tensor:
        """The tensor with the device and dtype of `other`."""
        _shape_of("type_as", other)
        return self.to(other)

    def cpu(self: Any) -> Tensor:
        """The tensor in host memory."""
        return self.to("cpu")

    def cuda(self: Any, device: builtins.int | None = None) -> Tensor:
        """The tensor on a CUDA device, by default the current one."""
        return self.to("cuda" if device is None else f"cuda:{device}")


for _name, _value in vars(Methods).items():
    if callable(_value) or isinstance(_value, property):
        setattr(Tensor, _name, _value)
