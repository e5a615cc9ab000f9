"""Pointwise bodies on CuPy: one kernel each, with NumPy's results."""

import ctypes
import gc
import inspect
import itertools
import math
import operator
import re
import types

import ml_dtypes
import numpy as np
import pytest
from counted import operations, settled

import gpuprop
import gpuprop.functional as F
import gpuprop.testing
from gpuprop import Parameter, optim
from gpuprop._core.philox import keep_mask, keep_rows, take_rng_key
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import get_backend
from gpuprop.random import NOISE, Generator

pytestmark = pytest.mark.gpu

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype("float32"), np.dtype("float64"), np.dtype("float16"), BFLOAT16]
INTEGERS = [np.dtype(f"{u}int{n}") for n in (8, 16, 32, 64) for u in ("", "u")]
HALVES = (np.dtype("float16"), BFLOAT16)
each_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)


def several(results):
    return results if type(results) is tuple else () if results is None else (results,)


def to_device(value):
    """A copy of an array on the device, with the same strides."""
    if not isinstance(value, np.ndarray):
        return value
    import cupy

    start, stop = np.lib.array_utils.byte_bounds(value)
    memory = cupy.asarray(np.frombuffer(ctypes.string_at(start, stop - start), "uint8"))
    pointer = memory.data + (value.ctypes.data - start)
    return cupy.ndarray(value.shape, value.dtype, pointer, value.strides)


def agree(found, expected, rtol=None):
    """Assert that shapes, dtypes and values agree.

    Integers are equal; floats differ by a few units in the last place, half types by one.
    """
    expected = np.asarray(expected)
    found = gpuprop.asnumpy(found)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    if expected.dtype.kind in "biu":
        np.testing.assert_array_equal(found, expected)
        return
    f, e = found.astype("float64"), expected.astype("float64")
    if found.dtype in HALVES:
        with np.errstate(all="ignore"):
            step = np.spacing(np.maximum(abs(found), abs(expected))).astype("float64")
            close = (np.isnan(f) & np.isnan(e)) | (f == e) | (abs(f - e) <= step)
        assert close.all(), (found, expected)
    elif found.dtype == "float32":
        np.testing.assert_allclose(f, e, rtol or 4e-6, 1e-6)
    else:
        np.testing.assert_allclose(f, e, rtol or 1e-13, 1e-15)


def check(fn, *arrays, rtol=None, **constants):
    """Assert that a body returns and updates the same on CuPy as on NumPy, in a single launch.

    Returns the results on CuPy.
    """
    call = pointwise(fn)
    device = [to_device(a) for a in arrays]
    found, done = operations(lambda: call(get_backend("cupy").xp, *device, **constants))
    with np.errstate(all="ignore"):
        expected = call(get_backend("numpy").xp, *arrays, **constants)
    name = re.sub(r"\W", "_", call.__name__)
    elements = math.prod(np.broadcast_shapes(*map(np.shape, arrays)))
    assert done is None or done == ({f"gpuprop_{name}": 1} if elements else {})
    for f, e in zip(several(found), several(expected), strict=True):
        agree(f, e, rtol)
    for f, e in zip(device, arrays, strict=True):
        if isinstance(e, np.ndarray):
            agree(f, e, rtol)
    return found


