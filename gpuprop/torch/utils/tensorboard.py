"""Logs for TensorBoard, as `torch.utils.tensorboard`: the writer of the package tensorboardX."""

from __future__ import annotations

from typing import Any

try:
    from tensorboardX import SummaryWriter  # type: ignore[import-not-found]
except ImportError as _error:
    _reason = _error

    class SummaryWriter:  # type: ignore[no-redef]
        """Raises ImportError: tensorboardX is not installed."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise ImportError("torch.utils.tensorboard needs tensorboardX: "
                              "pip install tensorboardX") from _reason


__all__ = ["SummaryWriter"]
