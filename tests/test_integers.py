"""Integer and bool arrays: what they are computed in, and the Python numbers beside them."""

import inspect
import itertools
import math
import warnings

import numpy as np
import pytest
from tested_backends import BACKENDS
from together import together

import gpuprop
import gpuprop.functional as F
from gpuprop import nn
from gpuprop.testing import Row, all_rows, distinct

EDGES = {
    "uint8": [0, 1, 2, 100, 255],
    "int8": [-128, -1, 0, 1, 127],
    "int16": [-(2**15), -1, 0, 300, 2**15 - 1],
    "int64": [-(2**31), -1, 0, 1, 2**31],
    "bool": [False, True],
}
PUBLIC = {id(getattr(module, name)) for module in (gpuprop, F) for name in module.__all__}
ROWS = [row for row in distinct(all_rows())
        if "parity" not in row.skipped and id(row.op) in PUBLIC]
ALL_FLOATS = [row for row in ROWS if {a.dtype.kind for a in row.arrays()} == {"f"}]


def op_of(row):
    return row.name.removeprefix("gpuprop.")


def each_op(rows):
    """Run a test with the rows of each op, on each backend."""
    by_op = {op: [*group] for op, group in itertools.groupby(sorted(rows, key=op_of), op_of)}
    return pytest.mark.parametrize(("rows", "backend_name"), [
        pytest.param(group, backend, id=f"{op}-{backend}")
        for op, group in by_op.items() for backend in BACKENDS])


def results(row, convert, backend="numpy"):
    """The outputs of a call."""
    with gpuprop.use(backend), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        out = row.map_arrays(lambda a: gpuprop.tensor(convert(a)))()
        out = out if isinstance(out, tuple | list) else [out]
        return [o.numpy() for o in out if o is not None]


def attempt(row, convert):
    """The outputs of a call on NumPy; None if it is refused."""
    try:
        return results(row, convert)
    except Exception:
        return None


@each_op(ALL_FLOATS)
def test_integers_in_place_of_floats(rows, backend_name):
    """Floating results are those of float64; integers are exact, modulo the range of the type."""
    with together(backend_name) as case:
        for row, dtype in itertools.product(rows, EDGES):
            def edges(a, dtype=dtype):
                return np.resize(np.array(EDGES[dtype], dtype), a.shape)

            with case(row, dtype):
                wide = attempt(row, lambda a: edges(a).astype("int64"))
                if wide is None or attempt(row, edges) is None:
                    continue
                found = results(row, edges, backend_name)
                exact = results(row, lambda a: edges(a).astype("float64"))
                for got, of_floats, of_int64 in zip(found, exact, wide, strict=True):
                    if got.dtype.kind == "f":
                        assert got.dtype.itemsize >= 4
                        np.testing.assert_allclose(got, of_floats, rtol=1e-5, atol=1e-5)
                    else:
                        kept = dtype if got.dtype.kind != "b" and dtype != "bool" else got.dtype
                        np.testing.assert_array_equal(got.astype(kept), of_int64.astype(kept))


# ---- Python numbers beside integer arrays --------------------------------------------------------

NUMBERS = [300, -1, math.nan, math.inf, 1e30]


def uint8(a):
    return np.minimum(abs(np.round(2 * a)), 255).astype("uint8") if a.dtype.kind == "f" else a


def arguments(row):
    """The arguments of a call by name, with defaults; and the annotations of all parameters."""
    signature = inspect.signature(row.op)
    annotations = {name: str(p.annotation) for name, p in signature.parameters.items()}
    try:
        bound = signature.bind(*row.args, **row.kwargs)
    except TypeError:
        return {}, {}
    bound.apply_defaults()
    return bound.arguments, annotations


def with_numbers(rows):
    """Calls with a number in place of each array and each float."""
    for row in rows:
        given, annotations = arguments(row)
        for parameter, annotation in annotations.items():
            if "Array" in annotation or annotation.startswith("float"):
                for number in NUMBERS:
                    changed = Row(row.op, **{**given, parameter: number})
                    if any(a.dtype.kind == "f" for a in changed.arrays()):
                        yield changed


@each_op(ROWS)
def test_numbers_beside_uint8(rows, backend_name):
    """A number that uint8 cannot represent is refused, or the result is that of int64."""
    with together(backend_name) as case:
        for row in with_numbers(rows):
            with case(row):
                if attempt(row, uint8) is None:
                    continue
                try:
                    found = results(row, uint8, backend_name)
                except (TypeError, OverflowError):  # a device takes no number for a condition
                    continue
                wide = results(row, lambda a: uint8(a).astype("int64"), backend_name)
                for got, want in zip(found, wide, strict=True):
                    np.testing.assert_array_equal(got, want)