def normal(*shape, dtype="float32", seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


# ---- every body of the library ------------------------------------------------------------------

CONSTANTS = {
    "approximate": ["none", "tanh"],
    "beta": [1.0, 2.0],
    "delta": [0.8],
    "eps": [1e-3],
    "full": [True, False],
    "inplace": [False],
    "lambd": [0.3],
    "log_input": [True, False],
    "log_target": [True, False],
    "max_val": [0.5],
    "min_val": [-0.5],
    "negative_scale": [1.7],
    "rate": [0.5],
    "threshold": [0.4],
    "value": [-1.0],
}


def library_bodies():
    """Every pointwise function of gpuprop that exists, by module and name."""
    code = pointwise(lambda xp: None).__code__
    found = {}
    gc.unfreeze()  # conftest.py freezes what exists before the tests; captures must see the rest
    for f in gc.get_objects():
        if not isinstance(f, types.FunctionType) or f.__code__ is not code:
            continue
        if f.fn.__module__.startswith("gpuprop."):
            module = f.fn.__module__.removeprefix("gpuprop.")
            found.setdefault(f"{module}:{f.fn.__qualname__}", f)
    return found


def positive(n, dtype, *, count=7):
    rngs = [np.random.default_rng([n, i]) for i in range(n)]
    return [rng.uniform(0.1, 0.9, (3, count)).astype(dtype) for rng in rngs]


def cases(name, body, dtype):
    """Arrays and constants for a body: values between 0.1 and 0.9, so that results are finite."""
    module = name.partition(":")[0]
    _, *parameters = inspect.signature(body.fn).parameters.values()
    if module == "_core.philox":
        return  # its words are integers: tests/test_random.py compares their bits
    if module == "distributions._noise":
        words = np.random.default_rng(0).integers(0, 2**64, (2, 3, 7), dtype="uint64")
        names = [p.name for p in parameters]
        if "dtype" in names:
            yield [words[0]], {"dtype": dtype}
        else:  # a proposal of a sampler, or a count
            n = sum(name.startswith("word") for name in names)
            yield [*words[:n], *positive(len(names) - n, np.dtype("float64"))], {}
        return
    if module.startswith("distributions"):  # integrals, which are computed in float64
        dtype = np.dtype("float64")
    if name == "amp._grad_scaler:updated":  # its tracker is an integer, and `found` a bool
        scale, = positive(1, np.dtype("float32"))
        tracker = np.arange(scale.size, dtype="int32").reshape(scale.shape)
        yield [scale, tracker, tracker % 2 == 0, 2.0, 5, 0.5], {}
        return
    if name == "optim.swa_utils:_weight_of_current":
        for decay in (None, 0.9):
            yield [np.asarray(np.int64(3))], {"decay": decay, "dtype": "float32"}
        return
    if module.startswith("optim"):
        yield from optimizer_cases(name, body, parameters, dtype)
        return
    values_of = CONSTANTS
    if module == "functional._activation":
        values_of = {**CONSTANTS, "scale": [1.3]}
    names = [p.name for p in parameters]
    arrays = positive(sum(n not in values_of for n in names), dtype)
    if names[-1:] == ["dy"] or "mask" in names:
        arrays[-1] -= arrays[-1].dtype.type(0.5)
    constants = [n for n in names if n in values_of]
    for values in itertools.product(*(values_of[n] for n in constants)):
        yield arrays, dict(zip(constants, values, strict=True))


def optimizer_cases(name, body, parameters, dtype):
    """Arguments of an optimizer's coefficients, of its update, or of a part of its update."""
    numbers = [np.asarray(v) for v in np.random.default_rng(0).uniform(0.1, 0.9, 12)]
    compute_dtype = "float64" if dtype.itemsize == 8 else "float32"
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if name.endswith("coefficients"):
        yield [np.asarray(np.int64(3)), *numbers[:max(1, len(positional) - 1)]], \
            {"dtype": compute_dtype, "n_states": 0}
        return
    rules = [v for v in vars(optim).values() if isinstance(v, type) and v is not optim.Optimizer]
    rule = next((rule for rule in rules if getattr(rule, "update_kernel", 0) is body), None)
    if rule is None:  # a part of an update
        switches = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        for on in (True, False):
            yield positive(len(positional), dtype), dict.fromkeys(switches, on)
        return
    group = rule([Parameter(np.ones((2, 2)))]).param_groups[0]
    group = {**group, **dict.fromkeys(rule.flags, True), "momentum": 0.5, "weight_decay": 0.5}
    n_options = len(inspect.signature(rule.kernel_coefficients).parameters) - 2
    n_coefficients = len(rule.kernel_coefficients(np, 3, *numbers[:n_options]))
    coefficients = [a.astype(compute_dtype)
                    for a in numbers[:n_coefficients - len(rule.scalar_states)]]
    for on in (True, False):
        arrays = [*positive(2, dtype), *coefficients,
                  *positive(len(rule.state_names(group)), dtype)]
        yield arrays, dict.fromkeys(rule.kernel_constants(group), on)


@each_float
def test_every_body_of_the_library_is_one_kernel_with_numpys_results(dtype):
    bodies = library_bodies()
    assert len(bodies) > 80 and "optim._adam:adam_update" in bodies
    for name, body in bodies.items():
        for arrays, constants in cases(name, body, dtype):
            check(body.fn, *arrays, **constants)


# ---- dtypes -------------------------------------------------------------------------------------

ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv,
              operator.mod)
BITS = (operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift)
COMPARISONS = (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne)


