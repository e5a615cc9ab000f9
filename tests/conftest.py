"""The backends that tests run on; with GPUPROP_STANDIN=1 gpuprop_cupy's own CuPy is answered by the stand-in."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

STANDIN = os.environ.get("GPUPROP_STANDIN") == "1"
if STANDIN:
    sys.path.insert(0, str(Path(__file__).parent / "standin"))

import gpuprop  # noqa: E402 (after the stand-in is in place)
import gpuprop.testing  # noqa: E402
from gpuprop.backend import usable_backends, use  # noqa: E402

HAS_GPU = not STANDIN and "cupy" in usable_backends()
BACKENDS = ["cupy"] if STANDIN else ["numpy", "strict", *["cupy"] * HAS_GPU]


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not HAS_GPU:
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
