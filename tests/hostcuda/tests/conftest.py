import os

import cupy as cp
import hostcuda
import pytest


@pytest.fixture
def lazy():
    """Device work waits until something synchronizes with it."""
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
    """New memory of the device for every allocation, which goes back when the test ends."""
    made = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(made.malloc):
        yield made


@pytest.fixture
def stream():
    """A stream that waits for no other one."""
    return cp.cuda.Stream(non_blocking=True)


@pytest.fixture
def refused():
    """``refused(code, call, *args)`` checks that the CUDA runtime answers `code`."""
    def check(code, call, *args):
        with pytest.raises(cp.cuda.runtime.CUDARuntimeError) as caught:
            call(*args)
        assert caught.value.status == code

    return check
