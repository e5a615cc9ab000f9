"""Functions of every backend's ``xp`` in which libraries differ, and why CuPy is not available."""

import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from scipy import special

ROOT = Path(__file__).parents[1]
DTYPES = ["float32", "float64", "float16", ml_dtypes.bfloat16]


def close(backend, got, expected, dtype):
    tolerance = {2: 5e-2, 4: 1e-5, 8: 1e-12}[np.dtype(dtype).itemsize]
    got = backend.to_numpy(got)
    assert got.dtype == dtype
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.astype(float), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", [
    ((3, 4), (4, 5)), ((4,), (4,)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (4,)), ((4,), (2, 4, 5)),
    ((2, 3, 4), (2, 4, 5)), ((3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((2, 3, 0), (0, 5)),
    ((0, 3, 4), (4, 2)), ((2, 0, 4), (2, 4, 3)),
])
def test_matmul(backend, dtype, shapes):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    y = backend.own(backend.xp.matmul(backend.asarray(a), backend.asarray(b)))
    close(backend, y, np.matmul(a.astype(float), b.astype(float)), dtype)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("count", [1, 8, 9, 70])
def test_joining(backend, axis, count):
    arrays = [np.full((2, 3), i, "float32") for i in range(count)]
    on_device = [backend.asarray(a) for a in arrays]
    for name in ("stack", "concatenate"):
        got = getattr(backend.xp, name)(on_device, axis)
        close(backend, got, getattr(np, name)(arrays, axis), "float32")


@pytest.mark.parametrize("dtype", [*DTYPES, "int64"])
@pytest.mark.parametrize("count, axis", [(0, 0), (1, 0), (7, 1), (300, 0), (33, 2)])
def test_index_add(backend, dtype, count, axis):
    rng, shape = np.random.default_rng(0), [6, 5, 4]
    a = rng.integers(-2, 3, shape).astype(dtype)
    index = rng.integers(-shape[axis], shape[axis], count)
    shape[axis] = count
    values = rng.integers(-2, 3, shape).astype(dtype)  # small integers: sums are exact in any dtype
    expected = a.astype(float)
    np.add.at(np.moveaxis(expected, axis, 0), index, np.moveaxis(values, axis, 0).astype(float))
    target = backend.asarray(a)
    backend.xp.index_add(target, backend.asarray(index), backend.asarray(values), axis)
    close(backend, target, expected, dtype)


def test_index_add_is_deterministic(backend):
    rng = np.random.default_rng(0)
    index, values = rng.integers(0, 3, 500), rng.normal(size=(500, 2)).astype("float32")

    def add():
        target = backend.xp.zeros((3, 2), "float32")
        backend.xp.index_add(target, backend.asarray(index), backend.asarray(values), 0)
        return backend.to_numpy(target).tobytes()

    assert add() == add()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [
    "erf", "erfc", "erfinv", "lgamma", "digamma", "sigmoid", "polygamma"])
def test_special_functions_keep_the_dtype(backend, dtype, name):
    x = np.array([0.25, 0.5, 0.875]).astype(dtype)
    reference = getattr(special, {"lgamma": "gammaln", "sigmoid": "expit"}.get(name, name))
    order = (2,) * (name == "polygamma")
    y = getattr(backend.xp, name)(*order, backend.asarray(x))
    close(backend, y, reference(*order, x.astype(float)), dtype)


def test_joining_and_index_add_can_be_captured(backend):
    machine = getattr(backend.array_type, "machine", None)
    if machine is None:
        return  # this backend does not record
    arrays = [backend.xp.full(3, float(i)) for i in range(20)]
    index = backend.asarray(np.arange(20) % 4)
    with machine.record() as recording:
        rows = backend.xp.stack(arrays)
        target = backend.xp.zeros((4, 3))
        backend.xp.index_add(target, index, rows, 0)
        y = backend.xp.erf(backend.xp.sigmoid(target))
    recording.replay()
    assert backend.to_numpy(rows).sum() == 570
    assert backend.to_numpy(target)[:, 0].tolist() == [40, 45, 50, 55]
    assert 0.8 < backend.to_numpy(y).min() < 1


# ---- when CuPy is not available ----------------------------------------------------------------


def unavailable(before, **environment):
    """Why the CuPy backend is not available, in an interpreter that runs `before` first."""
    code = f"""
import sys
{before}
from gpuprop_cupy import CupyBackend
assert {before!r} or "cupy" not in sys.modules
why = CupyBackend.is_available()
assert not why and CupyBackend.is_available() is why
print(why.error.__name__, why)
"""
    paths = [ROOT, ROOT / "backends", *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), **environment}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT / "tests", env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_cupy_the_reason_contains_the_install_command():
    why = unavailable("sys.modules['cupy'] = None")
    assert why.startswith("ImportError") and "CuPy" in why
    assert 'pip install "gpuprop[cuda13]"' in why


def test_without_a_device_the_reason_contains_the_error_of_the_driver():
    path = f"{ROOT}{os.pathsep}{ROOT / 'backends'}"
    why = unavailable("", CUDA_VISIBLE_DEVICES="", PYTHONPATH=path)
    assert why.startswith("RuntimeError no usable CUDA device: cudaError")
