"""Matrix products of the CuPy backend: NumPy's values and semantics, in one call of cuBLAS."""

import sys
import threading

import ml_dtypes
import numpy as np
import pytest
from counted import settled
from tested_backends import HAS_CUDA

from gpuprop._core.registry import get_backend

pytestmark = pytest.mark.gpu
HALF, BF16 = np.dtype("float16"), np.dtype(ml_dtypes.bfloat16)
DTYPES = [HALF, BF16, np.dtype("float32"), np.dtype("float64")]
ROUNDING = {HALF: 2.0**-10, BF16: 2.0**-7, DTYPES[2]: 1e-6, DTYPES[3]: 1e-14}
SHAPES = [
    ((3, 4), (4, 5)), ((4,), (4,)), ((4,), (4, 5)), ((3, 4), (4,)),
    ((1, 4), (4, 1)), ((3, 1), (1, 5)), ((1, 1), (1, 1)),
    ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((3, 4), (2, 4, 5)), ((1, 3, 4), (1, 4, 5)),
    ((6, 1, 4), (6, 4, 1)), ((2, 1, 3, 4), (1, 6, 4, 5)), ((2, 6, 3, 4), (6, 4, 5)),
    ((2, 6, 3, 4), (2, 1, 4, 5)), ((5, 2, 3, 4), (4,)), ((4,), (2, 4, 5)),
    ((2, 2, 3, 4), (2, 2, 4, 5)), ((1, 2, 3, 4), (1, 1, 4, 5)), ((2, 3, 4), (1, 4, 5)),
]
EMPTY = [
    ((0, 4), (4, 5)), ((3, 0), (0, 5)), ((3, 4), (4, 0)), ((2, 0, 4), (4, 5)),
    ((2, 3, 0), (2, 0, 5)), ((0,), (0,)), ((0, 3, 4), (4, 5)), ((0, 3, 4), (1, 4, 5)),
    ((0, 0), (0, 0)), ((0,), (0, 5)),
]
MIXED = [("float16", "float32"), ("int32", "float32"), ("float64", "float32"), ("bool", "float16")]

if HAS_CUDA:
    import cupy

    from gpuprop_cupy import products

    matmul = products.matmul


def padded(a):
    """The same values as a slice of an array with longer axes."""
    larger = cupy.zeros([n + 3 for n in a.shape], a.dtype)
    view = larger[tuple(slice(2, n + 2) for n in a.shape)]
    view[...] = a
    return view


def stepped(a):
    """The same values as every second element of an array."""
    larger = cupy.zeros([2 * n for n in a.shape], a.dtype)
    view = larger[tuple(slice(None, None, 2) for n in a.shape)]
    view[...] = a
    return view


def transposed(a):
    """The same values with the last two axes swapped in memory."""
    if a.ndim < 2:
        return stepped(a)
    return cupy.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)


def permuted(a):
    """The same values with batch axis and rows swapped in memory, as attention heads are."""
    if a.ndim < 3:
        return padded(a)
    return cupy.ascontiguousarray(a.swapaxes(-3, -2)).swapaxes(-3, -2)


def reversed_(a):
    return a[(slice(None, None, -1),) * a.ndim].copy()[(slice(None, None, -1),) * a.ndim]


LAYOUTS = {
    "contiguous": lambda a: a,
    "padded": padded,
    "stepped": stepped,
    "transposed": transposed,
    "permuted": permuted,
    "reversed": reversed_,
    "padded transposed": lambda a: padded(transposed(a).T).T,
}


def operands(shapes, dtype):
    """Multiples of 1/8 with few digits: without intermediate rounding there is one right result."""
    rng = np.random.default_rng(0)
    eight = np.asarray(8, dtype)
    return [rng.integers(-8, 9, s).astype("float64").astype(dtype) / eight for s in shapes]


