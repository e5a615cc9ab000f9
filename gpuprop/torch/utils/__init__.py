"""Tools, as `torch.utils`."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from gpuprop.torch._absent import explained as _explained
from gpuprop.torch.utils import checkpoint, data

__all__ = ["checkpoint", "data"]

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
