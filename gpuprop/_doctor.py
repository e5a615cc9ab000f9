"""Check that every backend computes correctly here, and diagnose known problems."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import gpuprop.functional as F
from gpuprop import _environment
from gpuprop._array.reduction import argsort
from gpuprop._capture import capture
from gpuprop._core.backend import Unavailable
from gpuprop._core.dtypes import as_dtype
from gpuprop._core.registry import backends, load, use
from gpuprop._core.tensor import Tensor
from gpuprop._environment import Driver
from gpuprop.nn import Linear, Sequential, Tanh
from gpuprop.optim import SGD

MIN_DRIVERS = {12: 525, 13: 580}  # CUDA's major version -> the first NVIDIA driver that supports it


class Problem(NamedTuple):
    """A problem of the installation and the command that fixes it."""

    description: str
    fix: str
    fatal: bool = True  # otherwise the backend works, but slowly


class BackendReport(NamedTuple):
    """The result of `check_backends` for one backend."""

    backend: str
    status: str  # "PASS", "FAIL" or, if neither its library nor a device is present, "SKIP"
    message: str
    problems: list[Problem] = []

    def __str__(self) -> str:
        lines = [f"{self.status}  {self.backend}: {self.message}"]
        for problem in self.problems:
            label = "problem" if problem.fatal else "warning"
            lines += [f"      {label}: {problem.description}", f"      fix: {problem.fix}"]
        return "\n".join(lines)


def check_backends() -> list[BackendReport]:
    """Run a training step on every registered backend, and look for known problems."""
    return [_check_backend(name) for name in sorted(backends())]


def _check_backend(name: str) -> BackendReport:
    error = result = ""
    try:
        result = training_step(name)
    except Exception as e:  # whatever it is, the report shows it
        is_complete = type(e) in (ImportError, RuntimeError) and str(e)  # a message of get_backend
        error = str(e) if is_complete else f"{type(e).__name__}: {e}"
    problems: list[Problem] = []
    if name == "cupy":
        installation = CudaInstallation.inspect()
        if error and not installation.cupy_packages and not installation.driver.devices:
            return BackendReport(name, "SKIP", "CuPy is not installed, and no NVIDIA GPU was found")
        problems = list(cupy_problems(installation, error))
    elif name == "numpy":
        problems = list(blas_problems(_environment.blas(), _environment.has_avx512()))
    elif error and (install := _install_command(name)):
        problems = [Problem(f"the library of backend {name!r} is not installed", install)]
    failed = error or any(problem.fatal for problem in problems)
    return BackendReport(name, "FAIL" if failed else "PASS", error or result, problems)


def _install_command(name: str) -> str:
    """The install command of a third party's backend if its library is missing, otherwise ""."""
    try:
        cls = load(name)
        available = cls.is_available()
    except Exception:
        return ""
    missing = isinstance(available, Unavailable) and available.error is ImportError
    return getattr(cls, "install", "") if missing else ""


# ---- a training step -----------------------------------------------------------------------------

# The expected results of `_step`, and the largest accepted relative error in each dtype.
EXPECTED = (0.7035339057244877, 0.6698068873530607, 0.07247041951530708)
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2}


def training_step(name: str) -> str:
    """Compare a training step on a backend with known results, in every floating dtype.

    If the backend records, a captured step must give the same losses, bit for bit, as the step
    itself.  Returns a line with the relative errors; raises ArithmeticError if one is too large.
    """
    errors = {}
    with use(name) as backend:
        for dtype in TOLERANCE:
            try:
                as_dtype(dtype)
            except ImportError:  # bfloat16 needs ml_dtypes, which is optional
                continue
            errors[dtype] = _relative_error(backend, dtype)
        order = argsort(Tensor(backend.asarray(np.array([2, 0, 3, 1])))).tolist()
        if order != [1, 3, 0, 2]:
            raise ArithmeticError(f"argsort of [2, 0, 3, 1] gave {order}, expected [1, 3, 0, 2]")
        if backend.records:
            _check_capture(backend)
        captured = "; captured step identical" if backend.records else ""
    accuracy = ", ".join(f"{error:.0e} ({dtype})" for dtype, error in errors.items())
    return f"training step correct, relative error {accuracy}{captured}"


