"""Calls that NumPy and CuPy share: name -> (function of a module and arrays, arrays)."""

import cupy as cp
import cupyx
import cupyx.scipy.special as cupy_special
import ml_dtypes
import numpy as np
import scipy.special as scipy_special

BF16 = np.dtype(ml_dtypes.bfloat16)
REAL = ["float32", "float64", "float16", BF16]
INTEGERS = ["int32", "int64", "uint8", "uint64"]
ALL = [*REAL, *INTEGERS, "bool", "complex64"]

CALLS = {}
rng = np.random.default_rng(0)


def call(name, f, *arrays):
    assert name not in CALLS, name
    CALLS[name] = f, arrays


def method(f, **options):
    """The function `f` of the module."""
    return lambda m, *arrays: getattr(m, f)(*arrays, **options)


def named(dtype):
    return np.dtype(dtype).name


def data(dtype, *shape, low=-3.0, high=3.0):
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        return rng.integers(0 if dtype.kind == "u" else -9, 10, shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    x = rng.uniform(low, high, shape)
    if dtype.kind == "c":
        x = x + 1j * rng.uniform(low, high, shape)
    return x.astype(dtype)


# ---- elementwise

ANYWHERE = """exp expm1 sin cos tan tanh sinh cosh arctan arcsinh floor ceil rint trunc abs
    negative sign square isnan isinf signbit exp2 cbrt deg2rad""".split()
POSITIVE = "log log2 log10 log1p sqrt reciprocal".split()
BELOW_ONE = "arcsin arccos arctanh".split()
BINARY = """add subtract multiply divide maximum minimum fmax fmin arctan2 hypot copysign
    floor_divide remainder fmod logaddexp nextafter less equal""".split()
OF_INTEGERS = """add subtract multiply floor_divide remainder bitwise_and bitwise_or bitwise_xor
    maximum""".split()
WITH_SMALL_INTEGERS = "left_shift right_shift power".split()
COMPLEX = "exp log sqrt sin cos tanh abs conj angle square reciprocal".split()


def elementwise(dtype):
    n = named(dtype)
    x, y = data(dtype, 7, 33), data(dtype, 7, 33)
    positive = data(dtype, 7, 33, low=0.1, high=3)
    below_one = data(dtype, 7, 33, low=-0.95, high=0.95)
    for f in ANYWHERE:
        call(f"{f} {n}", method(f), x)
    for f in POSITIVE:
        call(f"{f} {n}", method(f), positive)
    for f in BELOW_ONE:
        call(f"{f} {n}", method(f), below_one)
    for f in BINARY:
        call(f"{f} {n}", method(f), x, y)
    call(f"power {n}", method("power"), positive, y)
    call(f"where {n}", lambda m, a, b: m.where(a > b, a, b), x, y)
    call(f"clip {n}", lambda m, a: m.clip(a, -1, 1), x)
    call(f"scalar mix {n}", lambda m, a: (a * 2 + 1) / 3 - 0.5, x)
    call(f"T+1 {n}", lambda m, a: a.T + 1, x)
    call(f"nan_to_num {n}", lambda m, a: m.nan_to_num(m.log(a)), x)


def elementwise_of_integers(dtype):
    x, y = data(dtype, 5, 21), data(dtype, 5, 21) + np.dtype(dtype).type(1)
    y[y == 0] = 1
    for f in OF_INTEGERS:
        call(f"{f} {dtype}", method(f), x, y)
    for f in WITH_SMALL_INTEGERS:
        call(f"{f} {dtype}", lambda m, a, b, f=f: getattr(m, f)(a, m.abs(b) % 5), x, y)


def casts():
    for of in ALL:
        for to in ALL:
            if of != to:
                x = data(of, 40)
                x = np.abs(x) if to in ("uint8", "uint64") else x
                call(f"astype {named(of)}->{named(to)}", lambda m, a, to=to: a.astype(to), x)


def other_elementwise():
    big = rng.integers(0, 2**63, 50, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    factor = np.uint64(0xBF58476D1CE4E5B9)
    call("uint64 splitmix", lambda m, a: (a ^ (a >> np.uint64(30))) * factor, big)
    call("uint64 to double", lambda m, a: (a >> np.uint64(11)).astype("f8") * 2.0**-53, big)
    call("uint64 %", lambda m, a: a % np.uint64(1000003), big)
    z = data("complex64", 6, 9)
    for f in COMPLEX:
        call(f"{f} complex64", method(f), z)
    x = data("float32", 9)
    call("frexp", lambda m, a: m.stack([t.astype("f4") for t in m.frexp(a)]), x)
    call("modf", lambda m, a: m.stack(m.modf(a)), data("float32", 9))
    call("ldexp", method("ldexp"), data("float32", 9), data("int32", 9))
    call("sinc", method("sinc"), data("float32", 40))
    knots = lambda m: (m.linspace(-3, 3, 9), m.linspace(0, 1, 9) ** 2)
    call("interp", lambda m, a: m.interp(a, *knots(m)), data("float64", 40))


# ---- reductions

REDUCTIONS = "sum max min mean argmax argmin any all".split()
STATISTICS = "var std nanmax nansum median ptp nanmean".split()
WITH_NAN = "max min sum argmax argmin mean nanmax nanargmin sort argsort".split()


def reductions(dtype):
    n = named(dtype)
    for shape in [(5, 7, 11), (3, 1, 513), (2000,), (1, 4)]:
        x = data(dtype, *shape)
        functions = [f for f in REDUCTIONS if dtype is not BF16 or f not in ("any", "all")]
        if dtype == "float64" and shape != (2000,):
            functions.append("prod")
        for axis in (None, 0, -1):
            for f in functions:
                call(f"{f} {n} {shape} axis {axis}", method(f, axis=axis), x)


def statistics(dtype):
    x = data(dtype, 5, 7, 11)
    for f in STATISTICS:
        call(f"{f} {dtype}", method(f, axis=1), x)
    call(f"sum keepdims two axes {dtype}", method("sum", axis=(0, 2), keepdims=True), x)
    call(f"sum of a transposed view {dtype}",
         lambda m, a: m.sum(a.transpose(2, 0, 1)[::2], axis=1), x)
    call(f"sum dtype {dtype}", method("sum", axis=0, dtype="float64"), x)
    call(f"norm {dtype}", lambda m, a: m.linalg.norm(a.ravel()), x)
    call(f"percentile {dtype}", lambda m, a: m.percentile(a, 30, axis=2), x)


def reductions_with_nan():
    x = data("float32", 6, 50)
    x[2, 7] = x[4, 0] = np.nan
    for f in WITH_NAN:
        call(f"{f} with NaN", method(f, axis=1), x)
    call("sum of 4096 ones, bfloat16", method("sum"), np.ones(4096, BF16))
    call("count_nonzero", lambda m, a: m.count_nonzero(a > 0, axis=1), x)


# ---- scans and sorts

def argsort(m, a, axis):
    """CuPy's sort is stable and has no `kind`."""
    return m.argsort(a, axis=axis, **({"kind": "stable"} if m is np else {}))


def scans_and_sorts(dtype):
    for shape in [(2000,), (5, 7), (3, 600), (4, 5, 6)]:
        x = data(dtype, *shape)
        for axis in (0, -1):
            where = f"{dtype} {shape} axis {axis}"
            if dtype != "float16":
                call(f"cumsum {where}", method("cumsum", axis=axis), x)
            call(f"sort {where}", method("sort", axis=axis), x)
            call(f"argsort {where}", lambda m, a, axis=axis: argsort(m, a, axis), x)


def other_scans_and_sorts():
    call("cumprod", method("cumprod", axis=1), data("float64", 4, 9))
    call("cumsum bool", method("cumsum"), data("bool", 700))
    call("lexsort", method("lexsort"), data("int64", 3, 50))
    call("partition", lambda m, a: m.sort(m.partition(a, 10)[:10]), data("float32", 99))
    call("topk by argpartition", lambda m, a: m.sort(a[m.argpartition(-a, 5)[:5]]),
         data("float32", 99))
    call("unique", method("unique"), data("int64", 99))
    call("searchsorted", method("searchsorted"), np.sort(data("float32", 20)), data("float32", 50))
    call("searchsorted right", method("searchsorted", side="right"),
         np.sort(data("int64", 20)), data("int64", 50))
    call("bincount", method("bincount", minlength=20), np.abs(data("int64", 99)))
    call("bincount weights", method("bincount"), np.abs(data("int64", 99)), data("float64", 99))
    call("digitize", method("digitize"), data("float32", 50), np.sort(data("float32", 7)))
    call("histogram", lambda m, a: m.histogram(a, 10)[0], data("float32", 500))
    call("diff", method("diff", axis=1), data("float32", 5, 9))


# ---- movement and indexing

def put_along_axis(m, a, i):
    a = a.copy()
    m.put_along_axis(a, i, m.asarray(a[:, :1]) * 0, 1)
    return a


def assign_rows(m, a, i):
    a = a.copy()
    a[i] = a[0]
    a[:, 1:3] = 1
    return a


def assign_masked(m, a, mask):
    a = a.copy()
    a[mask] = 0
    return a


def reversed_sum(m, a):
    flipped = a[..., None, ::-1]
    return flipped if a.dtype == bool else flipped + a[..., None, :]


def movement(dtype):
    n = named(dtype)
    x = data(dtype, 6, 8, 5)
    i, j = np.array([0, 5, -1, 2]), np.array([7, 0, 3, -2])
    call(f"take {n}", lambda m, a, i: m.take(a, i, axis=1), x, np.abs(i))
    call(f"x[i] {n}", lambda m, a, i: a[i], x, i)
    call(f"x[i, j] {n}", lambda m, a, i, j: a[i, j], x, i, j)
    call(f"x[:, i] {n}", lambda m, a, i: a[:, i], x, i)
    call(f"x[mask] {n}", lambda m, a, mask: a[mask], x, data("bool", 6, 8))
    call(f"x[..., None, ::-1] {n}", reversed_sum, x)
    call(f"take_along_axis {n}", lambda m, a, i: m.take_along_axis(a, i, 1),
         x, rng.integers(0, 8, (6, 3, 5)))
    call(f"put_along_axis {n}", put_along_axis, x, rng.integers(0, 8, (6, 1, 5)))
    call(f"x[i] = {n}", assign_rows, x, i)
    call(f"x[mask] = {n}", assign_masked, x, data("bool", 6, 8, 5))
    call(f"concatenate {n}", lambda m, a: m.concatenate([a, a[::-1], a[:2]], 0), x)
    call(f"concatenate 12 {n}",
         lambda m, a: m.concatenate([a[:, k % 8:] for k in range(12)], 1), x)
    call(f"stack {n}", lambda m, a: m.stack([a, a], 1), x)
    call(f"pad {n}", lambda m, a: m.pad(a, 2), x)
    call(f"roll {n}", lambda m, a: m.roll(a, 3, 1), x)
    call(f"flip {n}", lambda m, a: m.flip(a, 1), x)
    call(f"tile {n}", lambda m, a: m.tile(a, (2, 1, 3)), x)
    call(f"repeat {n}", lambda m, a: m.repeat(a, 3, 1), x)
    call(f"broadcast_to {n}", lambda m, a: m.broadcast_to(a[:, :1], (6, 4, 5)).copy(), x)
    call(f"tril {n}", lambda m, a: m.tril(a[0]), x)
    call(f"swapaxes copy {n}", lambda m, a: m.ascontiguousarray(a.swapaxes(0, 2)), x)
    call(f"where broadcast {n}", lambda m, a: m.where(m.arange(5) > 2, a, a[0, 0]), x)
    call(f"fill {n}", lambda m, a: m.full_like(a, 1), x)


def scatter_add(m, a, i, v):
    a = a.copy()
    if m is np:
        m.add.at(a, i, v)
    else:
        cupyx.scatter_add(a, i, v)
    return a


def ufunc_at(f):
    def at(m, a, i, v):
        a = a.copy()
        getattr(m, f).at(a, i, v)
        return a

    return at


def windows(m, a):
    return m.lib.stride_tricks.as_strided(a, (6, 7, 3, 3), a.strides * 2) * 1


def other_movement():
    x = data("float32", 8, 9)
    call("as_strided", windows, x)
    for dtype in ["float32", "float64", "int64", "int32", "float16", "uint64", BF16]:
        call(f"scatter_add {named(dtype)}", scatter_add,
             data(dtype, 6, 4), np.array([0, 2, 2, 5, 0]), data(dtype, 5, 4))
    for f in ("add", "maximum"):
        call(f"{f}.at", ufunc_at(f), x, np.array([1, 1, 3]), data("float32", 3, 9))
    call("nonzero", lambda m, a: m.stack(m.nonzero(a)), data("bool", 30, 40))
    call("argwhere", method("argwhere"), data("bool", 9, 8))
    call("arange linspace eye", lambda m: m.arange(5)[:, None] * m.eye(5) + m.linspace(0, 1, 5))
    call("meshgrid", lambda m: m.stack(m.meshgrid(m.arange(3), m.arange(4), indexing="ij")))
    call("tri", lambda m: m.tri(5, 4, 1))
    call("indices", lambda m: m.indices((3, 4)))
    call("isin", lambda m, a: m.isin(a, m.asarray([1, 2])), data("int64", 40))
    call("choose", method("choose"), rng.integers(0, 3, 9), data("float32", 3, 9))
    call("array_equal", lambda m, a: m.asarray(m.array_equal(a, a)), x)
    call("packbits", method("packbits"), data("bool", 40))


# ---- products

def products(dtype):
    n = named(dtype)
    matmul = method("matmul")
    a2, b2 = data(dtype, 17, 23), data(dtype, 23, 9)
    a3, b3 = data(dtype, 4, 17, 23), data(dtype, 4, 23, 9)
    call(f"matmul 2-D {n}", matmul, a2, b2)
    call(f"matmul 2-D transposed {n}", lambda m, a, b: m.matmul(b.T, a.T), a2, b2)
    call(f"matmul 2-D sliced {n}", lambda m, a, b: m.matmul(a[::2, ::2], b[::2]), a2, b2)
    call(f"dot 1-D {n}", lambda m, a: m.dot(a, a), data(dtype, 50))
    call(f"matvec {n}", matmul, a2, data(dtype, 23))
    call(f"outer {n}", lambda m, a: m.outer(a, a), data(dtype, 7))
    call(f"matmul 3-D {n}", matmul, a3, b3)
    call(f"matmul 3-D transposed {n}",
         lambda m, a, b: m.matmul(b.swapaxes(1, 2), a.swapaxes(1, 2)), a3, b3)
    call(f"matmul 3-D x 2-D {n}", matmul, a3, b2)
    call(f"matmul 2-D x 3-D {n}", matmul, a2, b3)
    if dtype is BF16:
        return
    call(f"einsum ij,jk {n}", lambda m, a, b: m.einsum("ij,jk->ik", a, b), a2, b2)
    call(f"einsum bij,bjk {n}", lambda m, a, b: m.einsum("bij,bjk->bki", a, b), a3, b3)
    call(f"einsum sum {n}", lambda m, a: m.einsum("bij->j", a), a3)
    call(f"einsum diagonal {n}", lambda m, a: m.einsum("ii->i", a[:17, :17]), a2)
    call(f"tensordot {n}", lambda m, a, b: m.tensordot(a, b, ([2], [0])), a3, b2)
    call(f"inner {n}", lambda m, a: m.inner(a, a), a2)


def other_products():
    call("trace", method("trace"), data("float32", 9, 9))
    call("kron", lambda m, a: m.kron(a, a), data("float32", 3, 2))
    call("cross", method("cross"), data("float32", 5, 3), data("float32", 5, 3))


# ---- special functions

OF_REALS = "erf erfc expit j0 j1 i0 i1 i0e i1e ndtr log_ndtr".split()
OF_POSITIVES = "gammaln digamma gamma entr".split()


def special(m):
    return scipy_special if m is np else cupy_special


def special_functions(dtype):
    x, positive = data(dtype, 60), data(dtype, 60, low=0.05, high=6)
    below_one = data(dtype, 60, low=-0.999, high=0.999)
    for f, argument in [*((f, x) for f in OF_REALS), *((f, positive) for f in OF_POSITIVES),
                        ("erfinv", below_one), ("logit", np.abs(below_one))]:
        call(f"special.{f} {dtype}", lambda m, a, f=f: getattr(special(m), f)(a), argument)
    order = lambda m: 1 if m is np else cp.asarray(1)
    call(f"special.polygamma {dtype}", lambda m, a: special(m).polygamma(order(m), a), positive)
    call(f"special.zeta {dtype}", lambda m, a: special(m).zeta(a + 1.5, m.ones_like(a)), positive)
    call(f"special.xlogy {dtype}", lambda m, a: special(m).xlogy(a, a), positive)
    call(f"special.logsumexp {dtype}",
         lambda m, a: special(m).logsumexp(a.reshape(6, 10), axis=1), x)


for of_type, types in [
    (elementwise, REAL),
    (elementwise_of_integers, INTEGERS),
    (reductions, ["float32", "float64", "float16", "int64", "bool", BF16]),
    (statistics, ["float32", "float64"]),
    (scans_and_sorts, ["float32", "float64", "int64", "int32", "float16"]),
    (movement, ["float32", BF16, "int64", "bool", "float16"]),
    (products, ["float32", "float64", "float16", BF16, "complex64", "int64"]),
    (special_functions, ["float32", "float64"]),
]:
    for dtype in types:
        of_type(dtype)
for others in (casts, other_elementwise, reductions_with_nan, other_scans_and_sorts,
               other_movement, other_products):
    others()
