"""A pytest plugin for the gate: what was skipped proved nothing, so it fails, unless the test is marked `gpu`."""

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    ran_and_failed_as_expected = not getattr(report, "wasxfail", "[NOTRUN]").startswith("[NOTRUN]")
    if report.skipped and not ran_and_failed_as_expected and item.get_closest_marker("gpu") is None:
        fail(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    report = yield
    if report.skipped:  # a whole module or folder
        fail(report)
    return report


def fail(report):
    where = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid} did not run, and only tests marked gpu may be left out here: {where}"
