"""Logs for TensorBoard, as `torch.utils.tensorboard`: the writer of the package tensorboardX."""

from __future__ import annotations

from typing import Any

__all__ = ["SummaryWriter"]  # noqa: F822  # __getattr__ makes it


def __getattr__(name: str) -> Any:
    """Import the writer at its first use, since tensorboardX imports torch itself."""
    if name == "SummaryWriter":
        return _writer()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _writer() -> Any:
    try:
        from tensorboardX import SummaryWriter  # type: ignore[import-not-found]
    except ImportError as error:
        reason = error

        class SummaryWriter:  # type: ignore[no-redef]
            """Raises ImportError: tensorboardX is not installed."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                raise ImportError("torch.utils.tensorboard needs tensorboardX: "
                                  "pip install tensorboardX") from reason

    return SummaryWriter
