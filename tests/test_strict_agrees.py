"""The strict device answers as the real CuPy does, call by call: refusals, shapes, dtypes, values, and what waits."""

import copy
import operator
import pickle
import re
import warnings

import array_calls
import numpy as np
import pytest
from counted import HOSTCUDA, operations  # a real GPU does not tell what waits
from test_cupy_names import ROOT, uses_in

from gpuprop._core.registry import get_backend
from gpuprop.testing._strict import METHODS

REFUSALS = (TypeError, ValueError, IndexError, AttributeError, NotImplementedError, OverflowError)

# Where the two differ and may, by group: what the difference is about, and why it stays.  All else must agree.
PRODUCT = "the operators' products may be cuBLAS's and are never captured, whatever the shapes and dtypes are"
OWN_PRODUCT = "xp.matmul is the backend's to make fit for capture; cuBLAS by way of CuPy is not"
LISTS = "a list would be copied to the device at every call"
HOST_ARRAYS = "an array of the host would be copied to the device at every call"
NO_LOOP = "NumPy has no loop for it, and nobody means it"
INTEGER_OUT = "CuPy multiplies by 1 / n in the type of out=, where it is 0"
DIFFERENT = {
    "unary": {
        r"values: xp.reciprocal\(u\) \[int.*": "an integer divided by zero is anything",
        r"values: xp.erfc?\(u\) \[(uint8|bool)\]": "CuPy's are in float64 with the digits of float32",
        r"result: xp.erfinv\(u\) \[(uint8|bool)\]": "what special functions make of integers is not promised",
        r"refusal: xp.sign\(u\) \[bool\]": NO_LOOP},
    "unary of special values": {
        r"values: xp.(lgamma|sinc|angle)\(g\) .*": "CuPy: -inf for -inf, 1 for NaN, pi for NaN",
        r"values: xp.nan_to_num\(g\) \[bfloat16\]": "CuPy knows no largest bfloat16 and takes 0 in its place"},
    "operators": {
        r"captured: .* @ .*": PRODUCT,
        r"refusal: \+x \[bool\]": NO_LOOP},
    "reductions": {
        r"refusal: x.min\(out=s\) .*": "a slip in CuPy: max takes out=",
        r"refusal: x.arg(max|min)\(out=s\) .*": "NumPy's out= is int64",
        r"(result|refusal|values): x.(var|std)\(out=s\) \[(u?int.*|bool)\]": INTEGER_OUT},
    "reductions of several axes": {
        r"refusal: .\.arg(max|min)\(.*": "NumPy has no argmax of several axes"},
    "reductions to a dtype": {
        r"(result|refusal|values): x.(var|std)\(0, None, y\[0\]\) \[(u?int.*|bool)\]": INTEGER_OUT},
    "more reductions": {
        r"(refusal|values): xp.(median|nan\w+)\([es]\) .*": "there is nothing to reduce, or to sort"},
    "a ufunc's methods": {
        r"refusal: xp.maximum\(x, y, dtype='int64'\) .*": "NumPy casts no float to an integer unasked"},
    "adding at": {
        r"refusal: xp.\w+.at\(x, \[0\], 1\) .*": LISTS,
        r"refusal: xp.subtract.at\(x, m, 1\) \[bool\]": NO_LOOP},
    "scans and sorts": {
        r"refusal: xp.sort\(e\) \[bfloat16\]": "there is nothing to sort"},
    "reading by index": {
        r"refusal: x\[np.array\(.*": HOST_ARRAYS,
        r"refusal: x\[.*\[.*\].*\] .*": LISTS,
        r"refusal: x\[1.0\] .*": "CuPy takes the integer part; NumPy does not",
        r"refusal: x.flat\[.*": "ravel() does it everywhere"},
    "writing by index": {
        r"refusal: put\(x, \(?\[.*": LISTS,
        r"refusal: put\(xp.broadcast_to\(.*": "many elements are one: CuPy writes to it, NumPy does not"},
    "taking and putting": {
        r"refusal: xp.(take|put_along_axis)\(.*\[.*\].*\) .*": LISTS,
        r"refusal: xp.select\(.*": "NumPy's takes numbers too, CuPy's no bool",
        r"(refusal|values): xp.index_add\(x, i, y(\[:2\]|.astype\('float32'\))\) .*": "gpuprop adds in one type",
        r"refusal: xp.index_add\(.*\) \[bool\]": "gpuprop adds no bools",
        r"values: xp.nan_to_num\(g, .*\) \[bfloat16\]": "the numbers are float32 there, and CuPy takes 0"},
    "movement": {
        r"captured: .*(dot|inner|tensordot|einsum)\(.*": PRODUCT,
        r"captured: xp.matmul\(.*": OWN_PRODUCT,
        r"refusal: xp.einsum\('ii', q\) \[bfloat16\]": "NumPy's einsum takes no bfloat16",
        r"refusal: xp?.round\((x, )?1\) \[bool\]": NO_LOOP},
    "types": {
        r"captured: np.matmul\(x, y.T\) .*": PRODUCT,
        r"refusal: np.(concatenate|where)\(.*": "bodies call xp, not NumPy"},
    "making": {
        r"accident: xp.arange\(0, 3, 0\) .*": "both divide by zero",
        r"refusal: xp.(arange|linspace)\(s.*": "CuPy waits for the number",
        r"refusal: xp.fromfunction\(.*": "it would call NumPy's functions",
        r"refusal: xp.frombuffer\(.*": "a copy from the host is asarray's",
        r"refusal: xp.random.rand .*": "gpuprop.random is the same on every backend"},
    "two dtypes": {
        r"captured: xp.matmul\(.*": OWN_PRODUCT,
        r"values: xp.logical_and\(x, z\) \[int64, uint64\]": "CuPy takes a negative number for false",
        r"values: xp.searchsorted\(ordered, z\) \[int64, uint64\]": "CuPy compares a negative number as unsigned"},
    "a number beside an array": {
        r"values: x (//|%) (2\*\*40|1e300) .*": "CuPy divides by infinity as if it were a number",
        r"values: xp.clip\(x, None, np.nan\) .*": "nothing is greater than NaN, which is all CuPy asks",
        r"refusal: (y \*\* |xp.power\(y, )(np.int32\(-1\)|-1)\)? .*": "NumPy gives no integer for a fraction",
        r"refusal: xp.where\(m, x, 1j\) \[bfloat16\]": "half of the number would be lost"},
}


