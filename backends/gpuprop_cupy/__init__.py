"""The backend ``"cupy"``: arrays on NVIDIA GPUs.  CuPy is imported on first use."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpuprop.backend import Backend, CaptureError, Namespace, Unavailable

INSTALL = 'pip install "gpuprop[cuda13]" (or "gpuprop[cuda12]", for drivers before 580)'


class CupyBackend(Backend):
    """CuPy: new arrays are on the thread's current device, and ops run on their arrays' device."""

    name = "cupy"
    install = INSTALL
    aliases = ("cuda", "gpu")
    priority = 1
    array_modules = ("cupy",)
    dlpack_devices = (2, 13)  # kDLCUDA and kDLCUDAManaged

    @classmethod
    def is_available(cls) -> bool | Unavailable:
        """True if a device computes correct values, else the reason; tested once per process."""
        if _probed_by not in (None, os.getpid()):
            return Unavailable(FORKED)
        return _probe()

    def __init__(self) -> None:
        import cupy

        from gpuprop_cupy import random
        from gpuprop_cupy.graph import can_record
        from gpuprop_cupy.namespace import OWN
        from gpuprop_cupy.prefetch import Prefetch

        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self.array_type = cupy.ndarray
        self.kernels = {
            "gpuprop:take_rng_key": random.take_rng_key,
            "gpuprop:keep_mask": random.keep_mask,
            "gpuprop:keep_rows": random.keep_rows,
        }
        self.xp = Namespace(cupy, check=self.check, **OWN)
        self.records = can_record()
        self._prefetch = Prefetch(cupy)
        self._workspaces: dict[int, int] = {}  # by device
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._clear)

    def _clear(self) -> None:
        """Remove all attributes in a forked process, but free no object: that would call CUDA."""
        _kept_after_fork.append(dict(vars(self)))
        vars(self).clear()

    def __getattr__(self, name: str) -> Any:
        """Explain the error in a forked process, where CUDA only reports "initialization error"."""
        raise AttributeError(name) if vars(self) else RuntimeError(FORKED)

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        if isinstance(value, self._cupy.ndarray) and value.device.id != self.device():
            value = self._copied_here(value)
        return self._cupy.asarray(value, dtype)

    def _copied_here(self, array: Any) -> Any:
        """A copy of another device's array, ordered with the current streams of both devices."""
        here = self._cupy.cuda.get_current_stream()
        if here.is_capturing():
            raise CaptureError("a copy from another device cannot be captured")
        with array.device:  # the default stream is that of the current device
            array = self._cupy.ascontiguousarray(array)
            ready = self._cupy.cuda.get_current_stream().record()
        here.wait_event(ready)
        copy = array.copy()
        copied = here.record()
        with array.device:  # later writes to the memory of `array` must wait for the copy
            self._cupy.cuda.get_current_stream().wait_event(copied)
        return copy

    def _to_numpy(self, array: Any) -> np.ndarray:
        return self._cupy.asnumpy(array)

    def _pointwise(self, fn: Callable) -> Callable:
        """The pointwise body `fn` as one CUDA kernel."""
        from gpuprop_cupy.pointwise import compiled

        return compiled(fn)

    def prefetch(self, batches: Iterable[list[np.ndarray]]) -> Iterator[list]:
        """Yield host batches as device arrays; each is copied while the previous one is in use."""
        return self._prefetch(batches)

    def _read_flags(self, flags: Any) -> np.ndarray:
        return flags.get()

    def _synchronize(self) -> None:
        self._cupy.cuda.Device().synchronize()

    def record(self, tensors: Any = ()) -> Any:
        """A context manager that records the device work of its block as a CUDA graph."""
        from gpuprop_cupy.graph import record

        return record()

    def device_count(self) -> int:
        return self._runtime.getDeviceCount()

    def device(self) -> int:
        return self._runtime.getDevice()

    def device_of(self, array: Any) -> int:
        return array.device.id

    def use_device(self, index: int) -> None:
        self._cupy.cuda.Device(index).use()

    def workspace(self) -> int:
        """Bytes: a sixteenth of the device's memory, rounded down to a power of two."""
        device = self.device()
        if device not in self._workspaces:
            _, total = self._runtime.memGetInfo()
            self._workspaces[device] = 1 << (total // 16).bit_length() - 1
        return self._workspaces[device]

    def memory(self) -> dict[str, int]:
        """Bytes of the current device's memory.

        ``used`` counts the arrays in CuPy's pool, ``reserved`` the pool and all recordings.
        ``free`` and ``total`` are CUDA's numbers for the device.
        """
        from gpuprop_cupy.graph import reserved

        pool = self._cupy.get_default_memory_pool()
        free, total = self._runtime.memGetInfo()
        return {
            "used": pool.used_bytes(),
            "reserved": pool.total_bytes() + reserved(self.device()),
            "free": free,
            "total": total,
        }


FORKED = ("this process was forked from one that had used CUDA, and CUDA does not survive a fork: "
          "start processes with multiprocessing.get_context('spawn'), or use CUDA in the new "
          "process only")
_kept_after_fork: list[dict] = []
_probed_by: int | None = None  # the process in which CUDA was started


@functools.cache
def _probe() -> bool | Unavailable:
    """True if the current device computes correct values, else the reason why it does not."""
    try:
        import cupy
    except Exception as e:  # the libraries that it loads may raise anything
        reason = str(e) if isinstance(e, ImportError) else f"{type(e).__name__}: {e}"
        return Unavailable(f"cannot import CuPy ({reason}): {INSTALL}", ImportError)
    runtime = cupy.cuda.runtime
    try:
        runtime.getDeviceCount()
    except runtime.CUDARuntimeError as e:
        return Unavailable(f"no usable CUDA device: {e} ({_driver(runtime)})")
    global _probed_by
    _probed_by = os.getpid()
    try:
        wrong = _wrong_result(cupy)
    except ImportError as e:
        return Unavailable(str(e), ImportError)
    except Exception as e:
        return Unavailable(f"the CUDA device fails to compute: {type(e).__name__}: {e}")
    return Unavailable(f"the CUDA device computes wrong values: {wrong}") if wrong else True


def _wrong_result(cupy: Any) -> str:
    """Compute a sum, a sort and a product; describes the first wrong result, or returns ``""``."""
    from gpuprop_cupy.products import matmul

    x = cupy.arange(4, dtype="float32")
    square = x.reshape(2, 2)
    for what, got, expected in (
            ("0 + 1 + 2 + 3", x.sum(), 6),
            ("argsort of [3, 2, 1, 0]", cupy.argsort(3 - x), [3, 2, 1, 0]),
            ("the square of [[0, 1], [2, 3]]", matmul(square, square), [[2, 3], [6, 11]])):
        if got.tolist() != expected:
            return f"{what} is {got.tolist()}, expected {expected}"
    return ""


def _driver(runtime: Any) -> str:
    """A text about the CUDA versions of the driver and of CuPy."""
    version = lambda v: f"{v // 1000}.{v % 1000 // 10}"
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        return "no NVIDIA driver is installed"
    return f"the driver runs CUDA {version(driver)} or older; CuPy was built for {version(built)}"
