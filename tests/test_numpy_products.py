"""Matrix products of the NumPy backend: in loops of Numba or in BLAS, divided among threads."""

import contextlib
import ctypes
import mmap
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from numba import types
from time_limit import time_limit

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn
from gpuprop.backend import Into
from gpuprop_numpy import compiled, microkernels, product_loops, products, spinning, threads

needs_avx = pytest.mark.skipif(not microkernels.has_avx(), reason="BLAS is used")
with_loops_and_blas = pytest.mark.usefixtures("kind")


@pytest.fixture(params=[pytest.param("loops", marks=needs_avx), "BLAS"])
def kind(request, monkeypatch):
    if request.param == "BLAS":
        monkeypatch.setattr(product_loops, "has_avx", lambda: False)
    return request.param


@pytest.fixture(autouse=True)
def three_threads():
    before = gp.get_num_threads()
    gp.set_num_threads(3)
    yield
    gp.set_num_threads(before)


def blas_threads():
    blas = threads._blas()
    return blas and blas[0]()


def matrices(rows, terms, columns, order, dtype, stack=()):
    rng = np.random.default_rng(rows)
    a = rng.integers(-4, 5, (*stack, rows, terms)).astype(dtype)  # sums are exact in any order
    b = rng.integers(-4, 5, (*stack, terms, columns)).astype(dtype)
    swap = lambda x: np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    return swap(a) if "a" in order else a, swap(b) if "b" in order else b


@with_loops_and_blas
@pytest.mark.parametrize("order", ["", "a", "b", "ab"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "stack"), [
    ((70, 9, 40), ()), ((40, 9, 70), ()), ((1, 50, 300), ()), ((300, 50, 1), ()), ((17, 0, 18), ()),
    ((20, 9, 10), (5,)), ((20, 9, 10), (2, 3)), ((20, 9, 10), (1, 3)), ((0, 9, 10), (2,))])
def test_products_in_threads(shape, stack, dtype, order, monkeypatch):
    monkeypatch.setattr(products, "SMALL", 0)
    for limit in ("MIN_WORK", "MIN_LOOP_WORK"):
        monkeypatch.setattr(products, limit, 100)
    a, b = matrices(*shape, order, dtype, stack)
    got = products.matmul(a, b)
    assert got.dtype == dtype and got.flags.c_contiguous
    np.testing.assert_array_equal(got, np.matmul(a, b))


@with_loops_and_blas
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(131, 400, 701), (701, 400, 131), (500, 300, 500),
                                   (130, 1000, 513), (390, 200, 1601),
                                   (385, 500, 385)])
def test_products_have_the_same_bits_for_every_number_of_threads(shape, dtype):
    rows, terms, columns = shape
    rng = np.random.default_rng(0)
    a = rng.standard_normal((rows, terms)).astype(dtype)
    b = rng.standard_normal((columns, terms)).astype(dtype).T
    found = []
    for n in (1, 2, 3, 8):
        gp.set_num_threads(n)
        found.append(products.matmul(a, b))
    found.append(threads.in_threads(lambda _: products.matmul(a, b), range(2))[0])
    for y in found[1:]:
        np.testing.assert_array_equal(y, found[0])


@with_loops_and_blas
def test_threads_pack_into_memory_of_their_own():
    """It must live until the product ends."""
    gp.set_num_threads(8)
    pairs = [matrices(rows, terms, columns, "b", "float32") for rows, terms, columns in
             ((131, 400, 701), (701, 400, 131), (500, 300, 500), (130, 1000, 513))]
    wanted = [np.matmul(a, b) for a, b in pairs]
    for _ in range(20):
        for (a, b), want in zip(pairs, wanted, strict=True):
            np.testing.assert_array_equal(products.matmul(a, b), want)


