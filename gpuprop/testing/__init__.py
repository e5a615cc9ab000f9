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
    no_syncs,
)
from gpuprop.testing._conformance import conformance
from gpuprop.testing._strict import StrictBackend
from gpuprop.testing._strict_array import StrictArray
from gpuprop.testing._types import check_half, check_integers, distinct
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
    "check_half",
    "check_hidden",
    "check_integers",
    "check_kernel",
    "check_parity",
    "check_second",
    "check_training",
    "conformance",
    "distinct",
    "floats",
    "integers",
    "no_syncs",
    "pointwise",
]

register("strict", StrictBackend)
