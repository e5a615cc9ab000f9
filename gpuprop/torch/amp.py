"""Mixed precision, as `torch.amp` and `torch.cuda.amp`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

import gpuprop.amp as _amp
from gpuprop._core.mode import is_autocasting
from gpuprop._core.registry import usable_backends
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._paths import also_at

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "is_autocast_available",
           "is_autocasting"]


def _has_gpu() -> bool:
    return "cupy" in usable_backends()


def _without_gpu(device: str, what: str) -> bool:
    """True, with a warning, if `what` is asked of a GPU that is not there."""
    is_missing = device.partition(":")[0] == "cuda" and not _has_gpu()
    if is_missing:
        warnings.warn(f"{what} is asked of 'cuda', but CUDA is not available.  Disabling.",
                      stacklevel=3)
    return is_missing


def autocast(device_type: Any, dtype: Any = None, enabled: bool = True,
             cache_enabled: bool | None = None) -> Any:
    """Matrix products in a low precision: float16 on GPUs, bfloat16 on CPUs."""
    device = str(device_type)
    if enabled and _without_gpu(device, "autocast"):
        enabled = False
    default = "float16" if device.partition(":")[0] == "cuda" else "bfloat16"
    return _amp.autocast(dtype or default, enabled)


class GradScaler(_amp.GradScaler):
    """Scales losses: see `gpuprop.amp.GradScaler`.  On a machine without a GPU it does nothing."""

    def __init__(self, device: str = "cuda", init_scale: float = 2.0**16,
                 growth_factor: float = 2.0, backoff_factor: float = 0.5,
                 growth_interval: int = 2000, enabled: bool = True) -> None:
        if enabled and _without_gpu(str(device), "GradScaler"):
            enabled = False
        super().__init__(init_scale, growth_factor, backoff_factor, growth_interval, enabled)


def is_autocast_available(device_type: str) -> bool:
    return device_type == "cpu" or (device_type == "cuda" and _has_gpu())


def custom_fwd(fwd: Any = None, **_: Any) -> Any:
    """A decorator of a Function's forward; it changes nothing."""
    return fwd if fwd is not None else custom_fwd


def custom_bwd(bwd: Any = None, **_: Any) -> Any:
    """A decorator of a Function's backward; it changes nothing."""
    return bwd if bwd is not None else custom_bwd


also_at(__name__, "autocast_mode grad_scaler")

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