def edges(dtype, n=60, seed=0):
    """Random values of a dtype, its extremes and small values."""
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.integers(0, 2, n).astype(dtype)
    if dtype.kind == "f" or dtype == BFLOAT16:
        special = [0.0, -0.0, 1, np.inf, -np.inf, np.nan]
        return np.concatenate([rng.standard_normal(n - 6) * 3, special]).astype(dtype)
    bounds = np.iinfo(dtype)
    some = rng.integers(bounds.min, bounds.max, n // 2, dtype, endpoint=True)
    few = rng.integers(max(bounds.min, -9), 9, n - n // 2 - 3).astype(dtype)
    extremes = np.array([bounds.min, bounds.max, 0], dtype)
    return rng.permutation(np.concatenate([some, few, extremes]))


PAIRS = [
    *zip(INTEGERS, INTEGERS, strict=True),
    *itertools.pairwise(INTEGERS),
    *itertools.pairwise(INTEGERS[::2]),
    (np.dtype("int64"), np.dtype("uint8")),
    (np.dtype("int16"), np.dtype("bool")),
]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=str)
def test_integer_arithmetic_is_numpys(first, second):
    """Overflow, division by zero, the minimum over -1, too large shifts, mixed comparisons."""
    is_integer = np.result_type(first, second).kind in "biu"
    binary = (*ARITHMETIC, *BITS) if is_integer else ARITHMETIC[:4]

    def body(xp, a, b):
        results = [f(a, b) for f in (*binary, *COMPARISONS)]
        if first.kind != "b":
            results += [f(a) for f in (operator.neg, operator.abs, operator.pos, xp.sign)]
        return *results, ~b, xp.maximum(a, b), xp.minimum(a, b)

    check(body, edges(first, seed=1), edges(second, seed=2))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_and_python_numbers(dtype):
    """A Python integer takes the array's dtype; a Python float makes float64 of integers.

    The same holds for numbers that are arguments.
    """

    def body(xp, a, n, x):
        return (
            a + 3, 100 - a, a * n, a // 7, a % 5, 7 // a, a ** 3,
            a << 2, a >> 1, a & 15, a | n, a ^ n,
            a / 2, a + 0.5, a * x, x - a,
            a < 3, a == n, a > 0.5,
            xp.where(a > 4, a, 0), xp.where(a > 4, 1, 0), xp.where(a > 4, x, n),
            a.astype("float32"), a.astype("int16"), a.astype("bool"), xp.sqrt(abs(a) + 1.0))

    check(body, edges(dtype), 3, 0.25)


OTHER_DTYPES = ["bool", "int8", "uint8", "int16", "int32", "int64", "float32", "float64"]


@pytest.mark.parametrize("other", OTHER_DTYPES)
@each_float
def test_two_dtypes_promote_as_in_numpy(dtype, other):
    """bfloat16 promotes as float16."""

    def body(xp, a, b):
        return (a + b, a * b, a / (abs(b) + 1), a < b, xp.maximum(a, b), xp.where(b > 0, a, b),
                xp.where(a > 0, 1.5, b))

    a, b = edges(dtype)[:54], edges(np.dtype(other), seed=3)[:54]
    b = b if b.dtype.kind in "bf" else b % 100
    check(body, a, b)


@each_float
def test_python_numbers_are_weak(dtype):
    def body(xp, a, n, x, yes):
        return (
            2.5 * a, a + 1, n * a, a - x, a * yes, x / a, a ** 2, a ** x,
            xp.maximum(a, 0), xp.minimum(x, a), xp.where(a > 0, a, 0.0), xp.where(yes, a, x),
            xp.clip(a, -1, 1.5), xp.clip(a, x, None), xp.sigmoid(a),
            (1 - x) * a, (n + 1) / 2 * a, n // 2 * a, math.sqrt(2) * a, a * True, -x * a,
            abs(a) ** 0.5, abs(a) ** -1.5)

    found = check(body, normal(50, dtype=dtype), 3, 0.3, True)
    assert {str(f.dtype) for f in found} == {str(dtype)}


def test_numpy_scalars_are_strong():
    def body(xp, a, s):
        return a * np.float64(0.5), np.float32(2) * a, a + s, xp.float32(3) - a, a * xp.pi

    for dtype in FLOATS[:3]:
        check(body, normal(5, dtype=dtype), np.float64(0.1))


UNARY = """exp expm1 log log1p sqrt square sin cos tan tanh sinh cosh arctan arcsinh cbrt floor ceil
    trunc rint isnan isinf isfinite logical_not exp2 log2 log10 fabs signbit""".split()
BINARY = "maximum minimum fmax fmin arctan2 hypot copysign logaddexp logical_and".split()
SPECIAL = "erf erfc sigmoid lgamma digamma".split()
SOME_DTYPES = [*FLOATS, np.dtype("int32"), np.dtype("int8"), np.dtype("bool")]


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
def test_functions(dtype):
    """Functions that NumPy and CuPy share, and gpuprop's own; dtypes of results are NumPy's."""
    unary = UNARY + SPECIAL if dtype in FLOATS else UNARY

    def body(xp, a, b):
        results = [getattr(xp, n)(a) for n in unary] + [getattr(xp, n)(a, b) for n in BINARY]
        results += [xp.abs(a), xp.absolute(a), xp.add(a, 1.5)]
        return *results, *(xp.frexp(a) if dtype.kind != "b" else ())

    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.3, 4, 40).astype(dtype) for _ in range(2))
    check(body, a, b, rtol=1e-5 if dtype == "float32" else 1e-12)


