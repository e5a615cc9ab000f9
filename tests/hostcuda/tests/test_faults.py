"""Errors that a GPU would show: missing waits, uninitialized memory, impossible launches."""

import threading

import cupy as cp
import hostcuda
import numpy as np
import pytest
from cupy.cuda import runtime

pytestmark = pytest.mark.gpu


def at(pointer, n=4, dtype="f4"):
    """An array on device memory without an owner."""
    memory = cp.cuda.UnownedMemory(pointer, n * np.dtype(dtype).itemsize, None)
    return cp.ndarray(n, dtype, cp.cuda.MemoryPointer(memory, 0))


def bytes_of(x):
    return set(x.view("u1").get().ravel().tolist())


# ---- waits

@pytest.mark.parametrize(("waits", "value"), [(False, 1.0), (True, 6.0)])
def test_a_missing_wait_between_streams_gives_wrong_values(lazy, stream, waits, value):
    other, x = cp.cuda.Stream(non_blocking=True), cp.zeros(4, "f4")
    runtime.deviceSynchronize()
    with stream:
        x.fill(5)
        written = stream.record()
    if waits:
        other.wait_event(written)
    with other:
        y = x + 1
        assert y.get().tolist() == [value] * 4


@pytest.mark.parametrize(("non_blocking", "value"), [(True, 1.0), (False, 6.0)])
def test_a_blocking_stream_waits_for_the_legacy_stream(lazy, non_blocking, value):
    other, x = cp.cuda.Stream(non_blocking=non_blocking), cp.zeros(4, "f4")
    runtime.deviceSynchronize()
    with cp.cuda.Stream.null:
        x.fill(5)
    with other:
        assert (x + 1).get().tolist() == [value] * 4


def test_the_legacy_stream_waits_for_blocking_streams(lazy):
    other, x = cp.cuda.Stream(), cp.zeros(4, "f4")
    runtime.deviceSynchronize()
    with other:
        x.fill(5)
    with cp.cuda.Stream.null:
        assert (x + 1).get().tolist() == [6.0] * 4


def test_waiting_for_an_event_runs_earlier_work_only(lazy, stream):
    x, out = cp.zeros(4, "f4"), cp.cuda.alloc_pinned_memory(16)
    host = np.frombuffer(out, "f4", 4)
    host[:] = 0
    runtime.deviceSynchronize()
    with stream:
        x.fill(5)
        x.data.copy_to_host_async(out.ptr, 16)
        middle = stream.record()
        x.fill(7)
        x.data.copy_to_host_async(out.ptr, 16)
    assert host.tolist() == [0.0] * 4
    middle.synchronize()
    assert host.tolist() == [5.0] * 4
    stream.synchronize()
    assert host.tolist() == [7.0] * 4


@pytest.mark.parametrize(("waits", "value"), [(False, 9.0), (True, 3.0)])
def test_pinned_memory_is_read_when_the_copy_runs(lazy, stream, waits, value):
    memory = cp.cuda.alloc_pinned_memory(16)
    host = np.frombuffer(memory, "f4", 4)
    host[:] = 3
    x = cp.zeros(4, "f4")
    runtime.deviceSynchronize()
    x.data.copy_from_host_async(memory.ptr, 16, stream)
    if waits:
        stream.synchronize()
    host[:] = 9
    stream.synchronize()
    assert x.get().tolist() == [value] * 4


def test_pageable_memory_is_read_before_the_call_returns(lazy, stream):
    host, x = np.full(4, 3, "f4"), cp.zeros(4, "f4")
    runtime.deviceSynchronize()
    x.data.copy_from_host_async(host.ctypes.data, 16, stream)
    host[:] = 9
    stream.synchronize()
    assert x.get().tolist() == [3.0] * 4


def test_a_host_function_runs_in_the_order_of_its_stream(lazy, stream):
    seen, x, memory = [], cp.zeros(4, "f4"), cp.cuda.alloc_pinned_memory(16)
    host = np.frombuffer(memory, "f4", 4)
    host[:] = 0
    runtime.deviceSynchronize()
    with stream:
        x.fill(2)
        x.data.copy_to_host_async(memory.ptr, 16)
        stream.launch_host_func(lambda _: seen.append(host.tolist()), None)
    assert seen == []
    stream.synchronize()
    assert seen == [[2.0] * 4]


def test_two_host_threads_launch_at_once():
    values = np.random.default_rng(0).random((8, 64, 300)).astype("f4")
    results = [None] * 8

    def work(i):
        with cp.cuda.Stream(non_blocking=True) as own:
            x = cp.asarray(values[i])
            for _ in range(20):
                x = cp.sort(x, axis=1)[:, ::-1] * 1
                total = x.sum(axis=0)
            results[i] = total.get()
            own.synchronize()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    want = np.sort(values, axis=2)[:, :, ::-1].sum(axis=1)
    assert np.allclose(results, want, rtol=1e-5)


