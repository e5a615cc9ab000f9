"""What every test starts from, and the fixtures that name backends."""

from types import SimpleNamespace

import numpy as np
import pytest
from tested_backends import BACKENDS, HAS_CUDA, HOSTCUDA, RECORDS, SEVERAL_DEVICES

import gpuprop
from gpuprop._core.registry import use

NO_PARAMETERS = SimpleNamespace(params={})
collect_ignore = [*["hostcuda"] * (not HOSTCUDA), *["test_devices.py"] * (not SEVERAL_DEVICES)]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """``-m gpu`` selects what runs on CuPy."""
    for item in items:
        if "cupy" in (str(v) for v in getattr(item, "callspec", NO_PARAMETERS).params.values()):
            item.add_marker("gpu")
        if item.get_closest_marker("gpu") and not HAS_CUDA:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("hostcuda") and not HOSTCUDA:
            item.add_marker(pytest.mark.skip(reason="hostcuda does not answer for the GPU"))


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each test that asks for it runs once on every backend at hand; new arrays are made there."""
    with use(request.param) as b:
        yield b


@pytest.fixture(params=RECORDS)
def recorder(request):
    """The name of each backend that records and replays training steps."""
    return request.param


@pytest.fixture(autouse=True)
def _start_the_same():
    """Every test starts from NumPy and seed 0."""
    use("numpy")
    gpuprop.manual_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
