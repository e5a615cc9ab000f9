"""Threads of the NumPy backend: the same bits with every number, limits, errors, forks."""

import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import types
import weakref

import numpy as np
import pytest
from time_limit import time_limit

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn
from gpuprop_numpy import (
    columns,
    convolution,
    microkernels,
    planes,
    pooling,
    product_loops,
    products,
    spinning,
    threads,
    tiles,
)


@pytest.fixture(autouse=True)
def three_threads():
    before = gp.get_num_threads()
    gp.set_num_threads(3)
    yield
    gp.set_num_threads(before)


@pytest.fixture(params=[(1 << 19, False, 1 << 60), (1 << 19, True, 1 << 60),
                        (2000, True, 1 << 60), (1 << 19, True, 0), (2000, True, 0)],
                ids=["whole images", "small products", "bands", "tiles", "tiles of bands"])
def small_tasks(request, monkeypatch):
    max_elements, has_small_products, min_work_of_tiles = request.param
    monkeypatch.setattr(convolution, "MIN_WORK_OF_TILES", min_work_of_tiles)
    monkeypatch.setattr(convolution, "MAX_ELEMENTS", max_elements)
    monkeypatch.setattr(convolution, "bands", convolution.bands.__wrapped__)  # without its cache
    monkeypatch.setattr(columns, "has_small_products", lambda: has_small_products)
    for limit in ("MIN_WORK", "MIN_WORK_OF_COLUMNS", "MIN_WINDOWS", "MIN_ELEMENTS"):
        monkeypatch.setattr(convolution, limit, 0)
    monkeypatch.setattr(columns, "MIN_TERMS", 6)
    monkeypatch.setattr(columns, "SMALL_PRODUCT", 10_000)
    for kind in (planes.Planes, tiles.Tiles):
        monkeypatch.setattr(kind, "min_windows", 200)
        monkeypatch.setattr(kind, "max_elements", 0)
    monkeypatch.setattr(planes, "WORK_PER_TASK", 2000)


