"""New Tensors, and questions about Tensors and dtypes."""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop import _array as G
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.tensor import Tensor as Plain
from gpuprop._core.tensor import from_dlpack as _from_dlpack
from gpuprop._core.tensor import tensor as plain_tensor
from gpuprop.torch import _results
from gpuprop.torch._functions._arguments import default_dtype, listed, placed
from gpuprop.torch._tensor import Tensor, as_torch, wrap

__all__ = [
    "arange", "as_tensor", "asarray", "bartlett_window", "blackman_window", "can_cast", "empty",
    "empty_like", "eye", "finfo", "from_dlpack", "from_numpy", "frombuffer", "full",
    "full_like", "get_default_dtype", "get_device", "hamming_window", "hann_window", "iinfo",
    "is_complex", "is_conj", "is_floating_point", "is_inference", "is_neg", "is_nonzero",
    "is_signed", "is_storage", "is_tensor", "kaiser_window", "linspace", "logspace", "ones",
    "ones_like", "promote_types", "range", "result_type", "scalar_tensor", "set_default_dtype",
    "tensor", "tril_indices", "triu_indices", "typename", "zeros", "zeros_like",
]


def get_default_dtype() -> Any:
    """The dtype of floats that a program gives as Python numbers."""
    return np.dtype(default_dtype())


def set_default_dtype(d: Any) -> None:
    _results.default_dtype[0] = np.dtype(d).name


def _dtype_of(data: Any) -> Any:
    """The dtype of numbers, arrays and Tensors in lists: the widest of the highest kind."""
    found = {np.dtype(d) for d in _dtypes_in(data)}
    if any(map(is_float, found)):
        found = set(filter(is_float, found))
    return functools.reduce(np.promote_types, found) if found else np.dtype(default_dtype())


def _dtypes_in(data: Any) -> set:
    if hasattr(data, "dtype"):
        return {data.dtype}
    if isinstance(data, Sequence) and not isinstance(data, str):
        kinds = set(map(type, data))
        if kinds <= {float, int, builtins.bool}:
            data = [kind() for kind in kinds]
        return set().union(*map(_dtypes_in, data))
    return {default_dtype() if isinstance(data, float) else np.result_type(data)}


def _numbers(data: Any) -> Any:
    """The numbers of nested lists, in which a Tensor of one element, of any shape, is a number."""
    if isinstance(data, Plain):
        if data.array.size != 1:
            raise ValueError(f"tensor: a Tensor in a list is a number and must have one element, "
                             f"got shape {tuple(data.shape)}: torch.stack(list) joins Tensors")
        return data.array.item()
    is_plain = not isinstance(data, Sequence) or isinstance(data, str) or set(
        map(type, data)) <= {float, int, builtins.bool}
    return data if is_plain else [_numbers(d) for d in data]


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
           pin_memory: bool = False) -> Any:
    """A copy of `data`; Python floats have the default dtype."""
    if dtype is None and (isinstance(data, np.generic) or not hasattr(data, "dtype")):
        dtype = _dtype_of(data)
    t = plain_tensor(_numbers(data) if isinstance(data, Sequence) else raw(data), dtype=dtype)
    return placed(t, device, requires_grad)


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
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"from_numpy: ndarray must be a NumPy array, got "
                        f"{type(ndarray).__name__}: use torch.tensor")
    return wrap(ndarray)


def _filled(make: Callable, size: tuple, dtype: Any, device: Any, requires_grad: bool) -> Any:
    t = make(listed(size), dtype=dtype or default_dtype(), device=device)
    return placed(t, None, requires_grad)


def zeros(*sizes: Any, size: Any = (), dtype: Any = None, device: Any = None,
          requires_grad: bool = False, layout: Any = None, pin_memory: bool = False,
          memory_format: Any = None) -> Any:
    return _filled(G.zeros, sizes or (size,), dtype, device, requires_grad)


def ones(*sizes: Any, size: Any = (), dtype: Any = None, device: Any = None,
         requires_grad: bool = False, layout: Any = None, pin_memory: bool = False,
         memory_format: Any = None) -> Any:
    return _filled(G.ones, sizes or (size,), dtype, device, requires_grad)


def empty(*sizes: Any, size: Any = (), dtype: Any = None, device: Any = None,
          requires_grad: bool = False, layout: Any = None, pin_memory: bool = False,
          memory_format: Any = None) -> Any:
    return _filled(G.empty, sizes or (size,), dtype, device, requires_grad)


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
         requires_grad: bool = False) -> Any:
    if dtype is None and isinstance(fill_value, float):
        dtype = default_dtype()
    return placed(G.full(tuple(size), fill_value, dtype, device), None, requires_grad)


def zeros_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
               memory_format: Any = None) -> Any:
    return placed(G.zeros_like(input.detach(), dtype), device, requires_grad)


def ones_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
              memory_format: Any = None) -> Any:
    return placed(G.ones_like(input.detach(), dtype), device, requires_grad)


def full_like(input: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
              requires_grad: bool = False) -> Any:
    return placed(G.full_like(input.detach(), fill_value, dtype), device, requires_grad)


empty_like = zeros_like


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None,
        requires_grad: bool = False) -> Any:
    return placed(G.eye(n, m, dtype or default_dtype(), device), None, requires_grad)


