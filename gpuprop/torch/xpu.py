"""Intel's GPUs, as `torch.xpu`: there are none."""

__all__ = ["device_count", "empty_cache", "is_available", "manual_seed",
           "manual_seed_all", "synchronize"]


def is_available() -> bool:
    return False


def device_count() -> int:
    return 0


def empty_cache() -> None:
    """Does nothing."""


def synchronize(device: object = None) -> None:
    """Does nothing."""


def manual_seed(seed: int) -> None:
    """Does nothing: `torch.manual_seed` seeds every device."""


manual_seed_all = manual_seed