def _relative_error(backend: Any, dtype: str) -> float:
    """The largest relative error of a step in `dtype`; raises if it is too large."""
    got = np.array([float(value.item()) for value in _step(backend, dtype)])
    error = float(np.abs(got / EXPECTED - 1).max())
    if not error <= TOLERANCE[dtype]:
        raise ArithmeticError(f"a training step in {dtype} gave loss, next loss and squared "
                              f"gradients {got.tolist()}, expected {list(EXPECTED)}")
    return error


def _step(backend: Any, dtype: str) -> tuple:
    """One step of SGD: the loss, the loss after the update, and the sum of squared gradients."""
    model, optimizer, x, y = _task(backend, dtype)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    gradients = [Tensor(p.gradient) for p in model.parameters()]
    squared: Any = sum((g * g).sum() for g in gradients)
    optimizer.step()
    return loss, F.cross_entropy(model(x), y), squared


def _check_capture(backend: Any) -> None:
    """Raise unless a captured step gives the same losses, bit for bit, as the step itself."""
    losses = _losses(backend, lambda step: step)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            captured = _losses(backend, capture)
    except Exception as e:
        raise RuntimeError(f"captured step: {type(e).__name__}: {e}") from e
    for warning in caught:
        if "captur" in str(warning.message):  # it ran uncaptured
            raise RuntimeError(f"captured step: {warning.message}")
    if captured != losses:
        raise ArithmeticError(f"captured step: losses {captured}, without capture {losses}")


def _losses(backend: Any, wrap: Callable) -> list[float]:
    """The losses of four training steps, each a call of ``wrap(step)``."""
    model, optimizer, x, y = _task(backend, "float32")

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = wrap(step)
    return [run(x, y).item() for _ in range(4)]


def _task(backend: Any, dtype: str) -> tuple:
    """A model, its optimizer, inputs and labels.  All numbers are exact in every dtype."""
    def numbers(*shape: int) -> Any:
        values = ((np.arange(np.prod(shape)) * 7 % 11 - 5) / 8).reshape(shape)
        return backend.asarray(values, as_dtype(dtype))

    model = Sequential(Linear(3, 5, dtype=dtype), Tanh(), Linear(5, 2, dtype=dtype))
    for p in model.parameters():
        p.array[...] = numbers(*p.shape)
    labels = Tensor(backend.asarray(np.array([0, 1, 1, 0])))
    return model, SGD(model.parameters(), lr=0.5), Tensor(numbers(4, 3)), labels


# ---- known problems ------------------------------------------------------------------------------


class CudaInstallation(NamedTuple):
    """The parts of this machine that CuPy depends on."""

    cupy_packages: dict[str, str]  # name -> version; more than one is an error
    driver: Driver
    nvrtc_error: str  # why CUDA's compiler NVRTC cannot be called, or ""
    visible_devices: str | None  # CUDA_VISIBLE_DEVICES

    @classmethod
    def inspect(cls) -> CudaInstallation:
        cupy_packages = {
            name: version for name, version in _environment.packages().items()
            if re.fullmatch(r"cupy(-cuda\d+x|-rocm.*)?", name)
        }
        visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        return cls(cupy_packages, _environment.cuda_driver(), nvrtc_error(), visible_devices)


def nvrtc_error() -> str:
    """Why CUDA's compiler NVRTC cannot be called; "" if it can, or if CuPy cannot be imported."""
    try:
        import cupy  # noqa: F401
    except Exception:
        return ""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as e:  # the library or the loader may raise anything
        return f"{type(e).__name__}: {e}".splitlines()[0]
    return ""


