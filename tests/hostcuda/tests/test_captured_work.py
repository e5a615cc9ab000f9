"""Capture: calls that raise, the contents of a graph, and the values of its replays."""

import ctypes
import threading

import cupy as cp
import numpy as np
import pytest
from cupy.cuda import runtime

pytestmark = pytest.mark.gpu
GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2
driver = ctypes.CDLL("libcuda.so.1")


def in_thread(call):
    """The result or the exception of the call in another host thread."""
    answers = []

    def work():
        try:
            answers.append(call())
        except Exception as error:
            answers.append(error)

    t = threading.Thread(target=work)
    t.start()
    t.join()
    return answers[0]


# ---- the values of replays

def test_replays_compute_from_new_inputs(stream, pool):
    def step(m, x):
        return m.exp(x * 3) + m.cumsum(x, axis=1).sum(axis=0)

    rng = np.random.default_rng(0)
    with stream:
        x = cp.zeros((5, 5), "f4")
        step(cp, x)
        stream.begin_capture()
        y = step(cp, x)
        graph = stream.end_capture()
        for _ in range(3):
            values = rng.uniform(-1, 1, (5, 5)).astype("f4")
            x[...] = cp.asarray(values)
            graph.launch()
            assert np.allclose(y.get(), step(np, values), rtol=1e-5)


def test_captured_work_does_not_run(stream):
    with stream:
        x = cp.zeros(4, "f4")
        x.fill(1)
        stream.begin_capture()
        x.fill(7)
        graph = stream.end_capture()
        assert x.get().tolist() == [1.0] * 4
        graph.launch()
        assert x.get().tolist() == [7.0] * 4


def test_a_launched_graph_may_be_destroyed(lazy, stream):
    with stream:
        x = cp.zeros(4, "f4")
        stream.begin_capture()
        x.fill(7)
        graph = stream.end_capture()
        graph.launch()
        del graph
        assert x.get().tolist() == [7.0] * 4


@pytest.mark.parametrize(("waits", "value"), [(False, 1.0), (True, 6.0)])
def test_a_missing_wait_inside_a_graph_gives_wrong_values(lazy, stream, waits, value):
    other = cp.cuda.Stream(non_blocking=True)
    x, y = cp.zeros(4, "f4"), cp.zeros(4, "f4")
    cp.add(x, 1, out=y)
    runtime.deviceSynchronize()
    with stream:
        stream.begin_capture()
        other.wait_event(stream.record())
        x.fill(5)
        if waits:
            other.wait_event(stream.record())
        with other:
            cp.add(x, 1, out=y)
            stream.wait_event(other.record())
        graph = stream.end_capture()
        graph.launch()
        stream.synchronize()
    assert y.get().tolist() == [value] * 4


# ---- errors

@pytest.mark.parametrize(("mode", "call"), [
    (RELAXED, lambda s, x: s.synchronize()),
    (RELAXED, lambda s, x: runtime.deviceSynchronize()),
    (GLOBAL, lambda s, x: runtime.malloc(64)),
    (GLOBAL, lambda s, x: runtime.free(x.data.mem.ptr)),
    (GLOBAL, lambda s, x: runtime.hostAlloc(16, 0)),
    (GLOBAL, lambda s, x: runtime.memcpy(x.data.ptr, x.data.ptr + 8, 8, 3)),
], ids=["stream", "device", "malloc", "free", "pinned", "copy"])
def test_an_unsafe_call_raises_and_invalidates_the_capture(stream, raises, mode, call):
    x = cp.zeros(4, "f4")
    runtime.deviceSynchronize()
    with stream:
        stream.begin_capture(mode)
        x.fill(1)
    raises(900, call, stream, x)
    raises(901, stream.end_capture)
    assert not stream.is_capturing()
    with stream:
        x.fill(2)
        assert x.get().tolist() == [2.0] * 4