def test_small_blocks_divide_an_image_into_bands(small_tasks):
    g = convolution.geometry((30, 30), (8, 8, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    assert (len(convolution.bands(g)) > 1) == (convolution.MAX_ELEMENTS == 2000)


@pytest.mark.parametrize(("n", "work", "max_tasks", "sizes"), [
    (0, 5, None, []), (3, 0, None, [3]), (7, 1, None, [7]), (7, 2, None, [3, 4]),
    (7, 3, None, [1, 2, 2, 2]), (12, 5, None, [1, 2, 1, 2, 1, 2, 1, 2]),
    (12, 5, 3, [4, 4, 4]), (3, 100, None, [1, 1, 1])])
def test_tasks_have_similar_sizes_and_an_even_number(n, work, max_tasks, sizes, monkeypatch):
    monkeypatch.setattr(planes, "WORK_PER_TASK", 10)
    tasks = planes.tasks_of(n, work, max_tasks)
    assert [i for task in tasks for i in range(task.start, task.stop)] == [*range(n)]
    assert [task.stop - task.start for task in tasks] == sizes


def blas_threads():
    blas = threads._blas()
    return blas and blas[0]()


# ---- running -----------------------------------------------------------------------------------


def test_results_are_in_order_and_the_caller_takes_part():
    ids = set()

    def work(i):
        ids.add(threading.get_ident())
        time.sleep(0.001)
        return i * i

    assert threads.in_threads(work, range(100)) == [i * i for i in range(100)]
    assert threading.get_ident() in ids and 1 < len(ids) <= 3


PRODUCTS = {
    "1x1 convolution of small images": lambda a: F.conv2d(
        a((8, 64, 16, 16)), a((64, 64, 1, 1)), a(64)),
    "1x1 convolution of one image": lambda a: F.conv2d(a((1, 64, 60, 60)), a((128, 64, 1, 1))),
    "1x1 convolution in groups": lambda a: F.conv2d(
        a((1, 64, 60, 60)), a((128, 32, 1, 1)), groups=2),
    "stack of one matrix": lambda a: gp.matmul(a((1, 300, 300)), a((1, 300, 300))),
    "stack": lambda a: gp.matmul(a((3, 300, 300)), a((3, 300, 300))),
    "stacks of different shapes": lambda a: gp.matmul(a((3, 1, 300, 300)), a((2, 300, 300))),
    "matrix times its transpose": lambda a: (lambda x: gp.matmul(x, x.T))(a((600, 300))),
    "vector": lambda a: gp.matmul(a((2000, 300)), a((300,))),
    "small product": lambda a: gp.matmul(a((100, 100)), a((100, 100))),
    "LSTM": lambda a: nn.LSTM(80, 128)(a((20, 20, 80)))[0],
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_blas_never_divides_a_product(name, monkeypatch, rng):
    """Its threads wait for each other, which takes long on a busy machine."""
    monkeypatch.setattr(product_loops, "has_avx", lambda: False)
    found = set()
    matmul = np.matmul

    def spy(a, b, **options):
        if a.size * b.shape[-1] > products.SMALL:  # BLAS uses one thread for smaller ones
            found.add(blas_threads())
        return matmul(a, b, **options)

    monkeypatch.setattr(np, "matmul", spy)
    a = lambda shape: gp.tensor(rng.standard_normal(shape, "float32"), requires_grad=True)
    y = PRODUCTS[name](a)
    y.backward(np.ones(y.shape, "float32"))
    assert found and found <= {None, 1}


@pytest.mark.parametrize("tasks", [1, 2, 8])
def test_blas_has_one_thread_in_tasks_and_its_own_number_afterwards(tasks):
    assert blas_threads() in (None, 3)
    inside = threads.in_threads(lambda _: blas_threads(), range(tasks))
    assert set(inside) <= {None, 1}
    assert blas_threads() in (None, 3)


def test_the_exception_of_a_task_is_raised_and_no_others_begin():
    begun = []

    def work(i):
        begun.append(i)
        time.sleep(0.002)
        if i == 2:
            raise ZeroDivisionError(i)

    with pytest.raises(ZeroDivisionError, match="2"):
        threads.in_threads(work, range(1000))
    assert len(begun) < 100
    assert blas_threads() in (None, 3)
    assert threads.in_threads(str, range(3)) == ["0", "1", "2"]


def test_an_interrupted_caller_waits_for_the_tasks_that_have_begun():
    """A task that goes on would write into arrays that the program uses."""
    main, ended = threading.get_ident(), []
    barrier = threading.Barrier(2)

    def work(_):
        barrier.wait(10)
        if threading.get_ident() != main:
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)  # while the caller waits
            time.sleep(0.1)
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        threads.in_threads(work, range(2))
    assert ended == [True]
    assert threads.in_threads(str, range(2)) == ["0", "1"] and blas_threads() in (None, 3)


def at_place(n, action):
    """Let `in_threads` run `action` at the n-th place where Python looks for signals.

    They are the starts of functions and the ends of calls of C functions.  Returns its result, or
    None after a KeyboardInterrupt, and whether there was such a place.
    """
    passed = 0

    def look(frame, event, _):
        nonlocal passed
        if frame.f_code.co_filename == threads.__file__ and event in ("call", "c_return"):
            passed += 1
            if passed == n:
                sys.setprofile(None)
                action()

    sys.setprofile(look)
    try:
        return threads.in_threads(lambda i: time.sleep(0.001) or i, range(4)), passed >= n
    except KeyboardInterrupt:
        return None, True
    finally:
        sys.setprofile(None)


def interrupt():
    raise KeyboardInterrupt


def handler():
    assert threads.in_threads(str, range(3)) == ["0", "1", "2"]


@pytest.mark.parametrize(("action", "expected"), [(interrupt, None), (handler, [0, 1, 2, 3])])
def test_signals_at_every_place(action, expected, monkeypatch):
    """BLAS gets its threads back, no helper is lost or goes on, and nothing waits for ever."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for n in itertools.count(1):
        team = threads._Team()
        monkeypatch.setattr(threads, "_team", team)
        if n % 2:  # helpers that are there, and those that start
            threads.in_threads(str, range(3))
        with time_limit():
            result, found = at_place(n, action)
            while len(team.idle) < len(team.helpers):  # a helper is about to let go of its job
                time.sleep(0.001)
        assert blas_threads() in (None, 3)
        assert not threads._setting.calls and not threads._state.is_busy
        if not found:
            break
        assert result == expected
    assert n > 40


def test_the_arrays_of_a_failed_task_are_freed():
    """No cycle of references keeps them until the next garbage collection."""
    main = threading.get_ident()
    array = np.ones(3)
    is_freed = weakref.ref(array)

    def work(_, array=array):
        if threading.get_ident() != main:
            raise ZeroDivisionError
        time.sleep(0.05)

    gc.disable()
    try:
        with contextlib.suppress(ZeroDivisionError):
            threads.in_threads(work, range(3))
        del work, array
        with time_limit():
            while is_freed() is not None:
                time.sleep(0.001)
    finally:
        gc.enable()


def test_the_caller_works_alone_if_no_thread_can_start(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_team", threads._Team())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert threads.in_threads(str, range(3)) == ["0", "1", "2"]
    assert threads.in_threads(str, range(3)) == ["0", "1", "2"]


AFTER_THE_MAIN_THREAD = """
import atexit, sys, threading
from gpuprop_numpy import threads

threads.set_num_threads(3)
if sys.argv[1] == "used":
    threads.in_threads(str, range(3))

def work():
    threading.main_thread().join()
    print(threads.in_threads(str, range(3)))

atexit.register(lambda: print(threads.in_threads(str, range(3))))
threading.Thread(target=work).start()
"""


@pytest.mark.parametrize("before", ["used", "unused"])
def test_threads_that_go_on_when_the_main_thread_has_ended(before):
    """Python's pools of threads take no jobs then."""
    child = subprocess.run([sys.executable, "-c", AFTER_THE_MAIN_THREAD, before],
                           capture_output=True, text=True, timeout=60)
    assert child.stdout == "['0', '1', '2']\n" * 2, child.stderr


# ---- waits ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not microkernels.has_avx(), reason="threads sleep at once")
def test_threads_look_for_work_unless_the_machine_was_just_busy(monkeypatch):
    """A thread that waits makes few switches, so a busy machine counts as busy for a second."""
    looks, switches = [], iter([0, 1, 1000, 1001, 1002])
    times = iter([1e6, 1e6 + 1, 1e6 + 2, 1e6 + 2.5, 1e6 + 3.1])
    loops = spinning.SpinLoops(lambda *args: looks.append(args), lambda *args: looks.append(args))
    monkeypatch.setattr(spinning, "spin_loops", lambda: loops)
    monkeypatch.setattr(spinning, "_machine", {"is_busy": False})
    monkeypatch.setattr(spinning, "_switches", spinning._Switches())
    monkeypatch.setattr(spinning, "PERIOD", 0)
    monkeypatch.setattr(spinning.time, "monotonic", times.__next__)
    monkeypatch.setattr(spinning.resource, "getrusage", lambda who: types.SimpleNamespace(
        ru_nivcsw=next(switches)))
    seen = []
    for n in range(5):
        looks.clear()
        spinning.wait_until_done(7, n)
        spinning.wait_for_job(7, n)
        seen.append(len(looks))
    assert seen == [2, 2, 0, 0, 2]


# ---- idle threads --------------------------------------------------------------------------------

IDLE_AFTER_A_PRODUCT = """
import sys, threading, time
import numpy as np
import gpuprop
from gpuprop_numpy import threads

if sys.argv[1] == "with another thread":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
gpuprop.use("numpy")
a = np.ones((300, 300), np.float32)
idle = 0
for _ in range(10):
    assert (a @ a == 300).all()
    before = time.process_time()
    time.sleep(0.04)
    idle += time.process_time() - before
print(threads.let_blas_threads_sleep(), idle)
"""


@pytest.mark.parametrize(("how", "timeout", "sleeps"), [
    ("alone", None, True), ("alone", "24", False), ("with another thread", None, False)])
def test_blas_threads_sleep_soon_after_a_product(how, timeout, sleeps):
    """By default they use a processor for 2**26 cycles after it."""
    sleeps = sleeps and threads.openblas("openblas_read_env") is not None
    env = os.environ | {"OPENBLAS_NUM_THREADS": "2"} | (
        {threads.TIMEOUT: timeout} if timeout else {})
    child = subprocess.run([sys.executable, "-c", IDLE_AFTER_A_PRODUCT, how], env=env,
                           capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    slept, idle = child.stdout.split()
    assert slept == str(sleeps)
    if sleeps:
        assert float(idle) < 0.02  # of 0.4 s


@pytest.mark.parametrize(("least", "share", "expected"), [
    (0, 1 / 5, True), (1e9, 1 / 5, False), (1e9, 1e-12, True)])
def test_short_tasks_run_in_the_calling_thread(least, share, expected, monkeypatch):
    """The first task takes 0.05 s."""
    monkeypatch.setattr(threads, "MIN_SECONDS", least)
    ids = set()

    def work(i):
        ids.add(threading.get_ident())
        time.sleep(0.05)
        return i

    assert threads.in_threads_if_long(work, range(5), share) == list(range(5))
    assert (len(ids) > 1) == expected


@pytest.mark.parametrize("n", [0, 1, 49, 50, 51, 100, 199, 200, 201, 1000])
def test_even_slices(n):
    sizes = [len(range(n)[s]) for s in threads.even_slices(n, 100)]
    assert sum(sizes) == n and max(sizes, default=0) <= 100
    assert len(sizes) % 2 == 0 or n <= 50
    assert len(set(sizes[:-1])) <= 1  # all but the last are equal


def test_tasks_of_tasks_run_in_their_thread():
    def inner(_):
        return threading.get_ident()

    def outer(_):
        return {threading.get_ident(), *threads.in_threads(inner, range(5))}

    assert all(len(ids) == 1 for ids in threads.in_threads(outer, range(6)))


def test_tasks_see_the_callers_context():
    x = np.array([1.0, 0.0])
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        threads.in_threads(lambda _: 1 / x, range(4))
    with np.errstate(divide="ignore"):
        threads.in_threads(lambda _: 1 / x, range(4))


def test_calls_from_several_threads():
    results = {}

    def call(k):
        results[k] = [threads.in_threads(lambda i: i + k, range(20)) for _ in range(50)]

    callers = [threading.Thread(target=call, args=(k,)) for k in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(r == [list(range(k, 20 + k))] * 50 for k, r in results.items())
    assert len(results) == 5 and blas_threads() in (None, 3)


# ---- the number of threads ---------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, -1, 1.5, True, None, "2", 2**31, 10**30])
def test_wrong_numbers(n):
    with pytest.raises((TypeError, ValueError), match="set_num_threads: n"):
        gp.set_num_threads(n)
    assert gp.get_num_threads() == 3


def test_a_number_set_inside_of_a_task_holds_afterwards():
    threads.in_threads(lambda _: gp.set_num_threads(2), range(4))
    assert gp.get_num_threads() == 2 and blas_threads() in (None, 2)


def run(code, **variables):
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            env={**os.environ, **variables}, check=True, timeout=60)
    return output.stdout.strip()


@pytest.mark.parametrize(("variable", "limit"), [("1", 1), ("1,4", 1), ("", 8), ("x", 8)])
def test_the_environment_limits_it(variable, limit):
    code = "import gpuprop; print(gpuprop.get_num_threads())"
    assert 1 <= int(run(code, OMP_NUM_THREADS=variable)) <= limit


if hasattr(os, "sched_setaffinity"):

    def test_the_affinity_limits_it():
        code = """
import os
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
import gpuprop
print(gpuprop.get_num_threads())
"""
        assert run(code, OMP_NUM_THREADS="") == "1"


@pytest.mark.parametrize(("text", "quota"), [
    ("max 100000", None), ("150000 100000", 1.5), ("nonsense", None)])
def test_the_control_group_limits_it(text, quota, monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    assert threads._cgroup_quota() == quota


def test_older_control_groups(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    for text, quota in (("50000", 0.5), ("-1", None)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(text)
        assert threads._cgroup_quota() == quota


if hasattr(os, "fork"):

    def test_a_fork_inside_of_a_task():
        code = """
import os
import gpuprop
from gpuprop_numpy import threads
gpuprop.set_num_threads(2)

def work(i):
    if i != 3:
        return None
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    ok = threads.in_threads(str, range(3)) == ["0", "1", "2"]
    os._exit(0 if ok else 1)

print(threads.in_threads(work, range(6))[3])
blas = threads._blas()
print(blas is None or blas[0]() == 2)
"""
        assert run(code, OMP_NUM_THREADS="").split() == ["0", "True"]

    def test_a_fork_after_the_first_task():
        """No helper imports Numba then: the child would wait for the end of the import."""
        code = """
import os
import gpuprop
from gpuprop_numpy import compiled, threads
gpuprop.set_num_threads(2)
threads.in_threads(str, range(3))
child = os.fork()
if not child:
    compiled.njit()
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
        assert run(code, OMP_NUM_THREADS="") == "0"


# ---- convolutions ------------------------------------------------------------------------------


def convolution_results(f, *arrays, dtype="float64", **options):
    tensors = [gp.tensor(a, dtype=dtype, requires_grad=True) for a in arrays]
    y = f(*tensors, **options)
    y.backward(np.sin(np.arange(y.size, dtype=dtype)).reshape(y.shape))
    return [gp.asnumpy(y), *(gp.asnumpy(t.grad) for t in tensors)]


OPTIONS = [dict(zip(("stride", "padding", "dilation", "groups"), values, strict=True))
           for values in itertools.product((1, 2, 3), (0, 1, 2), (1, 2), (1, 2, 4))]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_convolutions_by_image(n, size, small_tasks, rng):
    x = rng.standard_normal((3, 4, *(7, 9, 8)[:n]))
    b = rng.standard_normal(8)
    for options in OPTIONS:
        w = rng.standard_normal((8, 4 // options["groups"], *(size, 2, 3)[:n]))
        f = getattr(F, f"conv{n}d")
        got = convolution_results(f, x, w, b, **options)
        with gp.generic():
            want = convolution_results(f, x, w, b, **options)
        for g, e in zip(got, want, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-11, atol=1e-11, err_msg=str(options))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_transposed_convolutions_by_image(n, small_tasks, rng):
    x = rng.standard_normal((3, 8, *(5, 4, 6)[:n]))
    b = rng.standard_normal(4)
    for options in OPTIONS:
        w = rng.standard_normal((8, 4 // options["groups"], *(3, 2, 3)[:n]))
        f = getattr(F, f"conv_transpose{n}d")
        extra = {"output_padding": min(1, options["stride"] - 1)}
        got = convolution_results(f, x, w, b, **options, **extra)
        with gp.generic():
            want = convolution_results(f, x, w, b, **options, **extra)
        for g, e in zip(got, want, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-11, atol=1e-11, err_msg=str(options))


@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (2, 2), (12, 2)])
def test_output_padding_beyond_the_stride(channels, groups, small_tasks, rng):
    """The dilation may exceed the stride: outputs at the end are in no window."""
    x = rng.standard_normal((3, channels, 5, 4))
    w, b = rng.standard_normal((channels, 2 // groups, 2, 3)), rng.standard_normal(2)
    options = {"dilation": 3, "stride": (1, 2), "padding": 1, "output_padding": 2, "groups": groups}
    got = convolution_results(F.conv_transpose2d, x, w, b, **options)
    with gp.generic():
        want = convolution_results(F.conv_transpose2d, x, w, b, **options)
    for g, e in zip(got, want, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "groups"), [(3, 1), (3, 8), (1, 1)])
def test_the_bits_do_not_depend_on_the_number_of_threads(name, stride, size, groups, small_tasks,
                                                         rng):
    x = rng.standard_normal((13, 8, 12, 11))
    w = rng.standard_normal((8, 8 // groups, size, size))
    results = []
    for n in (1, 2, 3, 7):
        gp.set_num_threads(n)
        results.append(convolution_results(
            getattr(F, name), x, w, dtype="float32", stride=stride, padding=size // 2,
            groups=groups))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_empty_batch_and_strided_arrays(small_tasks, rng):
    x = rng.standard_normal((3, 9, 9, 4)).transpose(0, 3, 1, 2)
    w = rng.standard_normal((6, 4, 3, 3))[:, :, ::-1, ::-1]
    for batch in (x, x[:0], x[::2]):
        got = convolution_results(F.conv2d, batch, w, padding=1)
        with gp.generic():
            want = convolution_results(F.conv2d, batch, w, padding=1)
        for g, e in zip(got, want, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_many_outputs_per_input(n, small_tasks, rng):
    x, w = rng.standard_normal((5, 2, *(7, 9, 8)[:n])), rng.standard_normal((12, 1, *(3, 2, 3)[:n]))
    for options in ({}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}):
        got = convolution_results(getattr(F, f"conv{n}d"), x, w, groups=2, **options)
        with gp.generic():
            want = convolution_results(getattr(F, f"conv{n}d"), x, w, groups=2, **options)
        for g, e in zip(got, want, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-11, atol=1e-11, err_msg=str(options))


def test_a_filter_of_one_element_with_padding_and_a_stride(small_tasks, rng):
    """There are as many windows as elements, but they are others."""
    x, w = rng.standard_normal((3, 6, 8, 8)), rng.standard_normal((5, 6, 1, 1))
    got = convolution_results(F.conv2d, x, w, padding=4, stride=2)
    with gp.generic():
        want = convolution_results(F.conv2d, x, w, padding=4, stride=2)
    for g, e in zip(got, want, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-11, atol=1e-11)


def test_half_types_and_errors_are_those_of_the_definition(small_tasks, rng):
    x, w = rng.standard_normal((2, 4, 9, 9)), rng.standard_normal((6, 4, 3, 3))
    for half in ("float16", "bfloat16"):
        y = F.conv2d(gp.tensor(x, dtype=half), gp.tensor(w, dtype=half))
        assert str(y.dtype) == half
        np.testing.assert_allclose(np.asarray(gp.asnumpy(y), "float64"), F.conv2d(x, w), atol=0.3)
    with pytest.raises(ValueError, match=r"conv2d.*does not fit"):
        F.conv2d(x, rng.standard_normal((6, 4, 10, 3)))
    with pytest.raises(TypeError, match=r"conv2d.*float32"):
        F.conv2d(x.astype("float32"), w)


# ---- pooling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (2, 3), "stride": 1, "dilation": (1, 2)},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_max_pool_of_parts_of_a_batch(options, dtype, monkeypatch, rng):
    monkeypatch.setattr(pooling, "PER_TASK", 500)
    x = np.round(rng.standard_normal((11, 3, 9, 8)) * 4)  # with ties
    x[3, 1, :4, :4] = np.nan
    x[5] = -np.inf
    got = convolution_results(F.max_pool2d, x, dtype=dtype, **options)
    monkeypatch.setattr(pooling, "PER_TASK", 1 << 30)
    want = convolution_results(F.max_pool2d, x, dtype=dtype, **options)
    for g, e in zip(got, want, strict=True):
        assert g.dtype == e.dtype
        np.testing.assert_array_equal(g.astype("float64"), e.astype("float64"))


def test_max_pool_of_an_empty_batch():
    x = gp.zeros((0, 3, 8, 8))
    assert F.max_pool2d(x, 2).shape == (0, 3, 4, 4)


# ---- other overrides ---------------------------------------------------------------------------


def heads(x):
    q = x.reshape(3, 200, 10, 50).swapaxes(1, 2)
    return F.scaled_dot_product_attention(q, q, q, is_causal=True)


def layer_norm(x):
    return F.layer_norm(x, (1000,), x.mean(axis=0))


def batch_norm(x):
    return F.batch_norm(x.reshape(100, 3, 1000), None, None, training=True)


@pytest.mark.parametrize(
    "f", [F.gelu, lambda x: F.gelu(x, "tanh"), heads, layer_norm, batch_norm])
def test_the_bits_of_other_overrides_do_not_depend_on_the_number_of_threads(f, rng):
    x = rng.standard_normal((300, 1000)).astype("float32")
    results = []
    for n in (1, 2, 3):
        gp.set_num_threads(n)
        t = gp.tensor(x, requires_grad=True)
        value = (f(t) ** 2).sum()
        value.backward()
        results.append((value.numpy(), t.grad))
    for value, gradient in results[1:]:
        assert value == results[0][0] and np.array_equal(gradient, results[0][1])
