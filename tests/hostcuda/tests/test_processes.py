"""Settings of a process: devices, platforms, the plugin and the cache."""

import os
import subprocess
import sys
from pathlib import Path

import hostcuda
import pytest

pytestmark = pytest.mark.gpu
HOME = Path(hostcuda.__file__).parents[1]


def python(*arguments, **environment):
    """Run Python without hostcuda's own path to sitecustomize."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}
    environment = inherited | {"PYTHONPATH": str(HOME)} | environment
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True,
                          timeout=300, env=environment)


def printed(code, **environment):
    done = python("-c", "import hostcuda; hostcuda.activate()\nimport cupy as cp\n" + code,
                  **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# ---- devices

def test_no_visible_device_is_error_100():
    code = """
def status(call, *args):
    try:
        call(*args)
    except cp.cuda.runtime.CUDARuntimeError as error:
        return error.status
runtime = cp.cuda.runtime
print(status(runtime.getDeviceCount), status(runtime.getDevice), status(runtime.malloc, 64),
      status(cp.zeros, 3), status(runtime.streamCreate), cp.is_available())
"""
    assert printed(code, CUDA_VISIBLE_DEVICES="") == ["100"] * 5 + ["False"]


@pytest.mark.parametrize(("visible", "devices"), [("0", 1), ("1,0", 2), ("0,5,1", 1), ("-1", None)])
def test_visible_devices_are_counted_up_to_the_first_invalid_one(visible, devices):
    code = """
try:
    print(cp.cuda.runtime.getDeviceCount())
except cp.cuda.runtime.CUDARuntimeError:
    print(None)
"""
    found = printed(code, CUDA_VISIBLE_DEVICES=visible, HOSTCUDA_DEVICES="2")
    assert found == [str(devices)]


TWO_DEVICES = """
import threading
runtime = cp.cuda.runtime
unused = lambda: runtime.memGetInfo()[0]
device_of = lambda pointer: runtime.pointerGetAttributes(pointer).device

before = [unused()]
with cp.cuda.Device(1):
    before.append(unused())
    x = cp.arange(4)
    pointer = runtime.malloc(1 << 20)
    assert runtime.getDevice() == 1
    assert unused() <= before[1] - (1 << 20)
    seen = []
    t = threading.Thread(target=lambda: seen.append(runtime.getDevice()))
    t.start(); t.join()
    assert seen == [0], "each thread has its own current device"
assert unused() == before[0]
assert device_of(x.data.ptr) == 1 and device_of(pointer) == 1 and x.device.id == 1
assert device_of(cp.zeros(1).data.ptr) == 0

assert not runtime.deviceCanAccessPeer(0, 1)
def status(call, *args):
    try:
        call(*args)
    except (runtime.CUDARuntimeError, cp.cuda.driver.CUDADriverError) as error:
        return error.status
assert status(runtime.deviceEnablePeerAccess, 1) == 801
assert status(runtime.setDevice, 2) == 101

here = cp.asarray(x.get())
assert (here + 1).get().tolist() == [1, 2, 3, 4]
with cp.cuda.Device(0):
    assert cp.asarray(x).device.id == 0 and cp.asarray(x).get().tolist() == [0, 1, 2, 3]

add = cp.RawKernel('extern "C" __global__ void add(long long* x) { x[threadIdx.x]++; }', "add")
assert status(add, (1,), (4,), (cp.zeros(4, "i8"),)) is None
assert status(add, (1,), (4,), (x,)) == 700, "memory of another device"
with cp.cuda.Device(1):
    add((1,), (4,), (x,))
    assert x.get().tolist() == [1, 2, 3, 4]
    of_device_1 = cp.cuda.Stream(non_blocking=True)
with cp.cuda.ExternalStream(of_device_1.ptr, device_id=0):  # CuPy itself checks its own
    assert status(add, (1,), (4,), (here,)) == 400, "a stream of another device"
print("done")
"""


@pytest.mark.parametrize("lazy", ["0", "1"])
def test_two_devices_have_separate_memory_and_streams(lazy):
    assert printed(TWO_DEVICES, HOSTCUDA_DEVICES="2", HOSTCUDA_LAZY=lazy)[-1:] == ["done"]


def test_memory_and_poison_are_set_by_the_environment():
    code = """
