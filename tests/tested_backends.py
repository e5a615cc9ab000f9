"""The backends that tests run on.

With ``pytest -p hostcuda.pytest_plugin`` CuPy is the real one, and hostcuda simulates its GPU:
`make test-cupy`.
"""

import sys

import gpuprop.testing  # noqa: F401 (registers the strict backend)
from gpuprop._core.registry import get_backend, usable_backends

HOSTCUDA = "hostcuda" in sys.modules
HAS_CUDA = "cupy" in usable_backends()
BACKENDS = ["cupy"] if HOSTCUDA else ["numpy", "strict", *["cupy"] * HAS_CUDA]
RECORDS = [name for name in BACKENDS if get_backend(name).records]
SEVERAL_DEVICES = [name for name in BACKENDS if get_backend(name).device_count() > 1]
