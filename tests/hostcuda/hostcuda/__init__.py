"""Real CuPy on a machine without a GPU: CUDA's driver, runtime, compiler and libraries are answered by this process.

``import hostcuda; hostcuda.activate()`` before CuPy is first imported, or `install` to have that done when it is.
"""

from __future__ import annotations

import ctypes
import glob
import importlib
import importlib.util
import os
import re
import sys
from types import SimpleNamespace

from . import compile as _compile
from . import patch as _patch

_cuda: ctypes.CDLL | None = None

# What CuPy's thrust and cub modules call, and the functions of native/thrust_cub.cpp that answer.
_OTHERS = {
    "thrust_sort": "hc_thrust_sort", "thrust_argsort": "hc_thrust_argsort", "thrust_lexsort": "hc_thrust_lexsort",
    "cub_device_reduce": "hc_cub_device_reduce", "cub_device_segmented_reduce": "hc_cub_device_segmented_reduce",
    "cub_device_scan": "hc_cub_device_scan", "cub_device_histogram_range": "hc_cub_histogram_range",
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


def _runtime(name: str) -> int | None:
    """The answer to a function of cudart's; refused if there is none."""
    m = _patch.RUNTIME.match(name)
    return (_address(f"hc_rt_{m[1]}") or _address("hc_rt_unsupported")) if m else None


def _thrust_or_cub(name: str) -> int | None:
    m = re.match(r"_Z(\d+)", name)  # mangled: _Z, length, name, types
    plain = name[m.end():m.end() + int(m[1])] if m else name
    return _address(_OTHERS[plain]) if plain in _OTHERS else _runtime(name)


def _blas(cublas: ctypes.CDLL) -> None:
    """Give our cuBLAS the matrix products of the OpenBLAS that NumPy's wheel brings along, if it does."""
    import numpy

    base = os.path.dirname(numpy.__file__)
    for path in glob.glob(os.path.join(base + ".libs", "libscipy_openblas64*")) + glob.glob(os.path.join(base, ".dylibs", "libscipy_openblas64*")):
        lib = ctypes.CDLL(path)
        cublas.hc_blas_use(*(ctypes.cast(getattr(lib, f"scipy_{k}gemm_64_"), ctypes.c_void_p) for k in "sdcz"))
        return


def activate() -> None:
    """Import CuPy and have it find a device that is this process; for the rest of the process."""
    if _cuda is not None:
        return
    if "cupy" in sys.modules:
        raise RuntimeError("hostcuda.activate() is for before CuPy is imported")
    install()
    importlib.import_module("cupy")


def install() -> None:
    """Have CuPy find a device that is this process whenever it is imported, if it ever is."""
    if _cuda is None and not any(isinstance(f, _OnImport) for f in sys.meta_path):
        sys.meta_path.insert(0, _OnImport())


class _OnImport:
    """Finds CuPy as Python does, and has its import begin with `_prepare` and end with `_complete`."""

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
    """The driver, the runtime and cuBLAS, in place before CuPy asks for them."""
    global _cuda
    cuda_path, cublas_path = _compile.native()
    _cuda = ctypes.CDLL(str(cuda_path), mode=ctypes.RTLD_GLOBAL)
    cublas = ctypes.CDLL(str(cublas_path), mode=ctypes.RTLD_GLOBAL)
    cublas.hc_blas_use.argtypes = [ctypes.c_void_p] * 4
    _cuda.hc_count_text.restype = ctypes.c_char_p
    _blas(cublas)

    import cuda.pathfinder as pathfinder  # CuPy preloads NVIDIA's libraries by it; ours are loaded already

    nvrtc = SimpleNamespace(_handle_uint=_cuda._handle, abs_path=str(cuda_path),
                            was_already_loaded_from_elsewhere=True, found_via="hostcuda")
    pathfinder.load_nvidia_dynamic_lib = lambda name: nvrtc if name == "nvrtc" else None
    import cupy_backends.cuda.api.runtime as runtime

    _patch.replace(runtime.__file__, _runtime)


def _complete() -> None:
    """Thrust, CUB and the compiler of a CuPy that is imported."""
    import cupy.cuda.cub
    import cupy.cuda.thrust
    from cupy.cuda import compiler, function

    _patch.replace(cupy.cuda.thrust.__file__, _thrust_or_cub)
    _patch.replace(cupy.cuda.cub.__file__, _thrust_or_cub)

    def compile_module(source, options=(), *, arch=None, extra_source=None, backend="nvrtc",
                       enable_cooperative_groups=False, name_expressions=None, log_stream=None, jitify=False,
                       to_ltoir=False):
        if to_ltoir:
            raise NotImplementedError("hostcuda makes no LTO IR")
        try:
            image, mapping = _compile.module(source, options, name_expressions)
        except _compile.CompileError as e:
            raise compiler.CompileException(str(e), source, "kernel.cu", options, "hostcuda") from None
        module = function.Module()
        module.load(image)
        if mapping:
            module._set_mapping(mapping)
        return module

    compiler._compile_module_with_cache = compile_module


def counts() -> dict[str, int]:
    """How often each device operation was asked for since `count`."""
    return {k: int(n) for k, n in (line.split("\t") for line in _cuda.hc_count_text().decode().splitlines())}


def count(on: bool = True) -> None:
    """Start counting from zero, or stop."""
    _cuda.hc_count_reset(on)


def lazy(on: bool = True) -> None:
    """Have device operations wait until something synchronizes with them, so that a missing wait shows in values."""
    _cuda.hc_lazy(on)
