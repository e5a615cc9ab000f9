"""``xp`` on CUDA: CuPy's names, and those that gpuprop owns because CuPy's are slow, wrong or missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import cupy
from cupyx.scipy import special


class Namespace:
    """CuPy's names, but for those defined here."""

    def __init__(self, **own: Any) -> None:
        vars(self).update(OWN, **own)

    def __getattr__(self, name: str) -> Any:
        value = vars(self)[name] = getattr(cupy, name)
        return value


# ---- products -------------------------------------------------------------------------------------------------------


def matmul(a: Any, b: Any) -> Any:
    """The product of two arrays as NumPy's: 2-D products where the shapes allow, for only those are good in CuPy.

    Of more dimensions CuPy multiplies bfloat16 as integers and float16 in float32 with copies.
    """
    if a.ndim <= 2 and b.ndim <= 2:
        return cupy.matmul(a, b)
    if b.ndim <= 2:  # one tall product
        rows = a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
        return cupy.matmul(rows, b).reshape(*a.shape[:-1], *b.shape[1:])
    if a.ndim == 1:
        return matmul(a[None], b)[..., 0, :]
    dtype = cupy.promote_types(a.dtype, b.dtype)
    if _is_half(dtype):
        return cupy.matmul(a.astype("float32"), b.astype("float32")).astype(dtype)
    return cupy.matmul(a, b)


def _is_half(dtype: Any) -> bool:
    return dtype.name in ("float16", "bfloat16")


# ---- joining --------------------------------------------------------------------------------------------------------


def concatenate(arrays: Sequence[Any], axis: int = 0) -> Any:
    """As NumPy's, eight arrays at a time: for more CuPy uploads a table of pointers, which no captured step can do."""
    arrays = list(arrays)
    while len(arrays) > 8:
        arrays = [cupy.concatenate(arrays[i:i + 8], axis) for i in range(0, len(arrays), 8)]
    return cupy.concatenate(arrays, axis)


def stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    """As NumPy's, by `concatenate`."""
    return concatenate([cupy.expand_dims(a, axis) for a in arrays], axis)


# ---- adding rows ----------------------------------------------------------------------------------------------------


def index_add(a: Any, index: Any, values: Any, axis: int = 0) -> Any:
    """Add ``values`` to the rows of `a` along `axis` that the 1-D `index` names, in place and always in one order.

    Atomic additions take the order in which threads arrive.  Here rows are sorted by where they go, and neighbours that
    go to one place are summed by doubling; each row of a run then writes the same sum, so no matter which is the last.
    """
    if not len(index):
        return a
    target = cupy.moveaxis(a, axis, 0)
    index = index % len(target)
    order = cupy.argsort(index)
    index, rows = index[order], cupy.moveaxis(values, axis, 0)[order]
    rows = rows.astype("float32") if _is_half(rows.dtype) else rows
    step = 1
    while step < len(rows):
        same = (index[step:] == index[:-step]).reshape(-1, *(1,) * (rows.ndim - 1))
        rows[step:] += cupy.where(same, rows[:-step], 0)
        step *= 2
    last = cupy.searchsorted(index, index, side="right") - 1
    target[index] = target[index] + rows[last]
    return a


# ---- special functions ----------------------------------------------------------------------------------------------


def _special(ufunc: Callable) -> Callable:
    """A function of SciPy's that keeps its argument's dtype: half types go by way of float32, in CuPy by float64."""

    def function(x: Any) -> Any:
        return ufunc(x.astype("float32")).astype(x.dtype) if _is_half(x.dtype) else ufunc(x)

    return function


def polygamma(n: int, x: Any) -> Any:
    """The n-th derivative of `digamma`, in the dtype of `x`, computed in float64 as CuPy does anyway."""
    y = special.polygamma(cupy.asarray(n), x.astype("float64"))
    return y if x.dtype.kind in "biu" else y.astype(x.dtype)


OWN = {
    "matmul": matmul, "concatenate": concatenate, "stack": stack, "index_add": index_add, "polygamma": polygamma,
    "erf": _special(special.erf), "erfc": _special(special.erfc), "erfinv": _special(special.erfinv),
    "lgamma": _special(special.gammaln), "digamma": _special(special.digamma), "sigmoid": _special(special.expit),
}
