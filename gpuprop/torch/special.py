"""Special functions, as `torch.special`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

from gpuprop import _array as G
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._functions import (
    digamma,
    erf,
    erfc,
    erfinv,
    exp2,
    expm1,
    i0,
    log1p,
    log_softmax,
    logit,
    logsumexp,
    mvlgamma,
    polygamma,
    round,
    sigmoid,
    sinc,
    softmax,
    xlogy,
)
from gpuprop.torch._functions import lgamma as gammaln
from gpuprop.torch._functions._elementwise import x_times

__all__ = [
    "digamma", "entr", "erf", "erfc", "erfinv", "exp2", "expit", "expm1", "gammaln", "i0",
    "log1p", "log_ndtr", "log_softmax", "logit", "logsumexp", "multigammaln", "ndtr", "ndtri",
    "polygamma", "psi", "round", "sinc", "softmax", "xlog1py", "xlogy",
]

expit = sigmoid
psi = digamma
multigammaln = mvlgamma


def xlog1py(input: Any, other: Any) -> Any:
    """``input * log1p(other)``, 0 where `input` is 0."""
    return x_times(input, other, G.log1p)


def entr(input: Any) -> Any:
    """``-x * log(x)``, 0 at 0 and -inf below."""
    return G.where(input < 0, -math.inf, -xlogy(input, G.where(input < 0, 1.0, input)))


def ndtr(input: Any) -> Any:
    """The cumulative distribution function of the normal distribution."""
    return G.erfc(input * -math.sqrt(0.5)) / 2


def log_ndtr(input: Any) -> Any:
    """The logarithm of `ndtr`; far below 0 by its asymptotic series."""
    is_low = input < -20
    square = G.where(is_low, input, -20.0) ** -2
    series = 1 - square * (1 - square * (3 - square * (15 - 105 * square)))
    low = G.where(is_low, input, -20.0)
    tail = -low * low / 2 - G.log(-low) - math.log(2 * math.pi) / 2 + G.log(series)
    return G.where(is_low, tail, G.log(ndtr(G.where(is_low, 0.0, input))))


def ndtri(input: Any) -> Any:
    """The inverse of `ndtr`."""
    return math.sqrt(2) * G.erfinv(2 * input - 1)

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
