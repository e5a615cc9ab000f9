"""NumPy's functions as a device computes them: other orders and types, indices that wrap, memory that is poisoned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop._core.registry import get_backend
from gpuprop.testing._recording import poison


def half(dtype: Any) -> bool:
    """Two bytes of floating point: computed in float32 and rounded once."""
    return dtype.itemsize == 2 and dtype.kind in "fV"


# ---- bfloat16 -------------------------------------------------------------------------------------------------------

# Functions of which CuPy has no loop for bfloat16: float32 is what they compute in and answer with.
WIDE = "around divmod float_power logical_not round".split()
# Functions that CuPy has for bfloat16 and that NumPy answers in float32 or float64, or with its NaNs overlooked.
NARROW = """degrees i0 ldexp nan_to_num nanargmax nanargmin nanmax nanmin nanprod nanstd nansum nanvar radians
            sinc""".split()
UNSORTED = "argpartition argsort isin median partition percentile quantile setdiff1d sort union1d unique".split()
UNCOMPILED = "histogram lexsort nancumprod nancumsum nanmean".split()


def _is_bfloat16(a: Any) -> bool:
    return isinstance(a, np.ndarray | np.generic) and a.dtype.name == "bfloat16"


def _fits(a: Any, dtype: Any) -> bool:
    """Does an operand leave bfloat16 as it is?  A Python float, which leaves every other float type, does not."""
    return a is None or type(a) is int or np.can_cast(getattr(a, "dtype", type(a)), dtype)


def of_bfloat16(name: str, fn: Callable, args: tuple) -> Callable:
    """`fn`, a function of NumPy's, with the types that CuPy gives bfloat16; NumPy would give those of `ml_dtypes`."""
    dtype = next((a.dtype for a in args if _is_bfloat16(a)), None)
    if dtype is None:
        return fn
    if name in UNSORTED:
        raise NotImplementedError(f"Sorting arrays with dtype {dtype.name!r} is not supported")
    if name in UNCOMPILED:
        raise TypeError(f"CuPy has no {name} of {dtype.name}: cast to float32 first")
    narrow = name in NARROW
    wide = name in WIDE or (isinstance(fn, np.ufunc) and not narrow and not all(_fits(a, dtype) for a in args))
    if not wide and not narrow:
        return fn

    def in_float32(*args: Any, **kwargs: Any) -> Any:
        result = fn(*map(_wide, args), **kwargs)
        return result if wide or result.dtype.kind != "f" else result.astype(dtype)

    return in_float32


# ---- indices --------------------------------------------------------------------------------------------------------


def in_range(key: Any, shape: tuple) -> tuple:
    """An index whose integer arrays wrap around: nothing on a device raises for an element that is not there."""
    keys = key if isinstance(key, tuple) else (key,)
    used = sum(_width(k) for k in keys)
    axis, wrapped = 0, []
    for k in keys:
        if isinstance(k, np.ndarray) and k.dtype.kind in "iu" and axis < len(shape):
            wrapped.append(_wrap(k, shape[axis]))
        else:
            wrapped.append(k)
        axis += len(shape) - used if k is Ellipsis else _width(k)
    return tuple(wrapped)


def _wrap(indices: np.ndarray, length: int) -> np.ndarray:
    narrow = indices.dtype.kind in "iu"  # which need not hold the length
    return (indices.astype(np.int64, copy=False) if narrow else indices) % max(length, 1)


def _width(k: Any) -> int:
    """How many axes one part of an index stands for; the ellipsis is not counted."""
    if isinstance(k, np.ndarray) and k.dtype == bool:
        return k.ndim
    return k is not None and k is not Ellipsis


def getitem(a: np.ndarray, key: Any) -> np.ndarray:
    key = in_range(key, a.shape)
    return a[key if any(k is Ellipsis for k in key) else (*key, ...)]  # with an ellipsis the result is never a scalar


def setitem(a: np.ndarray, key: Any, value: Any) -> None:
    key = in_range(key, a.shape)
    a[key if any(k is Ellipsis for k in key) else (*key, ...)] = value


# What CuPy's atomic operations are written for, by ufunc.
ATOMIC = {"add": "int32 int64 uint32 uint64 float16 float32 float64", "subtract": "int32 uint32",
          **dict.fromkeys(["maximum", "minimum"], "int32 int64 uint32 uint64 float32 float64"),
          **dict.fromkeys(["bitwise_and", "bitwise_or", "bitwise_xor"], "int32 int64 uint32 uint64")}


