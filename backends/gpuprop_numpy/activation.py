"""The override of `gelu` for the CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuprop.backend import definition
from gpuprop_numpy.pointwise import blockwise
from gpuprop_numpy.special import normal_cdf


@blockwise
def gelu_input_grad(_: Any, x: Any, cdf: Any, dy: Any) -> Any:
    """``dy * (cdf + x * exp(-x**2 / 2) / sqrt(2 * pi))``, computed in one array."""
    d = x * x
    d *= -0.5
    d = np.exp(d)
    d *= x
    d *= 1 / math.sqrt(2 * math.pi)
    d += cdf
    d *= dy
    return d


def gelu(xp: Any, input: Any, approximate: Any = "none") -> tuple:
    """``input * cdf(input)``, where cdf is the CDF of the standard normal distribution.

    The pullback reuses the CDF, which takes most of the time.
    """
    if approximate != "none" or input.dtype.kind != "f" or input.dtype.itemsize == 2:
        return definition("gpuprop.functional:gelu")(xp, input, approximate=approximate)
    cdf = normal_cdf(input)
    return input * cdf, (lambda dy: gelu_input_grad(xp, input, cdf, dy),)