def agree(got, a, b, dtype):
    want = np.matmul(a.astype("float64"), b.astype("float64"))
    assert type(got) is cupy.ndarray and got.flags.c_contiguous
    assert got.shape == want.shape and got.dtype == dtype
    got = cupy.asnumpy(got).astype("float64")
    np.testing.assert_allclose(got, want, rtol=ROUNDING[dtype], atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values(dtype, layout):
    arranged = LAYOUTS[layout]
    for shapes in SHAPES:
        a, b = operands(shapes, dtype)
        x, y = arranged(cupy.asarray(a)), arranged(cupy.asarray(b))
        agree(matmul(x, y), a, b, dtype)
        agree(matmul(x, cupy.asarray(b)), a, b, dtype)
        agree(matmul(cupy.asarray(a), y), a, b, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", EMPTY, ids=str)
def test_empty(dtype, shapes):
    a, b = operands(shapes, dtype)
    agree(matmul(cupy.asarray(a), cupy.asarray(b)), a, b, dtype)


@pytest.mark.parametrize("dtype", [HALF, BF16], ids=str)
def test_half_types_are_summed_in_float32(dtype):
    """A sum of 4100 ones in float16 would stop at 2048, in bfloat16 at 256."""
    n = 4100
    x, y = cupy.ones((2, n), dtype), cupy.ones((n, 3), dtype)
    agree(matmul(x, y), np.ones((2, n)), np.ones((n, 3)), dtype)
    whole = matmul(x, y, dtype="float32")
    assert whole.dtype == "float32" and (whole == n).all()
    assert (matmul(cupy.ones((5, 2, n), dtype), y, dtype=np.float32) == n).all()


@pytest.mark.hostcuda
def test_half_types_are_not_converted_to_float32_arrays():
    for shapes in [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5))]:
        for dtype in (HALF, BF16):
            a, b = map(cupy.asarray, operands(shapes, dtype))
            for out in (None, "float32"):
                counts = settled(lambda a=a, b=b, out=out: matmul(a, b, dtype=out))
                assert sum(counts.values()) == 1


@pytest.mark.hostcuda
@pytest.mark.parametrize("dtype", [np.dtype("float32"), HALF], ids=str)
def test_one_product_and_no_copy(dtype):
    """Where strides allow it: transposes, slices, attention heads, rows of a stack, broadcasts."""
    make = lambda *shape: cupy.zeros(shape, dtype)
    a, b, large = make(6, 8), make(8, 5), make(10, 20)
    stack = make(3, 6, 8)
    q = make(2, 7, 4, 8).swapaxes(1, 2)
    pairs = {
        "plain": (a, b),
        "transposed": (b.T, a.T),
        "second transposed": (a, make(5, 8).T),
        "sliced": (large[:6, :8], b),
        "sliced and transposed": (large[2:10, 3:9].T, b),
        "vector": (a[0], b),
        "vector with a stride": (large[:, 0], large),
        "column": (a, b[:, 0]),
        "row by column": (a[0], large[:8, 3]),
        "stack and matrix": (stack, b),
        "one matrix in a stack": (stack, make(1, 8, 5)),
        "stack and vector": (stack, b[:, 0]),
        "sliced stack": (make(3, 9, 8)[:, 2:8], make(3, 8, 5)),
        "every third matrix": (make(9, 6, 8)[::3], make(3, 8, 5)),
        "matrix and stack": (a, make(3, 8, 5)),
        "transposed stack": (stack.swapaxes(1, 2), make(3, 6, 5)),
        "stack of one": (a[None], b[None]),
        "rows of every second matrix": (make(6, 6, 8)[::2], b),
        "broadcast": (cupy.broadcast_to(a, (3, 6, 8)), make(3, 8, 5)),
        "scores of one sequence": (q[:1], q[:1].swapaxes(-1, -2)),
        "four axes": (make(2, 3, 4, 5), make(2, 3, 5, 6)),
    }
    for name, (x, y) in pairs.items():
        counts = settled(lambda x=x, y=y: matmul(x, y))
        assert sum(counts.values()) == 1 and "gemm" in next(iter(counts)), (name, counts)


@pytest.mark.hostcuda
def test_operands_that_cublas_cannot_read_are_copied_once():
    for x, y in [
            (cupy.zeros((6, 16))[:, ::2], cupy.zeros((8, 5))),
            (cupy.zeros((8, 6))[::-1].T, cupy.zeros((8, 5))),
            (cupy.zeros((3, 6, 8))[::-1], cupy.zeros((3, 8, 5))),
            (cupy.zeros((2, 7, 4, 8)).swapaxes(1, 2), cupy.zeros((2, 4, 8, 7))),
            (cupy.broadcast_to(cupy.zeros((6, 1)), (6, 8)), cupy.zeros((8, 5)))]:
        counts = settled(lambda x=x, y=y: matmul(x, y))
        assert sum(counts.values()) == 2, counts


def test_cupy_multiplies_other_dtypes():
    for dtype in ("int64", "int8", "uint32"):
        a, b = (np.arange(n).reshape(s).astype(dtype) for n, s in ((6, (2, 3)), (12, (3, 4))))
        got = matmul(cupy.asarray(a), cupy.asarray(b))
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.get(), a @ b)


