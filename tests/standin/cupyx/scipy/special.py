"""``cupyx.scipy.special``: the NumPy backend's functions under SciPy's names, with CuPy's dtypes."""

from collections.abc import Callable
from typing import Any

from cupy._array import machine

from gpuprop.backend import get_backend


def _ufunc(name: str) -> Callable:
    def function(x: Any) -> Any:
        if x.dtype.itemsize == 2:
            raise TypeError(f"CuPy computes {name} of {x.dtype} in float64, or not at all")
        return machine.function(name, getattr(get_backend("numpy").xp, name), (x,), {})

    return function


erf, erfc, erfinv = _ufunc("erf"), _ufunc("erfc"), _ufunc("erfinv")
gammaln, digamma, expit = _ufunc("lgamma"), _ufunc("digamma"), _ufunc("sigmoid")


def polygamma(n: Any, x: Any) -> Any:
    machine.check(n)
    compute = lambda n, x: get_backend("numpy").xp.polygamma(int(n), x.astype(float))
    return machine.function("polygamma", compute, (n, x), {})
