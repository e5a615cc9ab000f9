"""New Tensors, and questions about Tensors and dtypes."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop import _array as G
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.tensor import Tensor as Plain
from gpuprop._core.tensor import tensor as plain_tensor
from gpuprop.torch import _results
from gpuprop.torch._functions._arguments import default_dtype, listed, placed
from gpuprop.torch._tensor import Tensor, as_torch, wrap

__all__ = [
    "arange", "as_tensor", "empty", "empty_like", "eye", "from_numpy", "full", "full_like",
    "get_default_dtype", "is_floating_point", "is_tensor", "linspace", "logspace", "ones",
    "ones_like", "result_type", "set_default_dtype", "tensor", "tril_indices", "triu_indices",
    "zeros", "zeros_like",
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


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
           pin_memory: bool = False) -> Any:
    """A copy of `data`; Python floats have the default dtype."""
    if dtype is None and (isinstance(data, np.generic) or not hasattr(data, "dtype")):
        dtype = _dtype_of(data)
    if isinstance(data, Sequence):
        data = [d.tolist() if isinstance(d, Plain) else d for d in data]
    t = plain_tensor(raw(data), dtype=dtype)
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
    return wrap(ndarray)


def _filled(make: Callable, size: tuple, dtype: Any, device: Any, requires_grad: bool) -> Any:
    t = make(listed(size), dtype=dtype or default_dtype(), device=device)
    return placed(t, None, requires_grad)


def zeros(*sizes: Any, size: Any = (), dtype: Any = None, device: Any = None,
          requires_grad: bool = False, **_: Any) -> Any:
    return _filled(G.zeros, sizes or (size,), dtype, device, requires_grad)


def ones(*sizes: Any, size: Any = (), dtype: Any = None, device: Any = None,
         requires_grad: bool = False, **_: Any) -> Any:
    return _filled(G.ones, sizes or (size,), dtype, device, requires_grad)


def empty(*sizes: Any, size: Any = (), dtype: Any = None, device: Any = None,
          requires_grad: bool = False, **_: Any) -> Any:
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


def tril_indices(row: int, col: int, offset: int = 0, *, device: Any = None) -> Any:
    return placed(plain_tensor(np.stack(np.tril_indices(row, offset, col))), device, False)


def triu_indices(row: int, col: int, offset: int = 0, *, device: Any = None) -> Any:
    return placed(plain_tensor(np.stack(np.triu_indices(row, offset, col))), device, False)


def is_tensor(obj: Any) -> bool:
    return isinstance(obj, Tensor)


def is_floating_point(input: Any) -> bool:
    return input.array.dtype.kind not in "iub"


def result_type(tensor1: Any, tensor2: Any) -> Any:
    return np.result_type(*(t.dtype if isinstance(t, Plain) else t for t in (tensor1, tensor2)))
