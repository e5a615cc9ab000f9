"""The strict backend agrees with CuPy in errors, shapes, dtypes, values, waits and capture."""

import copy
import operator
import pickle
import re
import warnings

import array_calls
import numpy as np
import pytest
from counted import HOSTCUDA, operations  # waits and captures are counted with hostcuda only
from test_cupy_names import ROOT, uses_in

from gpuprop._core.registry import get_backend
from gpuprop.testing._strict_array import METHODS

EXPECTED_ERRORS = (TypeError, ValueError, IndexError, AttributeError, NotImplementedError,
                   OverflowError)

# Accepted differences, by group: pattern -> reason.  Everything else must agree.
PRODUCT = "products by operators may use cuBLAS, so the strict backend never captures them"
OWN_PRODUCT = "the CuPy backend has its own xp.matmul for capture; CuPy's uses cuBLAS"
LISTS = "each call would copy the list to the device"
HOST_ARRAYS = "each call would copy the host array to the device"
NO_LOOP = "NumPy has no such loop, and it is of no use"
INTEGER_OUT = "CuPy multiplies by 1 / n in the dtype of out=, where it is 0"
ACCEPTED = {
    "unary": {
        r"values: xp.reciprocal\(u\) \[int.*": "integer division by zero is undefined",
        r"values: xp.erfc?\(u\) \[(uint8|bool)\]": "CuPy returns float64 with float32 accuracy",
        r"result: xp.erfinv\(u\) \[(uint8|bool)\]": "special functions of integers are undefined",
        r"error: xp.sign\(u\) \[bool\]": NO_LOOP,
    },
    "unary of special values": {
        r"values: xp.(lgamma|sinc|angle)\(g\) .*": "CuPy gives -inf for -inf, 1 and pi for NaN",
        r"values: xp.nan_to_num\(g\) \[bfloat16\]":
            "CuPy replaces infinity by 0, not by the largest bfloat16",
    },
    "operators": {
        r"captured: .* @ .*": PRODUCT,
        r"error: \+x \[bool\]": NO_LOOP,
    },
    "reductions": {
        r"error: x.min\(out=s\) .*": "a bug in CuPy: max has out=",
        r"error: x.arg(max|min)\(out=s\) .*": "NumPy's out= must be int64",
        r"(result|error|values): x.(var|std)\(out=s\) \[(u?int.*|bool)\]": INTEGER_OUT,
    },
    "reductions of several axes": {
        r"error: .\.arg(max|min)\(.*": "NumPy has no argmax of several axes",
    },
    "reductions to a dtype": {
        r"(result|error|values): x.(var|std)\(0, None, y\[0\]\) \[(u?int.*|bool)\]":
            INTEGER_OUT,
    },
    "more reductions": {
        r"(error|values): xp.(median|nan\w+)\([es]\) .*": "nothing to reduce or sort",
    },
    "methods of ufuncs": {
        r"error: xp.maximum\(x, y, dtype='int64'\) .*":
            "NumPy casts floats to integers only if casting= allows it",
    },
    "ufunc.at": {
        r"error: xp.\w+.at\(x, \[0\], 1\) .*": LISTS,
        r"error: xp.subtract.at\(x, m, 1\) \[bool\]": NO_LOOP,
    },
    "scans and sorts": {
        r"error: xp.sort\(e\) \[bfloat16\]": "nothing to sort",
    },
    "reading by index": {
        r"error: x\[np.array\(.*": HOST_ARRAYS,
        r"error: x\[.*\[.*\].*\] .*": LISTS,
        r"error: x\[1.0\] .*": "CuPy truncates a float index, NumPy raises",
        r"error: x.flat\[.*": "use ravel()",
    },
    "writing by index": {
        r"error: put\(x, \(?\[.*": LISTS,
        r"error: put\(xp.broadcast_to\(.*": "NumPy's broadcast arrays are read-only",
    },
    "take and put": {
        r"error: xp.(take|put_along_axis)\(.*\[.*\].*\) .*": LISTS,
        r"error: xp.select\(.*": "NumPy accepts numbers, CuPy does not accept bool",
        r"(error|values): xp.index_add\(x, i, y(\[:2\]|.astype\('float32'\))\) .*":
            "gpuprop calls index_add with equal dtypes and lengths",
        r"error: xp.index_add\(.*\) \[bool\]": "gpuprop never adds bools",
        r"values: xp.nan_to_num\(g, .*\) \[bfloat16\]":
            "in CuPy the replacements are float32, and infinity becomes 0",
    },
    "shapes and products": {
        r"captured: .*(dot|inner|tensordot|einsum)\(.*": PRODUCT,
        r"captured: xp.matmul\(.*": OWN_PRODUCT,
        r"error: xp.einsum\('ii', q\) \[bfloat16\]": "NumPy's einsum does not support bfloat16",
        r"error: xp?.round\((x, )?1\) \[bool\]": NO_LOOP,
    },
    "dtypes": {
        r"captured: np.matmul\(x, y.T\) .*": PRODUCT,
        r"error: np.(concatenate|where)\(.*": "bodies call xp, not NumPy",
    },
    "creation": {
        r"unexpected error: xp.arange\(0, 3, 0\) .*": "both divide by zero",
        r"error: xp.(arange|linspace)\(s.*": "CuPy waits for the number",
        r"error: xp.fromfunction\(.*": "it would call NumPy's functions",
        r"error: xp.frombuffer\(.*": "use asarray to copy from the host",
        r"error: xp.random.rand .*": "use gpuprop.random, which is the same on every backend",
    },
    "two dtypes": {
        r"captured: xp.matmul\(.*": OWN_PRODUCT,
        r"values: xp.logical_and\(x, z\) \[int64, uint64\]":
            "in CuPy a negative number is false here",
        r"values: xp.searchsorted\(ordered, z\) \[int64, uint64\]":
            "CuPy compares negative numbers as unsigned",
    },
    "array and number": {
        r"values: x (//|%) (2\*\*40|1e300) .*": "the number is infinity in CuPy's dtype",
        r"values: xp.clip\(x, None, np.nan\) .*": "in CuPy nothing is greater than NaN",
        r"error: (y \*\* |xp.power\(y, )(np.int32\(-1\)|-1)\)? .*":
            "NumPy raises for negative integer powers of integers",
        r"error: xp.where\(m, x, 1j\) \[bfloat16\]": "the imaginary part would be lost",
    },
}
OPERATORS = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "truediv",
    "//": "floordiv",
    "%": "mod",
    "**": "pow",
    "&": "and",
    "|": "or",
    "^": "xor",
    "<<": "lshift",
    ">>": "rshift",
}


