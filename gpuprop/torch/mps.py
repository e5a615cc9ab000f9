"""Apple's GPUs, as `torch.mps`: there are none."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from gpuprop.torch._absent import explained as _explained

__all__ = ["device_count", "empty_cache", "is_available", "manual_seed", "synchronize"]


def is_available() -> bool:
    return False


def device_count() -> int:
    return 0


def empty_cache() -> None:
    """Does nothing."""


def synchronize() -> None:
    """Does nothing."""


def manual_seed(seed: int) -> None:
    """Does nothing: `torch.manual_seed` seeds every device."""

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
