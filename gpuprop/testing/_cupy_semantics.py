"""NumPy's functions with CuPy's behaviour, where the two differ.

Sums run in another order and accumulate half types in float32, indices wrap around, and new memory
is poisoned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop._core.dtypes import is_half
from gpuprop._core.registry import get_backend
from gpuprop.testing._recording import poison

# ---- bfloat16 ------------------------------------------------------------------------------------

# For these CuPy has no bfloat16 loop: it computes in float32 and returns float32.
RETURNS_FLOAT32 = "around divmod float_power logical_not round".split()
# For these CuPy returns bfloat16.  NumPy returns float32 or float64, or does not recognize NaN.
RETURNS_BFLOAT16 = """degrees i0 ldexp nan_to_num nanargmax nanargmin nanmax nanmin nanprod nanstd
                      nansum nanvar radians sinc""".split()
NEEDS_SORTING = """argpartition argsort isin median partition percentile quantile setdiff1d sort
                   union1d unique""".split()
NOT_COMPILED = "histogram lexsort nancumprod nancumsum nanmean".split()


def _is_bfloat16(a: Any) -> bool:
    return isinstance(a, np.ndarray | np.generic) and a.dtype.name == "bfloat16"


def _as_float32(a: Any) -> Any:
    return a.astype(np.float32) if _is_bfloat16(a) else a


def _keeps_bfloat16(operand: Any, bfloat16: Any) -> bool:
    """True if a ufunc of a bfloat16 array and this operand returns bfloat16.

    With ml_dtypes before 0.7, a Python float widens bfloat16, in CuPy too.
    """
    if operand is None or type(operand) is int:
        return True
    if type(operand) is float:
        return floats_keep(bfloat16)
    return np.can_cast(getattr(operand, "dtype", type(operand)), bfloat16)


def floats_keep(dtype: Any) -> bool:
    """True if a Python float beside an array of this dtype does not widen it."""
    return np.result_type(np.empty(0, dtype), 1.0) == dtype


def _before_cast(a: Any, dtype: Any) -> Any:
    """What is cast to `dtype` instead of `a`: CuPy casts bfloat16 to integers as float32."""
    return _as_float32(a) if np.dtype(dtype).kind in "iu" else a


def with_bfloat16_rules(name: str, fn: Callable, args: tuple) -> Callable:
    """NumPy's function `fn` with CuPy's result dtypes for bfloat16, not those of ml_dtypes."""
    bfloat16 = next((a.dtype for a in args if _is_bfloat16(a)), None)
    if bfloat16 is None:
        return fn
    if name in NEEDS_SORTING:
        raise NotImplementedError(f"Sorting arrays with dtype {bfloat16.name!r} is not supported")
    if name in NOT_COMPILED:
        raise TypeError(f"CuPy has no {name} of {bfloat16.name}: cast to float32 first")
    if name in RETURNS_BFLOAT16:
        def in_float32(*args: Any, **kwargs: Any) -> Any:
            result = fn(*map(_as_float32, args), **kwargs)
            return result.astype(bfloat16) if result.dtype.kind == "f" else result

        return in_float32
    if name == "astype":
        return lambda a, dtype, *args, **kwargs: fn(
            _before_cast(a, dtype), dtype, *args, **kwargs)
    promotes = isinstance(fn, np.ufunc) and not all(_keeps_bfloat16(a, bfloat16) for a in args)
    if name in RETURNS_FLOAT32 or promotes:
        return lambda *args, **kwargs: fn(*map(_as_float32, args), **kwargs)
    if isinstance(fn, np.ufunc):  # NumPy 2.0 promotes with a Python integer
        rounded = lambda a: bfloat16.type(a) if type(a) is int else a
        return lambda *args, **kwargs: fn(*map(rounded, args), **kwargs)
    return fn


# ---- indices -------------------------------------------------------------------------------------


def wrapped_key(key: Any, shape: tuple) -> tuple:
    """An index whose integer arrays wrap around.  CuPy never raises for an index out of range."""
    keys = key if isinstance(key, tuple) else (key,)
    used_axes = sum(_axes_of(k) for k in keys)
    axis = 0
    wrapped = []
    for k in keys:
        if isinstance(k, np.ndarray) and k.dtype.kind in "iu" and axis < len(shape):
            wrapped.append(_wrap(k, shape[axis]))
        else:
            wrapped.append(k)
        axis += len(shape) - used_axes if k is Ellipsis else _axes_of(k)
    return tuple(wrapped)


def _wrap(indices: np.ndarray, length: int) -> np.ndarray:
    if indices.dtype.kind in "iu":  # a narrow type may not hold the length
        indices = indices.astype(np.int64, copy=False)
    return indices % max(length, 1)


def _axes_of(k: Any) -> int:
    """The number of axes that one part of an index selects from; 0 for an ellipsis."""
    if isinstance(k, np.ndarray) and k.dtype == bool:
        return k.ndim
    return k is not None and k is not Ellipsis


def _with_ellipsis(key: tuple) -> tuple:
    """An index whose result is an array, never a scalar."""
    return key if any(k is Ellipsis for k in key) else (*key, ...)


def getitem(a: np.ndarray, key: Any) -> np.ndarray:
    return a[_with_ellipsis(wrapped_key(key, a.shape))]


def setitem(a: np.ndarray, key: Any, value: Any) -> None:
    a[_with_ellipsis(wrapped_key(key, a.shape))] = value


# The dtypes for which CuPy has atomic operations, by ufunc.
ATOMIC = {
    "add": "int32 int64 uint32 uint64 float16 float32 float64",
    "subtract": "int32 uint32",
    "maximum": "int32 int64 uint32 uint64 float32 float64",
    "minimum": "int32 int64 uint32 uint64 float32 float64",
    "bitwise_and": "int32 int64 uint32 uint64",
    "bitwise_or": "int32 int64 uint32 uint64",
    "bitwise_xor": "int32 int64 uint32 uint64",
}


def ufunc_at(ufunc: np.ufunc, masked: bool) -> Callable:
    """``ufunc.at`` in the dtype of the array.  CuPy compares float64 as float32 and ignores NaN."""
    compare = {"maximum": np.fmax, "minimum": np.fmin}.get(ufunc.__name__)

    def at(a: np.ndarray, key: tuple, values: Any) -> None:
        key = wrapped_key(key, a.shape)
        values = np.asarray(values).astype(a.dtype)
        if masked:
            a[key] = ufunc(a[key], values)
        elif compare is None or a.dtype.kind != "f":
            ufunc.at(a, key, values)
        else:
            a[key] = a[key].astype(np.float32)
            compare.at(a, key, values.astype(np.float32))

    return at


# ---- reductions ----------------------------------------------------------------------------------


def _reduced_axes_last(a: np.ndarray, axis: Any) -> tuple[np.ndarray, tuple]:
    """`a` with the reduced axes merged into a last one; the result's shape with `keepdims`."""
    if axis is None:
        axes = tuple(range(a.ndim))
    else:
        axes = np.lib.array_utils.normalize_axis_tuple(axis, a.ndim)
    kept = [i for i in range(a.ndim) if i not in axes]
    count = math.prod(a.shape[i] for i in axes)
    flat = a.transpose(*kept, *axes).reshape(*(a.shape[i] for i in kept), count)
    return flat, tuple(1 if i in axes else n for i, n in enumerate(a.shape))