@each_float
def test_nan_propagates(dtype):
    def body(xp, a, b):
        return (
            xp.maximum(a, b), xp.minimum(a, b), xp.clip(a, -1, 1), xp.where(a < b, a, b),
            xp.sign(a), abs(a), a < b, a != a, xp.isnan(b), xp.maximum(a, 0), xp.minimum(0.5, b))

    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5], dtype)
    check(body, *(np.ascontiguousarray(a) for a in np.broadcast_arrays(values[:, None], values)))


@each_half
def test_halves_are_rounded_once(dtype):
    """1 + t + t is more than 1 in float32, but 1 if each sum is rounded to the half type."""
    tiny = 2.0 ** (-8 if dtype == BFLOAT16 else -11)

    def body(xp, a, t):
        return a + t + t, (a + t) * 2.0**15 * 2.0**15 / 2.0**30

    found = check(body, np.ones(3, dtype), np.full(3, tiny, dtype))
    assert (gpuprop.asnumpy(found[0]).astype(float) == 1 + 2 * tiny).all()


@each_half
def test_a_cast_to_a_half_type_rounds(dtype):
    def body(xp, a):
        return a.astype(str(dtype)).astype("float32"), a.astype(dtype)

    found = check(body, normal(50))
    assert found[0].dtype == "float32" and found[1].dtype == dtype


def test_two_half_types_do_not_mix():
    a, b = np.ones(3, "float16"), np.ones(3, BFLOAT16)
    add = pointwise(lambda xp, a, b: a + b)
    for backend in map(get_backend, ("numpy", "cupy")):
        with pytest.raises(TypeError, match="float16 and bfloat16 in one elementwise expression"):
            add(backend.xp, backend.asarray(a), backend.asarray(b))


def test_casts_to_the_dtype_of_another_array():
    for dtype in FLOATS:
        arrays = normal(5, dtype="float64"), normal(5, dtype=dtype)
        check(lambda xp, a, b: a.astype(b.dtype) * 2, *arrays)


def test_literals():
    """Infinities, NaN, the extremes of integers, and an integer that is out of range."""

    def body(xp, a):
        return a * math.inf, a + math.nan, a - 1e300, xp.where(a > 0, -math.inf, -0.0)

    check(body, normal(9, dtype="float64"))
    check(lambda xp, a: (a + -2**63, a ^ (2**63 - 1), a - -1), edges(np.dtype("int64")))
    check(lambda xp, a: (a + (2**64 - 1), a & 2**63), edges(np.dtype("uint64")))
    for xp in (get_backend("numpy").xp, get_backend("cupy").xp):
        with pytest.raises(OverflowError, match="300 out of bounds for uint8"):
            pointwise(lambda xp, a: a + 300)(xp, xp.ones(3, "uint8"))


# ---- memory -------------------------------------------------------------------------------------

WHOLE = normal(4, 6, 5)
LAYOUTS = {
    "contiguous": WHOLE,
    "transposed": WHOLE.T,
    "sliced": WHOLE[1:, ::2, 1:4],
    "negative": WHOLE[::-1, :, ::-2],
    "mixed": WHOLE.transpose(1, 2, 0)[::-1],
    "empty": WHOLE[:0],
    "one": WHOLE[:1, :1, :1],
    "0-d": normal(),
    "broadcast": np.broadcast_to(WHOLE[:, :1], WHOLE.shape),
    "row": WHOLE[0, 0],
    "column": WHOLE[:, :, :1],
}


def mixed(xp, a, b, c):
    return a * b + c, xp.where(a < c, a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    a = LAYOUTS[layout]
    check(mixed, a, a, a)
    check(mixed, a, np.asarray(np.float32(2)), 0.5)
    check(mixed, np.asarray(np.float32(2)), a, np.ones(a.shape[-1:], "float32"))
    if a.ndim == 3:
        column = np.ones((a.shape[1], 1), "float32")
        check(mixed, a, column, np.ascontiguousarray(a.copy()))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "broadcast"])