# ---- memory

def test_new_memory_is_poisoned(pool):
    assert bytes_of(cp.empty(1000, "f4")) == {0xFB}


def test_freed_memory_is_poisoned():
    pointer = runtime.malloc(64)
    at(pointer).fill(1)
    runtime.free(pointer)
    assert bytes_of(at(pointer)) == {0xFB}


def test_a_graph_that_outlives_its_memory_reads_poison(stream, pool):
    pointer, y = runtime.malloc(64), cp.zeros(4, "f4")
    x = at(pointer)
    with stream:
        x.fill(3)
        cp.multiply(x, 2, out=y)
        stream.begin_capture()
        cp.multiply(x, 2, out=y)
        graph = stream.end_capture()
        graph.launch()
        assert y.get().tolist() == [6.0] * 4
        runtime.free(pointer)
        graph.launch()
        poison = np.full(4, 0xFBFBFBFB, "u4").view("f4")
        assert y.get().tolist() == (poison * 2).tolist()


def test_freed_memory_of_the_pool_keeps_its_values_unless_poisoned(pool):
    kept = cp.ones(1000, "f4")
    pointer = kept.data.ptr
    del kept
    assert bytes_of(at(pointer)) == {0, 0x80, 0x3F}
    with hostcuda.poison_freed():
        kept = cp.ones(1000, "f4")
        assert kept.data.ptr == pointer
        del kept
    assert bytes_of(at(pointer)) == {0xFB}


SHARED = r"""
extern "C" __global__ void shared(unsigned* out) {
  __shared__ unsigned fixed[8];
  extern __shared__ unsigned dynamic[];
  int i = threadIdx.x;
  out[blockIdx.x * 16 + i] = fixed[i];
  out[blockIdx.x * 16 + 8 + i] = dynamic[i];
  fixed[i] = dynamic[i] = 1;
  __syncthreads();
}"""


def test_shared_memory_is_poisoned_at_the_start_of_a_block():
    out = cp.zeros(48, "u4")
    cp.RawKernel(SHARED, "shared")((3,), (8,), (out,), shared_mem=32)
    assert set(out.get().tolist()) == {0xFBFBFBFB}


def test_too_large_an_allocation_returns_error_2(raises):
    raises(2, runtime.malloc, 1 << 50)
    with pytest.raises(cp.cuda.memory.OutOfMemoryError):
        cp.empty(1 << 50, "u1")


def test_free_memory_is_counted():
    before, total = runtime.memGetInfo()
    pointer = runtime.malloc(1 << 20)
    assert runtime.memGetInfo() == (before - (1 << 20), total)
    runtime.free(pointer)
    assert runtime.memGetInfo() == (before, total)


def test_freeing_an_address_that_was_not_allocated_raises(raises):
    pointer = runtime.malloc(64)
    raises(1, runtime.free, pointer + 8)
    runtime.free(pointer)
    raises(1, runtime.free, pointer)


def test_host_and_device_memory_are_distinguished():
    kind = lambda pointer: runtime.pointerGetAttributes(pointer).type
    pinned, host = cp.cuda.alloc_pinned_memory(16), np.zeros(4)
    assert kind(cp.zeros(4).data.ptr + 8) == runtime.memoryTypeDevice
    assert kind(pinned.ptr) == runtime.memoryTypeHost
    assert kind(host.ctypes.data) == runtime.memoryTypeUnregistered


# ---- launches

ADD_ONE = 'extern "C" __global__ void add_one(float* x) { x[threadIdx.x] += 1; }'


def launch(grid=(1,), block=(4,), shared=0, most_shared=None):
    kernel, x = cp.RawKernel(ADD_ONE, "add_one"), cp.zeros(4, "f4")
    if most_shared is not None:
        kernel.max_dynamic_shared_size_bytes = most_shared
    kernel(grid, block, (x,), shared_mem=shared)
    return x.get().tolist()


@pytest.mark.parametrize(("grid", "block", "shared", "most_shared"), [
    ((1,), (1025,), 0, None),
    ((1,), (32, 33), 0, None),
    ((1,), (1, 1, 65), 0, None),
    ((1, 65536), (4,), 0, None),
    ((1,), (4,), 48 * 1024 + 1, None),        # more must be requested
    ((1,), (4,), 100 * 1024 + 1, 100 * 1024),
    ((1,), (4,), 0, 227 * 1024 + 1),
])
def test_a_launch_beyond_the_limits_raises(grid, block, shared, most_shared):
    with pytest.raises(cp.cuda.driver.CUDADriverError) as caught:
        launch(grid, block, shared, most_shared)
    assert caught.value.status == 1


