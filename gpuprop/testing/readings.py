"""NumPy's functions as a device computes them: in another order, indices that wrap, memory that starts poisoned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop.backend import get_backend
from gpuprop.testing.recording import poison


def half(dtype: Any) -> bool:
    """Two bytes of floating point: computed in float32 and rounded once."""
    return dtype.itemsize == 2 and dtype.kind in "fV"


def in_range(key: Any, shape: tuple) -> tuple:
    """An index whose integer arrays wrap around: nothing on a device raises for an element that is not there."""
    keys = key if isinstance(key, tuple) else (key,)
    used = sum(_width(k) for k in keys)
    axis, wrapped = 0, []
    for k in keys:
        if isinstance(k, np.ndarray) and k.dtype.kind in "iu" and axis < len(shape):
            wrapped.append(k % max(shape[axis], 1))
        else:
            wrapped.append(k)
        axis += len(shape) - used if k is Ellipsis else _width(k)
    return tuple(wrapped)


def _width(k: Any) -> int:
    """How many axes one part of an index stands for; the ellipsis is not counted."""
    if isinstance(k, np.ndarray) and k.dtype == bool:
        return k.ndim
    return k is not None and k is not Ellipsis


def getitem(a: np.ndarray, key: Any) -> np.ndarray:
    key = in_range(key, a.shape)
    return a[key if any(k is Ellipsis for k in key) else (*key, ...)]  # with an ellipsis the result is never a scalar


def setitem(a: np.ndarray, key: Any, value: Any) -> None:
    a[in_range(key, a.shape)] = value


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
        result = np.asarray(result).astype(dtype, copy=False)
        return _into(out, result.reshape(kept) if keepdims else result)

    return reduce


total, product = _reduction(np.add), _reduction(np.multiply)


def _mean(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> np.ndarray:
    dtype = np.dtype(dtype or (a.dtype if a.dtype.kind in "fcV" else float))
    whole = total(a, axis, np.float32 if half(dtype) else dtype, None, keepdims)
    return _into(out, (whole / np.asarray(a.size / max(whole.size, 1), whole.dtype)).astype(dtype))


def _var(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0,
         keepdims: bool = False) -> np.ndarray:
    dtype = np.dtype(dtype or (a.dtype if a.dtype.kind in "fcV" else float))
    wide = a.astype(np.float32 if half(dtype) else dtype, copy=False)
    squares = total(np.square(wide - _mean(wide, axis, keepdims=True)), axis, keepdims=keepdims)
    return _into(out, (squares / np.asarray(a.size / max(squares.size, 1) - ddof, squares.dtype)).astype(dtype))


def _std(*args: Any, **kwargs: Any) -> np.ndarray:
    variance = _var(*args, **kwargs)
    return np.sqrt(variance, out=variance)


def _scan(ufunc: np.ufunc) -> Callable:
    """Two halves, each from its own start: the way of a parallel scan."""

    def scan(a: np.ndarray, axis: Any = None, dtype: Any = None, out: Any = None) -> np.ndarray:
        a, axis = (a.ravel(), 0) if axis is None else (a, axis)
        dtype = np.dtype(dtype or ufunc.reduce(np.empty(0, a.dtype)).dtype)
        parts = np.array_split(a.astype(np.float32 if half(dtype) else dtype, copy=False), 2, axis)
        first, second = (ufunc.accumulate(p, axis) for p in parts)
        if second.size:
            second = ufunc(second, np.take(first, [-1], axis))
        return _into(out, np.concatenate([first, second], axis).astype(dtype, copy=False))

    return scan


def _matmul(a: np.ndarray, b: np.ndarray, out: Any = None) -> np.ndarray:
    """The two halves of the inner dimension added; half types are accumulated in float32 and keep their type."""
    inner = b.shape[0 if b.ndim == 1 else -2] if b.ndim else 0
    dtype = np.result_type(a, b)
    if dtype.kind not in "fcV" or not a.ndim or a.shape[-1] != inner or inner < 2:
        return _into(out, np.asarray(np.matmul(a, b)).astype(dtype, copy=False))
    if half(dtype):
        a, b = a.astype(np.float32), b.astype(np.float32)
    k = inner // 2
    rows = (lambda s: b[s]) if b.ndim == 1 else (lambda s: b[..., s, :])
    halves = np.matmul(a[..., :k], rows(np.s_[:k])) + np.matmul(a[..., k:], rows(np.s_[k:]))
    return _into(out, np.asarray(halves).astype(dtype, copy=False))


def _into(out: Any, result: np.ndarray) -> np.ndarray:
    if out is None:
        return result
    out[...] = result
    return out


def _wrapped(indices: np.ndarray, a: np.ndarray, axis: int) -> np.ndarray:
    return indices % max(a.shape[axis], 1)


READINGS: dict[str, Callable] = {
    "sum": total, "prod": product, "mean": _mean, "var": _var, "std": _std, "matmul": _matmul,
    "cumsum": _scan(np.add), "cumprod": _scan(np.multiply),
    "take": lambda a, indices, axis=None, out=None: np.take(a, indices, axis, out, mode="wrap"),
    "put": lambda a, indices, values, mode="wrap": np.put(a, indices, values, mode="wrap"),
    "take_along_axis": lambda a, indices, axis: np.take_along_axis(a, _wrapped(indices, a, axis), axis),
    "put_along_axis": lambda a, indices, values, axis: np.put_along_axis(a, _wrapped(indices, a, axis), values, axis),
    "index_add": lambda a, index, values, axis=0:
        get_backend("numpy").xp.index_add(a, _wrapped(index, a, axis), values, axis),
    "empty": lambda shape, dtype=float, order="C": poison(np.empty(shape, dtype, order)),
    "empty_like": lambda a, dtype=None, order="K", shape=None: poison(np.empty_like(a, dtype, order, shape=shape)),
    "count_nonzero": lambda a, axis=None: np.asarray(np.count_nonzero(a, axis)),
}
