"""Dropout: see the function of the same name in `gpuprop.functional`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop.nn._module import Module
from gpuprop.random import Generator


class Dropping(Module):
    """Abstract: in training noise with probability `p`, in use the input itself."""

    function: ClassVar[Callable]

    def __init__(self, p: float = 0.5, inplace: bool = False, rng: Generator | None = None) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: p is a probability, not {p}")
        self.p, self.rng = p, rng

    def forward(self, input: Any) -> Any:
        return type(self).function(input, self.p, self.training, rng=self.rng)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(Dropping):
    """In training, zeros with probability `p` and the rest divided by 1 - p; in use the input itself."""

    function = staticmethod(F.dropout)


class Dropout1d(Dropping):
    """Of whole channels of (N, C, L) or (C, L)."""

    function = staticmethod(F.dropout1d)


class Dropout2d(Dropping):
    """Of whole channels of (N, C, H, W) or (C, H, W)."""

    function = staticmethod(F.dropout2d)


class Dropout3d(Dropping):
    """Of whole channels of (N, C, D, H, W) or (C, D, H, W)."""

    function = staticmethod(F.dropout3d)


class AlphaDropout(Dropping):
    """For `SELU`: mean 0 and variance 1 stay."""

    function = staticmethod(F.alpha_dropout)


class FeatureAlphaDropout(Dropping):
    """`AlphaDropout` of whole channels of (N, C, ...)."""

    function = staticmethod(F.feature_alpha_dropout)
