"""A kit to check ops, kernels, backends and training steps with; importing it registers the backend "strict"."""

from gpuprop.backend import CaptureError, register
from gpuprop.testing.checks import (
    LAYOUTS,
    check_capture,
    check_grad,
    check_kernel,
    check_parity,
    check_second,
    check_training,
    conformance,
    no_syncs,
)
from gpuprop.testing.rows import Row, all_rows, floats, integers, pointwise
from gpuprop.testing.strict import StrictArray, StrictBackend

__all__ = ["LAYOUTS", "CaptureError", "Row", "StrictArray", "StrictBackend", "all_rows", "check_capture",
           "check_grad", "check_kernel",
           "check_parity", "check_second", "check_training", "conformance", "floats", "integers", "no_syncs",
           "pointwise"]

register("strict", StrictBackend)