def written(value):
    t = gpuprop.zeros(3, dtype="uint8")
    t[1:] = value
    return t


TAKING_NUMBERS = {
    "tensor": lambda v: gpuprop.tensor(v, dtype="uint8"),
    "tensor of a list": lambda v: gpuprop.tensor([[1, v]], dtype="uint8"),
    "full": lambda v: gpuprop.full((2,), v, dtype="uint8"),
    "full_like": lambda v: gpuprop.full_like(gpuprop.zeros(2, dtype="uint8"), v),
    "linspace, start": lambda v: gpuprop.linspace(v, 1, 3, dtype="uint8"),
    "linspace, stop": lambda v: gpuprop.linspace(1, v, 3, dtype="uint8"),
    "t[...] = v": written,
    "t[...] = list": lambda v: written([1, v]),
    "fill_": lambda v: gpuprop.zeros(2, dtype="uint8").fill_(v),
    "constant_": lambda v: nn.init.constant_(gpuprop.zeros(2, dtype="uint8"), v),
    "pad": lambda v: F.pad(gpuprop.zeros(2, dtype="uint8"), (1, 1), value=v),
    "masked_fill": lambda v: gpuprop.zeros(2, dtype="uint8").masked_fill(gpuprop.ones(2) > 0, v),
    "threshold": lambda v: F.threshold(gpuprop.zeros(2, dtype="uint8"), 0, v),
    "hardtanh": lambda v: F.hardtanh(gpuprop.zeros(2, dtype="uint8"), min(v, 0), max(v, 0)),
    "where": lambda v: gpuprop.where(gpuprop.ones(2) > 0, gpuprop.zeros(2, dtype="uint8"), v),
    "where, large": lambda v: gpuprop.where(gpuprop.ones(10_000) > 0, v,
                                            gpuprop.zeros(10_000, dtype="uint8")),
}


@pytest.mark.parametrize("f", TAKING_NUMBERS.values(), ids=TAKING_NUMBERS)
def test_numbers_that_do_not_fit(backend, f):
    for number in (300, -300, 2**40, np.int64(300)):
        with pytest.raises(OverflowError, match=r"300|1099511627776"):
            f(number)
    for number in (0, 255):
        assert f(number).dtype == "uint8"


CONVERTING = {name: f for name, f in TAKING_NUMBERS.items()
              if name.partition(",")[0] in ("tensor", "tensor of a list", "full", "full_like",
                                            "linspace", "t[...] = v", "t[...] = list", "fill_",
                                            "constant_")}


@pytest.mark.parametrize("f", CONVERTING.values(), ids=CONVERTING)
def test_floats_that_do_not_fit(backend, f):
    """Fractions are cut off, as by a cast, but NaN and what is out of range have no integer."""
    for number in (math.nan, math.inf, -math.inf, 256.0, 300.5, np.float32("nan")):
        with pytest.raises((OverflowError, ValueError)):
            f(number)
    for number in (1 + 0j, 1j):
        with pytest.raises(TypeError):
            f(number)
    assert f(255.0).dtype == "uint8"


def test_complex_numbers_are_refused(backend):
    x = gpuprop.zeros(2)
    for f in (lambda v: gpuprop.full((2,), v), lambda v: gpuprop.full_like(x, v),
              lambda v: gpuprop.linspace(v, 1, 3), lambda v: gpuprop.linspace(0, v, 3),
              lambda v: gpuprop.arange(v), gpuprop.tensor):
        for number in (1j, np.complex64(1j), np.array(1j)):
            with pytest.raises(TypeError):
                f(number)


# ---- options that are integers -------------------------------------------------------------------


def with_fraction(value):
    if type(value) is int:
        return value + 0.7
    if isinstance(value, tuple | list) and value and type(value[0]) is int:
        return type(value)([value[0] + 0.7, *value[1:]])
    return None


@each_op(ROWS)
def test_fractions_for_integers(rows, backend_name):
    with together(backend_name) as case:
        for row in rows:
            given, annotations = arguments(row)
            for name, value in given.items():
                wrong = with_fraction(value)
                if wrong is None or "float" in annotations[name] or "Array" in annotations[name]:
                    continue
                changed = Row(row.op, **{**given, name: wrong})
                with (case(changed), gpuprop.use(backend_name),
                      pytest.raises((TypeError, ValueError, IndexError))):
                    changed.map_arrays(gpuprop.tensor)()
