"""New Tensors, on the default backend; float32 unless another dtype is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop._core.checks import as_element, as_integer, as_number
from gpuprop._core.composed import checks_arguments
from gpuprop._core.dtypes import as_dtype, as_supported
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.options import as_sizes
from gpuprop._core.registry import default_backend, making_on
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor

__all__ = [
    "arange",
    "empty",
    "eye",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "zeros",
    "zeros_like",
]


def _shape_and_dtype(args: tuple, dtype: Any) -> tuple[Any, Any]:
    """The shape and dtype of ``zeros((2, 3))``, ``zeros((2, 3), dtype)`` or ``zeros(2, 3)``."""
    if args and not isinstance(args[-1], tuple | list | int | np.integer | np.ndarray):
        *args, dtype = args  # type: ignore[assignment]
    shape = args[0] if len(args) == 1 else tuple(args)
    return as_sizes("the shape", shape, 0), dtype


def _make(name: str, *args: Any, dtype: Any, device: str | None = None,
          requires_grad: bool = False) -> Tensor:
    if device:
        with making_on(device):
            return _make(name, *args, dtype=dtype, requires_grad=requires_grad)
    array = getattr(default_backend().xp, name)(*args, dtype=as_dtype(dtype))
    return Tensor(array).requires_grad_(requires_grad)


@checks_arguments
def zeros(*shape: Any, dtype: Any = "float32", device: str | None = None,
          requires_grad: bool = False) -> Tensor:
    """A Tensor of zeros: ``zeros((2, 3))`` or ``zeros(2, 3)``."""
    shape, dtype = _shape_and_dtype(shape, dtype)
    return _make("zeros", shape, dtype=dtype, device=device, requires_grad=requires_grad)


@checks_arguments
def ones(*shape: Any, dtype: Any = "float32", device: str | None = None,
         requires_grad: bool = False) -> Tensor:
    """A Tensor of ones: ``ones((2, 3))`` or ``ones(2, 3)``."""
    shape, dtype = _shape_and_dtype(shape, dtype)
    return _make("ones", shape, dtype=dtype, device=device, requires_grad=requires_grad)


@checks_arguments
def empty(*shape: Any, dtype: Any = "float32", device: str | None = None,
          requires_grad: bool = False) -> Tensor:
    """A Tensor with uninitialized elements: ``empty((2, 3))`` or ``empty(2, 3)``."""
    shape, dtype = _shape_and_dtype(shape, dtype)
    return _make("empty", shape, dtype=dtype, device=device, requires_grad=requires_grad)


@checks_arguments
def full(shape: int | Sequence[int], value: Any, dtype: Any = None, device: str | None = None,
         requires_grad: bool = False) -> Tensor:
    """A Tensor filled with a number; by default float32, int64 or bool, like the number.

    >>> import gpuprop
    >>> gpuprop.full((2, 2), 7).tolist()
    [[7, 7], [7, 7]]
    """
    if isinstance(value, Tensor):
        value = np.asarray(value)  # raises for a gradient, which would be lost, and on a device
    dtype = as_dtype(dtype or _dtype_of(value))
    value = _filling("full: value", value, dtype)
    return _make("full", shape, value, dtype=dtype, device=device, requires_grad=requires_grad)


@checks_arguments
def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None,
           device: str | None = None) -> Tensor:
    """The numbers from `start` to `stop`, without `stop`; ``arange(n)`` is ``arange(0, n)``.

    By default they are int64 if all arguments are ints, else float32.

    >>> import gpuprop
    >>> gpuprop.arange(3).tolist(), gpuprop.arange(1, 2, 0.5).tolist()
    ([0, 1, 2], [1.0, 1.5])
    """
    if stop is None:
        start, stop = 0, start
    if any(map(np.iscomplexobj, (start, stop, step))):
        raise TypeError(f"arange: start, stop and step must be real numbers, got {start!r}, "
                        f"{stop!r} and {step!r}")
    _check_numbers(start=start, stop=stop, step=step)
    dtype = dtype or _dtype_of(start, stop, step)
    return _make("arange", start, stop, step, dtype=dtype, device=device)


@checks_arguments
def linspace(start: float, stop: float, num: int = 50, dtype: Any = "float32",
             device: str | None = None) -> Tensor:
    """`num` equally spaced numbers from `start` to `stop`, both included."""
    dtype = as_dtype(dtype)
    start = as_element("linspace: start", start, dtype)
    stop = as_element("linspace: stop", stop, dtype)
    num = as_integer("linspace: num", num, 0)
    return _make("linspace", start, stop, num, dtype=dtype, device=device)


@checks_arguments
def eye(n: int, m: int | None = None, dtype: Any = "float32", device: str | None = None) -> Tensor:
    """The matrix (n, n) or (n, m) with ones on its diagonal and zeros elsewhere."""
    return _make("eye", n, m, dtype=dtype, device=device)


def _check_numbers(**values: Any) -> None:
    """Raise TypeError for a value that is no number, such as None, which NumPy takes for NaN."""
    for name, value in values.items():
        if not isinstance(value, int | float) and not hasattr(value, "shape"):
            as_number(name, value)


def _dtype_of(*numbers: Any) -> str:
    """The default dtype for Python's and NumPy's numbers: bool, int64 or float32."""
    if all(isinstance(n, bool | np.bool_) for n in numbers):
        return "bool"
    is_integer = all(isinstance(n, int | np.integer | np.bool_) for n in numbers)
    return "int64" if is_integer else "float32"


@checks_arguments
def zeros_like(x: Array, dtype: Any = None) -> Any:
    """Zeros with the shape, dtype and device of `x`; a Tensor for a Tensor, else an array."""
    return _like(x, 0, dtype)


@checks_arguments
def ones_like(x: Array, dtype: Any = None) -> Any:
    """Ones with the shape, dtype and device of `x`; a Tensor for a Tensor, else an array."""
    return _like(x, 1, dtype)


@checks_arguments
def full_like(x: Array, value: Any, dtype: Any = None) -> Any:
    """A Tensor for a Tensor, else an array, filled with a number.

    It has the shape and device of `x`, and by default the dtype of `x`.
    """
    return _like(x, _filling("full_like: value", value, x.dtype if dtype is None
                             else as_dtype(dtype)), dtype)


def _filling(what: str, value: Any, dtype: Any) -> Any:
    """`value`, a number that `dtype` can represent, or an array of them."""
    if hasattr(value, "shape") and not isinstance(value, np.generic):
        return as_supported(what, value)
    return as_element(what, value, dtype)


def _like(x: Any, value: Any, dtype: Any) -> Any:
    xp = namespace(raw(x))
    array = xp.full(x.shape, value, x.dtype if dtype is None else as_dtype(dtype))
    return Tensor(array) if isinstance(x, Tensor) else array