@pytest.mark.parametrize("pair", MIXED, ids=str)
def test_dtypes_promote_as_for_arrays(pair):
    a, b = np.ones((2, 3), pair[0]), np.ones((3, 4), pair[1])
    got = matmul(cupy.asarray(a), cupy.asarray(b))
    assert got.dtype == cupy.result_type(*pair)
    assert (got == 3).all()


MISMATCHED = [
    ((2, 3), (4, 5)),
    ((3,), (4,)),
    ((2, 2, 3), (3, 3, 4)),
    ((2, 3), (2, 4, 5)),
    ((), (3, 4)),
    ((3,), ()),
]


@pytest.mark.parametrize("shapes", MISMATCHED, ids=str)
def test_mismatched_shapes_raise(shapes):
    a, b = map(cupy.ones, shapes)
    with pytest.raises(ValueError):
        matmul(a, b)


def test_the_error_names_the_shapes():
    with pytest.raises(ValueError, match=r"length 3.* takes 4.* \(2, 3\) and \(4, 5\)"):
        matmul(cupy.ones((2, 3)), cupy.ones((4, 5)))


def test_an_error_of_cublas_has_its_message():
    with pytest.raises(RuntimeError, match=r"cublasGemmEx: .*(unsupported|invalid)"):
        products.library().check("cublasGemmEx", 7)


def test_sizes_beyond_int32_use_the_64_bit_entry_points(monkeypatch):
    found = []
    gemm = products.Library.gemm

    def watched(self, strided, int64):
        found.append((strided, int64))
        return gemm(self, strided, False)

    monkeypatch.setattr(products.Library, "gemm", watched)
    products._plan.cache_clear()
    x, y = cupy.ones((2, 3)), cupy.ones((3, 4))
    assert (matmul(x, y) == 3).all()
    one_row = cupy.lib.stride_tricks.as_strided(x[:1], (1, 3), (2**34, 8))
    assert (matmul(one_row, y) == 3).all()  # the stride of a single row does not matter
    monkeypatch.setattr(products, "INT32", 3)
    products._plan.cache_clear()
    assert (matmul(x, y) == 3).all()
    assert (matmul(x[None, :, :2].repeat(2, 0), y[None, :2].repeat(2, 0)) == 2).all()
    assert found == [(False, False), (False, False), (False, True), (True, True)]
    products._plan.cache_clear()


def test_each_stream_has_its_own_workspace():
    """cuBLAS's kernels write to the workspace, and kernels of two streams run at once."""
    handle = products._handles.get(0)
    x = cupy.ones((4, 4))
    matmul(x, x)
    first = handle.workspace
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.wait_event(cupy.cuda.get_current_stream().record())
        matmul(x, x)
        assert handle.stream == stream.ptr and handle.workspace.ptr != first.ptr
        stream.synchronize()
    matmul(x, x)
    assert handle.stream == cupy.cuda.get_current_stream().ptr


def test_threads_have_their_own_handles_which_later_threads_reuse():
    own = products._handles.get(0)
    found = []

    def work(barrier):
        x = cupy.ones((16, 16), "float32")
        y = matmul(x, x)
        found.append((products._handles.get(0), (y == 16).all().item()))
        barrier.wait()  # all threads have a handle before the first thread ends

    def run(n):
        barrier = threading.Barrier(n, timeout=60)
        threads = [threading.Thread(target=work, args=(barrier,)) for _ in range(n)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    run(3)
    assert all(right for _, right in found)
    handles = {id(h) for h, _ in found}
    assert len(handles) == 3 and id(own) not in handles
    del found[:]
    run(2)
    assert {id(h) for h, _ in found} <= handles  # no new ones


def test_an_array_of_another_device_raises(monkeypatch):
    x = cupy.ones((2, 2))
    monkeypatch.setattr(cupy.cuda.runtime, "getDevice", lambda: 1)
    with pytest.raises(ValueError, match=r"resides \(0\).* current device \(1\)"):
        matmul(x, x)


def test_without_cublas_the_error_has_the_install_command(monkeypatch):
    import cupy_backends.cuda.libs as libs

    monkeypatch.delattr(libs, "cublas", raising=False)
    monkeypatch.delitem(sys.modules, "cupy_backends.cuda.libs.cublas", raising=False)

    def missing(name):
        raise ImportError("no libcublas")

    monkeypatch.setattr(libs, "__getattr__", missing)
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.cublas", None)
    with pytest.raises(ImportError, match=r'no libcublas.*pip install "gpuprop\[cuda13\]"'):
        products.Library()


def test_the_namespace_has_this_matmul():
    assert get_backend("cupy").xp.matmul is matmul
