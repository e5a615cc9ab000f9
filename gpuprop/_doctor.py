"""Does every backend here compute what it must, and if not, why, and which line mends it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gpuprop import _environment as environment
from gpuprop import functional as F
from gpuprop import optim
from gpuprop._array.reduction import argsort
from gpuprop._capture import capture
from gpuprop._core.backend import Unavailable
from gpuprop._core.dtypes import as_dtype
from gpuprop._core.registry import backends, load, use
from gpuprop._core.tensor import Tensor
from gpuprop._environment import Driver
from gpuprop.nn import Linear, Sequential, Tanh

DRIVERS = {12: 525, 13: 580}  # the first of NVIDIA's drivers for each CUDA


class Finding(NamedTuple):
    """Something wrong: what, and the line that mends it."""

    what: str
    remedy: str
    fatal: bool = True  # else it is slow


class Verdict(NamedTuple):
    """What the doctor says of a backend: "PASS", "FAIL", or "NONE" where neither its library nor a device is there."""

    backend: str
    verdict: str
    reason: str
    findings: list[Finding] = []

    def __str__(self) -> str:
        lines = [f"{self.verdict}  {self.backend}: {self.reason}"]
        for finding in self.findings:
            lines += [f"      {'why' if finding.fatal else 'but'}: {finding.what}", f"      do:  {finding.remedy}"]
        return "\n".join(lines)


def examine() -> list[Verdict]:
    """A verdict for every backend known here."""
    return [_verdict(name) for name in sorted(backends())]


def _verdict(name: str) -> Verdict:
    problem = result = ""
    try:
        result = training_step(name)
    except Exception as e:  # any: that is what we are here to report
        told = type(e) in (ImportError, RuntimeError) and str(e)  # get_backend's words need no more
        problem = told or f"{type(e).__name__}: {e}"
    if name == "cupy":
        facts = Facts.gather()
        findings = list(cupy_findings(facts, problem))
        if problem and not facts.cupys and not facts.driver.devices:
            return Verdict(name, "NONE", "CuPy is not installed, and no NVIDIA GPU answers that would need it")
    elif name == "numpy":
        findings = list(blas_findings(environment.blas(), environment.has_avx512()))
    else:
        findings = [Finding("its library is missing", install)] if problem and (install := _install(name)) else []
    bad = problem or any(finding.fatal for finding in findings)
    return Verdict(name, "FAIL" if bad else "PASS", problem or result, findings)


def _install(name: str) -> str:
    """The line that a third party's backend gives, where it says that its library is missing."""
    try:
        cls = load(name)
        usable = cls.is_available()
    except Exception:
        return ""
    missing = isinstance(usable, Unavailable) and usable.error is ImportError
    return getattr(cls, "install", "") if missing else ""


# ---- a computation --------------------------------------------------------------------------------------------------

# What the step below must give: the loss, the loss after the update, and the sum of all squared gradients.
KNOWN = (0.7035339057244877, 0.6698068873530607, 0.07247041951530708)
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2}


def training_step(name: str) -> str:
    """Forward, backward and update on this backend against known numbers, in words; raises where they differ.

    A backend that records must give the same bits where the step is captured.
    """
    errors = {}
    with use(name) as backend:
        for dtype in TOLERANCE:
            try:
                as_dtype(dtype)
            except ImportError:  # bfloat16 needs ml_dtypes, which is optional
                continue
            errors[dtype] = _error(backend, dtype)
        order = argsort(Tensor(backend.asarray(np.array([2, 0, 3, 1])))).tolist()
        if order != [1, 3, 0, 2]:
            raise ArithmeticError(f"the order of 2, 0, 3, 1 is [1, 3, 0, 2], and not {order}")
        captured = ", captured too" if backend.records and _captured(backend) else ""
    told = ", ".join(f"{error:.0e} ({dtype})" for dtype, error in errors.items())
    return f"forward, backward and update are right to {told}{captured}"


def _error(backend: Any, dtype: str) -> float:
    """The largest relative error of what a step in `dtype` gives; raises where it is too large."""
    got = np.array([float(value.item()) for value in _step(backend, dtype)])
    error = float(np.abs(got / KNOWN - 1).max())
    if not error <= TOLERANCE[dtype]:
        raise ArithmeticError(f"a training step in {dtype} gave loss, next loss and squared gradients "
                              f"{got.tolist()}, not {list(KNOWN)}")
    return error


def _step(backend: Any, dtype: str) -> tuple:
    """A step of gradient descent on exact binary fractions."""
    model, optimizer, x, y = _task(backend, dtype)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    gradients = [Tensor(p.grad) for p in model.parameters()]
    squared: Any = sum((g * g).sum() for g in gradients)
    optimizer.step()
    return loss, F.cross_entropy(model(x), y), squared