def _reduction(ufunc: np.ufunc) -> Callable:
    """A reduction in another order than NumPy's: even elements, then odd ones."""

    def reduce(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None,
               keepdims: bool = False) -> np.ndarray:
        dtype = np.dtype(dtype or ufunc.reduce(np.empty(0, a.dtype)).dtype)
        computed = _before_cast(a, dtype).astype(
            np.float32 if is_half(dtype) else dtype, copy=False)
        flat, kept_shape = _reduced_axes_last(computed, axis)
        result = ufunc(ufunc.reduce(flat[..., 0::2], -1), ufunc.reduce(flat[..., 1::2], -1))
        result = np.asarray(result).astype(dtype if out is None else out.dtype, copy=False)
        return _store(result.reshape(kept_shape) if keepdims else result, out)

    return reduce


_sum = _reduction(np.add)
_prod = _reduction(np.multiply)


def _mean(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None,
          keepdims: bool = False) -> np.ndarray:
    sums_in_float16 = dtype is not None and np.dtype(dtype) == np.float16  # which may overflow
    dtype = np.dtype(dtype or (a.dtype if a.dtype.kind in "fcV" else float))
    sum_dtype = dtype
    if is_half(dtype) and not sums_in_float16:
        sum_dtype = np.float32
    elif dtype.kind in "biu":
        sum_dtype = float
    total = _sum(a, axis, sum_dtype, None, keepdims)
    count = np.asarray(a.size / max(total.size, 1), total.dtype)
    return _store((total / count).astype(dtype), out)


