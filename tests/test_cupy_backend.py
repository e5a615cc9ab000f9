"""The CuPy backend on the real CuPy: its probe, its own functions, and Tensors with its arrays."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpuprop
from gpuprop import Tensor

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def backend():
    with gpuprop.use("cupy") as b:
        yield b


def unavailable(before):
    """The reason why the backend cannot be used in a process that runs `before` first."""
    code = f"""
{before}
from gpuprop_cupy import CupyBackend
reason = CupyBackend.is_available()
assert not reason
print(reason.error.__name__, reason)
"""
    path = [str(ROOT), str(ROOT / "backends"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("before", "reason"), [
    ("import cupy; cupy.arange = lambda *a, **k: 1 / 0", "ZeroDivisionError"),
    ("import cupy; cupy.arange = lambda n, **k: cupy.zeros(n, 'float32')", "0 + 1 + 2 + 3 is 0.0"),
    ("import cupy; cupy.argsort = lambda a: cupy.arange(4)", "wrong values: argsort of [3, 2"),
    ("import gpuprop_cupy.products as p; p.matmul = lambda a, b: a", "wrong values: the square of"),
], ids=["kernel", "reduction", "sort", "product"])
def test_the_probe_tests_all_that_a_step_needs(before, reason):
    assert reason in unavailable(before)


def test_without_cublas_the_reason_has_the_install_command():
    before = "import sys; sys.modules['cupy_backends.cuda.libs.cublas'] = None"
    reason = unavailable(before)
    assert reason.startswith("ImportError")
    assert "cuBLAS" in reason and 'pip install "gpuprop[cuda13]"' in reason


def test_the_reason_has_any_error_of_importing_cupy(tmp_path):
    package = tmp_path / "cupy"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open')")
    reason = unavailable(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
                         "sys.modules.pop('cupy', None)")
    assert reason.startswith("ImportError")
    assert "OSError: libcudart.so.13: cannot open" in reason and "pip install" in reason


def test_an_update_of_an_array_by_a_tensor_that_requires_grad_raises(backend):
    """CuPy accepts any object with CUDA's array interface; such a Tensor does not provide it."""
    a = backend.xp.ones(2, "float32")
    t = gpuprop.tensor([1.0, 2.0], requires_grad=True)
    for other in (t, t * 2):
        with pytest.raises(BufferError, match="requires a gradient"):
            a += other
    assert a.tolist() == [1, 1]
    a += t.detach()
    assert type(a) is backend.array_type and a.tolist() == [2, 3]
    assert isinstance(a + t, Tensor) and isinstance(a * t.detach(), Tensor)


def test_where_and_triangles_keep_bfloat16(backend):
    xp = backend.xp
    x = gpuprop.tensor([[1.0, -2.0], [3.0, 4.0]]).astype("bfloat16").data
    zero = xp.zeros_like(x)
    for got, want in (
            (xp.where(x > 0, x, zero), [[1, 0], [3, 4]]),
            (xp.where(x > 0, x, 0), [[1, 0], [3, 4]]),
            (xp.where(x > 0, 0.5, x), [[0.5, -2], [0.5, 0.5]]),
            (xp.tril(x), [[1, 0], [3, 4]]),
            (xp.triu(x, 1), [[0, -2], [0, 0]])):
        assert got.dtype == x.dtype
        assert got.astype("float32").tolist() == want
    assert xp.where(x > 0, x, xp.zeros(1, "float32")).dtype == "float32"


def test_repeat_by_a_list(backend):
    x = backend.asarray(np.arange(6.0).reshape(3, 2))
    host = np.arange(6.0).reshape(3, 2)
    for repeats, axis in (([1, 0, 2], 0), ((2, 1), 1), ([1, 2, 3, 0, 1, 1], None), (2, 0)):
        got = backend.xp.repeat(x, repeats, axis).get()
        np.testing.assert_array_equal(got, np.repeat(host, repeats, axis))


def test_the_workspace_is_a_fraction_of_the_memory(backend):
    total = backend.memory()["total"]
    assert total // 32 < backend.workspace() <= total // 16


def test_all_failed_checks_are_read_together(backend):
    for i in range(100):
        backend.check(backend.xp.asarray(True), f"fine {i}")
    backend.check(backend.xp.asarray([True, False]), "one is wrong")
    backend.check(backend.xp.asarray(False), "another is wrong")
    with pytest.raises(IndexError, match="one is wrong"):
        backend.to_numpy(backend.xp.zeros(1))
    with pytest.raises(IndexError, match="another is wrong"):
        backend.to_numpy(backend.xp.zeros(1))
    assert backend.to_numpy(backend.xp.zeros(1)).tolist() == [0]
