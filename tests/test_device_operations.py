"""The counts of docs/device-operations.md are current, and no step waits for the device."""

import pytest
from device_operations import CALLS, PAGE, READ, figures, table

import gpuprop

pytestmark = [pytest.mark.gpu, pytest.mark.hostcuda]
DOCUMENTED = table(PAGE.read_text(encoding="utf-8"))


def test_the_page_lists_all_calls():
    assert list(DOCUMENTED) == list(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_the_counts_are_as_documented(name, monkeypatch):
    """Update the page after an intended change: ``python tests/device_operations.py``."""
    # `item` also reads the flags of earlier checks, whose number depends on the tests before
    monkeypatch.setattr(gpuprop.backend.get_backend("cupy"), "_flags", None)
    with gpuprop.use("cupy"):
        assert figures(name) == DOCUMENTED[name]


@pytest.mark.parametrize("name", [name for name in CALLS if name not in READ])
def test_no_step_waits(name):
    assert DOCUMENTED[name][1] == 0