@pytest.mark.parametrize(("mode", "this_thread", "other_thread"), [
    (GLOBAL, "raises", "raises"),
    (THREAD_LOCAL, "raises", "done"),
    (RELAXED, "done", "done"),
])
def test_the_mode_determines_which_threads_may_allocate(stream, mode, this_thread, other_thread):
    def allocate():
        try:
            runtime.free(runtime.malloc(64))
        except runtime.CUDARuntimeError as error:
            assert error.status == 900
            return "raises"
        return "done"

    def while_capturing(run):
        with stream:
            stream.begin_capture(mode)
            found = run()
            try:
                stream.end_capture()
            except runtime.CUDARuntimeError as error:
                assert found == "raises" and error.status == 901
            return found

    assert while_capturing(allocate) == this_thread
    assert while_capturing(lambda: in_thread(allocate)) == other_thread


def test_a_fork_that_is_not_joined_raises(stream, raises):
    other, x, y = cp.cuda.Stream(non_blocking=True), cp.zeros(4, "f4"), cp.zeros(4, "f4")
    runtime.deviceSynchronize()
    with stream:
        stream.begin_capture()
        x.fill(1)
        other.wait_event(stream.record())
        with other:
            y.fill(2)
        raises(904, stream.end_capture)
        assert not stream.is_capturing() and not other.is_capturing()


def test_a_fork_that_is_joined_too_early_raises(stream, raises):
    other, x, y = cp.cuda.Stream(non_blocking=True), cp.zeros(4, "f4"), cp.zeros(4, "f4")
    runtime.deviceSynchronize()
    with stream:
        stream.begin_capture()
        other.wait_event(stream.record())
        with other:
            x.fill(1)
            joint = other.record()
            y.fill(2)
        stream.wait_event(joint)
        raises(904, stream.end_capture)


@pytest.mark.parametrize("operation", [
    lambda x: x.fill(2),
    lambda x: x.data.memset(0, 16),
    lambda x: runtime.streamSynchronize(0),
    lambda x: cp.cuda.Event().record(cp.cuda.Stream.null),
], ids=["kernel", "memset", "wait", "event"])
def test_the_legacy_stream_raises_while_a_blocking_stream_captures(raises, operation):
    blocking, x = cp.cuda.Stream(), cp.zeros(4, "f4")
    x.fill(1)
    runtime.deviceSynchronize()
    with blocking:
        blocking.begin_capture(RELAXED)
    either = runtime.CUDARuntimeError, cp.cuda.driver.CUDADriverError
    with cp.cuda.Stream.null, pytest.raises(either) as caught:
        operation(x)
    assert caught.value.status == 906
    raises(901, blocking.end_capture)


def test_the_legacy_stream_works_while_a_non_blocking_stream_captures(stream):
    x, y = cp.zeros(4, "f4"), cp.zeros(4, "f4")
    runtime.deviceSynchronize()
    with stream:
        stream.begin_capture(RELAXED)
        x.fill(3)
    with cp.cuda.Stream.null:
        y.fill(2)
        assert y.get().tolist() == [2.0] * 4
    graph = stream.end_capture()
    graph.launch(stream)
    stream.synchronize()
    assert x.get().tolist() == [3.0] * 4


def test_a_wait_for_work_outside_of_the_capture_raises(stream, raises):
    outside = cp.cuda.Stream(non_blocking=True).record()
    with stream:
        stream.begin_capture()
        raises(905, stream.wait_event, outside)
        raises(901, stream.end_capture)


def test_a_wait_for_a_captured_event_raises(stream, raises):
    with stream:
        stream.begin_capture()
        event = stream.record()
        raises(907, event.synchronize)
        raises(901, stream.end_capture)
    raises(907, stream.wait_event, event)


def test_a_capture_must_end_on_its_own_stream_and_thread(stream, raises):
    other = cp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture(GLOBAL)
        other.wait_event(stream.record())
        raises(903, other.end_capture)
        error = in_thread(stream.end_capture)
        assert error.status == 908
        stream.end_capture()


# ---- the contents of a graph

