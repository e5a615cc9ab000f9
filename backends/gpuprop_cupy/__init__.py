"""The backend ``"cupy"``: arrays on NVIDIA GPUs.  CuPy is imported when the backend is first asked for."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpuprop.backend import Backend, CaptureError, Namespace, Unavailable

INSTALL = 'pip install "gpuprop[cuda13]" (or "gpuprop[cuda12]", for drivers before 580)'


class CupyBackend(Backend):
    """CuPy: arrays are made on the current CUDA device of each thread, and computed where they lie."""

    name, install = "cupy", INSTALL
    aliases, priority = ("cuda", "gpu"), 1
    array_modules, dlpack_devices = ("cupy",), (2, 13)  # CUDA's memory, and managed memory

    @classmethod
    def is_available(cls) -> bool | Unavailable:
        """True once a device has computed something, or why it cannot; asked once a process."""
        return Unavailable(FORKED) if _probed_by not in (None, os.getpid()) else _probe()

    def __init__(self) -> None:
        import cupy

        from gpuprop_cupy import random
        from gpuprop_cupy.graph import can_record
        from gpuprop_cupy.namespace import OWN
        from gpuprop_cupy.prefetch import Prefetch

        self._cupy, self._runtime = cupy, cupy.cuda.runtime
        self.array_type = cupy.ndarray
        self.kernels = {
            "gpuprop.random:take_rng_key": random.take_rng_key,
            "gpuprop.random:keep_mask": random.keep_mask,
            "gpuprop.random:keep_rows": random.keep_rows,
        }
        self.xp = Namespace(cupy, check=self.check, **OWN)
        self.records = can_record()
        self._prefetch = Prefetch(cupy)
        self._workspaces: dict[int, int] = {}  # by device
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._leave)

    def _leave(self) -> None:
        """In a forked process: have nothing, and destroy nothing, which would be a call to CUDA."""
        _remains.append(dict(vars(self)))
        vars(self).clear()

    def __getattr__(self, name: str) -> Any:
        """Say what is wrong in a forked process, to which CUDA only says "initialization error"."""
        raise AttributeError(name) if vars(self) else RuntimeError(FORKED)

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        if isinstance(value, self._cupy.ndarray) and value.device.id != self.device():
            value = self._brought(value)
        return self._cupy.asarray(value, dtype)

    def _brought(self, array: Any) -> Any:
        """A copy of another device's array here, in the order of the current streams of both devices."""
        here = self._cupy.cuda.get_current_stream()
        if here.is_capturing():
            raise CaptureError("a copy from another device cannot be captured")
        with array.device:  # the default stream is that of the current device
            array = self._cupy.ascontiguousarray(array)
            made = self._cupy.cuda.get_current_stream().record()
        here.wait_event(made)
        copy = array.copy()
        copied = here.record()
        with array.device:  # who gets the memory of `array` next, or writes to it, must not overtake the copy
            self._cupy.cuda.get_current_stream().wait_event(copied)
        return copy

    def _to_numpy(self, array: Any) -> np.ndarray:
        return self._cupy.asnumpy(array)

    def _pointwise(self, fn: Callable) -> Callable:
        """`fn`, an elementwise body, as one CUDA kernel."""
        from gpuprop_cupy.pointwise import compiled

        return compiled(fn)

    def prefetch(self, batches: Iterable[list[np.ndarray]]) -> Iterator[list]:
        """Host batches as arrays here; each is sent from pinned memory while the one before is in use."""
        return self._prefetch(batches)

    def _read_flags(self, flags: Any) -> np.ndarray:
        return flags.get()

    def _synchronize(self) -> None:
        self._cupy.cuda.Device().synchronize()

    def record(self) -> Any:
        """The device work of the block as a CUDA graph."""
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
        """A sixteenth of the device's memory, rounded down to a power of two."""
        device = self.device()
        if device not in self._workspaces:
            total = self._runtime.memGetInfo()[1]
            self._workspaces[device] = 1 << (total // 16).bit_length() - 1
        return self._workspaces[device]

    def memory(self) -> dict[str, int]:
        """Bytes: ``used`` by arrays, ``reserved`` by CuPy's pool and recordings, ``free`` and ``total`` there."""
        from gpuprop_cupy.graph import reserved

        pool, device = self._cupy.get_default_memory_pool(), self.device()
        free, total = self._runtime.memGetInfo()
        return {"used": pool.used_bytes(), "reserved": pool.total_bytes() + reserved(device), "free": free,
                "total": total}


FORKED = ("this process was forked from one that had used CUDA, and CUDA does not survive a fork: start processes with "
          "multiprocessing.get_context('spawn'), or use CUDA in the new process only")
_remains: list[dict] = []
_probed_by: int | None = None  # the process in which CUDA was started


@functools.cache
def _probe() -> bool | Unavailable:
    try:
        import cupy
    except Exception as e:  # a library it loads may raise anything
        told = str(e) if isinstance(e, ImportError) else f"{type(e).__name__}: {e}"
        return Unavailable(f"CuPy is not installed, or not whole ({told}): {INSTALL}", ImportError)
    runtime = cupy.cuda.runtime
    try:
        runtime.getDeviceCount()
    except runtime.CUDARuntimeError as e:
        return Unavailable(f"no usable CUDA device: {e} ({_driver(runtime)})")
    global _probed_by
    _probed_by = os.getpid()
    try:
        wrong = _wrong(cupy)
    except ImportError as e:
        return Unavailable(str(e), ImportError)
    except Exception as e:
        return Unavailable(f"a CUDA device is there, but computes nothing: {type(e).__name__}: {e}")
    return Unavailable(f"a CUDA device is there, but computes wrongly: {wrong}") if wrong else True


def _wrong(cupy: Any) -> str:
    """What the device gets wrong of a little of all that a step needs: a kernel, a reduction, a sort, a product."""
    from gpuprop_cupy.products import matmul

    x = cupy.arange(4, dtype="float32")
    square = x.reshape(2, 2)
    for what, got, expected in (
            ("0 + 1 + 2 + 3", x.sum(), 6),
            ("the order of 3, 2, 1, 0", cupy.argsort(3 - x), [3, 2, 1, 0]),
            ("the matrix [[0, 1], [2, 3]] times itself", matmul(square, square), [[2, 3], [6, 11]])):
        if got.tolist() != expected:
            return f"{what} is {got.tolist()} on it, not {expected}"
    return ""


def _driver(runtime: Any) -> str:
    """What the driver can run beside what CuPy was built for, as they are installed."""
    version = lambda v: f"{v // 1000}.{v % 1000 // 10}"
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        return "no NVIDIA driver is installed"
    return f"the driver runs CUDA {version(driver)} or older, CuPy was built for {version(built)}"