def at(ufunc: np.ufunc, masked: bool) -> Callable:
    """``ufunc.at`` in the type of the array; CuPy compares float64 as float32, and passes over NaN."""
    name = ufunc.__name__
    compare = {"maximum": np.fmax, "minimum": np.fmin}.get(name)

    def run(a: np.ndarray, index: tuple, values: Any) -> None:
        index, values = in_range(index, a.shape), np.asarray(values).astype(a.dtype)
        if masked:
            a[index] = ufunc(a[index], values)
        elif compare is None or a.dtype.kind != "f":
            ufunc.at(a, index, values)
        else:
            a[index] = a[index].astype(np.float32)
            compare.at(a, index, values.astype(np.float32))

    return run


# ---- reductions -----------------------------------------------------------------------------------------------------


def _flattened(a: np.ndarray, axis: Any) -> tuple[np.ndarray, tuple]:
    """`a` with the axes to be reduced as one, the last; and its shape with them kept at length one."""
    axes = range(a.ndim) if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, a.ndim)
    rest = [i for i in range(a.ndim) if i not in axes]
    flat = a.transpose(*rest, *axes).reshape(*(a.shape[i] for i in rest), math.prod(a.shape[i] for i in axes))
    return flat, tuple(1 if i in axes else n for i, n in enumerate(a.shape))


def _reduction(ufunc: np.ufunc) -> Callable:
    """Every second element and then the others: no order of NumPy's."""

    def reduce(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None,
               keepdims: bool = False) -> np.ndarray:
        dtype = np.dtype(dtype or ufunc.reduce(np.empty(0, a.dtype)).dtype)
        flat, kept = _flattened(a.astype(np.float32 if half(dtype) else dtype, copy=False), axis)
        result = ufunc(ufunc.reduce(flat[..., 0::2], -1), ufunc.reduce(flat[..., 1::2], -1))
        result = np.asarray(result).astype(dtype if out is None else out.dtype, copy=False)
        return _into(out, result.reshape(kept) if keepdims else result)

    return reduce


total, product = _reduction(np.add), _reduction(np.multiply)