@each_float
def test_updates_in_place_in_every_layout(layout, dtype):
    def body(xp, m, g, rate):
        m += rate * (g - m)
        m *= 0.5
        return m * g

    g = LAYOUTS[layout]
    m = np.empty_like(g, dtype)  # of the same order in memory
    m[...] = normal(*g.shape, seed=4)
    g = g.astype(dtype)
    if m.ndim:
        m, g = m[::-1], g[..., ::-1]
    check(body, m, g, np.asarray(0.3, dtype))


def test_results_have_the_common_shape_and_are_new():
    cupy = get_backend("cupy")
    a, b = cupy.xp.ones((3, 1), "float32"), cupy.xp.ones(4, "float32")
    results = pointwise(lambda xp, a, b: (a, a + b, b * 2))(cupy.xp, a, b)
    assert [r.shape for r in results] == [(3, 4)] * 3
    same = pointwise(lambda xp, a: a)(cupy.xp, b)
    same += 1
    assert same is not b and (b == 1).all()


def test_0d_operands_give_0d_arrays():
    found = check(lambda xp, a, b: (a + b, a * 2), np.asarray(3.0), np.asarray(np.float32(2)))
    assert all(type(f) is get_backend("cupy").array_type and f.shape == () for f in found)


# ---- in place -----------------------------------------------------------------------------------


def test_every_name_of_an_updated_argument_has_the_new_value():
    def body(xp, m, v, g):
        other, before = m, m * 1
        m += g
        other *= 2
        v -= m
        m = g  # binds the name, does not change the array
        return other, before, v * m

    check(body, *(normal(7, seed=i) for i in range(3)))


def test_every_operator_updates_in_place():
    def floats(xp, a, b, c, d, e, f, x):
        a += x
        b -= x
        c *= x
        d /= x
        e **= 2
        f //= x

    def integers(xp, a, b, c, d, e, f, x):
        a &= x
        b |= x
        c ^= x
        d <<= x
        e >>= x
        f %= x

    check(floats, *(abs(normal(9, seed=i, dtype="float64")) for i in range(7)))
    check(integers, *(np.random.default_rng(i).integers(1, 9, 9) for i in range(7)))


def test_an_assigned_value_replaces_the_old_one():
    def body(xp, m, v, n, g, x):
        m[...] = xp.maximum(m, g)
        m += x
        v[...] = x  # from a 0-d array
        v *= g
        n[...] = 3
        return m * v

    check(body, *(normal(7, seed=i, dtype="float16") for i in range(4)), np.float32(2))
    check(body, *(normal(7, seed=i) for i in range(4)), np.asarray(np.float32(2)))

    def indexed(xp, m, g):
        m[0] = g

    with pytest.raises(TypeError, match="assigns to an index"):
        pointwise(indexed)(get_backend("cupy").xp, to_device(normal(3)), to_device(normal(3)))

    def cast(xp, m, g):
        m[...] = g

    check(cast, np.arange(5), normal(5))
    check(cast, np.arange(5, dtype="int8"), np.arange(5))


def test_an_update_keeps_the_dtype_or_raises():
    def body(xp, m, g):
        m += g

    check(body, normal(5), normal(5, dtype="float64"))
    check(body, normal(5, dtype="float16"), normal(5, dtype="float64"))
    check(body, np.arange(5, dtype="int8"), np.arange(5))
    signed, unsigned = np.arange(5, dtype="int8"), np.arange(5, dtype="uint8")
    for m, g in ((np.arange(5), normal(5)), (unsigned, signed)):
        for backend in map(get_backend, ("numpy", "cupy")):
            with pytest.raises(TypeError, match=r"(?i)cannot"):
                pointwise(body)(backend.xp, backend.asarray(m), backend.asarray(g))


@pytest.mark.parametrize(("m", "g"), [((1, 4), (3, 4)), ((), (3,)), ((4,), (3, 1))], ids=str)
def test_an_updated_argument_must_have_the_common_shape(m, g):
    def body(xp, m, g):
        m += g

    for backend in map(get_backend, ("numpy", "cupy")):
        with pytest.raises(ValueError, match=r"operand|mismatched|0-d"):
            arrays = [backend.xp.ones(shape, "float32") for shape in (m, g)]
            pointwise(body)(backend.xp, *arrays)


