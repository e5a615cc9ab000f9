"""A description of the machine and the installation, to paste into a bug report."""

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

from gpuprop._core.registry import backends, chosen_backend, get_backend
from gpuprop._threads import get_num_threads

# Only these environment variables are reported: others may hold secrets.
VARIABLE_PREFIXES = ("GPUPROP_", "CUPY_", "CUDA_", "NVIDIA_", "OPENBLAS_", "OMP_", "MKL_",
                     "BLIS_", "VECLIB_", "NPY_")
PATH_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
PACKAGES = "ml_dtypes numba scipy scikit-learn matplotlib tqdm onnx safetensors torch jax".split()


def info() -> dict[str, Any]:
    """Versions, machine, backends and settings, as plain Python values."""
    from gpuprop import __version__
    from gpuprop_numpy.memory import keep_freed_memory

    chosen = chosen_backend()
    implementation = platform.python_implementation()
    return {
        "gpuprop": __version__,
        "python": f"{platform.python_version()} ({implementation}, {sys.executable})",
        "system": f"{platform.platform()}, {platform.machine()}",
        "processor": f"{_processor()}, {_usable_cores()} usable cores",
        "numpy": np.__version__,
        "blas": str(blas()),
        "threads": get_num_threads(),
        "freed memory": "kept for reuse" if keep_freed_memory() else "returned to the system",
        "cuda driver": str(cuda_driver()),
        "backends": {name: _availability(name) for name in sorted(backends())},
        "default backend": chosen.name if chosen else "chosen at first use",
        "packages": packages(),
        "variables": dict(sorted(_variables())),
    }


def show_config() -> None:
    """Print versions, machine, backends and settings, to paste into a bug report."""
    print(format_info(info()))


def format_info(values: dict[str, Any], indent: str = "") -> str:
    """A nested dict as lines of "name: value"; each level is indented by two spaces."""
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{name}:")
            lines.append(format_info(value, indent + "  ") if value else f"{indent}  none")
        else:
            lines.append(f"{indent}{name}: {value}")
    return "\n".join(lines)


def _availability(name: str) -> str:
    """The devices and memory of a backend, or why it cannot be used."""
    try:
        backend = get_backend(name)
    except Exception as e:  # a third party's backend may raise anything
        return f"not usable: {e}"
    count = backend.device_count()
    devices = "1 device" if count == 1 else f"{count} devices"
    text = f"usable, {devices}"
    sizes = [f"{n / 2**30:.2f} GiB {kind}" for kind, n in backend.memory().items()]
    return f"{text}, memory: {', '.join(sizes)}" if sizes else text


def packages() -> dict[str, str]:
    """The versions of the installed packages that matter to gpuprop."""
    wanted = {name.replace("_", "-") for name in PACKAGES}
    found = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name in wanted or name.startswith(("cupy", "cuda-", "nvidia-")):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def _variables() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if name.startswith(VARIABLE_PREFIXES) or name in PATH_VARIABLES:
            yield name, value


# ---- the processor and its BLAS ------------------------------------------------------------------


class Blas(NamedTuple):
    """NumPy's library for matrix products.  Only OpenBLAS reports its kernels and threads."""

    name: str
    version: str
    kernels: str = ""  # the processor that its kernels are written for, such as "Haswell"
    threads: int = 0

    def __str__(self) -> str:
        text = f"{self.name} {self.version}"
        if self.kernels:
            threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
            text += f", {self.kernels} kernels, {threads}"
        return text


def blas() -> Blas:
    """The BLAS that NumPy was built with, and the kernels it uses on this processor."""
    built = _numpy_config().get("Build Dependencies", {}).get("blas", {})
    name = built.get("name", "unknown")
    version = built.get("version", "")
    affixes = [("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")]
    for library, (prefix, suffix) in itertools.product(_openblas(), affixes):
        try:
            corename = getattr(library, f"{prefix}openblas_get_corename{suffix}")
            threads = getattr(library, f"{prefix}openblas_get_num_threads{suffix}")
        except AttributeError:
            continue
        corename.restype = ctypes.c_char_p
        return Blas(name, version, corename().decode(), threads())
    return Blas(name, version)


def _openblas() -> Iterator[ctypes.CDLL]:
    """The OpenBLAS libraries in NumPy's wheel, then those that this process has loaded."""
    package = Path(np.__file__).parent
    files = (*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*"))
    paths = [str(file) for file in files]
    maps = Path("/proc/self/maps")
    if maps.exists():
        for line in maps.read_text().splitlines():
            if "openblas" in line.rpartition("/")[2]:
                paths.append(line.split()[-1])
    for path in dict.fromkeys(paths):
        try:
            yield ctypes.CDLL(path)
        except OSError:
            continue


def has_avx512() -> bool:
    """True if NumPy detects a processor with AVX-512, which OpenBLAS's fastest kernels use."""
    found = _numpy_config().get("SIMD Extensions", {}).get("found", [])
    return any(name.startswith(("AVX512", "X86_V4")) for name in found)


def _numpy_config() -> dict[str, Any]:
    return dict(np.show_config(mode="dicts"))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines
                    if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---- the driver ----------------------------------------------------------------------------------


class Driver(NamedTuple):
    """NVIDIA's driver and its devices."""

    cuda: int  # the newest CUDA version it supports, 1000 * major + 10 * minor; 0 without a driver
    devices: list[str]  # the name of each
    reason: str = ""  # why there are no devices

    def __str__(self) -> str:
        if not self.cuda:
            return self.reason
        version = f"CUDA {self.cuda // 1000}.{self.cuda % 1000 // 10}"
        return f"{version}, {', '.join(self.devices) or self.reason}"


def cuda_driver() -> Driver:
    """Ask the driver for its CUDA version and devices, without CuPy and without a CUDA context."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return Driver(0, [], "not installed")
    version = ctypes.c_int()
    count = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    error = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if error:
        error_name = ctypes.c_char_p()
        cuda.cuGetErrorName(error, ctypes.byref(error_name))
        text = (error_name.value or b"error").decode()
        return Driver(version.value, [], f"no device: {text} ({error})")
    device = ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    devices = []
    for i in range(count.value):
        cuda.cuDeviceGet(ctypes.byref(device), i)
        cuda.cuDeviceGetName(name, len(name), device)
        devices.append(name.value.decode())
    return Driver(version.value, devices, "" if devices else "no device")