def _mean(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> np.ndarray:
    rounded = dtype is not None and np.dtype(dtype) == np.float16  # then the sum is too, and may overflow
    dtype = np.dtype(dtype or (a.dtype if a.dtype.kind in "fcV" else float))
    wide = np.float32 if half(dtype) else float if dtype.kind in "biu" else dtype
    whole = total(a, axis, dtype if rounded else wide, None, keepdims)
    return _into(out, (whole / np.asarray(a.size / max(whole.size, 1), whole.dtype)).astype(dtype))


def _var(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0,
         keepdims: bool = False) -> np.ndarray:
    """The variance; as in CuPy, the mean is rounded to the type of `a`, and bfloat16 gives float64."""
    whole = a.dtype.kind in "biu"
    mean = _mean(a, axis, float if whole and dtype is None else a.dtype, keepdims=True)
    dtype = np.dtype(dtype or (float if whole else a.dtype))
    dtype = dtype if dtype in (np.float16, np.float32) else np.dtype(float)
    a = a.astype(np.float32 if half(a.dtype) else np.int64 if a.dtype == bool else a.dtype, copy=False)
    mean = mean.astype(np.float32 if half(mean.dtype) else mean.dtype, copy=False)
    squares = total(np.square(a - mean), axis, dtype, keepdims=keepdims)
    count = a.size / max(squares.size, 1) - ddof
    return _into(out, np.asarray(squares * dtype.type(1 / count if count > 0 else np.nan)).astype(dtype))


def _std(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0,
         keepdims: bool = False) -> np.ndarray:
    result = np.sqrt(_var(a, axis, dtype, None, ddof, keepdims))
    if dtype is not None and np.dtype(dtype).kind in "biu":
        raise TypeError(f"Wrong type ({dtype}) of arguments for cupy_sqrt")
    return _into(out, np.asarray(result, dtype))


def _scan(ufunc: np.ufunc) -> Callable:
    """Two halves, each from its own start: the way of a parallel scan."""

    def scan(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None) -> np.ndarray:
        a, axis = (a.ravel(), 0) if axis is None else (a, axis)
        dtype = np.dtype(dtype or ufunc.reduce(np.empty(0, a.dtype)).dtype)
        if dtype.kind == "V" and a.size:
            raise TypeError(f"CuPy does not compile this of {dtype.name}: cast to float32 first")
        parts = np.array_split(a.astype(np.float32 if half(dtype) else dtype, copy=False), 2, axis)
        first, second = (ufunc.accumulate(p, axis) for p in parts)
        if second.size:
            second = ufunc(second, np.take(first, [-1], axis))
        return _into(out, np.concatenate([first, second], axis).astype(dtype, copy=False))

    return scan


def _matmul(a: np.ndarray, b: np.ndarray, dtype: Any = None) -> np.ndarray:
    """The two halves of the inner dimension added; half types are accumulated in float32 and rounded once."""
    if dtype is not None:
        a, b = a.astype(dtype), b.astype(dtype)
    inner = b.shape[0 if b.ndim == 1 else -2] if b.ndim else 0
    dtype = np.result_type(a, b)
    if half(dtype):
        a, b = a.astype(np.float32), b.astype(np.float32)
    if dtype.kind not in "fcV" or not a.ndim or a.shape[-1] != inner or inner < 2:
        return np.asarray(np.matmul(a, b)).astype(dtype, copy=False)
    k = inner // 2
    rows = (lambda s: b[s]) if b.ndim == 1 else (lambda s: b[..., s, :])
    halves = np.matmul(a[..., :k], rows(np.s_[:k])) + np.matmul(a[..., k:], rows(np.s_[k:]))
    return np.asarray(halves).astype(dtype, copy=False)


# ---- the others -----------------------------------------------------------------------------------------------------


def _wide(a: Any) -> Any:
    return a.astype(np.float32) if _is_bfloat16(a) else a


def _common(*values: Any, dtype: Any = None) -> list:
    """The operands in one type, by which a Python number that does not fit is refused."""
    dtype = dtype or np.result_type(*map(_wide, values))
    return [np.asarray(v, dtype) for v in values]


def _where(condition: np.ndarray, *choices: Any) -> Any:
    """``where``, which the backend of CuPy owns for the sake of bfloat16: it stays so beside numbers."""
    if choices and (len(choices) < 2 or any(c is None for c in choices)):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    if not choices:
        return np.where(condition)
    arrays = [c for c in choices if isinstance(c, np.ndarray)]
    stays = arrays and all(map(_is_bfloat16, arrays))
    return np.where(condition, *_common(*choices, dtype=arrays[0].dtype if stays else None))


def _clip(a: np.ndarray, a_min: Any = None, a_max: Any = None, out: Any = None) -> np.ndarray:
    if (a_min is None or a_max is None) and a.dtype.kind not in "fiu":
        raise TypeError("Unsupported type <class 'NoneType'>")
    a, *bounds = _common(a, *(v for v in (a_min, a_max) if v is not None))
    if a.dtype.kind == "c":
        raise TypeError("Wrong type of arguments for cupy_clip")
    low = bounds.pop(0) if a_min is not None else None
    return np.clip(a, low, bounds[0] if bounds else None, out=out) if low is not None or bounds else a.copy()


def _repeat(a: np.ndarray, repeats: Any, axis: Any = None) -> np.ndarray:
    if not isinstance(repeats, int | np.integer | list | tuple | np.ndarray):
        raise ValueError(f"'repeats' should be int or sequence: {repeats}")
    return np.repeat(a, repeats, axis)


def _float(fn: Callable) -> Callable:
    """A function that is a ufunc in CuPy, where the first float type that holds the argument is the result's."""
    return lambda x: fn(x).astype(np.result_type(x, np.float16), copy=False)


def _into(out: Any, result: np.ndarray) -> np.ndarray:
    if out is None:
        return result
    out[...] = result
    return out


READINGS: dict[str, Callable] = {
    "sum": total, "prod": product, "mean": _mean, "var": _var, "std": _std, "matmul": _matmul,
    "cumsum": _scan(np.add), "cumprod": _scan(np.multiply),
    "take": lambda a, indices, axis=None, out=None: np.take(a, indices, axis, out, mode="wrap"),
    "put": lambda a, indices, values, mode="wrap": np.put(a, indices, values, mode=mode),
    "where": _where, "clip": _clip, "ndarray.clip": lambda a, min=None, max=None, out=None: _clip(a, min, max, out),
    "imag": lambda a: a.imag if a.dtype.kind == "c" else np.zeros_like(a),
    "repeat": _repeat, "sinc": _float(np.sinc), "i0": _float(np.i0),
    "take_along_axis": lambda a, indices, axis: np.take_along_axis(a, _wrap(indices, a.shape[axis]), axis),
    "put_along_axis": lambda a, indices, values, axis:
        np.put_along_axis(a, _wrap(indices, a.shape[axis]), values, axis),
    "index_add": lambda a, index, values, axis=0:
        get_backend("numpy").xp.index_add(a, _wrap(index, a.shape[axis]), values, axis),
    "empty": lambda shape, dtype=float, order="C": poison(np.empty(shape, dtype, order)),
    "empty_like": lambda a, dtype=None, order="K", shape=None: poison(np.empty_like(a, dtype, order, shape=shape)),
    "count_nonzero": lambda a, axis=None: np.asarray(np.count_nonzero(a, axis)),
}