def test_one_array_may_be_two_arguments():
    cupy = get_backend("cupy").xp
    a = cupy.arange(6.0)
    pointwise(lambda xp, m, g: m.__iadd__(g * m))(cupy, a, a)
    assert a.tolist() == [x + x * x for x in range(6)]


def test_an_update_of_a_number_makes_a_new_number():
    def body(xp, a, x):
        x += 1
        x *= a
        return x

    check(body, normal(4), 2.5)


def test_a_body_may_return_nothing():
    cupy = get_backend("cupy").xp
    a = cupy.ones(3)
    found, done = operations(lambda: pointwise(lambda xp, a: None)(cupy, a))
    assert found is None and not done

    def body(xp, a):
        a += 1

    assert pointwise(body)(cupy, a) is None and (a == 2).all()
    assert type(pointwise(lambda xp, a: (a * 2,))(cupy, a)) is tuple


# ---- one kernel per signature -------------------------------------------------------------------


def test_the_body_runs_for_new_signatures_only():
    ran = []

    @pointwise
    def body(xp, a, b, c=None, *, k=1.0):
        ran.append(k)
        return a * b * k if c is None else a * b * k + c

    cupy = get_backend("cupy").xp
    a = cupy.ones((2, 3), "float32")
    scalar = lambda v: cupy.asarray(np.float32(v))
    for b in (0.1, 0.2, 1e30):
        assert body(cupy, a, b)[0, 0] == np.float32(b)
    assert len(ran) == 1
    for b in (1, 2):
        body(cupy, a[0], b)
    assert len(ran) == 2
    for b in (scalar(3), scalar(4)):
        assert body(cupy, a, b)[1, 2] == b
    assert len(ran) == 3
    new = [
        (a, a),
        (a, a, None),
        (a, a, 1),
        (a, a, a),
        (a, a, scalar(1)),
        (a, a.astype("float16")),
        (scalar(1), a),
        (scalar(1), scalar(1)),
        (a, True),
    ]
    for n, arrays in enumerate(new, 4):
        for _ in range(2):
            body(cupy, *arrays)
        assert len(ran) == n


def test_constants_differ_by_value_and_type():
    ran = []

    @pointwise
    def body(xp, a, *, k, word="a"):
        ran.append(k)
        return a * k

    cupy = get_backend("cupy").xp
    a = cupy.ones(3, "int64")
    for k in (0.0, -0.0, 1, 1.0, True, math.nan, float("nan"), np.float32(1), (1, 2)[0]):
        body(cupy, a, k=k)
    assert [str(k) for k in ran] == ["0.0", "-0.0", "1", "1.0", "True", "nan", "1.0"]
    assert math.copysign(1, body(cupy, a, k=-0.0)[0]) == -1 and body(cupy, a, k=1).dtype == "int64"
    body(cupy, a, k=1, word="b")
    assert len(ran) == 8


def test_results_of_0d_operands_are_computed_once_per_thread():
    from gpuprop_cupy.pointwise import Trace

    def body(xp, a, s, x):
        rate = xp.exp(s) * x
        return a * rate, a - rate * (xp.sqrt(s) + 1)

    cupy = get_backend("cupy").xp
    arrays = cupy.ones(3, "float32"), cupy.asarray(np.float32(0.5)), 0.25
    trace = Trace(body, arrays, {})
    assert sum("exp" in line for line in trace.prelude) == 1
    assert sum("sqrt" in line for line in trace.prelude) == 1
    assert not any("exp" in line or "sqrt" in line for line in trace.lines)
    assert len(trace.lines) == 3, "the element, a product, a difference"
    check(body, normal(5), np.asarray(np.float32(0.5)), 0.25)


def test_common_subexpressions_are_computed_once():
    from gpuprop_cupy.pointwise import Trace

    def body(xp, a, b):
        return xp.tanh(a * b) + xp.tanh(a * b), xp.where(a < 0, a * b, 0)

    trace = Trace(body, [get_backend("cupy").xp.ones(3)] * 2, {})
    assert sum("tanh" in line for line in trace.lines) == 1
    assert sum(" * " in line for line in trace.lines) == 1


