"""A pytest plugin: a skipped test fails unless it is marked `gpu`."""

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    # pytest reports an expected failure as skipped; one with run=False did not run
    failed_as_expected = not getattr(report, "wasxfail", "[NOTRUN]").startswith("[NOTRUN]")
    needs_gpu = item.get_closest_marker("gpu") is not None
    if report.skipped and not failed_as_expected and not needs_gpu:
        fail(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    report = yield
    if report.skipped:  # a module or folder
        fail(report)
    return report


def fail(report):
    reason = report.longrepr
    if isinstance(reason, tuple):  # (path, line, reason)
        reason = reason[2]
    report.outcome = "failed"
    report.longrepr = (f"{report.nodeid} was skipped, which only tests marked gpu may be: "
                       f"{reason}")
