"""Tools, as `torch.utils`."""

from gpuprop.torch.utils import data

__all__ = ["data"]
