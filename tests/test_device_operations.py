"""A step asks no more of the GPU than docs/device-operations.md says, and the host waits for it nowhere else."""

import pytest
from device_operations import CALLS, PAGE, READ, figures, table

import gpuprop

pytestmark = [pytest.mark.gpu, pytest.mark.hostcuda]
STATED = table(PAGE.read_text(encoding="utf-8"))


def test_the_page_has_all_calls():
    assert list(STATED) == list(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_counts(name):
    """A number that changes is changed on the page, on purpose: ``python tests/device_operations.py``."""
    with gpuprop.use("cupy"):
        assert figures(name) == STATED[name]


@pytest.mark.parametrize("name", [name for name in CALLS if name not in READ])
def test_no_step_waits(name):
    assert STATED[name][1] == 0
