"""What a backend package needs: the base class, its errors, and helpers for half types and elementwise bodies."""

from gpuprop._core.backend import Backend, BackendMismatchError, CaptureError, Unavailable
from gpuprop._core.dtypes import is_half
from gpuprop._core.extras import Namespace
from gpuprop._core.instances import instances, looking
from gpuprop._core.instruments import waits
from gpuprop._core.ops import definition
from gpuprop._core.pointwise import half_type, rounded_once, several
from gpuprop._core.registry import backend_of, default_backend, get_backend, register, usable_backends

__all__ = [
    "Backend", "BackendMismatchError", "CaptureError", "Namespace", "Unavailable", "backend_of", "default_backend",
    "definition", "get_backend", "half_type", "instances", "is_half", "looking", "register", "rounded_once", "several",
    "usable_backends", "waits",
]
