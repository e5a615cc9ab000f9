"""Checks for ops, kernels, backends and training steps.

Importing this module registers the backend "strict", whose arrays are in host memory but behave
like CuPy's.
"""

from gpuprop._core.backend import CaptureError
from gpuprop._core.registry import register
from gpuprop.testing._checks import (
    LAYOUTS,
    check_capture,
    check_grad,
    check_hidden,
    check_kernel,
    check_parity,
    check_second,
    check_training,
    conformance,
    no_syncs,
)
from gpuprop.testing._strict import StrictArray, StrictBackend
from gpuprop.testing.rows import Row, all_rows, floats, integers, pointwise

__all__ = [
    "LAYOUTS",
    "CaptureError",
    "Row",
    "StrictArray",
    "StrictBackend",
    "all_rows",
    "check_capture",
    "check_grad",
    "check_hidden",
    "check_kernel",
    "check_parity",
    "check_second",
    "check_training",
    "conformance",
    "floats",
    "integers",
    "no_syncs",
    "pointwise",
]

register("strict", StrictBackend)