@with_loops_and_blas
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("unit", [1, 16, 48])
def test_parts_of_products(n, unit):
    for count in (*range(1, 300), 385, 500, 1601):
        parts = products._parts(count, n, unit)
        rows = [i for part in parts for i in range(count)[part]]
        assert rows == list(range(count))
        lengths = [part.stop - part.start for part in parts]
        assert len(parts) == max(1, min(n, count // unit))
        assert all(length % unit == 0 for length in lengths[:-1])
        assert min(lengths) >= min(count, unit // 2)


@with_loops_and_blas
def test_which_products_are_divided(monkeypatch):
    calls = []
    monkeypatch.setattr(products, "flags_of_helpers", lambda: None)
    monkeypatch.setattr(products, "in_threads", lambda work, parts: calls.append(
        threads.in_threads(work, parts)))
    a, b = matrices(400, 300, 401, "", "float32")
    products.matmul(a[:40], b)
    products.matmul(a.astype("int32"), b.astype("int32"))
    threads.in_threads(lambda _: products.matmul(a[:40], b), range(2))
    assert not calls
    products.matmul(a, b)
    products.matmul(a, b.astype("float64"))
    products.matmul(a, a.T)
    assert len(calls) == 3 * (blas_threads() is not None)


# ---- helpers that look for work ------------------------------------------------------------------


@pytest.fixture
def idle_machine(monkeypatch):
    """Helpers look for work, whatever else the machine does."""
    monkeypatch.setattr(spinning._Switches, "update", lambda self: None)
    monkeypatch.setitem(spinning._machine, "is_busy", False)


def multiplied(least, most, start, a, b, out):
    """`multiply_with` after helpers have begun to look."""
    threads.in_threads(lambda _: time.sleep(0.001), range(3))
    return product_loops.multiply_with(threads._team.flags, least, most, start, a, b, out)


@needs_avx
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ["", "a", "b", "ab"])
@pytest.mark.parametrize("shape", [(70, 90, 400), (400, 90, 70), (33, 1000, 97), (16, 300, 8),
                                   (48, 31, 48)])
def test_helpers_that_look_compute_parts(shape, order, dtype, idle_machine):
    a, b = matrices(*shape, order, dtype)
    start = np.arange(shape[2]).astype(dtype)
    helped = [0]
    with time_limit(120):
        while max(helped) < 1:
            out = np.full((shape[0], shape[2]), np.nan, dtype)
            helped.append(multiplied(0, 2, start, a, b, out))
            np.testing.assert_array_equal(out, np.matmul(a, b) + start)


@needs_avx
def test_parts_have_the_bits_of_the_whole(idle_machine):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype("float32") for shape in ((77, 900), (900, 501)))
    start = rng.standard_normal(501).astype("float32")
    whole, out = np.empty((2, 77, 501), "float32")
    product_loops.multiply(start, a, b, whole)
    for most in (1, 2) * 20:
        multiplied(0, most, start, a, b, out)
        np.testing.assert_array_equal(out, whole)


@needs_avx
def test_nothing_is_computed_if_too_few_helpers_look(idle_machine):
    a, b = matrices(64, 64, 64, "", "float32")
    start, out = np.zeros(64, "float32"), np.full((64, 64), 7, "float32")
    for _ in range(20):
        assert multiplied(9, 9, start, a, b, out) == -1
    assert (out == 7).all()
    with time_limit(120):  # those that were taken look for work again
        while multiplied(1, 2, start, a, b, out) < 1:
            pass
    np.testing.assert_array_equal(out, np.matmul(a, b))


@needs_avx
def test_the_caller_waits_for_a_part_that_ends_late(idle_machine):
    """It looks for a while and then sleeps."""
    take, _, give, _, wait, _, store = spinning.part_loops()

    @compiled.njit()
    def count(argument):
        total = 1.0
        for k in range(20_000_000):  # many times PART_CYCLES
            total = total / 1.0000001 + 1e-9 * k
        store(argument, 0, 1 if total > 0 else 2)

    @compiled.njit()
    def run_in(flags, loop, argument):
        if take(flags):
            give(flags, loop, argument)
            wait(flags)

    part = compiled.Loop(count, (types.int64,))
    done = np.zeros(1, np.int64)
    with time_limit(120):
        run_in(np.zeros(spinning.FLAGS, np.int64).ctypes.data, 0, 0)  # compiled; nobody looks
        while not done[0]:
            threads.in_threads(lambda _: time.sleep(0.001), range(3))
            for flags in threads._team.flags.tolist():
                run_in(flags, part.address, done.ctypes.data)
            states = [memory[spinning.STATE] for memory in threads._team.memory]
            assert spinning.GIVEN not in states
    assert done[0] == 1


WITHOUT_MEMORY = """
import resource
import numpy as np
from gpuprop_numpy import product_loops

a, b = np.ones((1400, 200), np.float32), np.ones((200, 1400), np.float32)
start, out = np.zeros(1400, np.float32), np.empty((1400, 1400), np.float32)
flags = np.zeros(0, np.int64)  # of no helpers
arrays = lambda n: (start[:n], a[:n], b[:, :n], out[:n, :n])
calls = (lambda n: product_loops.multiply(*arrays(n)),
         lambda n: product_loops.multiply_with(flags, 0, 1, *arrays(n)))
for call in calls:
    call(8)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000, resource.RLIM_INFINITY))
for call in calls:
    try:
        call(1400)
    except MemoryError:
        print("no memory")
"""


@needs_avx
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc are of Linux")
def test_products_without_memory_raise():
    done = subprocess.run([sys.executable, "-c", WITHOUT_MEMORY], capture_output=True, text=True,
                          timeout=120)
    assert done.stdout == "no memory\n" * 2, done.stderr


@needs_avx
def test_helpers_serve_several_threads(idle_machine):
    """Each part is computed once, while helpers get jobs in Python, too."""
    a, b = matrices(128, 200, 128, "", "float32")
    want, start = np.matmul(a, b), np.zeros(128, "float32")
    errors, helped = [], [0] * 4

    def work(i):
        out = np.empty((128, 128), "float32")
        for k in range(150):
            out[...] = np.nan
            flags = threads._team.flags
            helped[i] += product_loops.multiply_with(flags, 0, 2, start, a, b, out)
            if not (out == want).all():
                errors.append(k)
            if k % 10 == i:
                assert threads.in_threads(abs, [-1, -2, -3]) == [1, 2, 3]

    users = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    with time_limit(120):
        for user in users:
            user.start()
        for user in users:
            user.join()
    assert not errors and sum(helped)


@needs_avx
def test_short_products_wake_a_helper_if_they_come_often(idle_machine, monkeypatch):
    monkeypatch.setattr(threads, "_team", threads._Team())
    a, b = matrices(64, 128, 256, "b", "float32")
    helped, want = [], np.matmul(a, b)
    multiply_with = product_loops.multiply_with
    monkeypatch.setattr(product_loops, "multiply_with", lambda *args: helped.append(
        multiply_with(*args)) or helped[-1])
    for _ in range(3):
        products.matmul(a, b)
        time.sleep(0.01)
    assert helped == [0, 0, 0] and not threads._team.helpers
    with time_limit(120):
        while helped[-1] == 0:
            assert (products.matmul(a, b) == want).all()
    count = len(helped)
    products.matmul(a, b[:, :120])  # it is too short for two parts
    assert len(helped) == count and len(threads._team.helpers) == 1


@needs_avx
def test_no_helper_is_asked_on_a_busy_machine(monkeypatch):
    monkeypatch.setattr(spinning._Switches, "update", lambda self: None)
    monkeypatch.setitem(spinning._machine, "is_busy", True)
    assert threads.flags_of_helpers() is None
    monkeypatch.setattr(product_loops, "multiply_with", None)
    a, b = matrices(200, 300, 200, "", "float32")
    np.testing.assert_array_equal(products.matmul(a, b), np.matmul(a, b))


# ---- BLAS ----------------------------------------------------------------------------------------


@with_loops_and_blas
def test_products_obey_the_threads_of_blas(monkeypatch):
    """OPENBLAS_NUM_THREADS=1 means one thread for products, though others may use three."""
    monkeypatch.setattr(products, "product_threads", lambda: 1)
    calls = []
    monkeypatch.setattr(products, "in_threads", lambda *_: calls.append(1))
    a, b = matrices(300, 400, 1601, "", "float32")
    for x, y in ((a, b), (a, a.T), (np.stack([a] * 3), np.stack([b] * 3))):
        np.testing.assert_array_equal(products.matmul(x, y), np.matmul(x, y))
    assert not calls


@with_loops_and_blas
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("rows", [300, 700, 1025])
def test_a_matrix_times_its_transpose(rows, dtype, rng):
    a = rng.standard_normal((rows, 400)).astype(dtype)
    found = []
    for n in (1, 2, 3, 8):
        gp.set_num_threads(n)
        found.append(products.matmul(a, a.T))
    y = found[0]
    assert all(np.array_equal(y, other) for other in found) and np.array_equal(y, y.T)
    want = a.astype("complex128") @ a.astype("complex128").copy().T
    np.testing.assert_allclose(y, want, atol=1e-3 if dtype == "float32" else 1e-10)


@with_loops_and_blas
@pytest.mark.parametrize(("a", "b"), [
    ((3, 1, 300, 300), (2, 300, 301)), ((300, 300), (3, 300, 301)), ((2, 600, 300), (300, 301))])
def test_stacks_of_different_shapes(a, b, rng):
    a, b = (rng.integers(-4, 5, shape).astype("float32") for shape in (a, b))
    np.testing.assert_array_equal(products.matmul(a, b), np.matmul(a, b))
    np.testing.assert_array_equal(
        products.matmul(a, b.astype("float64")), np.matmul(a, b.astype("float64")))


@with_loops_and_blas
@pytest.mark.parametrize(("rows", "expected"), [(8, 3), (30, 1), (250, 1)])
def test_products_of_medium_size_use_one_thread_of_blas(rows, expected, monkeypatch):
    monkeypatch.setattr(product_loops, "has_avx", lambda: False)
    seen = []
    matmul = np.matmul
    monkeypatch.setattr(np, "matmul", lambda *args, **options: seen.append(blas_threads())
                        or matmul(*args, **options))
    a, b = matrices(rows, 100, 301, "", "float32")
    products.matmul(a, b)
    assert seen in ([expected], [None]) and blas_threads() in (3, None)


@with_loops_and_blas
@pytest.mark.parametrize(("a", "b"), [((3, 4), (3, 4)), ((400, 400), (401, 400)), ((), (3,))])
def test_wrong_shapes_of_products(a, b, monkeypatch):
    monkeypatch.setattr(products, "SMALL", 0)
    for limit in ("MIN_WORK", "MIN_LOOP_WORK"):
        monkeypatch.setattr(products, limit, 1)
    with pytest.raises(ValueError, match="matmul"):
        products.matmul(np.ones(a), np.ones(b))


# ---- loops ---------------------------------------------------------------------------------------


def before_a_guard(a):
    """A copy of an array, after whose last byte no memory may be read or written."""
    size = mmap.PAGESIZE
    pages = -(-a.nbytes // size)
    memory = np.frombuffer(mmap.mmap(-1, (pages + 1) * size), np.uint8)
    if sys.platform == "linux":
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        assert protect(ctypes.c_void_p(memory[pages * size:].ctypes.data), ctypes.c_size_t(size),
                       0) == 0
    copy = memory[:pages * size][pages * size - a.nbytes:].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


SHAPES = [(8, 8, 8), (9, 8, 8), (8, 9, 17), (23, 11, 49), (48, 30, 95), (13, 600, 33), (64, 1, 64),
          (200, 1100, 50), (193, 513, 49), (385, 8, 97)]


@needs_avx
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rows", "terms", "columns"), SHAPES)
@pytest.mark.parametrize("order", ["", "a", "b", "ab"])
def test_loops(rows, terms, columns, order, dtype):
    a, b = (before_a_guard(x.T).T if letter in order else before_a_guard(x)
            for letter, x in zip("ab", matrices(rows, terms, columns, "", dtype), strict=True))
    start = before_a_guard(np.arange(columns, dtype=dtype))
    out = before_a_guard(np.zeros((rows, columns), dtype))
    product_loops.multiply(start, a, b, out)
    np.testing.assert_array_equal(out, start + np.matmul(a, b))


@needs_avx
def test_loops_of_arrays_in_any_order(rng):
    a = rng.integers(-4, 5, (40, 60)).astype("float32")[::-2, ::3]
    b = np.broadcast_to(rng.integers(-4, 5, (1, 90)).astype("float32"), (20, 90))[:, ::-1]
    out = np.zeros((2, 20, 200), "float32")[1, :, 50:140]
    a.flags.writeable = False
    product_loops.multiply(np.zeros(90, "float32"), a, b, out)
    np.testing.assert_array_equal(out, np.matmul(a, b))
    assert not out.base[0].any() and not out.base[1, :, :50].any()


@needs_avx
def test_what_is_not_finite_stays_in_its_row_and_column(rng):
    a, b = rng.standard_normal((2, 100, 100), "float32")
    a[3, 5], b[7, 11] = np.nan, np.inf
    out = np.empty((100, 100), "float32")
    product_loops.multiply(np.zeros(100, "float32"), a, b, out)
    outside = np.ones(out.shape, bool)
    outside[3], outside[:, 11] = False, False
    assert np.isfinite(out[outside]).all() and not np.isfinite(out[~outside]).any()


@needs_avx
def test_loops_are_as_accurate_as_blas(rng):
    a = rng.standard_normal((200, 3000), "float32")
    b = rng.standard_normal((3000, 100), "float32")
    exact = np.matmul(a.astype("float64"), b)
    out = np.empty((200, 100), "float32")
    product_loops.multiply(np.zeros(100, "float32"), a, b, out)
    assert abs(out - exact).max() <= 2 * abs(np.matmul(a, b) - exact).max()


@needs_avx
@pytest.mark.parametrize("make", [
    lambda: np.ones((70, 70), ">f4"), lambda: np.ones((70, 70), "float16"),
    lambda: np.ones((70, 70), [("a", "i1"), ("b", "f4")])["b"], lambda: np.ones((70, 70), "int64"),
    lambda: np.ones((7, 1000), "float32"), lambda: np.ones((1000, 7), "float32")])
def test_arrays_that_loops_do_not_take(make):
    a = make()
    assert not product_loops.is_supported(a, a.T)
    np.testing.assert_array_equal(products.matmul(a, a.T), np.matmul(a, a.T))


@needs_avx
def test_packed_operands_live_as_long_as_the_loop(kind):
    """glibc gives freed arrays back to the system at once, whose use then ends the process."""
    code = """
import numpy as np
from gpuprop_numpy import product_loops
a, b, out = np.ones((100, 500), "float32"), np.ones((500, 90), "float32"), np.empty((100, 90), "f4")
product_loops.multiply(np.zeros(90, "float32"), a, b, out)
print((out == 500).all())
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1024"})
    assert found.stdout.split() == ["True"]


@needs_avx
@pytest.mark.parametrize("n", [4, 8, 16])
def test_transposes(n):
    transpose = microkernels._transpose(np.dtype("float32"), n)
    run = compiled.njit()(lambda a, b, c, d: transpose(a, b, c, d))
    a, to = np.arange(n * 30, dtype="float32").reshape(n, 30), np.zeros((n, 40), "float32")
    starts = np.arange(n)[::-1] * 30
    run(a[:, 3:].ctypes.data, starts.ctypes.data, to[:, 5:].ctypes.data, 40)
    np.testing.assert_array_equal(to[:, 5:5 + n], a[::-1, 3:3 + n].T)
    assert not to[:, :5].any() and not to[:, 5 + n:].any()


# ---- linear layers -------------------------------------------------------------------------------


def results_of_linear(x, weight, bias, definition=False):
    tensors = [a if a is None else gp.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    with gp.generic() if definition else contextlib.nullcontext():
        y = F.linear(*tensors)
        y.backward(np.sin(np.arange(y.size, dtype=y.dtype)).reshape(y.shape))
    return [y.numpy(), *(np.array(t.grad) for t in tensors if t is not None)]


@with_loops_and_blas
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("shape", "features"), [
    ((80, 70), 60), ((4, 30, 70), 60), ((3, 5, 7, 70), 100), ((1, 9, 300), 200), ((70,), 6000)])
def test_linear(shape, features, has_bias, dtype, rng):
    x, weight = rng.standard_normal(shape), rng.standard_normal((features, shape[-1]))
    bias = rng.standard_normal(2 * features).astype(dtype)[::2] if has_bias else None
    arrays = x.astype(dtype), weight.astype(dtype), bias
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    for got, want in zip(results_of_linear(*arrays), results_of_linear(*arrays, definition=True),
                         strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, tolerance, tolerance)


@with_loops_and_blas
def test_linear_has_the_same_bits_for_every_number_of_threads_and_batch(rng):
    x, weight, bias = (rng.standard_normal(s, "float32") for s in ((700, 500), (400, 500), 400))
    found = []
    for n in (1, 2, 3):
        gp.set_num_threads(n)
        found.append(results_of_linear(x, weight, bias))
    for other in found[1:]:
        assert all(map(np.array_equal, other, found[0]))
    if products.can_be_added(x, weight.T):
        np.testing.assert_array_equal(F.linear(x[300:360], weight, bias), found[0][0][300:360])


@with_loops_and_blas
@pytest.mark.parametrize(("x", "weight", "bias"), [
    ((60, 70), (80, 71), None), ((60, 70), (80, 70), (79,)), ((60, 70), (80,), None)])
def test_linear_with_wrong_shapes(x, weight, bias):
    with pytest.raises(ValueError, match="linear"):
        F.linear(np.ones(x), np.ones(weight), bias and np.ones(bias))


@pytest.fixture
def layer(rng):
    layer = nn.Linear(90, 100)
    gp.optim.SGD(layer.parameters(), lr=0.1)
    return layer


def loss_of(layer, x):
    return (layer(gp.tensor(x)) ** 2).sum()


@with_loops_and_blas
def test_the_first_gradient_is_computed_in_the_memory_of_the_optimizer(layer, rng, kind):
    x = rng.standard_normal((80, 90), "float32")
    memory = layer.weight.grad_buffer
    outs = []
    if kind == "loops":
        multiply = product_loops.multiply
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(product_loops, "multiply", lambda start, a, b, out: outs.append(out)
                          or multiply(start, a, b, out))
            loss_of(layer, x).backward()
        assert any(out is memory for out in outs)
    else:
        loss_of(layer, x).backward()
    assert layer.weight.grad is memory is layer.weight.grad_buffer
    first = memory.copy()
    loss_of(layer, x).backward()
    np.testing.assert_array_equal(layer.weight.grad, 2 * first)
    assert layer.weight.grad is memory
    layer.zero_grad()
    assert layer.weight.grad is None
    (loss_of(layer, x) + loss_of(layer, x)).backward()  # twice in one graph
    np.testing.assert_array_equal(layer.weight.grad, 2 * first)


@with_loops_and_blas
@pytest.mark.parametrize("replace", [
    lambda p: setattr(p, "data", p.data.astype("float64")),
    lambda p: setattr(p, "grad_buffer", np.empty_like(p.data, order="F")),
    lambda p: setattr(p, "grad_buffer", np.empty((100, 180), "float32")[:, ::2])],
    ids=["dtype", "order of columns", "every second element"])
def test_memory_that_does_not_fit_the_product(replace, layer, rng):
    replace(layer.weight)
    memory = layer.weight.grad_buffer
    x = rng.integers(-4, 5, (80, 90)).astype(layer.weight.dtype)
    F.linear(x, layer.weight).sum().backward()
    assert layer.weight.grad is memory
    np.testing.assert_array_equal(memory, np.tile(x.sum(axis=0), (100, 1)))


@with_loops_and_blas
def test_another_shape_after_the_forward_pass(rng):
    """The memory has the new shape, in which the gradient of the old one has no place."""
    weight = nn.Parameter(np.ones((100, 90), "float32"))
    y = F.linear(rng.standard_normal((80, 90), "float32"), weight)
    weight.data = np.ones((90, 80), "float32")
    weight.grad_buffer = np.zeros((90, 80), "float32")
    with pytest.raises(ValueError, match="linear"):
        y.sum().backward()
    assert weight.grad is None and not weight.grad_buffer.any()


@with_loops_and_blas
@pytest.mark.parametrize("kept", ["input", "gradient"])
def test_a_gradient_that_is_kept_and_used_again(kept, rng):
    """It lies where the next one is computed."""
    layer = nn.Linear(500, 500, bias=False)
    gp.optim.SGD(layer.parameters(), lr=0.1)
    x = rng.integers(-2, 3, (500, 500)).astype("float32")
    layer(x).backward(np.eye(500, dtype="float32"))
    kept_grad = layer.weight.grad
    np.testing.assert_array_equal(kept_grad, x)
    y = layer(kept_grad if kept == "input" else x)
    layer.zero_grad()
    other = rng.integers(-2, 3, (500, 500)).astype("float32")
    y.backward(other if kept == "input" else kept_grad)
    np.testing.assert_array_equal(layer.weight.grad, (other if kept == "input" else x).T @ x)


@with_loops_and_blas
def test_gradients_that_are_written_into_memory_get_the_dtype_of_the_leaf():
    @gp.op
    def doubled(xp, x: gp.Array):
        return 2 * x, (Into(lambda dy, out: 2.0 * dy.astype("float64")),)

    for leaf in (gp.tensor([1.0], requires_grad=True), nn.Parameter([1.0])):
        doubled(leaf).sum().backward()
        assert leaf.grad.dtype == leaf.dtype and leaf.grad == 2


@with_loops_and_blas
def test_hooks_see_a_gradient_that_has_memory(layer, rng):
    seen = []
    layer.weight.register_hook(lambda g: seen.append(g.copy()) or 2 * g)
    loss_of(layer, rng.standard_normal((80, 90), "float32")).backward()
    np.testing.assert_array_equal(layer.weight.grad, 2 * seen[0])


def test_memory_is_given_back_after_an_error(layer):
    memory = layer.weight.grad_buffer
    with pytest.raises(ZeroDivisionError):
        layer.weight._receive_from(lambda out: 1 / 0)
    assert layer.weight.grad is None and layer.weight.grad_buffer is memory
    layer.weight._receive_from(lambda out: np.full_like(out, 3))
    assert layer.weight.grad is memory and (memory == 3).all()


@with_loops_and_blas
def test_gradients_of_threads_add_up_in_one_layer(layer, rng):
    x = rng.integers(-2, 3, (4, 80, 90)).astype("float32")
    layer.weight.data[...] = np.round(layer.weight.data * 10)
    layer.bias.data[...] = 0
    loss_of(layer, x.reshape(-1, 90)).backward()
    want = layer.weight.grad.copy()
    for _ in range(20):
        layer.zero_grad()
        workers = [threading.Thread(target=lambda x=part: loss_of(layer, x).backward())
                   for part in x]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        np.testing.assert_array_equal(layer.weight.grad, want)
        assert layer.weight.grad_buffer is not None


@with_loops_and_blas
@pytest.mark.parametrize("options", [{}, {"padding_idx": 3}, {"scale_grad_by_freq": True}])
def test_gradients_of_embeddings_are_added_in_the_memory_of_the_optimizer(options, rng):
    index = rng.integers(0, 50, (20, 30))
    weights = rng.standard_normal((20, 30, 8), "float32")

    def gradient(layer):
        layer.zero_grad()
        (layer(index) * weights).sum().backward()
        return layer.weight.grad

    layer = nn.Embedding(50, 8, **options)
    with gp.generic():
        want = gradient(layer).copy()
    gp.optim.SGD(layer.parameters(), lr=0.1)
    memory = layer.weight.grad_buffer
    memory[...] = np.nan
    np.testing.assert_allclose(gradient(layer), want, 1e-5, 1e-6)
    assert layer.weight.grad is memory
    (layer(index) * weights).sum().backward()
    np.testing.assert_allclose(memory, 2 * want, 1e-5, 1e-6)


@with_loops_and_blas
def test_errors_of_numpy_are_raised(kind):
    a = np.full((100, 100), 1e30, "float32")
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        products.matmul(a, a)
    with np.errstate(over="ignore"):
        assert np.isinf(products.matmul(a, a)).all()


def test_embeddings_without_elements():
    layer = nn.Embedding(5, 0)
    gp.optim.SGD(layer.parameters(), lr=0.1)
    layer(np.array([1, 2])).sum().backward()
    assert layer.weight.grad.shape == (5, 0)
