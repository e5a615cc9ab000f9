"""Questions about the machine's accelerator, as `torch.accelerator`."""

from __future__ import annotations

from typing import Any

from gpuprop.torch import cuda
from gpuprop.torch._tensor import device

__all__ = ["current_accelerator", "current_device_index", "device_count", "is_available",
           "set_device_index", "synchronize"]

is_available = cuda.is_available
device_count = cuda.device_count
current_device_index = cuda.current_device
set_device_index = cuda.set_device
synchronize = cuda.synchronize


def current_accelerator(check_available: bool = False) -> Any:
    """``device("cuda")`` if there is a usable GPU, else None."""
    return device("cuda") if is_available() else None