def scope(backend, given):
    """What expressions may name, and the arrays among it."""
    def put(a, key, value):
        a[key] = value
        return a

    iop = lambda a, sign, b: getattr(operator, f"i{OPERATORS[sign]}")(a, b)
    placed = {name: backend.asarray(a) for name, a in given.items()}
    return {**placed, "xp": backend.xp, "np": np, "bf16": array_calls.BF16.type, "copy": copy, "pickle": pickle,
            "put": put, "iop": iop}, placed


OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "truediv", "//": "floordiv", "%": "mod", "**": "pow", "&": "and",
             "|": "or", "^": "xor", "<<": "lshift", ">>": "rshift"}


class Outcome:
    """What a call gave: an error, or values, those of the arguments included; did the host wait, is it for capture?"""

    def __init__(self, backend, code, given):
        self.error, self.values, self.waits, self.captured = None, [], None, None
        names, placed = scope(backend, given)
        try:
            result = eval(code, names)
        except Exception as e:
            self.error = e
        else:
            self.values = [host(v) for v in leaves([result, *placed.values()])]

    def __str__(self):
        if self.error is not None:
            return f"{type(self.error).__name__}({(str(self.error).splitlines() or [''])[0][:80]})"
        results = self.values[:3]
        return ", ".join(f"{v.dtype}{v.shape}" if isinstance(v, np.ndarray) else repr(v)[:60] for v in results)


def on_strict(code, given):
    strict = get_backend("strict")
    strict.syncs.clear()
    outcome = Outcome(strict, code, given)
    outcome.waits = bool(strict.syncs)
    if outcome.error is None:
        names, _ = scope(strict, given)
        with strict.record() as recording:
            try:
                eval(code, names)
            except Exception as e:
                recording.refused.append(str(e))
        outcome.captured = not recording.refused
    return outcome


