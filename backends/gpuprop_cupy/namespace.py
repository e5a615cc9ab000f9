"""``xp`` on CUDA: CuPy's functions, and replacements for those that are slow, wrong or missing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cupy
import numpy as np
from cupyx.scipy import special

from gpuprop.backend import is_half
from gpuprop_cupy.products import matmul

# ---- joining ------------------------------------------------------------------------------------


def concatenate(arrays: Sequence[Any], axis: int = 0) -> Any:
    """NumPy's `concatenate`, eight arrays at a time.

    For more arrays CuPy uploads a table of pointers, which a captured step cannot do.
    """
    arrays = list(arrays)
    while len(arrays) > 8:
        groups = [arrays[i:i + 8] for i in range(0, len(arrays), 8)]
        arrays = [cupy.concatenate(group, axis) for group in groups]
    return cupy.concatenate(arrays, axis)


def stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    """NumPy's `stack`, by `concatenate`."""
    return concatenate([cupy.expand_dims(a, axis) for a in arrays], axis)


# ---- selection ----------------------------------------------------------------------------------
# CuPy's `where`, `tril` and `triu` have no bfloat16 versions and return float32.  The functions
# below select bits, for which the dtype does not matter.


def where(condition: Any, *choices: Any) -> Any:
    """NumPy's `where`; bfloat16 stays bfloat16, also beside Python numbers."""
    dtypes = {a.dtype for a in choices if type(a) is cupy.ndarray}
    if [dtype.char for dtype in dtypes] != ["E"]:
        return cupy.where(condition, *choices)
    bfloat16, = dtypes
    x, y = (a if type(a) is cupy.ndarray else cupy.full((), a, bfloat16) for a in choices)
    return cupy.where(condition, x.view("uint16"), y.view("uint16")).view(bfloat16)


def _triangle(function: Callable) -> Callable:
    def triangle(m: Any, k: int = 0) -> Any:
        """NumPy's function; bfloat16 stays bfloat16."""
        if m.dtype.char != "E":
            return function(m, k)
        return function(m.view("uint16"), k).view(m.dtype)

    return triangle


def repeat(a: Any, repeats: Any, axis: int | None = None) -> Any:
    """NumPy's `repeat`.

    CuPy sends a list of repeats to the device and waits at each call; here it is sent once.
    """
    if not isinstance(repeats, Sequence):
        return cupy.repeat(a, repeats, axis)
    if len(repeats) == 1:  # for all elements
        return cupy.repeat(a, int(repeats[0]), axis)
    indices = _repeated_indices(tuple(map(int, repeats)), cupy.cuda.runtime.getDevice())
    return cupy.take(a, indices, axis=axis)


@functools.lru_cache(maxsize=256)
def _repeated_indices(repeats: tuple[int, ...], device: int) -> Any:
    """The index of the source element of each repeated element, on the current device."""
    return cupy.asarray(np.repeat(np.arange(len(repeats)), repeats))


# ---- index_add ----------------------------------------------------------------------------------


def index_add(a: Any, index: Any, values: Any, axis: int = 0) -> Any:
    """Add `values` in place to the slices of `a` that the 1-D `index` selects; returns `a`.

    The result is deterministic, unlike that of atomic additions, whose order varies.  Rows are
    sorted by their target, and each run of rows with one target is summed by doubling.  Every row
    of a run then writes the same sum, so it does not matter which row writes last.
    """
    if not len(index):
        return a
    target = cupy.moveaxis(a, axis, 0)
    index = index.astype("int64") % len(target)  # a narrow dtype may not hold the length
    order = cupy.argsort(index)
    index = index[order]
    rows = cupy.moveaxis(values, axis, 0)[order]
    rows = rows.astype("float32" if is_half(target.dtype) else target.dtype, copy=False)
    step = 1
    while step < len(rows):
        same = (index[step:] == index[:-step]).reshape(-1, *(1,) * (rows.ndim - 1))
        rows[step:] += cupy.where(same, rows[:-step], 0)
        step *= 2
    last = cupy.searchsorted(index, index, side="right") - 1
    target[index] = target[index] + rows[last]
    return a


# ---- special functions --------------------------------------------------------------------------


def _special(ufunc: Callable) -> Callable:
    """CuPy's special function, but half types are computed in float32 and keep their dtype."""

    def function(x: Any) -> Any:
        return ufunc(x.astype("float32")).astype(x.dtype) if is_half(x.dtype) else ufunc(x)

    return function


def polygamma(n: int, x: Any) -> Any:
    """The n-th derivative of `digamma`, computed in float64; a float `x` keeps its dtype."""
    y = special.polygamma(cupy.asarray(n), x.astype("float64"))
    return y if x.dtype.kind in "biu" else y.astype(x.dtype)


OWN = {
    "concatenate": concatenate,
    "digamma": _special(special.digamma),
    "erf": _special(special.erf),
    "erfc": _special(special.erfc),
    "erfinv": _special(special.erfinv),
    "index_add": index_add,
    "lgamma": _special(special.gammaln),
    "matmul": matmul,
    "polygamma": polygamma,
    "repeat": repeat,
    "sigmoid": _special(special.expit),
    "stack": stack,
    "tril": _triangle(cupy.tril),
    "triu": _triangle(cupy.triu),
    "where": where,
}