@pytest.mark.parametrize(("shared", "most_shared"), [(48 * 1024, None), (227 * 1024, 227 * 1024)])
def test_a_launch_at_the_limits_runs(shared, most_shared):
    assert launch(shared=shared, most_shared=most_shared) == [1.0] * 4


HALF_A_BARRIER = r"""
extern "C" __global__ void half_a_barrier(float* x) {
  if (threadIdx.x < 5) {
    x[threadIdx.x] = 1;
    __syncthreads();
  } else {
    __syncwarp();  // waits for the threads at the other barrier
  }
}"""


def test_a_barrier_that_not_all_threads_reach_raises(eager, capfd):
    x = cp.zeros(64, "f4")
    with pytest.raises(cp.cuda.driver.CUDADriverError) as caught:
        cp.RawKernel(HALF_A_BARRIER, "half_a_barrier")((2,), (32,), (x,))
    assert caught.value.status == 719
    assert "half_a_barrier: not all threads of block (0, 0, 0)" in capfd.readouterr().err
    assert (x + 1).get()[:6].tolist() == [2.0] * 5 + [1.0]  # the process continues


def test_the_error_of_a_lazy_kernel_is_raised_by_the_next_wait(lazy, stream, raises, capfd):
    with stream:
        x = cp.zeros(64, "f4")
        cp.RawKernel(HALF_A_BARRIER, "half_a_barrier")((2,), (32,), (x,))
    raises(719, stream.synchronize)
    assert "half_a_barrier" in capfd.readouterr().err
    stream.synchronize()


@pytest.mark.parametrize(("source", "message"), [
    ('extern "C" __global__ void f(float* x) { x[0] = undeclared; }', "undeclared"),
    ('extern "C" __global__ void f(float* x) { x[0] = 1 }', "expected ';'"),
    ('extern "C" __global__ void f(float* x) { x[0] = cudaGetDevice(0); }', "cudaGetDevice"),
])
def test_a_kernel_with_errors_does_not_compile(source, message):
    with pytest.raises(cp.cuda.compiler.CompileException, match=message):
        cp.RawKernel(source, "f")((1,), (1,), (cp.zeros(1, "f4"),))


def test_a_missing_kernel_of_a_module_raises():
    with pytest.raises(cp.cuda.driver.CUDADriverError) as caught:
        cp.RawModule(code=ADD_ONE).get_function("add_two")
    assert caught.value.status == 500


def test_an_unsupported_runtime_function_returns_error_801(raises):
    raises(801, runtime.ipcGetMemHandle, cp.zeros(1).data.ptr)


# ---- counts

def test_operations_are_counted_by_name(stream):
    x, y = cp.zeros(4, "f4"), cp.zeros(4, "f4")
    pinned = cp.cuda.alloc_pinned_memory(16)
    add_one = cp.RawKernel(ADD_ONE, "add_one")
    with stream:
        hostcuda.count()
        for _ in range(3):
            add_one((1,), (4,), (x,))
        x.data.memset_async(0, 16)
        y.data.copy_from_device_async(x.data, 16)
        x.data.copy_from_host_async(pinned.ptr, 16)
        x.data.copy_to_host_async(pinned.ptr, 16)
        stream.record()
        found = hostcuda.counts()
    assert found == {"add_one": 3, "[memset]": 1, "[copy on device]": 1, "[copy to device]": 1,
                     "[copy to host]": 1, "[record event]": 1}
    hostcuda.count(False)
    add_one((1,), (4,), (x,))
    assert hostcuda.counts() == {}


def test_a_copy_to_pageable_memory_counts_as_a_wait(stream):
    x, host, pinned = cp.zeros(4, "f4"), np.zeros(4, "f4"), cp.cuda.alloc_pinned_memory(16)
    waits = []
    for target in (host.ctypes.data, pinned.ptr):
        hostcuda.count()
        x.data.copy_to_host_async(target, 16, stream)
        waits.append(hostcuda.counts().get("[synchronize stream]", 0))
    hostcuda.count()
    runtime.memcpy(host.ctypes.data, x.data.ptr, 16, runtime.memcpyDeviceToHost)
    waits.append(hostcuda.counts().get("[synchronize stream]", 0))
    hostcuda.count(False)
    assert waits == [1, 0, 1]


# ---- work that is counted but not executed

def test_dry_work_is_counted_but_not_executed():
    a = cp.ones(1000)
    with hostcuda.dry():
        hostcuda.count()
        a += 1
        counts = hostcuda.counts()
        hostcuda.count(False)
    assert sum(n for name, n in counts.items() if name.startswith("cupy_add")) == 1
    assert (a == 1).all()
    a += 1
    assert (a == 2).all()