def put(a, key, value):
    a[key] = value
    return a


def iop(a, sign, b):
    return getattr(operator, f"i{OPERATORS[sign]}")(a, b)


def namespace(backend, arrays):
    """The names that an expression may use, for eval."""
    return {
        **arrays,
        "xp": backend.xp,
        "np": np,
        "bf16": array_calls.BF16.type,
        "copy": copy,
        "pickle": pickle,
        "put": put,
        "iop": iop,
    }


def place(backend, host_arrays):
    return {name: backend.asarray(a) for name, a in host_arrays.items()}


class Outcome:
    """The result of an expression on a backend: an error, or values including the arguments'."""

    def __init__(self, backend, code, host_arrays):
        self.error = None
        self.values = []
        self.waits = None  # True if the host waited
        self.captured = None  # True if the call can be captured
        arrays = place(backend, host_arrays)
        try:
            result = eval(code, namespace(backend, arrays))
        except Exception as e:
            self.error = e
        else:
            self.values = [to_host(v) for v in leaves([result, *arrays.values()])]

    def __str__(self):
        if self.error is not None:
            first_line = (str(self.error).splitlines() or [""])[0]
            return f"{type(self.error).__name__}({first_line[:80]})"
        return ", ".join(
            f"{v.dtype}{v.shape}" if isinstance(v, np.ndarray) else repr(v)[:60]
            for v in self.values[:3])


def on_strict(code, host_arrays):
    strict = get_backend("strict")
    strict.syncs.clear()
    outcome = Outcome(strict, code, host_arrays)
    outcome.waits = bool(strict.syncs)
    if outcome.error is None:
        names = namespace(strict, place(strict, host_arrays))
        with strict.record() as recording:
            try:
                eval(code, names)
            except Exception as e:
                recording.errors.append(str(e))
        outcome.captured = not recording.errors
    return outcome


def on_cupy(code, host_arrays):
    cupy = get_backend("cupy")
    outcome = Outcome(cupy, code, host_arrays)  # compiles the kernels
    if outcome.error is None and HOSTCUDA:
        names = namespace(cupy, place(cupy, host_arrays))
        _, counts = operations(lambda: eval(code, names))
        outcome.waits = any(name.startswith(("[copy to host", "[synchronize")) for name in counts)
        forbidden = any(name.startswith(("[copy to device", "<")) for name in counts)
        outcome.captured = not outcome.waits and not forbidden
    return outcome


