"""Dropout layers: they are random in training, and return the input in eval mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._core.options import checks_options
from gpuprop.nn._module import Module
from gpuprop.random import Generator


class DropoutLayer(Module):
    """Abstract: applies a dropout function with probability `p` in training.

    In eval mode the input is returned.  `inplace` is accepted and ignored.  Masks are drawn from
    `rng`, by default the generator of `gpuprop.manual_seed`.
    """

    _function: ClassVar[Callable]

    @checks_options(p="[0, 1]")
    def __init__(self, p: float = 0.5, inplace: bool = False, rng: Generator | None = None) -> None:
        self.p = p
        self.rng = rng

    def forward(self, input: Any) -> Any:
        return type(self)._function(input, self.p, self.training, rng=self.rng)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(DropoutLayer):
    """In training, set each element to 0 with probability `p` and divide the rest by 1 - p.

    In eval mode the input is returned.  `inplace` is accepted and ignored.  Masks are drawn from
    `rng`, by default the generator of `gpuprop.manual_seed`.

    G. Hinton et al., 2012.
    """

    _function = staticmethod(F.dropout)


class Dropout1d(DropoutLayer):
    """`Dropout` of whole channels of (N, C, L) or (C, L).  J. Tompson et al., CVPR 2015."""

    _function = staticmethod(F.dropout1d)


class Dropout2d(DropoutLayer):
    """`Dropout` of whole channels of (N, C, H, W) or (C, H, W).  J. Tompson et al., CVPR 2015."""

    _function = staticmethod(F.dropout2d)


class Dropout3d(DropoutLayer):
    """`Dropout` of whole channels of (N, C, D, H, W) or (C, D, H, W).

    J. Tompson et al., CVPR 2015.
    """

    _function = staticmethod(F.dropout3d)


class AlphaDropout(DropoutLayer):
    """Dropout for `SELU`: preserves mean 0 and variance 1.

    In training, each element is replaced, with probability `p`, by SELU's limit at minus infinity,
    and an affine map restores mean and variance.  In eval mode the input is returned.

    G. Klambauer et al., NeurIPS 2017.
    """

    _function = staticmethod(F.alpha_dropout)


class FeatureAlphaDropout(DropoutLayer):
    """`AlphaDropout` of whole channels of (N, C, ...)."""

    _function = staticmethod(F.feature_alpha_dropout)