print(cp.cuda.runtime.memGetInfo()[1] >> 20, set(cp.empty(1 << 20, 'u1').get().tolist()) == {0xfb})
"""
    assert printed(code, HOSTCUDA_MEMORY_MIB="77") == ["77", "True"]
    full = """
try:
    cp.cuda.runtime.malloc(70 << 20), cp.cuda.runtime.malloc(8 << 20)
except cp.cuda.runtime.CUDARuntimeError as error:
    print(error.status)
"""
    assert printed(full, HOSTCUDA_MEMORY_MIB="77") == ["2"]
    assert printed(code, HOSTCUDA_POISON="0")[1] == "False"


# ---- unsupported machines

@pytest.fixture
def unsupported(tmp_path):
    """A PYTHONPATH with which Python reports another machine."""
    (tmp_path / "sitecustomize.py").write_text(
        "import platform\nplatform.machine = lambda: 'riscv64'\n")
    return f"{tmp_path}{os.pathsep}{HOME}"


REASON = "hostcuda needs Linux on x86_64 or aarch64; this is Linux on riscv64"


def test_an_unsupported_platform_has_a_clear_error(unsupported):
    done = python("-c", "import hostcuda; print(hostcuda.supported())", PYTHONPATH=unsupported)
    assert done.stdout.strip() == REASON
    done = python("-c", "import hostcuda; hostcuda.activate()", PYTHONPATH=unsupported)
    assert done.returncode == 1 and done.stderr.endswith(f"RuntimeError: {REASON}\n")


def test_the_plugin_stops_on_an_unsupported_platform(unsupported, tmp_path):
    done = python("-m", "pytest", "-p", "hostcuda.pytest_plugin", str(tmp_path),
                  PYTHONPATH=unsupported)
    assert done.returncode == 4 and done.stderr.strip() == f"ERROR: {REASON}"


def test_a_missing_compiler_is_named():
    done = python("-c", "import hostcuda; hostcuda.activate()", HOSTCUDA_CXX="no-such-g++")
    assert "RuntimeError: hostcuda needs g++ 12 or later; not found: no-such-g++" in done.stderr


def test_this_machine_is_supported():
    assert hostcuda.supported() is True


def test_activation_after_cupy_raises():
    done = python("-c", "import cupy, hostcuda; hostcuda.activate()")
    assert "RuntimeError: call hostcuda.activate() before CuPy is imported" in done.stderr


# ---- the plugin

SOME_TESTS = """
import subprocess, sys
import pytest

@pytest.mark.parametrize("backend", ["numpy", "cupy"])
def test_with_a_parameter(backend): pass

@pytest.mark.gpu
def test_with_the_marker():
    code = "import cupy; print(cupy.arange(4).sum())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "6\\n"

def test_without(): pass
"""


def outcome(tmp_path, *arguments):
    (tmp_path / "test_some.py").write_text(SOME_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    done = python("-m", "pytest", "-p", "hostcuda.pytest_plugin", "-p", "no:cacheprovider",
                  *arguments, str(tmp_path))
    return done.stdout.splitlines()[-1].strip("= ").split(" in ")[0], done.stdout


def test_the_plugin_gives_tests_and_their_children_a_device(tmp_path):
    assert outcome(tmp_path)[0] == "4 passed"


def test_the_plugin_can_deselect_tests_that_need_no_device(tmp_path):
    assert outcome(tmp_path, "--cupy-only")[0] == "2 passed, 2 deselected"


def test_the_plugin_fails_a_test_that_takes_too_long(tmp_path):
    (tmp_path / "test_slow.py").write_text("import time\ndef test_slow(): time.sleep(60)\n")
    summary, text = outcome(tmp_path, "--seconds", "1", "-k", "slow")
    assert summary == "1 failed, 4 deselected" and "TimeoutError: took more than 1 s" in text


# ---- the cache

KERNELS = '''
x = cp.arange(6, dtype="f4")
values = [float((x * 2 + 1).sum()), float(cp.exp(x).max()), int(x.argmax())]
source = """extern "C" __global__ void f(float* x) {
  __shared__ float y[%d];
  y[threadIdx.x] = 3 + threadIdx.x;
  __syncthreads();
  if (threadIdx.x == 0) x[0] = y[(int)x[1]];
}"""
for n in 1000, 2000:
    f = cp.RawKernel(source % n, "f")
    f((1,), (2,), (x,))
    values += [f.shared_size_bytes, float(x[0])]
from hostcuda import compile
print(len(compile.compiled), *values)
'''


@pytest.fixture
def cache(tmp_path):
    """A new cache with the libraries of the current one, which take long to compile."""
    libraries = hostcuda._native.libraries()[0].parent
    for folder in libraries, *hostcuda._compile.cache().glob("prefix-*"):
        os.symlink(folder, tmp_path / folder.name)
    return str(tmp_path)


def test_kernels_are_compiled_once_and_can_be_compiled_in_groups(cache):
    first = printed(KERNELS, HOSTCUDA_CACHE=cache)
    again = printed(KERNELS, HOSTCUDA_CACHE=cache)
    assert int(first[0]) > 3 and again[0] == "0" and again[1:] == first[1:]
    assert first[4:] == ["4000", "4.0", "8000", "4.0"]
    for folder in Path(cache).glob("??"):
        for path in folder.iterdir():
            path.unlink()
    done = python("-m", "hostcuda.kernels", "build", HOSTCUDA_CACHE=cache)
    assert f"{first[0]} of them compiled" in done.stdout, done.stdout + done.stderr
    assert list(Path(cache).glob("groups/*.so"))
    assert printed(KERNELS, HOSTCUDA_CACHE=cache) == again


def test_kernels_compile_without_a_section_of_shared_memory_if_it_fails(cache):
    code = """
