"""What this machine and this installation are, as it matters here: the block to paste into a bug report."""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import gpuprop
from gpuprop._core.registry import backends, chosen_backend, get_backend

PREFIXES = ("GPUPROP_", "CUPY_", "CUDA_", "NVIDIA_", "OPENBLAS_", "OMP_", "MKL_", "BLIS_", "VECLIB_", "NPY_")
PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
PACKAGES = "ml_dtypes scipy scikit-learn matplotlib tqdm onnx safetensors torch jax".split()


def info() -> dict[str, Any]:
    """All of it by name, as plain Python values."""
    from gpuprop_numpy.memory import keep_freed_memory

    driver = cuda_driver()
    chosen = chosen_backend()
    return {
        "gpuprop": gpuprop.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})",
        "system": f"{platform.platform()}, {platform.machine()}",
        "processor": f"{_processor()}, {_cores()} cores to use",
        "numpy": np.__version__,
        "blas": str(blas()),
        "freed memory": "kept for the next array" if keep_freed_memory() else "given back to the system",
        "cuda driver": str(driver),
        "backends": {name: _availability(name) for name in sorted(backends())},
        "new arrays": f"on {chosen.name}" if chosen else "on a backend that is not chosen yet",
        "packages": packages(),
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(PREFIXES) or k in PATHS},
    }


def show_config() -> None:
    """Print versions, machine, backends and what else belongs into a bug report."""
    print(text(info()))


def text(known: dict[str, Any], indent: str = "") -> str:
    """A nested dict in lines."""
    lines = []
    for name, value in known.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", text(value, indent + "  ") if value else f"{indent}  none"]
        else:
            lines.append(f"{indent}{name}: {value}")
    return "\n".join(lines)


def _availability(name: str) -> str:
    try:
        backend = get_backend(name)
    except Exception as e:  # any, for a backend may be anybody's
        return f"not usable: {e}"
    sizes = ", ".join(f"{n / 2**30:.2f} GiB {kind}" for kind, n in backend.memory().items())
    count = backend.device_count()
    return f"usable, {count} device{'s' * (count > 1)}{f', memory: {sizes}' * bool(sizes)}"


def packages() -> dict[str, str]:
    """The versions of installed distributions that matter here."""
    known = {(d.metadata["Name"] or "").lower().replace("_", "-"): d.version for d in metadata.distributions()}
    wanted = {name.replace("_", "-") for name in PACKAGES}
    return {n: v for n, v in sorted(known.items()) if n in wanted or n.startswith(("cupy", "cuda-", "nvidia-"))}


# ---- the processor and its BLAS -------------------------------------------------------------------------------------


class Blas(NamedTuple):
    """The library that multiplies matrices for NumPy; only OpenBLAS tells its kernels and threads."""

    name: str
    version: str
    kernels: str = ""
    threads: int = 0

    def __str__(self) -> str:
        own = f", {self.kernels} kernels, {self.threads} threads" if self.kernels else ""
        return f"{self.name} {self.version}{own}"


def blas() -> Blas:
    """What NumPy was built with, and what of it runs here."""
    built = _numpy_config().get("Build Dependencies", {}).get("blas", {})
    name, version = built.get("name", "unknown"), built.get("version", "")
    for library, affixes in itertools.product(_openblas(), [("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")]):
        before, after = affixes
        try:
            corename = getattr(library, f"{before}openblas_get_corename{after}")
            threads = getattr(library, f"{before}openblas_get_num_threads{after}")
        except AttributeError:
            continue
        corename.restype = ctypes.c_char_p
        return Blas(name, version, corename().decode(), threads())
    return Blas(name, version)


def _openblas() -> Iterator[ctypes.CDLL]:
    """The libraries of that name: NumPy's own, then what else this process has loaded."""
    home = Path(np.__file__).parent
    found = [str(f) for f in (*home.parent.glob("numpy.libs/*openblas*"), *home.glob(".dylibs/*openblas*"))]
    maps = Path("/proc/self/maps")
    if maps.exists():
        found += [line.split()[-1] for line in maps.read_text().splitlines() if "openblas" in line.rpartition("/")[2]]
    for path in dict.fromkeys(found):
        try:
            yield ctypes.CDLL(path)
        except OSError:
            continue


def has_avx512() -> bool:
    """Does NumPy see the instructions here that OpenBLAS's newest kernels use?"""
    found = _numpy_config().get("SIMD Extensions", {}).get("found", [])
    return any(name.startswith(("AVX512", "X86_V4")) for name in found)


def _numpy_config() -> dict[str, Any]:
    return dict(np.show_config(mode="dicts"))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "a processor without a name"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- the driver -----------------------------------------------------------------------------------------------------


class Driver(NamedTuple):
    """NVIDIA's driver: the newest CUDA it runs, 1000 * major + 10 * minor, or 0; its devices, or why there are none."""

    cuda: int
    devices: list[str]
    reason: str = ""

    def __str__(self) -> str:
        if not self.cuda:
            return self.reason
        return f"for CUDA {self.cuda // 1000}.{self.cuda % 1000 // 10}, {', '.join(self.devices) or self.reason}"


def cuda_driver() -> Driver:
    """What the driver itself says; CuPy is not needed, and no context is made."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return Driver(0, [], "none is installed")
    version, count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    error = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if error:
        word = ctypes.c_char_p()
        cuda.cuGetErrorName(error, ctypes.byref(word))
        return Driver(version.value, [], f"no device: {(word.value or b'error').decode()} ({error})")
    devices = []
    for i in range(count.value):
        cuda.cuDeviceGet(ctypes.byref(device), i)
        cuda.cuDeviceGetName(name, len(name), device)
        devices.append(name.value.decode())
    return Driver(version.value, devices, "" if devices else "no device")
