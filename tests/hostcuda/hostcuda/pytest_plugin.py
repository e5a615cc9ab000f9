"""``pytest -p hostcuda.pytest_plugin``: runs tests with hostcuda as the CUDA device.

``--cupy-only`` deselects tests that have neither the parameter "cupy" nor the marker gpu;
``--seconds N`` fails a test that takes longer.
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

# Child Python processes get the device, too: hostcuda/auto contains a sitecustomize.py.
_HOME = os.path.dirname(os.path.abspath(hostcuda.__file__))
CHILDREN = [os.path.join(_HOME, "auto"), os.path.dirname(_HOME)]
_before = os.environ.get("PYTHONPATH")
os.environ["PYTHONPATH"] = os.pathsep.join([*CHILDREN, *([_before] if _before else [])])


def pytest_addoption(parser):
    group = parser.getgroup("hostcuda")
    group.addoption("--cupy-only", action="store_true",
                    help="run only tests with the parameter 'cupy' or the marker gpu")
    group.addoption("--seconds", type=int, default=0, help="time limit of a test")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--cupy-only"):
        return

    def wanted(item):
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        has_parameter = any(isinstance(v, str) and v == "cupy" for v in values)
        return has_parameter or item.get_closest_marker("gpu")

    deselected = [i for i in items if not wanted(i)]
    items[:] = [i for i in items if wanted(i)]
    config.hook.pytest_deselected(items=deselected)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    seconds = item.config.getoption("--seconds")
    if seconds:
        def time_out(*_):
            raise TimeoutError(f"took more than {seconds} s")

        signal.signal(signal.SIGALRM, time_out)
        signal.alarm(seconds)
    yield
    if seconds:
        signal.alarm(0)


_start = time.perf_counter()


def _summary() -> str:
    compiled = hostcuda._compile.compiled
    kernels = len(hostcuda._compile.seen)
    compiling = sum(seconds for seconds, _ in compiled)
    total = time.perf_counter() - _start
    return (f"hostcuda: {kernels} kernels, {len(compiled)} of them compiled in {compiling:.0f} s; "
            f"{total:.0f} s in all")


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
