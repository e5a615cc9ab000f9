"""Questions about GPUs, as `torch.cuda`."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

import gpuprop.random as random
from gpuprop._core.registry import get_backend, usable_backends
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._functions import _random

__all__ = [
    "Event", "amp", "current_device", "device", "device_count", "empty_cache",
    "get_device_capability", "get_device_name", "get_device_properties", "get_rng_state",
    "get_rng_state_all", "init", "initial_seed", "ipc_collect", "is_available",
    "is_bf16_supported", "is_initialized", "manual_seed", "manual_seed_all",
    "max_memory_allocated", "max_memory_reserved", "mem_get_info", "memory_allocated",
    "memory_reserved", "reset_peak_memory_stats", "seed", "seed_all", "set_device",
    "set_rng_state", "set_rng_state_all", "synchronize",
]


def _backend() -> Any:
    return get_backend("cupy")


def is_available() -> bool:
    """True if there is a usable NVIDIA GPU."""
    return "cupy" in usable_backends()


is_initialized = is_available


def device_count() -> int:
    return _backend().device_count() if is_available() else 0


def current_device() -> int:
    return _backend().device()


def _index(device: Any) -> int:
    index = getattr(device, "index", device)
    return index if isinstance(index, int) else current_device()


def set_device(device: Any) -> None:
    """Make new arrays on this GPU."""
    _backend().use_device(_index(device))


@contextlib.contextmanager
def device(device: Any) -> Iterator[None]:
    """Make new arrays on this GPU inside the block."""
    with _backend().on_device(_index(device)):
        yield


def get_device_properties(device: Any = None) -> Any:
    """CUDA's properties of a GPU, as attributes."""
    import types

    import cupy

    found = cupy.cuda.runtime.getDeviceProperties(_index(device))
    return types.SimpleNamespace(**{
        **found, "name": found["name"].decode(), "total_memory": found["totalGlobalMem"],
        "multi_processor_count": found["multiProcessorCount"]})


def get_device_name(device: Any = None) -> str:
    return get_device_properties(device).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    found = get_device_properties(device)
    return found.major, found.minor


def synchronize(device: Any = None) -> None:
    if is_available():
        _backend().synchronize()


def empty_cache() -> None:
    """Does nothing: CuPy's memory pool gives memory back by itself when it is needed."""


def memory_allocated(device: Any = None) -> int:
    """The bytes of all arrays on the GPU; 0 without one."""
    return _backend().memory()["used"] if is_available() else 0


def memory_reserved(device: Any = None) -> int:
    """The bytes of CuPy's memory pool."""
    return _backend().memory()["reserved"] if is_available() else 0


max_memory_allocated = max_memory_reserved = memory_reserved  # a bound: the pool keeps its memory


def reset_peak_memory_stats(device: Any = None) -> None:
    """Does nothing."""


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """The free bytes of the GPU and all of them."""
    found = _backend().memory() if is_available() else {"free": 0, "total": 0}
    return found["free"], found["total"]


def is_bf16_supported(including_emulation: bool = True) -> bool:
    return is_available() and (including_emulation or get_device_capability() >= (8, 0))


def init() -> None:
    """Does nothing: the first use initializes CUDA."""


ipc_collect = init


class Event:
    """A time at which all work so far is done."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        synchronize()
        self._time = time.perf_counter()

    def synchronize(self) -> None:
        synchronize()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds until `end`."""
        return 1000 * (end._time - self._time)


def manual_seed(seed: int) -> None:
    random.manual_seed(seed)


manual_seed_all = manual_seed


def get_rng_state(device: Any = None) -> Any:
    """The state of the default generator, which all devices share."""
    return _random.get_rng_state()


def set_rng_state(new_state: Any, device: Any = None) -> None:
    _random.set_rng_state(new_state)


def get_rng_state_all() -> list[Any]:
    return [get_rng_state() for _ in range(device_count())]


def set_rng_state_all(new_states: Any) -> None:
    for state in new_states:
        set_rng_state(state)


initial_seed = _random.initial_seed
seed = seed_all = _random.seed

if _TYPE_CHECKING:  # at run time __getattr__ imports it at its first use
    from gpuprop.torch.cuda import amp
else:
    _explain = _explained(__name__)

    def __getattr__(name: str) -> object:
        if name == "amp":
            return importlib.import_module("gpuprop.torch.cuda.amp")
        _explain(name)
