"""The NumPy backend: special functions, elementwise bodies in blocks and threads, freed memory."""

import itertools
import math
import os
import platform
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import scipy.special

import gpuprop as gp
from gpuprop._core.extras import NAMES as EXTRAS
from gpuprop_numpy import NumpyBackend, memory, pointwise, scatter, threads, xp
from gpuprop_numpy.scatter import index_add

r = np.random.default_rng(0)
inf, nan, bfloat16 = math.inf, math.nan, np.dtype(ml_dtypes.bfloat16)


@pytest.fixture
def backend():
    return NumpyBackend()


def run(code, **env):
    """Standard output of `code`, run by a fresh interpreter."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- arrays --------------------------------------------------------------------------------------


def test_namespace_is_numpy_plus_extras():
    assert all(callable(getattr(xp, extra)) for extra in EXTRAS)
    assert xp.exp is np.exp and xp.linalg.norm is np.linalg.norm
    with pytest.raises(AttributeError, match="softplus"):
        xp.softplus  # noqa: B018


def test_import_loads_no_optional_package():
    code = "import sys, gpuprop_numpy; print({'scipy', 'ml_dtypes'} & set(sys.modules))"
    assert run(code) == "set()"


def test_asarray(backend):
    a = r.standard_normal((2, 3))
    assert backend.asarray(a) is a and backend.asarray(a, "float64") is a
    assert backend.asarray(a, "float32").dtype == "float32"
    assert type(backend.asarray(a.view(np.recarray))) is np.ndarray
    assert backend.asarray([[1, 2], [3, 4]]).shape == (2, 2)
    with pytest.raises(TypeError, match=r"\.filled"):
        backend.asarray(np.ma.masked_array(a, a > 0))


def test_to_numpy_copies(backend):
    a = np.zeros((2, 3)).T
    copy = backend.to_numpy(a)
    copy += 1
    assert not a.any() and copy.strides == a.strides


def test_own(backend):
    a = np.zeros(3)
    assert backend.own(a) is a
    out = backend.own(a.sum())
    assert type(out) is np.ndarray and out.shape == () and out.dtype == a.dtype


@pytest.mark.parametrize("check", [lambda *a: NumpyBackend().check(*a), xp.check])
def test_check(check):
    labels = np.array([0, 3, 9])
    check(labels < 10, "labels below 10")
    check(labels[:0] > 5, "no labels")
    with pytest.raises(IndexError, match="labels below 9"):
        check(labels < 9, "labels below 9")
    table = np.array([[0, 1], [5, 2]])
    with pytest.raises(IndexError, match=r"below 4, got 5 at index \(1, 0\)"):
        check(table < 4, "below 4", table)
    with pytest.raises(IndexError, match=r"got 7 at index \(\)"):
        check(np.array(7) < 4, "below 4", np.array(7))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int32", "bfloat16"])
def test_where_equals_numpys(dtype):
    """Bit for bit, for masks, numbers and arrays of every kind, and with NaN and infinities."""
    masks = [r.random((80, 80)) < 0.5, (r.random((80, 80)) < 0.5).T, r.random((160, 80))[::2] < 0.5,
             np.broadcast_to(r.random((80, 1)) < 0.5, (80, 80)), r.random((80, 80)), True]
    values = r.standard_normal((2, 80, 80))
    values[0, :9] = nan, inf, -inf, -0.0, *[1.0] * 76
    with np.errstate(invalid="ignore"):
        x = values.astype(bfloat16 if dtype == "bfloat16" else dtype)
    choices = [x, x[:, ::-1], x[0].T, x[0, :, :1], x[0, 3, 0]]
    for mask, a in itertools.product(masks, choices):
        for pair in (a, 0), (0, a), (a, 0.0), (-0.0, a), (a, x), (a, 2), (0.1, a), (False, a):
            got, want = xp.where(mask, *pair), np.where(mask, *pair)
            assert got.dtype == want.dtype and got.shape == want.shape
            assert got.tobytes() == want.tobytes()


def test_memory(backend):
    found = backend.memory()
    assert all(type(n) is int and n > 0 for n in found.values())
    assert not found or found["used"] < found["total"]


# ---- special functions ---------------------------------------------------------------------------

both = np.concatenate([r.uniform(-6, 6, 4000), r.standard_normal(4000), r.uniform(-26, 26, 4000)])
tiny = 10.0 ** r.uniform(-300, -1, 500)
positive = np.concatenate([
    abs(both), 10.0 ** r.uniform(-37, 37, 2000), 1 + tiny, 2 - tiny, [8, 10, 0.5, 1, 2]])
within_one = np.concatenate([
    r.uniform(-1, 1, 4000), tiny, -tiny, 1 - 10.0 ** r.uniform(-15, -1, 500), [0.8, -0.8]])
ACCURACY = {  # SciPy's function, the points, and the absolute tolerance near the function's zeros
    "sigmoid": (scipy.special.expit, np.concatenate([both, 30 * both]), 0),
    "erf": (scipy.special.erf, np.concatenate([both, tiny]), 0),
    "erfc": (scipy.special.erfc, both, 0),
    "erfinv": (scipy.special.erfinv, within_one, 0),
    "lgamma": (scipy.special.gammaln, positive, 1e-15),
    "lgamma below 0": (scipy.special.gammaln, both[both < 0], 1e-13),
    "digamma": (scipy.special.psi, positive, 1e-15),
    "digamma below 0": (
        scipy.special.psi, both[(both < 0) & (abs(both - np.rint(both)) > 0.01)], 1e-13),
}


@pytest.mark.parametrize("case", ACCURACY)
def test_special_functions_equal_scipys(case):
    theirs, points, tolerance = ACCURACY[case]
    ours = getattr(xp, case.split()[0])
    for x, rtol, atol in (
            (points, 1e-13, tolerance),
            (points.astype("float32"), 5e-7, max(tolerance, 2.0**-126))):
        with np.errstate(all="ignore"):
            want = theirs(x.astype(float)).astype(x.dtype)
        np.testing.assert_allclose(ours(x), want, rtol=rtol, atol=atol)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 7, 12, 25])
def test_polygamma_equals_scipys(n):
    above = np.concatenate([abs(both) + 1e-3, 10.0 ** r.uniform(-3, 3, 500)])
    # poles are at 0, -1 ..., zeros near halves
    between = r.uniform(0.1, 0.4, 300) - r.integers(1, 30, 300)
    atol = 1e-15 if n == 0 else 0
    for x in (above, between):
        want = scipy.special.polygamma(n, x)
        np.testing.assert_allclose(xp.polygamma(n, x), want, rtol=1e-12, atol=atol)


def test_polygamma_of_negative_order_raises():
    with pytest.raises(ValueError, match=r"order n .*-1"):
        xp.polygamma(-1, 1.0)


POINTS = [0.0, -0.0, inf, -inf, nan, 1.0, -1.0, -2.0, -3.0, 1e300, -1e300, 800.0, -800.0]
# PyTorch's values, except that PyTorch gives polygamma(1, -1) = 6.6e32 and polygamma(2, inf) = NaN
VALUES = {
    "sigmoid": [0.5, 0.5, 1, 0, nan, 0.7310585786300049, 0.2689414213699951, 0.11920292202211755,
                0.04742587317756678, 1, 0, 1, 0],
    "erf": [0, 0, 1, -1, nan, 0.8427007929497149, -0.8427007929497149, -0.9953222650189527,
            -0.9999779095030014, 1, -1, 1, -1],
    "erfc": [1, 1, 0, 2, nan, 0.15729920705028513, 1.8427007929497148, 1.9953222650189528,
             1.9999779095030015, 0, 2, 0, 2],
    "erfinv": [0, 0, nan, nan, nan, inf, -inf, nan, nan, nan, nan, nan, nan],
    "lgamma": [inf, inf, inf, inf, nan, 0, inf, inf, inf, 6.897755278982137e302, inf,
               4545.266118970374, inf],
    "digamma": [-inf, inf, inf, nan, nan, -0.5772156649015329, nan, nan, nan,
                690.7755278982137, nan, 6.683986597459614, nan],
    "polygamma 1": [inf, inf, 0, nan, nan, 1.6449340668482264, inf, inf, inf, 1e-300, inf,
                    0.0012507815755207318, inf],
    "polygamma 2": [-inf, -inf, 0, nan, nan, -2.4041138063191885, -inf, -inf, -inf,
                    0, -inf, -1.5644543457024894e-06, -inf],
}


@pytest.mark.parametrize("case", VALUES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_special_values(case, dtype):
    name, *order = case.split()
    keep = [dtype == "float64" or abs(p) != 1e300 for p in POINTS]
    x, want = (np.array(values)[keep].astype(dtype) for values in (POINTS, VALUES[case]))
    got = getattr(xp, name)(*map(int, order), x)
    np.testing.assert_allclose(got, want, rtol=1e-12 if dtype == "float64" else 3e-7)


def test_special_functions_keep_the_sign_of_zero():
    for f in (xp.erf, xp.erfinv):
        assert np.signbit(f(np.array([0.0, -0.0]))).tolist() == [False, True]


@pytest.mark.parametrize(
    "name", [n for n in EXTRAS if n not in ("polygamma", "index_add", "check")])
def test_special_functions_keep_dtype_and_shape(name):
    f = getattr(xp, name)
    x = r.uniform(0.1, 0.9, (4, 5))
    before = x.copy()
    want = f(x)
    np.testing.assert_array_equal(x, before)
    for dtype, rtol in {"float32": 1e-6, "float16": 1e-3, bfloat16: 8e-3}.items():
        y = x.astype(dtype)
        got, exact = f(y), f(y.astype(float))
        assert got.dtype == dtype and got.shape == x.shape
        np.testing.assert_allclose(got.astype(float), exact, rtol=rtol)
    np.testing.assert_array_equal(f(x.T), want.T)
    np.testing.assert_array_equal(f(x[::-2, ::2]), want[::-2, ::2])
    assert f(np.zeros((0, 3), "float32")).shape == (0, 3)
    assert f(np.array([0, 1])).dtype == f(True).dtype == f(0.5).dtype == "float64"
    assert f(np.float32(0.5)).dtype == "float32" and np.ndim(f(np.array(0.5))) == 0
    with pytest.raises(TypeError, match=f"{name}: .*real numbers.*complex"):
        f(x + 1j)


# ---- elementwise bodies --------------------------------------------------------------------------


def f(*shape, scale=1.0):
    return (scale * r.standard_normal(shape)).astype("float32")


LAYOUTS = {
    "flat": lambda: [f(1000), f(1000)],
    "rows": lambda: [f(50, 30), f(30)],
    "columns": lambda: [f(50, 30), f(50, 1)],
    "channels": lambda: [f(3, 4, 500), f(4, 1)],
    "outer": lambda: [f(60, 1), f(1, 60)],
    "one element": lambda: [f(1000), f(1, 1)],
    "one element of more axes": lambda: [f(1000), f(1, 1, 1)],
    "0-d": lambda: [f(40, 30), f(1).reshape(())],
    "number": lambda: [f(1000), 2.0],
    "number first": lambda: [2, f(30, 40)],
    "transposed": lambda: [f(40, 30).T, f(30, 40)],
    "both transposed": lambda: [f(40, 30).T, f(40, 30).T],
    "channels last": lambda: [f(2, 9, 9, 8).transpose(0, 3, 1, 2), f(8, 1, 1)],
    "sliced": lambda: [f(80, 60)[::2, ::2], f(40, 60)[:, ::2]],
    "backwards": lambda: [f(1000)[::-1], f(1000)],
    "spread": lambda: [np.broadcast_to(f(30), (50, 30)), f(50, 30)],
    "a long row": lambda: [f(1, 2, 1000), f(2, 1)],
    "small first": lambda: [f(30), f(50, 30)],
    "many small rows": lambda: [f(500, 3), f(500, 1)],
    "small": lambda: [f(5), f(5)],
    "all 0-d": lambda: [f(1).reshape(()), f(1).reshape(())],
    "empty": lambda: [f(0, 30), f(30)],
}


def several(xp, x, y, scale=1.0):
    z = xp.exp(x * scale + y)
    z = z * 0.5
    return z, x > y, xp.where(x > 0, x, y)


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def small_blocks(request, monkeypatch):
    monkeypatch.setattr(pointwise, "BLOCK", 64)
    monkeypatch.setattr(pointwise, "SMALL", 128)
    monkeypatch.setattr(pointwise, "FIRST", 32)
    monkeypatch.setattr(threads, "MIN_SECONDS", 0)
    before = gp.get_num_threads()
    gp.set_num_threads(request.param)
    yield
    gp.set_num_threads(before)


def same(got, want, rtol=0.0):
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_allclose(got.astype(float), np.asarray(want).astype(float), rtol=rtol)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_change_no_result(layout, small_blocks):
    arrays = LAYOUTS[layout]()
    got = pointwise.blockwise(several)(xp, *arrays, scale=0.5)
    want = several(xp, *arrays, scale=0.5)
    assert type(got) is tuple
    for g, w in zip(got, want, strict=True):
        same(g, w)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("half", ["float16", bfloat16], ids=str)
def test_half_types_are_rounded_once(layout, half, small_blocks):
    arrays = [a.astype(half) if isinstance(a, np.ndarray) else a for a in LAYOUTS[layout]()]
    wide = [a.astype("float32") if isinstance(a, np.ndarray) else a for a in arrays]
    z, larger, picked = pointwise.blockwise(several)(xp, *arrays, scale=0.5)
    want = several(xp, *wide, scale=0.5)
    same(z, np.asarray(want[0]).astype(half))
    same(larger, np.asarray(want[1]))
    same(picked, np.asarray(want[2]).astype(half))


def test_blocks_keep_the_memory_layout():
    x = f(3, 600, 500).transpose(0, 2, 1)
    out = pointwise.blockwise(lambda xp, x: x + 1)(xp, x)
    assert out.strides == x.strides


def test_number_of_results(small_blocks):
    x = f(1000)
    assert type(pointwise.blockwise(lambda xp, x: x + 1)(xp, x)) is np.ndarray
    assert type(pointwise.blockwise(lambda xp, x: (x + 1,))(xp, x)) is tuple
    assert pointwise.blockwise(lambda xp, x: None)(xp, x) is None


def momentum(xp, p, m, g, lr, beta=0.9):
    m *= beta
    m += g
    p -= lr * m
    return xp.abs(p)


@pytest.mark.parametrize("layout", ["flat", "transposed", "sliced"])
@pytest.mark.parametrize(
    "types", [["float32"] * 3, ["float16"] * 3, ["float32", "float32", bfloat16]],
    ids=["float32", "float16", "bfloat16 gradients"])
def test_updates_in_place(layout, types, small_blocks):
    makers = {
        "flat": lambda: f(1003),
        "transposed": lambda: f(41, 30).T,
        "sliced": lambda: f(60, 82)[::2, ::2],
    }
    p, m, g = (makers[layout]().astype(t) for t in types)
    if layout == "sliced":
        p, m = (np.repeat(np.repeat(a, 2, 0), 2, 1)[::2, ::2] for a in (p, m))
    lr = np.array(0.1, "float32")
    p32, m32, before = p.astype("float32"), m.astype("float32"), g.copy()
    want = momentum(xp, p32, m32, g.astype("float32"), lr)
    got = pointwise.blockwise(momentum)(xp, p, m, g, lr)
    for a, w in ((p, p32), (m, m32), (got, want), (g, before)):
        same(a, w.astype(a.dtype))
    assert got.dtype == p.dtype


def test_update_of_read_only_array_raises(small_blocks):
    def double(xp, x):
        x *= 2

    for dtype in ("float32", "float16"):
        with pytest.raises(ValueError, match="read-only"):
            pointwise.blockwise(double)(xp, np.broadcast_to(f(30).astype(dtype), (50, 30)))


def test_two_half_types_raise():
    with pytest.raises(TypeError, match="float16 and bfloat16"):
        pointwise.blockwise(several)(xp, f(3).astype("float16"), f(3).astype(bfloat16))


def test_overflow_of_half_types_is_silent():
    x = np.full(3, 300, "float16")
    assert np.isinf(pointwise.blockwise(lambda xp, x: x * x)(xp, x)).all()


def test_int16_is_not_a_half_type():
    x = np.arange(5, dtype="int16")
    same(pointwise.blockwise(lambda xp, x: x * x)(xp, x), x * x)


def test_threads_use_the_callers_errstate(small_blocks):
    reciprocal = pointwise.blockwise(lambda xp, x: 1 / x)
    with np.errstate(divide="ignore"):
        assert np.isinf(reciprocal(xp, np.zeros(1000))).all()
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        reciprocal(xp, np.zeros(1000))


def test_bodies_within_bodies(small_blocks):
    inner = pointwise.blockwise(lambda xp, x: xp.erf(x))
    outer = pointwise.blockwise(lambda xp, x: inner(xp, x) * 2)
    x = f(5000)
    same(outer(xp, x), xp.erf(x) * 2)
    half = x.astype("float16")
    same(outer(xp, half), (xp.erf(half.astype("float32")) * 2).astype("float16"))


FORK = """
import os
import numpy as np
import gpuprop
from gpuprop_numpy import pointwise as P
gpuprop.set_num_threads(2)
f, x = P.blockwise(lambda xp, x: x + 1), np.zeros(1 << 21)
f(np, x)
child = os.fork()
assert f(np, x).sum() == x.size
if child:
    print(os.waitpid(child, 0)[1])
