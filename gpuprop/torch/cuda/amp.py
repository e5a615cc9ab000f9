"""Mixed precision on GPUs, as `torch.cuda.amp`: `torch.amp` with "cuda"."""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

import gpuprop.torch.amp as _amp
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._paths import also_at
from gpuprop.torch.amp import custom_bwd, custom_fwd

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd"]


def autocast(enabled: bool = True, dtype: Any = "float16", cache_enabled: bool = True) -> Any:
    """``torch.amp.autocast("cuda", dtype, enabled)``"""
    return _amp.autocast("cuda", dtype, enabled)


class GradScaler(_amp.GradScaler):
    """``torch.amp.GradScaler("cuda", ...)``"""

    def __init__(self, init_scale: float = 2.0**16, growth_factor: float = 2.0,
                 backoff_factor: float = 0.5, growth_interval: int = 2000,
                 enabled: bool = True) -> None:
        super().__init__("cuda", init_scale, growth_factor, backoff_factor, growth_interval,
                         enabled)


also_at(__name__, "autocast_mode grad_scaler")

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
