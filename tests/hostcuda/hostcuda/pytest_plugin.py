"""``pytest -p hostcuda.pytest_plugin``: the tests find a CUDA device, which is hostcuda.

``--cupy-only`` leaves out tests that neither have the parameter "cupy" nor the marker gpu;
``--seconds N`` ends a test that takes longer.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

import hostcuda

if (reason := hostcuda.supported()) is not True:
    raise pytest.UsageError(reason)
hostcuda.activate()

# Python processes that tests start find the same device: hostcuda/auto holds a sitecustomize.py.
_HOME = os.path.dirname(os.path.abspath(hostcuda.__file__))
CHILDREN = [os.path.join(_HOME, "auto"), os.path.dirname(_HOME)]
_before = os.environ.get("PYTHONPATH")
os.environ["PYTHONPATH"] = os.pathsep.join([*CHILDREN, *([_before] if _before else [])])


def pytest_addoption(parser):
    group = parser.getgroup("hostcuda")
    group.addoption("--cupy-only", action="store_true",
                    help="only tests with the parameter 'cupy', or marked gpu")
    group.addoption("--seconds", type=int, default=0, help="a test fails after so many seconds")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--cupy-only"):
        return

    def wanted(item):
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        cupys = any(isinstance(v, str) and v == "cupy" for v in values)
        return cupys or item.get_closest_marker("gpu")

    out = [i for i in items if not wanted(i)]
    items[:] = [i for i in items if wanted(i)]
    config.hook.pytest_deselected(items=out)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    seconds = item.config.getoption("--seconds")
    if seconds:
        def late(*_):
            raise TimeoutError(f"took more than {seconds} s")

        signal.signal(signal.SIGALRM, late)
        signal.alarm(seconds)
    yield
    if seconds:
        signal.alarm(0)


_start = time.perf_counter()


def _summary() -> str:
    compiled = hostcuda._compile.compiled
    kernels = len(hostcuda._compile.seen)
    return (f"hostcuda: {kernels} kernels, {len(compiled)} of them compiled in "
            f"{sum(s for s, _ in compiled):.0f} s, of {time.perf_counter() - _start:.0f} s in all")


def pytest_sessionfinish(session):
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["hostcuda"] = _summary()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    _workers.append(getattr(node, "workeroutput", {}).get("hostcuda", "a worker died"))


_workers: list[str] = []


def pytest_terminal_summary(terminalreporter):
    for line in _workers or [_summary()]:
        terminalreporter.write_line(line)