def test_a_body_may_call_another_and_generic_compiles_nothing():
    inner = pointwise(lambda xp, a: xp.exp(a) + 1)

    def outer(xp, a):
        return inner(xp, a) * 2

    check(outer, normal(5))
    cupy = get_backend("cupy").xp
    a = cupy.ones(3)
    with gpuprop.generic():
        _, done = operations(lambda: pointwise(outer)(cupy, a))
    assert sum(done.values()) == 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arithmetic_is_not_contracted(dtype):
    """a * b + c with one rounding differs, but random numbers need the same bits everywhere."""
    from gpuprop_cupy import pointwise as module

    body = pointwise(lambda xp, a, b, c: a * b + c)
    arrays = [normal(1000, dtype=dtype, seed=i) for i in range(3)]
    found = body(get_backend("cupy").xp, *map(to_device, arrays))
    np.testing.assert_array_equal(gpuprop.asnumpy(found), arrays[0] * arrays[1] + arrays[2])
    assert "--fmad=false" in module.OPTIONS  # the compiler's default is to contract


def test_a_range_stands_for_its_elements_along_the_last_axis():
    from gpuprop_cupy.pointwise import compiled

    ran = []

    @compiled
    def body(xp, index, a, s):
        ran.append(1)
        return index * 10 + a, index.astype("float32") * s

    cupy = get_backend("cupy").xp
    s = cupy.asarray(np.float32(0.5))
    for r in (range(5), range(3, 8), range(7, -3, -2), range(0)):
        elements = np.arange(r.start, r.stop, r.step)
        halves = np.float32(r) * np.float32(0.5)
        last = np.arange(5)[:len(r)], np.arange(12).reshape(3, 4, 1)[::-1], np.ones((2, 1), "int64")
        for a in last:
            shape = np.broadcast_shapes(a.shape, (len(r),))
            sums, products = map(gpuprop.asnumpy, body(cupy, r, to_device(a), s))
            np.testing.assert_array_equal(sums, elements * 10 + a)
            np.testing.assert_array_equal(products, np.broadcast_to(halves, shape))
    assert len(ran) == 1
    (sums, _), done = operations(lambda: body(cupy, range(4), 3, s))
    assert sums.tolist() == [3, 13, 23, 33] and done == {"gpuprop_body": 1}


# ---- what a body must not do --------------------------------------------------------------------

NOT_ALLOWED = {
    r"`if`": lambda xp, a: a if a > 0 else -a,
    r"`if`.*max": lambda xp, a: max(a, 0),
    r"float\(\)": lambda xp, a: float(a) * a,
    r"int\(\)": lambda xp, a: int(a) * a,
    r"len\(\)": lambda xp, a: a * len(a),
    r"iterates": lambda xp, a: sum(a),
    r"indexes": lambda xp, a: a[0] * a,
    r"as an index": lambda xp, a: [1, 2][a] * a,
    r"\.shape": lambda xp, a: a * a.shape[0],
    r"\.sum": lambda xp, a: a - a.sum(),
    r"\.T ": lambda xp, a: a.T,
    r"xp\.sum": lambda xp, a: xp.sum(a),
    r"xp\.matmul": lambda xp, a: xp.matmul(a, a),
    r"xp\.concatenate": lambda xp, a: xp.concatenate([a, a]),
    r"xp\.no_such_name": lambda xp, a: xp.no_such_name(a),
    r"matrices": lambda xp, a: a @ a,
    r"operand is of type numpy.ndarray": lambda xp, a: a + np.ones(3),
    r"operand is of type builtins.NoneType": lambda xp, a: a + None,
    r"returns int": lambda xp, a: 1,
    r"returns list": lambda xp, a: [a, a],
}


@pytest.mark.parametrize("message", NOT_ALLOWED)
def test_an_error_names_what_is_not_elementwise(message):
    cupy = get_backend("cupy").xp
    fn = NOT_ALLOWED[message]
    fn.__name__ = "my_body"
    body = pointwise(fn)
    for _ in range(2):
        with pytest.raises(TypeError, match=f"my_body: .*{message}.*pointwise body"):
            body(cupy, cupy.ones(3, "float32"))


def test_arguments_must_be_cupy_arrays_or_numbers():
    cupy = get_backend("cupy").xp
    body = pointwise(lambda xp, a, b, k=0: a + b)
    for wrong in (np.ones(3), [1, 2], "word", 1j):
        with pytest.raises(TypeError, match="argument 1 is of type"):
            body(cupy, cupy.ones(3), wrong)
    with pytest.raises(TypeError, match=r"k=ndarray.*constant"):
        body(cupy, cupy.ones(3), 1, k=cupy.ones(3))
    with pytest.raises(OverflowError):
        body(cupy, cupy.ones(3), 2**63)
    with pytest.raises(ValueError, match="broadcast"):
        body(cupy, cupy.ones(3), cupy.ones(4))
    with pytest.raises(TypeError, match="bitwise_and"):
        pointwise(lambda xp, a: a & 1)(cupy, cupy.ones(3))


