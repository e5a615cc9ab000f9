"""The backend ``"cupy"``: arrays on NVIDIA GPUs.  CuPy is imported when the backend is first asked for."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpuprop.backend import Backend, Unavailable

INSTALL = 'pip install "gpuprop[cuda13]" (or "gpuprop[cuda12]", for drivers before 580)'


class CupyBackend(Backend):
    """CuPy on one CUDA device a thread."""

    name, install = "cupy", INSTALL

    @classmethod
    def is_available(cls) -> bool | Unavailable:
        """True once a device has computed something, or why it cannot; asked once a process."""
        return _probe()

    def __init__(self) -> None:
        import cupy

        from gpuprop_cupy.namespace import Namespace

        self._cupy, self._runtime = cupy, cupy.cuda.runtime
        self.array_type = cupy.ndarray
        self.xp = Namespace(require=self.require)

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        return self._cupy.asarray(value, dtype)

    def to_numpy(self, array: Any) -> np.ndarray:
        host = array.get()
        self.raise_found()
        return host

    def _read(self, flag: Any) -> bool:
        return bool(flag)

    def synchronize(self) -> None:
        self._cupy.cuda.Device().synchronize()

    def device_count(self) -> int:
        return self._runtime.getDeviceCount()

    def device(self) -> int:
        return self._runtime.getDevice()

    def use_device(self, index: int) -> None:
        self._cupy.cuda.Device(index).use()

    def memory(self) -> dict[str, int]:
        """Bytes: ``used`` by arrays, ``reserved`` by CuPy's pool, ``free`` and ``total`` on the device."""
        pool = self._cupy.get_default_memory_pool()
        free, total = self._runtime.memGetInfo()
        return {"used": pool.used_bytes(), "reserved": pool.total_bytes(), "free": free, "total": total}


@functools.cache
def _probe() -> bool | Unavailable:
    try:
        import cupy
    except ImportError as e:
        return Unavailable(f"CuPy is not installed, or not whole ({e}): {INSTALL}", ImportError)
    runtime = cupy.cuda.runtime
    try:
        runtime.getDeviceCount()
    except runtime.CUDARuntimeError as e:
        return Unavailable(f"no usable CUDA device: {e} ({_driver(runtime)})")
    try:
        if int(cupy.arange(4).sum()) == 6:  # compiles a kernel and runs it
            return True
    except Exception as e:
        return Unavailable(f"a CUDA device is there, but computes nothing: {type(e).__name__}: {e}")
    return Unavailable("a CUDA device is there, but computes wrongly: 0 + 1 + 2 + 3 is not 6 on it")


def _driver(runtime: Any) -> str:
    """What the driver can run beside what CuPy was built for, as they are installed."""
    version = lambda v: f"{v // 1000}.{v % 1000 // 10}"
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        return "no NVIDIA driver is installed"
    return f"the driver runs CUDA {version(driver)} or older, CuPy was built for {version(built)}"