def _captured(backend: Any) -> bool:
    """Are the losses of a captured step those of the step itself?  Raises where they are not, or it is not captured."""
    losses = []
    for how in (lambda step: step, capture):
        model, optimizer, x, y = _task(backend, "float32")

        def step(x: Tensor, y: Tensor, model: Any = model, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        run = how(step)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                losses.append([run(x, y).item() for _ in range(4)])
            except Exception as e:
                told_as = "captured: " * (run is not step)
                raise RuntimeError(f"{told_as}{type(e).__name__}: {e}") from e
        why = next((str(w.message) for w in told if "not captured" in str(w.message)), None)
        if why:
            raise RuntimeError(f"captured: {why}")
    if losses[0] != losses[1]:
        raise ArithmeticError(f"a captured step gave the losses {losses[1]}, the step itself {losses[0]}")
    return True


def _task(backend: Any, dtype: str) -> tuple:
    """A model, its optimizer, inputs and labels, all of exact binary fractions."""
    def numbers(*shape: int) -> Any:
        values = ((np.arange(np.prod(shape)) * 7 % 11 - 5) / 8).reshape(shape)
        return backend.asarray(values, as_dtype(dtype))

    model = Sequential(Linear(3, 5, dtype=dtype), Tanh(), Linear(5, 2, dtype=dtype))
    for p in model.parameters():
        p.data[...] = numbers(*p.shape)
    labels = Tensor(backend.asarray(np.array([0, 1, 1, 0])))
    return model, optim.SGD(model.parameters(), lr=0.5), Tensor(numbers(4, 3)), labels


# ---- what may be wrong ----------------------------------------------------------------------------------------------


class Facts(NamedTuple):
    """What CuPy needs, as it is found here."""

    cupys: dict[str, str]  # versions of installed distributions
    driver: Driver
    nvrtc: str  # why kernels cannot be compiled, or ""
    visible: str | None  # CUDA_VISIBLE_DEVICES

    @classmethod
    def gather(cls) -> Facts:
        cupys = {n: v for n, v in environment.packages().items() if re.fullmatch(r"cupy(-cuda\d+x|-rocm.*)?", n)}
        return cls(cupys, environment.cuda_driver(), nvrtc(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def nvrtc() -> str:
    """Why CUDA's compiler cannot be called, or ""; where CuPy itself cannot be imported nobody knows."""
    try:
        import cupy  # noqa: F401
    except Exception:
        return ""
    try:
        from cupy.cuda import nvrtc as library

        library.getVersion()
    except Exception as e:  # of CuPy, of the loader of libraries, of the library
        return f"{type(e).__name__}: {e}".splitlines()[0]
    return ""


def cupy_findings(facts: Facts, problem: str) -> Iterator[Finding]:
    """What is wrong with CuPy, its libraries and the driver."""
    driver, cupys = facts.driver, facts.cupys
    major = 12 if 12000 <= driver.cuda < 13000 else 13
    install = f'pip install "gpuprop[cuda{major}x]"'
    renew = f"pip uninstall -y {' '.join(cupys)} && {install}"
    if len(cupys) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in cupys.items())
        yield Finding(f"several CuPys are installed, and their files overwrite each other: {listed}", renew)
    if not problem:
        return
    if not cupys and driver.devices:
        yield Finding(f"there is a GPU ({driver.devices[0]}), but no CuPy", install)
    for name, version in cupys.items():
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
        if numbers < (14, 0, 1) or numbers == (14, 1, 0):
            yield Finding(f"{name} {version} does not do: gpuprop needs 14.0.1 or later, but not 14.1.0", renew)
    built = next((int(m.group(1)) for name in cupys if (m := re.fullmatch(r"cupy-cuda(\d+)x", name))), None)
    if driver.cuda == 0:
        yield Finding("there is no device: no NVIDIA driver is installed",
                      f"nothing, to compute by NumPy; with an NVIDIA GPU install its driver, {DRIVERS[13]} or later")
    elif driver.cuda < 12000:
        yield Finding(f"the driver is too old: it is {driver}",
                      f"install NVIDIA's driver {DRIVERS[13]} or later; {DRIVERS[12]} will do, with gpuprop[cuda12x]")
    elif built is not None and built > driver.cuda // 1000:
        yield Finding(f"CuPy is for CUDA {built}, and the driver is {driver}",
                      f"{renew}, or install NVIDIA's driver {DRIVERS.get(built, DRIVERS[13])} or later")
    if driver.cuda and not driver.devices and facts.visible is not None:
        yield Finding(f"{driver.reason}, and CUDA_VISIBLE_DEVICES={facts.visible!r}", "unset CUDA_VISIBLE_DEVICES")
    elif driver.cuda and not driver.devices:
        yield Finding(driver.reason, "nvidia-smi  (it must list a GPU; a container gets one by docker run --gpus all)")
    if cupys and (facts.nvrtc or "not open source file" in problem):
        what = facts.nvrtc or problem
        yield Finding(f"CUDA's compiler NVRTC, with which CuPy makes its kernels, is not whole: {what}",
                      f'pip install "gpuprop[cuda{built or major}x]"')


def blas_findings(blas: environment.Blas, avx512: bool) -> Iterator[Finding]:
    """Matrix products that could be faster."""
    if avx512 and blas.kernels in ("Haswell", "Zen", "Sandybridge", "Nehalem", "Prescott", "Katmai"):
        yield Finding(f"matrix products may take twice as long as they need: OpenBLAS took its kernels for "
                      f"{blas.kernels} on a processor with AVX-512",
                      "export OPENBLAS_CORETYPE=SkylakeX  (before Python starts; see that it is faster)", fatal=False)
    if blas.name in ("none", "blas", "netlib", "lapack_lite"):
        yield Finding(f"matrix products are slow: NumPy was built without a fast BLAS ({blas.name})",
                      "pip install --force-reinstall --no-cache-dir --only-binary numpy numpy", fatal=False)
