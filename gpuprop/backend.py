"""The public API for backend packages: the base class, its errors, and helpers."""

from gpuprop._core.backend import (
    Backend,
    BackendMismatchError,
    CaptureError,
    Recording,
    Unavailable,
    owner_of,
)
from gpuprop._core.dtypes import is_half
from gpuprop._core.extras import Namespace
from gpuprop._core.graph import Into
from gpuprop._core.instances import instances, instances_lock
from gpuprop._core.instruments import not_recorded, waits
from gpuprop._core.ops import cache_last
from gpuprop._core.philox import philox
from gpuprop._core.pointwise import half_type, rounded_once, several
from gpuprop._core.registry import (
    backend_of,
    default_backend,
    get_backend,
    register,
    usable_backends,
)
from gpuprop._core.spec import definition, portable
from gpuprop._core.warnings import calling_line

__all__ = [
    "Backend",
    "BackendMismatchError",
    "CaptureError",
    "Into",
    "Namespace",
    "Recording",
    "Unavailable",
    "backend_of",
    "cache_last",
    "calling_line",
    "default_backend",
    "definition",
    "get_backend",
    "half_type",
    "instances",
    "instances_lock",
    "is_half",
    "not_recorded",
    "owner_of",
    "philox",
    "portable",
    "register",
    "rounded_once",
    "several",
    "usable_backends",
    "waits",
]