def _var(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0,
         keepdims: bool = False) -> np.ndarray:
    """The variance.  As in CuPy, the mean is rounded to `a`'s dtype, and bfloat16 gives float64."""
    integral = a.dtype.kind in "biu"
    mean = _mean(a, axis, float if integral and dtype is None else a.dtype, keepdims=True)
    dtype = np.dtype(dtype or (float if integral else a.dtype))
    dtype = dtype if dtype in (np.float16, np.float32) else np.dtype(float)
    if is_half(a.dtype):
        a = a.astype(np.float32)
    elif a.dtype == bool:
        a = a.astype(np.int64)
    if is_half(mean.dtype):
        mean = mean.astype(np.float32)
    squares = _sum(np.square(a - mean), axis, dtype, keepdims=keepdims)
    count = a.size / max(squares.size, 1) - ddof
    factor = dtype.type(1 / count if count > 0 else np.nan)
    return _store(np.asarray(squares * factor).astype(dtype), out)


def _std(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0,
         keepdims: bool = False) -> np.ndarray:
    result = np.sqrt(_var(a, axis, dtype, None, ddof, keepdims))
    if dtype is not None and np.dtype(dtype).kind in "biu":
        raise TypeError(f"Wrong type ({dtype}) of arguments for cupy_sqrt")
    return _store(np.asarray(result, dtype), out)


def _scan(ufunc: np.ufunc) -> Callable:
    """A cumulative reduction of two halves, as a parallel scan does it."""

    def scan(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None) -> np.ndarray:
        if axis is None:
            a = a.ravel()
            axis = 0
        dtype = np.dtype(dtype or ufunc.reduce(np.empty(0, a.dtype)).dtype)
        if dtype.kind == "V" and a.size:
            raise TypeError(f"CuPy has no cumsum or cumprod of {dtype.name}: cast to float32 first")
        computed = _before_cast(a, dtype).astype(
            np.float32 if is_half(dtype) else dtype, copy=False)
        first, second = (ufunc.accumulate(part, axis) for part in np.array_split(computed, 2, axis))
        if second.size:
            second = ufunc(second, np.take(first, [-1], axis))
        return _store(np.concatenate([first, second], axis).astype(dtype, copy=False), out)

    return scan


def _matmul(a: np.ndarray, b: np.ndarray, dtype: Any = None) -> np.ndarray:
    """The sum of the products of two halves of the inner axis; half types are summed in float32."""
    if dtype is not None:
        a = a.astype(dtype)
        b = b.astype(dtype)
    inner = 0
    if b.ndim:
        inner = b.shape[0 if b.ndim == 1 else -2]
    dtype = np.result_type(a, b)
    if is_half(dtype):
        a = a.astype(np.float32)
        b = b.astype(np.float32)
    if dtype.kind not in "fcV" or not a.ndim or a.shape[-1] != inner or inner < 2:
        return np.asarray(np.matmul(a, b)).astype(dtype, copy=False)
    k = inner // 2
    first = b[:k] if b.ndim == 1 else b[..., :k, :]
    second = b[k:] if b.ndim == 1 else b[..., k:, :]
    product = np.matmul(a[..., :k], first) + np.matmul(a[..., k:], second)
    return np.asarray(product).astype(dtype, copy=False)


# ---- other functions -----------------------------------------------------------------------------


def _in_common_dtype(*values: Any, dtype: Any = None) -> list:
    """The operands in one dtype.  A Python number that does not fit raises."""
    dtype = dtype or np.result_type(*map(_as_float32, values))
    return [np.asarray(v, dtype) for v in values]