from hostcuda import compile
run, attempts = compile.run, []
def run_without_sections(command):
    if "-shared" in command:
        attempts.append("-DHC_NO_SECTIONS" in command)
        if not attempts[-1]:
            raise compile.CompileError("error: section type conflict")
    run(command)
compile.run = run_without_sections
source = '__shared__ int y[8]; y[threadIdx.x] = threadIdx.x; __syncthreads();'
f = cp.RawKernel('extern "C" __global__ void f(int* x) {' + source + 'x[0] = y[7]; }', "f")
x = cp.empty(1, "i4")
f((1,), (8,), (x,))
print(int(x[0]), f.shared_size_bytes, *attempts[:2])
"""
    assert printed(code, HOSTCUDA_CACHE=cache) == ["7", "0", "False", "True"]


def test_a_list_of_kernels_can_be_compiled_in_another_cache(cache, tmp_path):
    first = printed(KERNELS, HOSTCUDA_CACHE=cache)
    saved = tmp_path / "kernels.json.gz"
    python("-m", "hostcuda.kernels", "save", str(saved), HOSTCUDA_CACHE=cache)
    for path in Path(cache).glob("??/*.so"):
        path.unlink()
    for path in Path(cache).glob("notes/*"):
        path.unlink()
    done = python("-m", "hostcuda.kernels", "build", str(saved), HOSTCUDA_CACHE=cache)
    assert f"{first[0]} of them compiled" in done.stdout, done.stdout + done.stderr
    assert printed(KERNELS, HOSTCUDA_CACHE=cache) == ["0", *first[1:]]


COMPILED_AHEAD = """
import json
from cupy.cuda import compiler
import hostcuda.kernels, hostcuda.warm
requested, real = set(), compiler._compile_module_with_cache

def watched(source, options=(), **keywords):
    if "hostcuda_warm" not in source:
        requested.add((source, options, repr(sorted(keywords.items()))))
    return real(source, options, **keywords)

compiler._compile_module_with_cache = watched
cp.arange(5.0).sum()
cp.ElementwiseKernel("float32 x", "float32 y", "y = x + 1", "k", options=("--fmad=false",))(
    cp.zeros(3, "float32"))
by_program = set(requested)
requested.clear()
hostcuda.kernels.save(LIST)
failed = hostcuda.warm.compile_all(hostcuda.kernels.lines(LIST))
print(len(by_program), len(failed), by_program <= requested)
"""


def test_a_list_compiled_ahead_has_the_kernels_that_the_program_requests(cache, tmp_path):
    """Source, options and keywords are the same, so CuPy finds the kernels in its cache."""
    code = COMPILED_AHEAD.replace("LIST", repr(str(tmp_path / "list.gz")))
    *_, requested, failed, same = printed(code, HOSTCUDA_CACHE=str(cache))
    assert int(requested) >= 2 and (failed, same) == ("0", "True")
