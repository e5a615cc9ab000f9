"""The backends that tests run on.

Under ``pytest -p hostcuda.pytest_plugin`` CuPy is the real one and hostcuda answers for its GPU: `make test-cupy`.
"""

import sys

import numpy as np
import pytest

import gpuprop
import gpuprop.testing
from gpuprop.backend import usable_backends, use

HOSTCUDA = "hostcuda" in sys.modules
HAS_CUDA = "cupy" in usable_backends()
BACKENDS = ["cupy"] if HOSTCUDA else ["numpy", "strict", *["cupy"] * HAS_CUDA]
collect_ignore = [] if HOSTCUDA else ["hostcuda"]  # its own tests


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not HAS_CUDA:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each test that asks for it runs once on every backend at hand; new arrays are made there."""
    with use(request.param) as b:
        yield b


@pytest.fixture(autouse=True)
def _start_the_same():
    """Every test starts from NumPy and seed 0."""
    use("numpy")
    gpuprop.manual_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
