"""The methods of Tensor: functions whose first parameter is the tensor, and others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

from gpuprop import _array as G
from gpuprop._array.methods import Size as Count
from gpuprop._array.methods import destination
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.mode import Switch, is_grad_enabled
from gpuprop._core.namespace import get_array_module
from gpuprop._core.placement import write
from gpuprop._core.tensor import Tensor as Plain
from gpuprop._core.tensor import is_retaining, tensor
from gpuprop._core.warnings import warn_once
from gpuprop.torch import _functions as functions
from gpuprop.torch import _graph as graph
from gpuprop.torch import cuda
from gpuprop.torch._absent import OF_TENSOR, AbsentAttribute
from gpuprop.torch._failures import explains
from gpuprop.torch._functions._arguments import default_dtype, listed
from gpuprop.torch._functions._indices import replaced
from gpuprop.torch._tensor import (
    Parameter,
    Size,
    Tensor,
    Words,
    as_torch,
    as_view_key,
    changed_in_place,
    wrap,
)
from gpuprop.torch._tensor import device as device_named
from gpuprop.torch._words import strided

TYPE_NAMES = {"float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16",
              "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte",
              "bool": "Bool"}

# Methods ``name_`` that write the result of ``name`` into the tensor.
IN_PLACE = """abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr arccos
    arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh baddbmm
    bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor
    ceil clamp clamp_max clamp_min clip copysign cos cosh cumprod cumsum deg2rad digamma div
    divide eq erf erfc erfinv exp exp2 expm1 fix float_power floor floor_divide fmod frac
    gcd ge greater greater_equal gt heaviside hypot i0 index_add index_copy index_fill
    index_put lcm ldexp le lerp less less_equal lgamma log log10 log1p log2 logical_and
    logical_not logical_or logical_xor logit lt masked_fill masked_scatter mul multiply
    mvlgamma nan_to_num ne neg negative nextafter not_equal polygamma pow put rad2deg
    reciprocal relu remainder renorm round rsqrt scatter scatter_add scatter_reduce sgn
    sigmoid sign sin sinc sinh sqrt square sub subtract tan tanh tril triu true_divide trunc
    xlogy""".split()


CALL_PROGRAMS = {"apply_", "backward", "map_"}  # their errors may be the program's


class Methods:
    """Methods that are not functions, or whose arguments differ from those of the function."""

    __slots__ = ()

    def dim(self: Any) -> int:
        return self.array.ndim

    ndimension = dim

    def nelement(self: Any) -> int:
        return raw(self).size

    def element_size(self: Any) -> int:
        return raw(self).itemsize

    def view(self: Any, *shape: Any) -> Any:
        """A Tensor of another shape, or, given a dtype, of the same memory read in that dtype."""
        if len(shape) == 1 and isinstance(shape[0], np.dtype):
            return wrap(raw(self).view(shape[0]))
        return G.reshape(self, listed(shape))

    def reshape(self: Any, *sizes: Any, shape: Any = None) -> Any:
        return G.reshape(self, listed(sizes) if shape is None else tuple(shape))

    def view_as(self: Any, other: Any) -> Any:
        return G.reshape(self, tuple(other.shape))

    reshape_as = view_as

    def permute(self: Any, *axes: Any, dims: Any = None) -> Any:
        return G.transpose(self, listed(axes) if dims is None else tuple(dims))

    def expand(self: Any, *sizes: Any, size: Any = None, implicit: bool = False) -> Any:
        return Plain.expand(self, *(listed(sizes) if size is None else size))

    def repeat(self: Any, *numbers: Any, repeats: Any = None) -> Any:
        numbers = listed(numbers) if repeats is None else tuple(repeats)
        if len(numbers) < self.array.ndim or min(numbers, default=0) < 0:
            raise RuntimeError(f"repeat: expected a number of at least 0 for each of the "
                               f"{self.array.ndim} axes, got {numbers}")
        return G.tile(self, numbers)

    def tile(self: Any, *dims: Any) -> Any:
        return G.tile(self, listed(dims))

    def flip(self: Any, *axes: Any, dims: Any = None) -> Any:
        return functions.flip(self, listed(axes) if dims is None else dims)

    def polygamma(self: Any, n: int) -> Any:
        return functions.polygamma(n, self)

    def cholesky_inverse(self: Any, upper: bool = False) -> Any:
        return functions.cholesky_inverse(self, upper)

    def unfold(self: Any, dimension: int, size: int, step: int) -> Any:
        """Windows of `size` elements along an axis, as a new last axis."""
        if not self.array.ndim:
            return G.reshape(self, (1,))[:size]
        n = (self.shape[dimension] - size) // step + 1
        windows = [functions.narrow(self, dimension, i * step, size) for i in range(n)]
        axis = dimension % self.array.ndim
        return functions.movedim(functions.stack(windows, axis), axis + 1, -1)

    def sum_to_size(self: Any, *size: Any) -> Any:
        return functions.sum_to_size(self, *size)

    @property
    def T(self: Any) -> Any:
        return G.transpose(self)

    @property
    def mT(self: Any) -> Any:
        return G.swapaxes(self, -1, -2)

    @property
    def H(self: Any) -> Any:
        return G.transpose(self)

    mH = mT

    @property
    def real(self: Any) -> Any:
        return self

    @property
    def is_cpu(self: Any) -> bool:
        return self.device.type == "cpu"

    @property
    def is_cuda(self: Any) -> bool:
        return self.device.type == "cuda"

    @property
    def grad_fn(self: Any) -> Any:
        return self.node

    @property
    def retains_grad(self: Any) -> bool:
        hooks = self.node.hooks if self.node is not None else None
        return any(map(is_retaining, hooks or ()))

    is_mps = is_xpu = is_meta = is_sparse = is_quantized = is_nested = is_sparse_csr = False
    is_xla = is_mkldnn = is_ipu = is_vulkan = is_mtia = is_maia = False
    layout = strided
    name = None
    output_nr = 0
    volatile = False

    itemsize = property(lambda self: raw(self).itemsize)
    nbytes = property(lambda self: raw(self).nbytes)

    def stride(self: Any, dim: int | None = None) -> Any:
        strides = tuple(s // raw(self).itemsize for s in raw(self).strides)
        return strides if dim is None else strides[dim]

    def storage_offset(self: Any) -> int:
        return 0

    def is_contiguous(self: Any, memory_format: Any = None) -> bool:
        return bool(raw(self).flags.c_contiguous)

    def contiguous(self: Any, memory_format: Any = None) -> Any:
        return self if raw(self).flags.c_contiguous else G.copy(self)

    def data_ptr(self: Any) -> int:
        a = raw(self)
        return a.__array_interface__["data"][0] if isinstance(a, np.ndarray) else a.data.ptr

    def get_device(self: Any) -> int:
        index = self.device.index
        return -1 if index is None else index

    def is_pinned(self: Any, device: Any = None) -> bool:
        return False

    def is_shared(self: Any) -> bool:
        return False

    def is_distributed(self: Any) -> bool:
        return False

    def dim_order(self: Any) -> tuple[int, ...]:
        return tuple(range(self.array.ndim))

    def untyped_storage(self: Any) -> Any:
        return Storage(self)

    storage = untyped_storage

    def is_set_to(self: Any, other: Any) -> bool:
        return self.array is other.array

    # ---- dtypes and devices

    def type(self: Any, dtype: Any = None, **_: Any) -> Any:
        """The name of the tensor's type, or the tensor in another dtype."""
        if dtype is None:
            return str(TensorType(self.array.dtype.name, self.device.type))
        found = TYPES.get(str(dtype))
        return self.to(dtype) if found is None else self.to(found.device, found.dtype)

    def to(self: Any, *args: Any, device: Any = None, dtype: Any = None,
           non_blocking: bool = False, copy: bool = False, memory_format: Any = None) -> Any:
        """The tensor on another device, in another dtype, or both."""
        args = tuple(a for a in args if not isinstance(a, bool))
        device, dtype = destination(args, device, dtype)
        found = self if device is None else graph.on_device(self, device)
        if dtype is not None and found.array.dtype != dtype:
            found = G.astype(found, dtype)
        if found is self:
            return G.copy(self) if copy else self
        return as_torch(found)

    def cpu(self: Any, memory_format: Any = None) -> Any:
        return self.to("cpu")

    def cuda(self: Any, device: Any = None, non_blocking: bool = False) -> Any:
        return self.to("cuda" if device is None else device_named(device))

    def pin_memory(self: Any) -> Any:
        return self

    def share_memory_(self: Any) -> Any:
        warn_once("share_memory: other processes get copies of a Tensor, so that training there "
                  "does not change it: use threads, or send results through a Queue")
        return self

    # ---- new tensors of the same dtype and device

    def new_tensor(self: Any, data: Any, *, dtype: Any = None, device: Any = None,
                   requires_grad: bool = False) -> Any:
        return functions.tensor(data, dtype=dtype or self.array.dtype,
                                device=device or self.device, requires_grad=requires_grad)

    def new_zeros(self: Any, *size: Any, dtype: Any = None, device: Any = None,
                  requires_grad: bool = False) -> Any:
        return functions.zeros(*size, dtype=dtype or self.array.dtype,
                               device=device or self.device, requires_grad=requires_grad)

    def new_ones(self: Any, *size: Any, dtype: Any = None, device: Any = None,
                 requires_grad: bool = False) -> Any:
        return functions.ones(*size, dtype=dtype or self.array.dtype,
                              device=device or self.device, requires_grad=requires_grad)

    def new_empty(self: Any, *size: Any, dtype: Any = None, device: Any = None,
                  requires_grad: bool = False) -> Any:
        return functions.empty(*size, dtype=dtype or self.array.dtype,
                               device=device or self.device, requires_grad=requires_grad)

    def new_full(self: Any, size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
                 requires_grad: bool = False) -> Any:
        return functions.full(size, fill_value, dtype=dtype or self.array.dtype,
                              device=device or self.device, requires_grad=requires_grad)

    def new(self: Any, *sizes_or_data: Any) -> Any:
        return Tensor(*sizes_or_data).to(self)

    # ---- writing in place

    def copy_(self: Any, src: Any, non_blocking: bool = False) -> Any:
        src = as_torch(src.to(device=self.device, dtype=self.array.dtype))
        return self.update_(src if src.shape == self.shape else src.expand(*self.shape))

    def fill_(self: Any, value: Any) -> Any:
        return self.update_(G.full_like(self.detach(), raw(value)))

    def zero_(self: Any) -> Any:
        return self.fill_(0)

    def fill_diagonal_(self: Any, fill_value: Any, wrap: bool = False) -> Any:
        n = min(self.shape)
        self[range(n), range(n)] = fill_value
        return self

    def normal_(self: Any, mean: float = 0, std: float = 1, *, generator: Any = None) -> Any:
        drawn = functions.randn(*self.shape, generator=generator, dtype=self.array.dtype)
        return self._filled(mean + std * drawn)

    def uniform_(self: Any, from_: float = 0, to: float = 1, *, generator: Any = None,
                 **named: float) -> Any:
        from_ = named.get("from", from_)
        drawn = functions.rand(*self.shape, generator=generator, dtype=self.array.dtype)
        return self._filled(from_ + (to - from_) * drawn)

    def exponential_(self: Any, lambd: float = 1, *, generator: Any = None) -> Any:
        drawn = functions.rand(*self.shape, generator=generator, dtype=self.array.dtype)
        return self._filled(-G.log1p(-drawn) / lambd)

    def bernoulli_(self: Any, p: Any = 0.5, *, generator: Any = None) -> Any:
        drawn = functions.rand(*self.shape, generator=generator) < p
        return self._filled(drawn.to(self.array.dtype))

    def random_(self: Any, from_: int = 0, to: int | None = None, *, generator: Any = None) -> Any:
        if to is None:
            from_, to = 0, from_ or 2**24
        drawn = functions.randint(from_, to, tuple(self.shape), generator=generator)
        return self._filled(drawn.to(self.array.dtype))

    def log_normal_(self: Any, mean: float = 1, std: float = 2, *, generator: Any = None) -> Any:
        drawn = functions.randn(*self.shape, generator=generator, dtype=self.array.dtype)
        return self._filled(G.exp(mean + std * drawn))

    def cauchy_(self: Any, median: float = 0, sigma: float = 1, *, generator: Any = None) -> Any:
        drawn = functions.rand(*self.shape, generator=generator, dtype=self.array.dtype)
        return self._filled(median + sigma * G.tan(np.pi * (drawn - 0.5)))

    def geometric_(self: Any, p: float, *, generator: Any = None) -> Any:
        drawn = functions.rand(*self.shape, generator=generator, dtype="float64")
        return self._filled(G.ceil(G.log1p(-drawn) / np.log1p(-p)).clamp(min=1))

    def apply_(self: Any, callable: Callable) -> Any:
        """Replace each element by ``callable(element)``, on the CPU."""
        return self.map_(self, lambda a, _: callable(a))

    def map_(self: Any, tensor: Any, callable: Callable) -> Any:
        """Replace each element by ``callable(element, other)``, on the CPU."""
        if self.device.type != "cpu":
            raise TypeError("map_ and apply_ work on the CPU only: write an expression of tensors")
        a, b = raw(self), np.broadcast_to(raw(tensor), raw(self).shape)
        values = [callable(x, y) for x, y in zip(a.ravel().tolist(), b.ravel().tolist(),
                                                 strict=True)]
        return self.update_(wrap(np.array(values, a.dtype).reshape(a.shape)))

    def _filled(self: Any, values: Any) -> Any:
        """Become these values, drawn on the host or the default backend."""
        return self.update_(values.to(device=self.device, dtype=self.array.dtype))

    def resize_(self: Any, *size: Any, memory_format: Any = None) -> Any:
        """A new shape; the first elements stay, others are 0."""
        shape = listed(size)
        n = int(np.prod(shape))
        flat = functions.cat([self.detach().flatten(), self.new_zeros(n)])[:n]
        self.array = raw(flat.view(*shape))
        return self

    def resize_as_(self: Any, other: Any) -> Any:
        return self.resize_(tuple(other.shape))

    def set_(self: Any, source: Any) -> Any:
        self.data = source
        return self

    def squeeze_(self: Any, dim: Any = None) -> Any:
        return self._become(functions.squeeze(self, dim))

    def unsqueeze_(self: Any, dim: int) -> Any:
        return self._become(functions.unsqueeze(self, dim))

    def t_(self: Any) -> Any:
        return self._become(functions.t(self))

    def transpose_(self: Any, dim0: int, dim1: int) -> Any:
        return self._become(functions.transpose(self, dim0, dim1))

    swapaxes_ = swapdims_ = transpose_

    def _become(self: Any, view: Any) -> Any:
        """Stand for a view of this tensor."""
        self.array, self.node = view.array, view.node
        return self

    def backward(self: Any, gradient: Any = None, retain_graph: bool | None = None,
                 create_graph: bool = False, inputs: Any = None) -> None:
        """Add d(self)/d(leaf) to the `grad` of each leaf, or of `inputs` alone."""
        if not create_graph and inputs is None:
            with Switch(recording=False):  # for hooks and Functions of the program
                Plain.backward(self, gradient, bool(retain_graph))
            return
        seeds = None if gradient is None else [gradient]
        graph.backward([self], seeds, retain_graph, create_graph, inputs)

    def __setitem__(self: Any, key: Any, value: Any) -> None:
        key = as_view_key(self, key)
        if is_grad_enabled() and (self.requires_grad or getattr(value, "requires_grad", False)):
            self.update_(replaced(self, key, value))
            return
        write(self.array, raw(value), key)
        changed_in_place(self)

    # ---- refusals

    def item(self: Any) -> Any:
        if raw(self).size != 1:
            raise RuntimeError(f"a Tensor with {raw(self).size} elements cannot be converted to "
                               f"Scalar")
        return Plain.item(self)

    def __deepcopy__(self: Any, memo: dict) -> Any:
        if self.node is not None:
            raise RuntimeError("Only Tensors created explicitly by the user (graph leaves) support "
                               "the deepcopy protocol at the moment: use .detach() first")
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(self.__getstate__())
        copied.array = get_array_module(self).copy(self.array)
        is_parameter = isinstance(self, Parameter)  # its copy has no gradient
        copied.gradient = None if is_parameter else copy.deepcopy(self.gradient, memo)
        return copied