# ---- launches of the library --------------------------------------------------------------------


@pytest.mark.hostcuda
@each_half
def test_dropout_is_three_launches(dtype):
    with gpuprop.use("cupy") as backend:
        for x in (backend.asarray(normal(8, 100)), backend.asarray(normal(8, 100, dtype=dtype))):
            done = settled(lambda x=x: F.dropout(x, 0.3))
            assert done == {"gpuprop_take": 1, "gpuprop_kept": 1, "gpuprop_mask_and_scale": 1}


def test_another_probability_compiles_nothing(monkeypatch):
    from gpuprop_cupy import pointwise as module

    with gpuprop.use("cupy") as backend:
        x = backend.asarray(normal(8, 100))
        F.dropout(x, 0.3)
        monkeypatch.setattr(module, "Trace", None)
        for p in (0.1, 0.5, 0.99):
            kept = gpuprop.asnumpy(F.dropout(x, p)) != 0
            assert abs(kept.mean() - (1 - p)) < 0.1


@pytest.mark.hostcuda
def test_rng_keys_and_masks_are_one_launch_with_numpys_bits():
    def calls(backend):
        state = backend.asarray(np.array([2**64 - 5, 2**40], "uint64"))
        rows = backend.asarray(np.arange(6).reshape(2, 3)).T[::-1]
        return state, {
            "take": lambda: take_rng_key(state),
            "kept": lambda: keep_mask(state, (3, 7, 5), 0.4),
            "kept_in_rows": lambda: keep_rows(state, rows, 21, 3, 17, 0.4),
        }

    found = {}
    for backend in map(get_backend, ("numpy", "cupy")):
        state, named = calls(backend)
        arrays = [a for call in named.values() for a in (call(), state)]
        found[backend.name] = [gpuprop.asnumpy(a) for a in arrays]
    for kernel, call in named.items():
        assert settled(call) == {f"gpuprop_{kernel}": 1}
    for a, b in zip(found["numpy"], found["cupy"], strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)


@pytest.mark.hostcuda
@pytest.mark.parametrize("draw", ["uniform", "normal", "truncated_normal", "bernoulli", "integers"])
def test_noise_is_few_launches(draw):
    arguments = {"bernoulli": (0.3,), "integers": (-5, 2**62)}.get(draw, ())
    with gpuprop.use("cupy"):
        generator = Generator(1)
        method = getattr(generator, draw)
        done = settled(lambda: method(*arguments, shape=(50, 3), stream=NOISE))
        assert sum(done.values()) <= 6 and not any("copy to" in name for name in done)


@pytest.mark.hostcuda
@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_an_optimizers_step_is_three_launches(rule):
    options = {
        "SGD": {"momentum": 0.9},
        "Adam": {"amsgrad": True},
        "RMSprop": {"centered": True, "momentum": 0.5},
    }
    with gpuprop.use("cupy") as backend:
        params = [gpuprop.Parameter(backend.asarray(normal(5, 3))) for _ in range(4)]
        optimizer = getattr(optim, rule)(params, weight_decay=0.1, **options.get(rule, {}))
        for p in params:
            p.grad = backend.asarray(normal(5, 3, seed=1))
        done = settled(optimizer.step)
        family = rule.lower().removesuffix("w")
        assert sum(done.values()) == 3
        assert {f"gpuprop_{family}_update", f"gpuprop_{family}_coefficients"} < set(done)


def test_integer_arguments_are_python_integers():
    """An integer out of range raises at every call, as in NumPy; Python computes with integers."""
    body = pointwise(lambda xp, x, n: x + n)
    xp = get_backend("cupy").xp
    for dtype, fits, too_large in (("uint8", 250, 300), ("int8", -128, 200), ("uint64", 2**62, -1)):
        x = xp.zeros(2, dtype)
        assert body(xp, x, fits).tolist() == [fits] * 2
        with pytest.raises(OverflowError, match=f"{too_large} out of bounds for {dtype}"):
            body(xp, x, too_large)
    power = pointwise(lambda xp, x, n: x * n**-1)
    large = pointwise(lambda xp, x, n, m: x * (n * n) + n // m)
    for n in (2, 4, 2):
        assert power(xp, xp.ones(2), n).tolist() == [1 / n] * 2
    assert large(xp, xp.ones(2), 2**40, 3).tolist() == [2.0**80 + 2**40 // 3] * 2
    with pytest.raises(ZeroDivisionError):
        large(xp, xp.ones(2), 1, 0)
