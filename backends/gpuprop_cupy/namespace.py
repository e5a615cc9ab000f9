"""``xp`` on CUDA: CuPy's names, and those that gpuprop owns because CuPy's are slow, wrong or missing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cupy
import numpy as np
from cupyx.scipy import special

from gpuprop.backend import is_half
from gpuprop_cupy.products import matmul

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


# ---- choosing -------------------------------------------------------------------------------------------------------
# CuPy has no loops of `where` and `tril` for bfloat16 and answers in float32.  They choose bits, whatever these mean.


def where(condition: Any, *choices: Any) -> Any:
    """As NumPy's; bfloat16 stays bfloat16, beside numbers too."""
    dtypes = {a.dtype for a in choices if type(a) is cupy.ndarray}
    if [dtype.char for dtype in dtypes] != ["E"]:
        return cupy.where(condition, *choices)
    x, y = ((a if type(a) is cupy.ndarray else cupy.full((), a, *dtypes)).view("uint16") for a in choices)
    return cupy.where(condition, x, y).view(*dtypes)


def _triangle(function: Callable) -> Callable:
    def triangle(m: Any, k: int = 0) -> Any:
        """As NumPy's; bfloat16 stays bfloat16."""
        return function(m, k) if m.dtype.char != "E" else function(m.view("uint16"), k).view(m.dtype)

    return triangle


def repeat(a: Any, repeats: Any, axis: int | None = None) -> Any:
    """As NumPy's; where CuPy would send a list to the device and wait at each call, it is sent once for all."""
    if not isinstance(repeats, Sequence):
        return cupy.repeat(a, repeats, axis)
    if len(repeats) == 1:  # it holds for all elements
        return cupy.repeat(a, int(repeats[0]), axis)
    places = _places(tuple(map(int, repeats)), cupy.cuda.runtime.getDevice())
    return cupy.take(a, places, axis=axis)


@functools.lru_cache(maxsize=256)
def _places(repeats: tuple[int, ...], device: int) -> Any:
    """Which element each of the repeated ones is, on the current device."""
    return cupy.asarray(np.repeat(np.arange(len(repeats)), repeats))


# ---- adding rows ----------------------------------------------------------------------------------------------------


def index_add(a: Any, index: Any, values: Any, axis: int = 0) -> Any:
    """Add ``values`` to the rows of `a` along `axis` that the 1-D `index` names, in place and always in one order.

    Atomic additions take the order in which threads arrive.  Here rows are sorted by where they go, and neighbours that
    go to one place are summed by doubling; each row of a run then writes the same sum, so no matter which is the last.
    """
    if not len(index):
        return a
    target = cupy.moveaxis(a, axis, 0)
    index = index.astype("int64") % len(target)  # a narrow type does not hold the length
    order = cupy.argsort(index)
    index, rows = index[order], cupy.moveaxis(values, axis, 0)[order]
    rows = rows.astype("float32" if is_half(target.dtype) else target.dtype, copy=False)
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
        return ufunc(x.astype("float32")).astype(x.dtype) if is_half(x.dtype) else ufunc(x)

    return function


def polygamma(n: int, x: Any) -> Any:
    """The n-th derivative of `digamma`, in the dtype of `x`, computed in float64 as CuPy does anyway."""
    y = special.polygamma(cupy.asarray(n), x.astype("float64"))
    return y if x.dtype.kind in "biu" else y.astype(x.dtype)


OWN = {
    "matmul": matmul, "concatenate": concatenate, "stack": stack, "index_add": index_add, "polygamma": polygamma,
    "where": where, "tril": _triangle(cupy.tril), "triu": _triangle(cupy.triu), "repeat": repeat,
    "erf": _special(special.erf), "erfc": _special(special.erfc), "erfinv": _special(special.erfinv),
    "lgamma": _special(special.gammaln), "digamma": _special(special.digamma), "sigmoid": _special(special.expit),
}
