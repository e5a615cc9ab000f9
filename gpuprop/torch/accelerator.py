"""Questions about the machine's accelerator, as `torch.accelerator`."""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

from gpuprop.torch import cuda
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._tensor import device

__all__ = [
    "current_accelerator", "current_device_index", "device_count", "empty_cache",
    "is_available", "max_memory_allocated", "max_memory_reserved", "memory_allocated",
    "memory_reserved", "reset_peak_memory_stats", "set_device_index", "synchronize",
]

is_available = cuda.is_available
device_count = cuda.device_count
current_device_index = cuda.current_device
set_device_index = cuda.set_device
synchronize = cuda.synchronize
empty_cache = cuda.empty_cache
memory_allocated = cuda.memory_allocated
memory_reserved = cuda.memory_reserved
max_memory_allocated = cuda.max_memory_allocated
max_memory_reserved = cuda.max_memory_reserved
reset_peak_memory_stats = cuda.reset_peak_memory_stats


def current_accelerator(check_available: bool = False) -> Any:
    """``device("cuda")`` if there is a usable GPU, else None."""
    return device("cuda") if is_available() else None

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
