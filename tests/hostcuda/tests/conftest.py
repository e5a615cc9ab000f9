import os

import cupy as cp
import hostcuda
import pytest


@pytest.fixture
def lazy():
    """Device work is delayed until something synchronizes with it."""
    hostcuda.lazy()
    yield
    hostcuda.lazy(os.environ.get("HOSTCUDA_LAZY") == "1")


@pytest.fixture
def eager():
    """Device work runs at once."""
    hostcuda.lazy(False)
    yield
    hostcuda.lazy(os.environ.get("HOSTCUDA_LAZY") == "1")


@pytest.fixture
def pool():
    """A new memory pool for the test, freed at its end."""
    made = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(made.malloc):
        yield made


@pytest.fixture
def stream():
    """A non-blocking stream."""
    return cp.cuda.Stream(non_blocking=True)


@pytest.fixture
def raises():
    """``raises(code, call, *args)`` asserts that the CUDA runtime returns the error `code`."""

    def check(code, call, *args):
        with pytest.raises(cp.cuda.runtime.CUDARuntimeError) as caught:
            call(*args)
        assert caught.value.status == code

    return check
