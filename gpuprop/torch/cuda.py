"""Questions about GPUs, as `torch.cuda`."""

from __future__ import annotations

from typing import Any

import gpuprop.random as random
from gpuprop._core.registry import get_backend, usable_backends

__all__ = ["current_device", "device_count", "empty_cache", "get_device_name", "is_available",
           "manual_seed", "manual_seed_all", "synchronize"]


def _backend() -> Any:
    return get_backend("cupy")


def is_available() -> bool:
    """True if there is a usable NVIDIA GPU."""
    return "cupy" in usable_backends()


def device_count() -> int:
    return _backend().device_count() if is_available() else 0


def current_device() -> int:
    return _backend().device()


def get_device_name(device: Any = None) -> str:
    import cupy

    index = current_device() if device is None else getattr(device, "index", device)
    return cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()


def synchronize(device: Any = None) -> None:
    if is_available():
        _backend().synchronize()


def empty_cache() -> None:
    """Does nothing: CuPy's memory pool gives memory back by itself when it is needed."""


def manual_seed(seed: int) -> None:
    random.manual_seed(seed)


manual_seed_all = manual_seed