class KernelParams(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2."""
    _fields_ = [("func", ctypes.c_void_p), ("grid", ctypes.c_uint * 3),
                ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint),
                ("params", ctypes.POINTER(ctypes.c_void_p)), ("extra", ctypes.c_void_p),
                ("kern", ctypes.c_void_p), ("ctx", ctypes.c_void_p)]


class MemsetParams(ctypes.Structure):
    """CUDA_MEMSET_NODE_PARAMS."""
    _fields_ = [("dst", ctypes.c_uint64), ("pitch", ctypes.c_size_t), ("value", ctypes.c_uint),
                ("element", ctypes.c_uint), ("width", ctypes.c_size_t),
                ("height", ctypes.c_size_t)]


class CopySide(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_size_t) for name in ("x", "y", "z", "level")),
                ("type", ctypes.c_int), ("host", ctypes.c_void_p), ("device", ctypes.c_uint64),
                ("array", ctypes.c_void_p), ("reserved", ctypes.c_void_p),
                ("pitch", ctypes.c_size_t), ("height", ctypes.c_size_t)]


class MemcpyParams(ctypes.Structure):
    """CUDA_MEMCPY3D_v2."""
    _fields_ = [("src", CopySide), ("dst", CopySide), ("width", ctypes.c_size_t),
                ("height", ctypes.c_size_t), ("depth", ctypes.c_size_t)]


def ask(function, node, answer):
    assert getattr(driver, function)(ctypes.c_void_p(node), ctypes.byref(answer)) == 0
    return answer


def nodes_of(graph):
    n = ctypes.c_size_t()
    driver.cuGraphGetNodes(ctypes.c_void_p(graph.graph), None, ctypes.byref(n))
    nodes = (ctypes.c_void_p * n.value)()
    driver.cuGraphGetNodes(ctypes.c_void_p(graph.graph), nodes, ctypes.byref(n))
    return [(node, ask("cuGraphNodeGetType", node, ctypes.c_int()).value) for node in nodes]


def edges_of(graph):
    n = ctypes.c_size_t()
    handle = ctypes.c_void_p(graph.graph)
    driver.cuGraphGetEdges_v2(handle, None, None, None, ctypes.byref(n))
    ends = [(ctypes.c_void_p * n.value)() for _ in range(2)]
    driver.cuGraphGetEdges_v2(handle, *ends, None, ctypes.byref(n))
    return set(zip(*ends, strict=True))


def kernel_of(node):
    """The name, the parameters as (offset, bytes), and the launch configuration."""
    p = ask("cuGraphKernelNodeGetParams_v2", node, KernelParams())
    name, offset, size = ctypes.c_char_p(), ctypes.c_size_t(), ctypes.c_size_t()
    function = ctypes.c_void_p(p.func)
    driver.cuFuncGetName(ctypes.byref(name), function)
    values, i = [], 0
    while not driver.cuFuncGetParamInfo(function, ctypes.c_size_t(i), ctypes.byref(offset),
                                        ctypes.byref(size)):
        values.append((offset.value, ctypes.string_at(p.params[i], size.value)))
        i += 1
    return name.value.decode(), values, (tuple(p.grid), tuple(p.block), p.shared)


MANY = """extern "C" __global__ void many(char c, double d, float* p, short s) {
  p[0] = c + d + s;
}"""


def test_a_kernel_node_has_its_parameters_and_launch(stream):
    kernel = cp.RawKernel(MANY, "many")
    with stream:
        x = cp.zeros(4, "f4")
        kernel.compile()
        stream.begin_capture()
        arguments = np.int8(3), np.float64(0.5), x, np.int16(7)
        kernel((2, 3), (4,), arguments, shared_mem=16)
        graph = stream.end_capture()
    (node, kind), = nodes_of(graph)
    name, values, launch = kernel_of(node)
    assert (kind, name, launch) == (0, "many", ((2, 3, 1), (4, 1, 1), 16))
    assert values == [(0, b"\3"), (8, np.float64(0.5).tobytes()),
                      (16, np.uint64(x.data.ptr).tobytes()), (24, np.int16(7).tobytes())]


def test_the_nodes_of_a_graph_have_types_contents_and_edges(stream):
    pinned, seen = cp.cuda.alloc_pinned_memory(32), []
    with stream:
        x, y = cp.zeros(8, "f4"), cp.zeros(8, "f4")
        stream.begin_capture()
        x.data.memset_async(0xAB, 32)
        y.data.copy_from_device_async(x.data, 32)
        to_host = runtime.memcpyDeviceToHost  # CuPy's method raises in a capture
        runtime.memcpyAsync(pinned.ptr, y.data.ptr, 32, to_host, stream.ptr)
        stream.launch_host_func(seen.append, "ran")
        graph = stream.end_capture()
    (memset, a), (copy, b), (to_host, c), (host, d) = nodes_of(graph)
    assert (a, b, c, d) == (2, 1, 1, 3)
    assert edges_of(graph) == {(memset, copy), (copy, to_host), (to_host, host)}
    p = ask("cuGraphMemsetNodeGetParams", memset, MemsetParams())
    filled = p.dst, p.value, p.element * p.width * p.height
    assert filled == (x.data.ptr, 0xAB, 32)
    p = ask("cuGraphMemcpyNodeGetParams", copy, MemcpyParams())
    assert (p.src.type, p.src.device, p.dst.type, p.dst.device) == (2, x.data.ptr, 2, y.data.ptr)
    assert p.width * p.height * p.depth == 32
    p = ask("cuGraphMemcpyNodeGetParams", to_host, MemcpyParams())
    assert (p.src.type, p.dst.type, p.dst.host) == (2, 1, pinned.ptr)
    assert driver.cuGraphMemsetNodeGetParams(ctypes.c_void_p(host), ctypes.byref(p)) == 1
    graph.launch(stream)
    stream.synchronize()
    assert seen == ["ran"] and bytes(pinned)[:32] == b"\xab" * 32


# ---- cuBLAS

@pytest.fixture
def blas(stream):
    """cuBLAS and a handle on the stream."""
    library, handle = ctypes.CDLL("libcublas.so.13"), ctypes.c_void_p()
    library.cublasCreate_v2(ctypes.byref(handle))
    library.cublasSetStream_v2(handle, ctypes.c_void_p(stream.ptr))
    yield library, handle
    library.cublasDestroy_v2(handle)


def product(blas, a, b, c):
    """``c = b @ a`` of square matrices; cuBLAS is column-major."""
    library, handle = blas
    n, one, zero = len(a), ctypes.c_float(1), ctypes.c_float(0)
    pointers = [ctypes.c_void_p(x.data.ptr) for x in (a, b, c)]
    return library.cublasSgemm_v2(handle, 0, 0, n, n, n, ctypes.byref(one), pointers[0], n,
                                  pointers[1], n, ctypes.byref(zero), pointers[2], n)


def test_a_product_is_captured(stream, blas):
    rng = np.random.default_rng(0)
    with stream:
        a, b, c = (cp.zeros((3, 3), "f4") for _ in range(3))
        workspace = cp.empty(1 << 20, "u1")
        library, handle = blas
        pointer, size = ctypes.c_void_p(workspace.data.ptr), ctypes.c_size_t(workspace.nbytes)
        assert library.cublasSetWorkspace_v2(handle, pointer, size) == 0
        stream.begin_capture()
        assert product(blas, a, b, c) == 0
        graph = stream.end_capture()
        for _ in range(3):
            x, y = rng.random((2, 3, 3)).astype("f4")
            a[...], b[...] = cp.asarray(x), cp.asarray(y)
            graph.launch()
            assert np.allclose(c.get(), y @ x, rtol=1e-5)
    (node, kind), = nodes_of(graph)
    name, values, _ = kernel_of(node)
    pointers = [int.from_bytes(value, "little") for _, value in values]
    assert kind == 0 and "gemm" in name and pointers == [x.data.ptr for x in (a, b, c)]


def test_a_result_in_host_memory_waits_and_raises_in_a_capture(lazy, stream, blas):
    library, handle = blas
    with stream:
        x = cp.zeros(4, "f4")
        x.fill(2)
        pointer, result = ctypes.c_void_p(x.data.ptr), ctypes.c_float()
        to = ctypes.byref(result)
        dot = lambda: library.cublasSdot_v2(handle, 4, pointer, 1, pointer, 1, to)
        assert dot() == 0 and result.value == 16
        stream.begin_capture()
        assert dot() == 13
        with pytest.raises(runtime.CUDARuntimeError):
            stream.end_capture()


def test_a_status_of_cublas_has_a_name(blas):
    library, _ = blas
    library.cublasGetStatusName.restype = library.cublasGetStatusString.restype = ctypes.c_char_p
    assert library.cublasGetStatusName(0) == b"CUBLAS_STATUS_SUCCESS"
    assert library.cublasGetStatusName(15) == b"CUBLAS_STATUS_NOT_SUPPORTED"
    assert b"not supported" in library.cublasGetStatusString(15)