def _made(sizes_or_data: tuple, dtype: Any) -> Any:
    """The array of ``Tensor(2, 3)``, which has this shape, or of ``Tensor([1, 2])``."""
    if len(sizes_or_data) > 1:
        sizes_or_data = tuple(a.tolist() if isinstance(a, Plain) else a for a in sizes_or_data)
    if all(isinstance(a, int | Count) for a in sizes_or_data):
        return tensor(np.zeros(sizes_or_data or (0,), dtype)).array
    if len(sizes_or_data) != 1:
        raise TypeError("Tensor: expected sizes, as in Tensor(2, 3), or data, as in "
                        "torch.tensor([...])")
    data = np.zeros(sizes_or_data[0]) if isinstance(sizes_or_data[0], Size) else sizes_or_data[0]
    return functions.tensor(data, dtype=dtype).array


def _init(self: Any, *sizes_or_data: Any) -> None:
    """``Tensor(2, 3)`` has this shape; ``Tensor([1, 2])`` has these elements, as float32."""
    data = sizes_or_data[0] if len(sizes_or_data) == 1 else None
    if isinstance(data, Plain) and is_float(data.dtype):
        Plain.__init__(self, data.array)
    else:
        Plain.__init__(self, _made(sizes_or_data, default_dtype()))


class Storage:
    """The memory of a tensor, as far as programs ask for it."""

    def __init__(self, t: Any) -> None:
        self._t = t

    def data_ptr(self) -> int:
        return self._t.data_ptr()

    def nbytes(self) -> int:
        return raw(self._t).nbytes

    def size(self) -> int:
        return raw(self._t).size

    __len__ = size

    def tolist(self) -> list:
        return raw(self._t).reshape(-1).tolist()

    def __getitem__(self, index: Any) -> Any:
        return self.tolist()[index]


