"""Functions, as `torch.nn.functional`."""

from __future__ import annotations

import gpuprop.functional as _functional
from gpuprop.functional import *  # noqa: F403

__all__ = list(_functional.__all__)
