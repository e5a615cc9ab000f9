"""Mixed precision: `autocast`, and `GradScaler`, which keeps small float16 gradients."""

from gpuprop._core.mode import autocast
from gpuprop.amp._grad_scaler import GradScaler

__all__ = ["GradScaler", "autocast"]