class TensorType:
    """``torch.FloatTensor`` and the like: they make Tensors of one dtype, as `Tensor` does."""

    def __init__(self, dtype: str, device: str = "cpu") -> None:
        self.dtype, self.device = dtype, device

    def __call__(self, *sizes_or_data: Any) -> Any:
        return wrap(_made(sizes_or_data, self.dtype)).to(self.device)

    def __instancecheck__(self, value: Any) -> bool:
        return (isinstance(value, Words) and value.array.dtype.name == self.dtype
                and value.device.type == self.device)

    def __str__(self) -> str:
        package = "" if self.device == "cpu" else f"{self.device}."
        return f"torch.{package}{TYPE_NAMES[self.dtype]}Tensor"

    def __repr__(self) -> str:
        return f"<class '{self}'>"


TYPES = {str(t): t for t in (TensorType(d, place) for place in ("cpu", "cuda") for d in TYPE_NAMES)}
for _name, _type in TYPES.items():
    if _type.device == "cuda":
        setattr(cuda, _name.rpartition(".")[2], _type)


def _cast_to(dtype: str) -> Callable:
    def method(self: Any, memory_format: Any = None) -> Any:
        return self.to(dtype)

    method.__doc__ = f"The tensor in {dtype}."
    return method


def _in_place(fn: Callable) -> Callable:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.update_(fn(self, *args, **kwargs))

    method.__name__ = f"{fn.__name__}_"
    method.__doc__ = f"In-place version of `{fn.__name__}`."
    return method


def _takes_tensor_first(fn: Any) -> bool:
    names = getattr(fn, "__wrapped__", fn).__code__.co_varnames[:1]
    return names in (("input",), ("tensor",))


for _dtype, _word in TYPE_NAMES.items():
    setattr(Words, _word.lower(), _cast_to(_dtype))
for _name in functions.__all__:
    _value = getattr(functions, _name)
    is_function = isinstance(_value, FunctionType) and _takes_tensor_first(_value)
    if is_function and _name not in vars(Words):
        setattr(Words, _name, _value)
for _name, _value in vars(Methods).items():
    if not _name.startswith("__") or _name in ("__deepcopy__", "__setitem__"):
        is_explained = isinstance(_value, FunctionType) and _name not in CALL_PROGRAMS
        setattr(Words, _name, explains(_value) if is_explained else _value)
Tensor.__init__ = _init  # type: ignore[method-assign, assignment]
for _name in IN_PLACE:
    if hasattr(Words, _name):
        setattr(Words, f"{_name}_", _in_place(getattr(Words, _name)))
for _name in OF_TENSOR:
    setattr(Words, _name, AbsentAttribute(_name))
