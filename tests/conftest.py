"""Fixtures and options of all tests."""

import gc
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from tested_backends import BACKENDS, HAS_CUDA, HOSTCUDA, RECORDS, SEVERAL_DEVICES

import gpuprop
from gpuprop._core.registry import use

NO_PARAMETERS = SimpleNamespace(params={})
# a shell starts background jobs with SIGINT ignored, and the tests of ctrl-C would wait for ever
signal.signal(signal.SIGINT, signal.default_int_handler)
collect_ignore = []
if not HOSTCUDA:
    collect_ignore.append("hostcuda")
if not SEVERAL_DEVICES:
    collect_ignore.append("test_devices.py")


def pytest_addoption(parser):
    parser.addoption("--op", action="append", default=[], metavar="NAME",
                     help="run the tests of test_ops.py with the rows of this op, such as relu or "
                          "conv2d, and no others; may be repeated")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark tests with the parameter "cupy" as gpu; skip tests whose device is missing."""
    if config.getoption("op"):
        of_rows = [item for item in items
                   if "row" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in of_rows])
        items[:] = of_rows
    for item in items:
        parameters = getattr(item, "callspec", NO_PARAMETERS).params
        if "cupy" in (str(v) for v in parameters.values()):
            item.add_marker("gpu")
        if item.get_closest_marker("gpu") and not HAS_CUDA:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("hostcuda") and not HOSTCUDA:
            item.add_marker(pytest.mark.skip(reason="hostcuda is not active"))


def pytest_collection_finish():
    """Let `capture`, which looks for live arrays at each recording, skip what exists before tests.

    The objects of tests are many more than those that a test makes.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend in turn.  It is the default, on which new arrays are made."""
    with use(request.param) as b:
        yield b


@pytest.fixture(params=RECORDS)
def recorder(request):
    """The name of each backend that records training steps."""
    return request.param


@pytest.fixture(autouse=True)
def _initial_state():
    """Every test starts with NumPy as the default backend and with seed 0."""
    use("numpy")
    gpuprop.manual_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
