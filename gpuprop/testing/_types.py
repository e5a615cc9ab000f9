"""Checks of half types and integers: each shows an error that small float32 inputs hide.

The calls are variants of a row: with a longer axis, with larger numbers, with narrow integers, or
with integers in place of floats.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpuprop._core.dtypes import as_dtype
from gpuprop._core.registry import get_backend
from gpuprop._core.tree import tree_map
from gpuprop.testing._checks import HALF_FACTOR, Result, _assert_close, _row, run_row
from gpuprop.testing.rows import Row

LONG = {"bfloat16": 1024, "float16": 4096}  # ones added in these types stop at 256 and at 2048
LARGE = 256.0  # its square is infinite in float16
MAX_ELEMENTS = 2**16  # of the arrays of one call
REFUSALS = (TypeError, ValueError)
OPERANDS = ("int64", "float32"), ("uint8", "bfloat16"), ("bool", "float16")  # mixed pairs


# ---- variants ------------------------------------------------------------------------------------


def distinct(rows: Iterable[Row]) -> list[Row]:
    """One row of each op, dtypes, numbers of dimensions, and constants; none with empty arrays."""

    def structure(leaf: Any) -> Any:
        return (leaf.dtype.kind, leaf.ndim) if isinstance(leaf, np.ndarray) else leaf

    first: dict[str, Row] = {}
    for row in rows:
        if all(a.size for a in row.arrays()):
            first.setdefault(f"{row.name}{tree_map(structure, (row.args, row.kwargs))}", row)
    return list(first.values())


def lengthened(row: Row, length: int) -> Iterator[tuple[Row, Result]]:
    """Calls with one axis size in all arrays multiplied to at least `length`, by repetition.

    Axes of the same size are taken for the same axis.  Indices into it spread over the longer axis.
    If the call does not work, they do not, and then constants that equal the size are multiplied
    too.  The first call that NumPy does not refuse is yielded with its result in float32.  An
    rng_key (uint64) keeps its two words.
    """
    for size in sorted({n for a in row.arrays() if a.dtype.kind != "u" for n in a.shape}):
        times = math.ceil(length / size)

        def is_long(n: Any, size: int = size) -> bool:
            return type(n) is int and n == size

        def shape(a: np.ndarray, times: int = times) -> list[int]:
            return [n * times if is_long(n) else n for n in a.shape]

        def tiled(a: np.ndarray, times: int = times) -> np.ndarray:
            if a.dtype.kind == "u" or a.ndim == 0:
                return a
            return np.tile(a, [times if is_long(n) else 1 for n in a.shape])

        def spread(a: np.ndarray, size: int = size, times: int = times) -> np.ndarray:
            is_index = a.dtype.kind == "i" and a.min() >= 0 and a.max() < size
            return tiled(np.asarray(a * times)) if is_index else tiled(a)

        def scaled(leaf: Any, times: int = times) -> Any:
            return leaf * times if is_long(leaf) else leaf

        if sum(math.prod(shape(a)) for a in row.arrays()) > MAX_ELEMENTS:
            continue
        variants = [row.map_arrays(spread), row.map_arrays(tiled)]
        if size > 1:
            variants += [_map_constants(variant, scaled) for variant in variants]
        for variant in variants:
            result = _attempt(variant)
            if result is not None:
                yield variant, result
                break


def _map_constants(row: Row, f: Callable) -> Row:
    """The same call with ``f(constant)`` in place of each argument that is no array."""
    args, kwargs = tree_map(f, (row.args, row.kwargs))
    variant = Row(row.op, *args, **kwargs)
    variant.skipped = row.skipped
    return variant


def magnified(row: Row) -> Iterator[Row]:
    """Calls with one of the floating arrays multiplied by `LARGE`."""
    for i, array in enumerate(row.arrays()):
        if array.dtype.kind == "f":
            yield _with_array(row, i, np.asarray(array * LARGE))


def _with_array(row: Row, i: int, array: np.ndarray) -> Row:
    """The same call with another i-th array."""
    arrays = iter([*row.arrays()[:i], array, *row.arrays()[i + 1:]])
    return row.map_arrays(lambda _: next(arrays))


# ---- checks --------------------------------------------------------------------------------------


def check_half(op: Any, *args: Any, backend: str, dtype: str, **kwargs: Any) -> None:
    """Check that ``op(*args, **kwargs)`` of a half type is computed in float32 and rounded once.

    The call is repeated with each axis made long, and with each floating array multiplied by 256.
    Outputs and gradients are compared with NumPy's in float32, rounded to `dtype`: "float16" or
    "bfloat16".  Calls that NumPy refuses are left out.

    >>> from gpuprop.testing import check_half
    >>> check_half(gpuprop.mean, np.ones(3), backend="strict", dtype="bfloat16")
    """
    row = _row(op, args, kwargs)
    half = as_dtype(dtype)

    def rounded(a: np.ndarray) -> np.ndarray:
        return a.astype(half).astype("float64") if a.dtype.kind == "f" else a

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        row = row.map_arrays(rounded)
        large = () if "large" in row.skipped else magnified(row)
        for variant, want in (*lengthened(row, LONG[dtype]),
                              *((variant, _attempt(variant)) for variant in large)):
            if want is not None:
                got = _run(variant, backend, dtype)
                _compare(got, want, dtype, f"{variant} on {backend!r}, {dtype}", True)


def check_integers(op: Any, *args: Any, backend: str, **kwargs: Any) -> None:
    """Check that integers of ``op(*args, **kwargs)`` neither overflow nor widen a float.

    Integer arrays are replaced by arrays of uint8, int8 and int16, also for axes that are longer
    than uint8 and int8 can count: values and gradients must be those of int64.  Each floating array
    is replaced by integers and bools: the call must be refused, or have the dtypes and values as if
    they were floats.

    >>> from gpuprop.testing import check_integers
    >>> check_integers(gpuprop.take, np.ones(5), np.array([1, 4]), backend="strict")
    """
    row = _row(op, args, kwargs)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if any(a.dtype.kind == "i" for a in row.arrays()):
            for integer in ("uint8", "int8", "int16"):
                _check_narrow(row, backend, integer)
        if sum(a.dtype.kind == "f" for a in row.arrays()) > 1:
            for integer, dtype in OPERANDS:
                _check_operands(row, backend, integer, dtype)


def _check_narrow(row: Row, backend: str, integer: str) -> None:
    """Compare integer arrays of a narrow type with int64."""
    info = np.iinfo(integer)
    longer = [v for v, _ in lengthened(row, info.max + 1)] if info.bits == 8 else []

    def narrow(a: np.ndarray) -> np.ndarray:
        return a.astype(integer) if a.dtype.kind == "i" else a

    for variant in (row, *longer):
        integers = [a for a in variant.arrays() if a.dtype.kind == "i"]
        if all(info.min <= a.min(initial=0) and a.max(initial=0) <= info.max for a in integers):
            want = _run(variant, backend, "float32")
            got = _run(variant.map_arrays(narrow), backend, "float32")
            _compare(got, want, "float32", f"{variant} on {backend!r}, int64 as {integer}")


def _check_operands(row: Row, backend: str, integer: str, dtype: str) -> None:
    """Compare integers in place of each floating array with floats of the same values."""
    for i, array in enumerate(row.arrays()):
        if array.dtype.kind != "f":
            continue
        whole = np.asarray(np.minimum(abs(np.round(2 * array)), 1 if integer == "bool" else 255))
        want = _attempt(_with_array(row, i, whole), dtype)
        if want is None:
            continue
        variant = _with_array(row, i, whole.astype(integer))
        try:
            got = _run(variant, backend, dtype)
        except REFUSALS:
            continue
        del want.gradients[sum(a.dtype.kind == "f" for a in row.arrays()[:i])]
        _compare(got, want, dtype, f"{variant} on {backend!r}, {dtype}")


def _attempt(row: Row, dtype: str = "float32") -> Result | None:
    """The result of a call on NumPy; None if the call is refused.

    On a device, a refused call can leave flags of `Backend.check`, which fail the next call.
    """
    try:
        return _run(row, "numpy", dtype)
    except Exception:
        return None


def _run(row: Row, backend: str, dtype: str) -> Result:
    return run_row(row, get_backend(backend), dtype, weights=_positive_weights, pullbacks=False)


def _positive_weights(o: Any) -> np.ndarray:
    """Like `_weights`, but positive: sums of gradients grow with their length."""
    values = (np.floor(abs(np.cos(np.arange(o.size))) * 64) + 0.5) / 64
    return np.asarray(values.reshape(o.shape), o.dtype)


def _compare(got: Result, want: Result, dtype: str, where: str, is_rounded: bool = False) -> None:
    """Compare outputs and gradients; with `is_rounded`, `want` is float32, not `dtype`."""
    for what in ("output", "gradient"):
        found, expected = (getattr(result, f"{what}s") for result in (got, want))
        for i, (g, w) in enumerate(zip(found, expected, strict=True)):
            if g is None or w is None:
                assert g is w, f"{where}: {what} {i} is {g}, expected {w}"
                continue
            floating = w.dtype.kind in "fV"
            if floating and not is_rounded:
                assert g.dtype == w.dtype, f"{where}: {what} {i} is {g.dtype}, expected {w.dtype}"
            w = w.astype(g.dtype)  # integers as in the narrow type, which NumPy may return
            if floating and is_rounded:
                counted = np.isfinite(w.astype("float32"))
                zero = g.dtype.type(0)  # NumPy 2.0 damages memory for bfloat16 beside an int
                g, w = np.where(counted, g, zero), np.where(counted, w, zero)
            _assert_close(g, w, dtype, f"{where}: {what} {i}", HALF_FACTOR if is_rounded else 1)