def leaves(value):
    if isinstance(value, list | tuple):
        return [leaf for v in value for leaf in leaves(v)]
    return [value]


def to_host(value):
    if hasattr(value, "_a"):
        return value._a
    return value.get() if hasattr(value, "__cuda_array_interface__") else value


def differences(code, host_arrays):
    """Differences of the strict backend from CuPy: (kind, strict's, CuPy's)."""
    strict = on_strict(code, host_arrays)
    cupy = on_cupy(code, host_arrays)
    if isinstance(cupy.error, ImportError):
        yield "library", strict, cupy  # hostcuda does not have it: do not use this call
    elif strict.error is not None and not isinstance(strict.error, EXPECTED_ERRORS):
        yield "unexpected error", strict, cupy
    elif ((strict.error is None) != (cupy.error is None)
          or len(strict.values) != len(cupy.values)):
        yield "error", strict, cupy
    elif strict.error is None:
        for a, b in zip(strict.values, cupy.values, strict=True):
            arrays = isinstance(a, np.ndarray) + isinstance(b, np.ndarray)
            if arrays == 2 and (a.dtype, a.shape) == (b.dtype, b.shape):
                if not are_close(a, b, host_arrays):
                    yield "values", a, b
            elif arrays or not are_equal(a, b):
                yield "result", strict, cupy
        if HOSTCUDA and strict.waits != cupy.waits:
            yield "waits", strict.waits, cupy.waits
        elif HOSTCUDA and strict.captured != cupy.captured:
            yield "captured", strict.captured, cupy.captured


def are_equal(a, b):
    """True for the same type and, if it is a plain value, the same value."""
    plain = isinstance(a, bool | int | float | complex | str | tuple)
    return type(a) is type(b) and (not plain or a == b or a != a)


def epsilon(dtype):
    if dtype.itemsize == 2:
        return 2.0**-8 if dtype.kind == "V" else 2.0**-11
    return 2.0**-53 if dtype.itemsize == 8 else 2.0**-24


def are_close(a, b, host_arrays):
    """True if they are equal up to some roundings in the least precise dtype of the call."""
    if a.dtype.kind in "biu":
        return bool((a == b).all())
    dtypes = {a.dtype, host_arrays["x"].dtype, host_arrays["z"].dtype}
    eps = max(epsilon(d) for d in dtypes if d.kind in "fcV")
    a, b = (v.astype(complex if v.dtype.kind == "c" else float) for v in (a, b))
    with np.errstate(all="ignore"):
        scale = np.abs(b[np.isfinite(b)]).max(initial=1)
        return bool(np.isclose(a, b, rtol=16 * eps, atol=16 * eps * scale, equal_nan=True).all())


@pytest.mark.gpu
@pytest.mark.parametrize("group", array_calls.GROUPS)
def test_calls(group):
    accepted = ACCEPTED.get(group, {})
    matched = set()
    wrong = []
    count = 0
    for dtype, other, codes in array_calls.calls(group):
        host_arrays = array_calls.arrays(dtype, other)
        dtypes = dtype if other == dtype else f"{dtype}, {other}"
        for code in codes:
            count += 1
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                found = list(differences(code, host_arrays))
            for kind, strict, cupy in found:
                line = f"{kind}: {code} [{dtypes}]"
                pattern = next((p for p in accepted if re.fullmatch(p, line)), None)
                matched.add(pattern)
                if pattern is None:
                    wrong.append(f"{line}: strict {strict}; CuPy {cupy}")
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:60])
    assert set(accepted) <= matched or not HOSTCUDA  # no pattern without a difference


ON_THE_HOST = {"xp.linalg.cholesky", "xp.linalg.solve"}  # LAPACK, which no device has


def test_every_name_and_keyword_that_gpuprop_uses_is_called():
    codes = [code for group in array_calls.GROUPS for *_, group_codes in array_calls.calls(group)
             for code in group_codes]
    text = "\n".join(codes)
    used = {(name, keyword) for name, keywords in uses_in(ROOT / "gpuprop", xp="xp")
            for keyword in (None, *keywords) if re.fullmatch(r"xp\.[\w.]+", name)}
    names = {name for name, _ in used}
    assert {"xp.exp", "xp.take_along_axis"} <= names  # uses are found
    assert {n for n in names if not re.search(rf"{n}\b", text)} == ON_THE_HOST
    assert {(n, k) for n, k in used
            if k and not re.search(rf"{n}\([^|\n]*\b{k}=", text)} == set()
    assert {method for method in METHODS if not re.search(rf"\w\]?\.{method}\(", text)} == set()


