"""Real CuPy on a machine without a GPU: CUDA and its libraries are emulated in this process.

Run ``import hostcuda; hostcuda.activate()`` before CuPy is first imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib
import importlib.util
import os
import re
import sys
from types import SimpleNamespace

from . import compile as _compile
from . import native as _native
from . import patch as _patch
from .toolchain import CompileError, supported

__all__ = ["activate", "count", "counts", "dry", "install", "lazy", "poison_freed", "supported"]
__version__ = "0.1.0"

_cuda: ctypes.CDLL | None = None

# Functions that CuPy's thrust and cub modules call: replacements in native/thrust.cpp and cub.cpp.
_THRUST_AND_CUB = {
    "thrust_sort": "hc_thrust_sort",
    "thrust_argsort": "hc_thrust_argsort",
    "thrust_lexsort": "hc_thrust_lexsort",
    "cub_device_reduce": "hc_cub_device_reduce",
    "cub_device_segmented_reduce": "hc_cub_device_segmented_reduce",
    "cub_device_scan": "hc_cub_device_scan",
    "cub_device_histogram_range": "hc_cub_histogram_range",
    "cub_device_histogram_even": "hc_cub_histogram_even",
    "cub_device_reduce_get_workspace_size": "hc_cub_device_reduce_workspace",
    "cub_device_segmented_reduce_get_workspace_size": "hc_cub_device_segmented_reduce_workspace",
    "cub_device_scan_get_workspace_size": "hc_cub_device_scan_workspace",
    "cub_device_histogram_range_get_workspace_size": "hc_cub_histogram_range_workspace",
    "cub_device_histogram_even_get_workspace_size": "hc_cub_histogram_even_workspace",
}


def _address(name: str) -> int | None:
    try:
        return ctypes.cast(getattr(_cuda, name), ctypes.c_void_p).value
    except AttributeError:
        return None


def _flush(begin: int, end: int) -> None:
    _cuda.hc_flush(ctypes.c_void_p(begin), ctypes.c_void_p(end))


def _runtime(name: str) -> int | None:
    """The replacement of a CUDA runtime function; one that returns an error if there is none."""
    m = _patch.RUNTIME.match(name)
    return (_address(f"hc_rt_{m[1]}") or _address("hc_rt_unsupported")) if m else None


def _thrust_or_cub(name: str) -> int | None:
    m = re.match(r"_Z(\d+)", name)  # mangled: _Z, length, name, types
    plain = name[m.end():m.end() + int(m[1])] if m else name
    return _address(_THRUST_AND_CUB[plain]) if plain in _THRUST_AND_CUB else _runtime(name)


def _blas(cublas: ctypes.CDLL) -> None:
    """Let our cuBLAS use the matrix products of the OpenBLAS in NumPy's wheel, if it has one."""
    import numpy

    folder = os.path.dirname(numpy.__file__) + ".libs"
    for path in glob.glob(os.path.join(folder, "libscipy_openblas64*")):
        blas = ctypes.CDLL(path)
        names = [f"scipy_{letter}gemm_64_" for letter in "sdcz"]
        cublas.hc_blas_use(*(ctypes.cast(getattr(blas, n), ctypes.c_void_p) for n in names))
        return


def activate() -> None:
    """Import CuPy with the emulated device, for the rest of the process."""
    if _cuda is not None:
        return
    _require_support()
    if "cupy" in sys.modules:
        raise RuntimeError("call hostcuda.activate() before CuPy is imported")
    install()
    importlib.import_module("cupy")


def _require_support() -> None:
    reason = supported()
    if reason is not True:
        raise RuntimeError(reason)


def install() -> None:
    """Give CuPy the emulated device when it is imported, if it ever is."""
    if _cuda is None and not any(isinstance(f, _OnImport) for f in sys.meta_path):
        sys.meta_path.insert(0, _OnImport())


class _OnImport:
    """Finds CuPy as Python does, and calls `_prepare` before its import and `_complete` after."""

    def find_spec(self, name, path=None, target=None):
        if name != "cupy":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            load = spec.loader.exec_module

            def exec_module(module):
                _prepare()
                load(module)
                _complete()

            spec.loader.exec_module = exec_module
        return spec


def _prepare() -> None:
    """Load the emulated driver, runtime and cuBLAS, before CuPy loads the real ones."""
    global _cuda
    _require_support()
    cuda_path, cublas_path = _native.libraries()
    _cuda = ctypes.CDLL(str(cuda_path), mode=ctypes.RTLD_GLOBAL)
    cublas = ctypes.CDLL(str(cublas_path), mode=ctypes.RTLD_GLOBAL)
    cublas.hc_blas_use.argtypes = [ctypes.c_void_p] * 4
    _cuda.hc_count_text.restype = ctypes.c_char_p
    _cuda.hc_poison.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    _blas(cublas)

    # CuPy loads NVIDIA's libraries through this package; ours are already loaded.
    import cuda.pathfinder as pathfinder

    nvrtc = SimpleNamespace(_handle_uint=_cuda._handle, abs_path=str(cuda_path),
                            was_already_loaded_from_elsewhere=True, found_via="hostcuda")
    pathfinder.load_nvidia_dynamic_lib = lambda name: nvrtc if name == "nvrtc" else None
    import cupy_backends.cuda.api.runtime as runtime

    _patch.replace(runtime.__file__, _runtime, _flush)


def _complete() -> None:
    """Replace Thrust, CUB and the compiler after CuPy is imported."""
    import cupy.cuda.cub
    import cupy.cuda.thrust
    from cupy.cuda import compiler, function

    _patch.replace(cupy.cuda.thrust.__file__, _thrust_or_cub, _flush)
    _patch.replace(cupy.cuda.cub.__file__, _thrust_or_cub, _flush)

    def compile_module(source, options=(), *, arch=None, extra_source=None, backend="nvrtc",
                       enable_cooperative_groups=False, name_expressions=None,
                       log_stream=None, jitify=False, to_ltoir=False):
        if to_ltoir:
            raise NotImplementedError("hostcuda does not support LTO IR")
        try:
            image, mapping = _compile.module(source, options, name_expressions)
        except CompileError as e:
            raise compiler.CompileException(
                str(e), source, "kernel.cu", options, "hostcuda") from None
        module = function.Module()
        module.load(image)
        if mapping:
            module._set_mapping(mapping)
        return module

    compiler._compile_module_with_cache = compile_module


def counts() -> dict[str, int]:
    """The number of calls of each device operation since `count`, by name."""
    lines = _cuda.hc_count_text().decode().splitlines()
    return {name: int(number) for name, number in (line.split("\t") for line in lines)}


def count(on: bool = True) -> None:
    """Start counting from zero, or stop."""
    _cuda.hc_count_reset(on)


def lazy(on: bool = True) -> None:
    """Delay device work until something synchronizes with it: a missing wait gives wrong values."""
    _cuda.hc_lazy(on)


@contextlib.contextmanager
def dry():
    """A context in which device work is counted but not executed: arrays have arbitrary values."""
    _cuda.hc_dry(True)
    try:
        yield
    finally:
        _cuda.hc_dry(False)


def poison_freed():
    """A context in which memory that returns to CuPy's pool is poisoned, in this host thread.

    The pool keeps such memory, so without it a use after free may still find the old values.
    Each free runs all delayed work, so it does not combine with tests of missing waits.
    """
    import cupy

    class PoisonFreed(cupy.cuda.MemoryHook):
        name = "hostcuda.PoisonFreed"

        def free_preprocess(self, **freed):
            _cuda.hc_poison(freed["mem_ptr"], freed["mem_size"])

    return PoisonFreed()
