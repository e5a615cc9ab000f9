"""Tools, as `torch.utils`."""

from gpuprop.torch.utils import checkpoint, data

__all__ = ["checkpoint", "data"]