def _where(condition: np.ndarray, *choices: Any) -> Any:
    """``where`` as the CuPy backend defines it: bfloat16 beside numbers stays bfloat16."""
    if not choices:
        return np.where(condition)
    if len(choices) < 2 or any(c is None for c in choices):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    arrays = [c for c in choices if isinstance(c, np.ndarray)]
    only_bfloat16 = arrays and all(map(_is_bfloat16, arrays))
    dtype = arrays[0].dtype if only_bfloat16 else None
    return np.where(condition, *_in_common_dtype(*choices, dtype=dtype))


def _clip(a: np.ndarray, a_min: Any = None, a_max: Any = None, out: Any = None) -> np.ndarray:
    if (a_min is None or a_max is None) and a.dtype.kind not in "fiu":
        raise TypeError("Unsupported type <class 'NoneType'>")
    bounds = [bound for bound in (a_min, a_max) if bound is not None]
    a, *bounds = _in_common_dtype(a, *bounds)
    if a.dtype.kind == "c":
        raise TypeError("Wrong type of arguments for cupy_clip")
    if not bounds:
        return a.copy()
    low = bounds[0] if a_min is not None else None
    high = bounds[-1] if a_max is not None else None
    return np.clip(a, low, high, out=out)


def _clip_method(a: np.ndarray, min: Any = None, max: Any = None, out: Any = None) -> np.ndarray:
    return _clip(a, min, max, out)


def _repeat(a: np.ndarray, repeats: Any, axis: Any = None) -> np.ndarray:
    if not isinstance(repeats, int | np.integer | list | tuple | np.ndarray):
        raise ValueError(f"'repeats' should be int or sequence: {repeats}")
    return np.repeat(a, repeats, axis)


def _take(a: np.ndarray, indices: Any, axis: Any = None, out: Any = None) -> np.ndarray:
    return np.take(a, indices, axis, out, mode="wrap")


def _put(a: np.ndarray, indices: Any, values: Any, mode: Any = "wrap") -> None:
    np.put(a, indices, values, mode=mode)


def _take_along_axis(a: np.ndarray, indices: Any, axis: Any) -> np.ndarray:
    return np.take_along_axis(a, _wrap(indices, a.shape[axis]), axis)


def _put_along_axis(a: np.ndarray, indices: Any, values: Any, axis: Any) -> None:
    np.put_along_axis(a, _wrap(indices, a.shape[axis]), values, axis)


def _index_add(a: np.ndarray, index: Any, values: Any, axis: int = 0) -> Any:
    return get_backend("numpy").xp.index_add(a, _wrap(index, a.shape[axis]), values, axis)


def _empty(shape: Any, dtype: Any = float, order: Any = "C") -> np.ndarray:
    return poison(np.empty(shape, dtype, order))


def _empty_like(a: np.ndarray, dtype: Any = None, order: Any = "K",
                shape: Any = None) -> np.ndarray:
    return poison(np.empty_like(a, dtype, order, shape=shape))


def _imag(a: np.ndarray) -> np.ndarray:
    return a.imag if a.dtype.kind == "c" else np.zeros_like(a)


def _count_nonzero(a: np.ndarray, axis: Any = None) -> np.ndarray:
    return np.asarray(np.count_nonzero(a, axis))


def _float_ufunc(fn: Callable) -> Callable:
    """A ufunc of CuPy: the result has the smallest float dtype that holds the argument."""
    return lambda x: fn(x).astype(np.result_type(x, np.float16), copy=False)


def _store(result: np.ndarray, out: Any) -> np.ndarray:
    if out is None:
        return result
    out[...] = result
    return out


# Functions, and methods as "ndarray.name", that differ from NumPy's.
CUPY_FUNCTIONS: dict[str, Callable] = {
    "clip": _clip,
    "count_nonzero": _count_nonzero,
    "cumprod": _scan(np.multiply),
    "cumsum": _scan(np.add),
    "empty": _empty,
    "empty_like": _empty_like,
    "i0": _float_ufunc(np.i0),
    "imag": _imag,
    "index_add": _index_add,
    "matmul": _matmul,
    "mean": _mean,
    "ndarray.clip": _clip_method,
    "prod": _prod,
    "put": _put,
    "put_along_axis": _put_along_axis,
    "repeat": _repeat,
    "sinc": _float_ufunc(np.sinc),
    "std": _std,
    "sum": _sum,
    "take": _take,
    "take_along_axis": _take_along_axis,
    "var": _var,
    "where": _where,
}