def cupy_problems(installation: CudaInstallation, error: str) -> Iterator[Problem]:
    """Problems of CuPy, its libraries and the driver.

    `error` is the message of the training step's error, or "".
    """
    driver = installation.driver
    packages = installation.cupy_packages
    driver_major = 12 if 12000 <= driver.cuda < 13000 else 13
    install = f'pip install "gpuprop[cuda{driver_major}x]"'
    reinstall = f"pip uninstall -y {' '.join(packages)} && {install}"
    if len(packages) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in packages.items())
        yield Problem(f"several CuPy packages are installed and overwrite each other: {listed}",
                      reinstall)
    if not error:
        return
    if not packages and driver.devices:
        yield Problem(f"a GPU was found ({driver.devices[0]}), but CuPy is not installed", install)
    for name, version in packages.items():
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
        if numbers < (14, 0, 1) or numbers == (14, 1, 0):
            yield Problem(f"{name} {version} is not supported: gpuprop needs CuPy 14.0.1 or later, "
                          f"except 14.1.0", reinstall)
    matches = [re.fullmatch(r"cupy-cuda(\d+)x", name) for name in packages]
    cupy_major = next((int(m.group(1)) for m in matches if m), None)
    yield from _driver_problems(driver, cupy_major, reinstall)
    if driver.cuda and not driver.devices:
        if installation.visible_devices is not None:
            hidden = f"CUDA_VISIBLE_DEVICES={installation.visible_devices!r}"
            yield Problem(f"{driver.reason}, with {hidden}", "unset CUDA_VISIBLE_DEVICES")
        else:
            yield Problem(driver.reason, "check that nvidia-smi lists a GPU; in a container, use "
                                         "docker run --gpus all")
    if packages and (installation.nvrtc_error or "not open source file" in error):
        cause = installation.nvrtc_error or error
        yield Problem(f"CUDA's compiler NVRTC, which CuPy needs, is missing or incomplete: {cause}",
                      f'pip install "gpuprop[cuda{cupy_major or driver_major}x]"')


def _driver_problems(driver: Driver, cupy_major: int | None, reinstall: str) -> Iterator[Problem]:
    newest = MIN_DRIVERS[13]
    if driver.cuda == 0:
        yield Problem("no NVIDIA driver is installed",
                      f"install NVIDIA's driver {newest} or later, if this machine has an NVIDIA "
                      f"GPU; otherwise use the numpy backend")
    elif driver.cuda < 12000:
        yield Problem(f"the NVIDIA driver is too old: gpuprop needs CUDA 12.0 or later, the driver "
                      f"supports less ({driver})",
                      f"install NVIDIA's driver {newest} or later, or {MIN_DRIVERS[12]} or later "
                      f"with gpuprop[cuda12x]")
    elif cupy_major is not None and cupy_major > driver.cuda // 1000:
        yield Problem(f"CuPy is built for CUDA {cupy_major}, which the driver does not support "
                      f"({driver})",
                      f"{reinstall}, or install NVIDIA's driver "
                      f"{MIN_DRIVERS.get(cupy_major, newest)} or later")


def blas_problems(blas: _environment.Blas, avx512: bool) -> Iterator[Problem]:
    """Reasons why matrix products are slow."""
    old_kernels = ("Haswell", "Zen", "Sandybridge", "Nehalem", "Prescott", "Katmai")
    if avx512 and blas.kernels in old_kernels:
        yield Problem(f"matrix products may take twice as long as necessary: OpenBLAS uses its "
                      f"{blas.kernels} kernels on a processor with AVX-512",
                      "export OPENBLAS_CORETYPE=SkylakeX  (before Python starts; measure whether "
                      "it is faster)", fatal=False)
    if blas.name in ("none", "blas", "netlib", "lapack_lite"):
        yield Problem(f"matrix products are slow: NumPy was built without an optimized BLAS "
                      f"({blas.name})",
                      "pip install --force-reinstall --no-cache-dir --only-binary numpy numpy",
                      fatal=False)