def arange(start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None,
           requires_grad: bool = False) -> Any:
    numbers = start, end, step
    if dtype is None and not builtins.all(n is None or isinstance(n, int) for n in numbers):
        dtype = default_dtype()
    return placed(G.arange(start, end, step, dtype, device), None, requires_grad)


def linspace(start: Any, end: Any, steps: int, *, dtype: Any = None, device: Any = None,
             requires_grad: bool = False) -> Any:
    t = G.linspace(float(start), float(end), steps, dtype or default_dtype(), device)
    return placed(t, None, requires_grad)


def logspace(start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: Any = None,
             device: Any = None, requires_grad: bool = False) -> Any:
    t = base ** linspace(start, end, steps, dtype="float64", device=device)
    return placed(t.to(dtype or default_dtype()), None, requires_grad)


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = "int64",
                 device: Any = None) -> Any:
    return placed(plain_tensor(np.stack(np.tril_indices(row, offset, col)), dtype), device, False)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = "int64",
                 device: Any = None) -> Any:
    return placed(plain_tensor(np.stack(np.triu_indices(row, offset, col)), dtype), device, False)


def is_tensor(obj: Any) -> bool:
    return isinstance(obj, Tensor)


def is_floating_point(input: Any) -> bool:
    return input.array.dtype.kind not in "iub"


def result_type(tensor1: Any, tensor2: Any) -> Any:
    return np.result_type(*(t.dtype if isinstance(t, Plain) else t for t in (tensor1, tensor2)))


def asarray(obj: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None,
            requires_grad: bool = False) -> Any:
    t = as_tensor(obj, dtype, device)
    t = t.clone() if copy else t
    return placed(t, None, True) if requires_grad else t


def scalar_tensor(s: Any, *, dtype: Any = None, device: Any = None,
                  requires_grad: bool = False) -> Any:
    return tensor(s, dtype=dtype or default_dtype(), device=device, requires_grad=requires_grad)


def frombuffer(buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0,
               requires_grad: bool = False) -> Any:
    return placed(wrap(np.frombuffer(buffer, dtype, count, offset)), None, requires_grad)


def from_dlpack(ext_tensor: Any) -> Any:
    return as_torch(_from_dlpack(ext_tensor))


def range(start: float, end: float, step: float = 1, *, dtype: Any = None,
          device: Any = None, requires_grad: bool = False) -> Any:
    """Numbers from `start` to `end`, which is included."""
    n = math.floor((end - start) / step) + 1
    numbers = start + step * np.arange(n)
    return placed(plain_tensor(numbers, dtype or default_dtype()), device, requires_grad)


def _window(name: str, weights: Callable) -> Callable:
    def make(window_length: int, periodic: bool = True, *args: Any, dtype: Any = None,
             device: Any = None, requires_grad: bool = False, **kwargs: Any) -> Any:
        n = window_length + (periodic and window_length > 1)
        array = weights(n, *args, **kwargs)[:window_length]
        return placed(plain_tensor(array, dtype or default_dtype()), device, requires_grad)

    make.__name__ = name
    make.__doc__ = f"The window of this name: see `torch.{name}`."
    return make


def _hamming(n: int, alpha: float = 0.54, beta: float = 0.46) -> Any:
    return np.ones(n) if n == 1 else alpha - beta * np.cos(
        2 * np.pi * np.arange(n) / builtins.max(n - 1, 1))


def _kaiser(n: int, beta: float = 12.0) -> Any:
    return np.kaiser(n, beta)


bartlett_window = _window("bartlett_window", np.bartlett)
blackman_window = _window("blackman_window", np.blackman)
hamming_window = _window("hamming_window", _hamming)
hann_window = _window("hann_window", np.hanning)
kaiser_window = _window("kaiser_window", _kaiser)


# ---- questions -----------------------------------------------------------------------------------


def can_cast(from_: Any, to: Any) -> bool:
    """False if a kind would be lost: fractions, signs, or numbers other than 0 and 1."""
    kinds = {"b": 0, "u": 1, "i": 2}
    before, after = (kinds.get(np.dtype(d).kind, 3) for d in (from_, to))
    return before <= after


def promote_types(type1: Any, type2: Any) -> Any:
    """The dtype of a sum of Tensors of these dtypes."""
    return (zeros(1, dtype=type1) + zeros(1, dtype=type2)).dtype


def is_complex(input: Any) -> bool:
    return False


def is_conj(input: Any) -> bool:
    return False


def is_neg(input: Any) -> bool:
    return False


def is_inference(input: Any) -> bool:
    return False


def is_signed(input: Any) -> bool:
    return input.array.dtype.kind not in "ub"


def is_nonzero(input: Any) -> bool:
    if input.array.size != 1:
        raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")
    return builtins.bool(input.item())


def is_storage(obj: Any) -> bool:
    return False


def typename(obj: Any) -> str:
    t: Any = obj
    return t.type() if is_tensor(obj) else f"{type(obj).__module__}.{type(obj).__name__}"


def get_device(input: Any) -> int:
    return input.get_device()


def finfo(type: Any = None) -> Any:
    """The limits of a floating dtype."""
    return np.finfo(get_default_dtype() if type is None else type)


iinfo = np.iinfo