"""

if hasattr(os, "fork"):

    def test_threads_after_a_fork():
        assert run(FORK) == "0"


# ---- memory --------------------------------------------------------------------------------------

FAULTS = """
import resource
import numpy as np
from gpuprop_numpy import NumpyBackend, memory
NumpyBackend()
x = np.ones(5 << 20)  # larger than 32 MiB, which glibc keeps by default
x + x + x
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(10):
    x + x + x
print(memory.keep_freed_memory(), faults() - before > 100)
"""


if platform.libc_ver()[0] == "glibc":

    def test_freed_memory_is_kept_unless_disabled():
        assert run(FAULTS, GPUPROP_MALLOC="") == "True False"
        assert run(FAULTS, GPUPROP_MALLOC="0") == "False True"


@pytest.mark.parametrize("library", ["without mallopt", "none"])
def test_other_c_libraries_are_unchanged(library, monkeypatch):
    def load(name):
        if library == "none":
            raise TypeError("as on Windows")
        return object()

    monkeypatch.delenv("GPUPROP_MALLOC", raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", load)
    assert memory.keep_freed_memory.__wrapped__() is False


# ---- index_add -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (7, 5), (3, 7, 2), (2, 3, 7)])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_index_add(shape, count, monkeypatch):
    monkeypatch.setattr(scatter, "CHUNK", 16)
    axis = shape.index(7)
    index = r.integers(-7, 7, count)
    values = r.standard_normal((*shape[:axis], count, *shape[axis + 1:]))
    want = r.standard_normal(shape)
    strided = np.repeat(want, 2, axis)[(slice(None),) * axis + (slice(None, None, 2),)]
    for a in (want.copy(), want.T.copy().T, strided):
        expected = want.copy()
        np.add.at(np.moveaxis(expected, axis, 0), index, np.moveaxis(values, axis, 0))
        assert index_add(a, index, values, axis) is a
        np.testing.assert_allclose(a, expected, rtol=1e-13, atol=1e-13)
        np.testing.assert_array_equal(index_add(np.zeros(shape), index, values, axis - len(shape)),
                                      index_add(np.zeros(shape), index, values, axis))


@pytest.mark.parametrize("half", ["float16", bfloat16], ids=str)
def test_index_add_rounds_half_types_once(half):
    a = index_add(np.ones((2, 3), half), np.zeros(3000, int), np.full((3000, 3), 1, half))
    rounded = float(np.array(3001).astype(half))
    assert a.dtype == half
    assert a.astype(float).tolist() == [[rounded] * 3, [1] * 3]


def test_index_add_casts_values_of_the_same_kind():
    integers = index_add(np.zeros(3, int), np.array([1, 1]), np.array([2, 3]))
    assert integers.tolist() == [0, 5, 0]
    floats = index_add(np.zeros(3), np.array([2], "int32"), np.array([1], "float32"))
    assert floats.tolist() == [0, 0, 1]
    with pytest.raises(TypeError, match="same_kind"):
        index_add(np.zeros(3, int), np.array([1]), np.array([0.5]))


@pytest.mark.parametrize("index", [7, -8])
def test_index_add_checks_bounds(index):
    a = np.zeros((7, 2))
    with pytest.raises(IndexError, match=f"index {index} .*axis 0 .*size 7"):
        index_add(a, np.array([0, index]), np.ones((2, 2)))
    assert not a.any()


def test_where_of_bfloat16_and_integers_damages_no_memory():
    """NumPy 2.0 loses references to the dtype: the interpreter would crash after some thousands."""
    code = ("import numpy as np, ml_dtypes\n"
            "from gpuprop.backend import get_backend\n"
            "xp, x = get_backend('numpy').xp, np.ones(3, ml_dtypes.bfloat16)\n"
            "for _ in range(10_000):\n"
            "    y = xp.where(x > 1, x, 0), xp.where(x > 0, 2, x)\n"
            "assert [a.tolist() for a in y] == [[0] * 3, [2] * 3] and y[0].dtype == x.dtype\n")
    subprocess.run([sys.executable, "-c", code], check=True)