def on_cupy(code, given):
    cupy = get_backend("cupy")
    outcome = Outcome(cupy, code, given)  # compiles
    if outcome.error is None and HOSTCUDA:
        names, _ = scope(cupy, given)
        _, counts = operations(lambda: eval(code, names))
        outcome.waits = any(name.startswith(("[copy to host", "[synchronize")) for name in counts)
        outcome.captured = not outcome.waits and not any(name.startswith(("[copy to device", "<")) for name in counts)
    return outcome


def leaves(value):
    return [leaf for v in value for leaf in leaves(v)] if isinstance(value, list | tuple) else [value]


def host(value):
    return value._a if hasattr(value, "_a") else value.get() if hasattr(value, "__cuda_array_interface__") else value


def differences(code, given):
    """What the strict device does otherwise than CuPy: words of these, `refusal`, `result`, `values` and so on."""
    mine, real = on_strict(code, given), on_cupy(code, given)
    if isinstance(real.error, ImportError):
        yield "library", mine, real  # hostcuda has it not: leave the call out
    elif mine.error is not None and not isinstance(mine.error, REFUSALS):
        yield "accident", mine, real
    elif (mine.error is None) != (real.error is None) or len(mine.values) != len(real.values):
        yield "refusal", mine, real
    elif mine.error is None:
        for a, b in zip(mine.values, real.values, strict=True):
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape):
                if not near(a, b, given):
                    yield "values", a, b
            elif isinstance(a, np.ndarray) or isinstance(b, np.ndarray) or not same(a, b):
                yield "result", mine, real
        if HOSTCUDA and mine.waits != real.waits:
            yield "waits", mine.waits, real.waits
        elif HOSTCUDA and mine.captured != real.captured:
            yield "captured", mine.captured, real.captured


def same(a, b):
    plain = isinstance(a, bool | int | float | complex | str | tuple)
    return type(a) is type(b) and (not plain or a == b or a != a)


def near(a, b, given):
    """Are they equal, up to some roundings in the coarsest type that takes part?"""
    if a.dtype.kind in "biu":
        return bool((a == b).all())
    parts = {a.dtype, given["x"].dtype, given["z"].dtype}
    eps = max({2: 2.0**-8 if d.kind == "V" else 2.0**-11, 4: 2.0**-24, 8: 2.0**-53}.get(d.itemsize, 2.0**-24)
              for d in parts if d.kind in "fcV")
    a, b = (v.astype(complex if v.dtype.kind == "c" else float) for v in (a, b))
    with np.errstate(all="ignore"):
        scale = np.abs(b[np.isfinite(b)]).max(initial=1)
        return bool(np.isclose(a, b, rtol=16 * eps, atol=16 * eps * scale, equal_nan=True).all())


@pytest.mark.gpu
@pytest.mark.parametrize("group", array_calls.GROUPS)
def test_calls(group):
    known, met, wrong, count = DIFFERENT.get(group, {}), set(), [], 0
    for dtype, other, codes in array_calls.calls(group):
        given = array_calls.arrays(dtype, other)
        for code in codes:
            count += 1
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                found = list(differences(code, given))
            for what, mine, real in found:
                line = f"{what}: {code} [{dtype}{f', {other}' * (other != dtype)}]"
                pattern = next((p for p in known if re.fullmatch(p, line)), None)
                met.add(pattern)
                if pattern is None:
                    wrong.append(f"{line}: strict {mine}; CuPy {real}")
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:60])
    assert set(known) <= met or not HOSTCUDA  # what agrees by now is listed no more


def test_every_name_and_keyword_that_the_library_uses_is_called():
    text = "\n".join(code for group in array_calls.GROUPS for *_, codes in array_calls.calls(group) for code in codes)
    used = {(name, key) for name, keys in uses_in(ROOT / "gpuprop", xp="xp") for key in (None, *keys)
            if re.fullmatch(r"xp\.[\w.]+", name)}
    names = {name for name, _ in used}
    assert {"xp.exp", "xp.take_along_axis"} <= names  # it does find them
    assert {n for n in names if not re.search(rf"{n}\b", text)} == set()
    assert {(n, k) for n, k in used if k and not re.search(rf"{n}\([^|\n]*\b{k}=", text)} == set()
    assert {method for method in METHODS if not re.search(rf"\w\]?\.{method}\(", text)} == set()


