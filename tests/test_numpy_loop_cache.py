"""Machine code of loops on disk: other processes load it, and damage and chance do no harm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpuprop_numpy import (
    activation,
    attention_loops,
    compiled,
    depthwise,
    loop_cache,
    lstm_loops,
    normalization,
    packed_tiles,
    pooling,
    product_loops,
    row_norm,
    scatter,
    spinning,
    tiles,
    traced,
)

PROGRAM = """
import json, sys
import numba
import numba.core.event as events
import numpy as np
import gpuprop
import gpuprop.functional as F
from gpuprop_numpy.pointwise import blockwise

gpuprop.use("numpy")
x = np.arange(-100, 1 << 19, dtype="float32")


def scaled(factor):
    return blockwise(lambda xp, x: x * factor + 1)(np, x)


def put(value):
    return blockwise(lambda xp, x: xp.where(x > 0, x, value))(np, x)


def norm():
    rows = gpuprop.tensor(np.sin(x[:1 << 18]).reshape(64, -1), requires_grad=True)
    y = F.layer_norm(rows, rows.shape[1])
    y.backward(np.cos(rows.numpy()))
    return np.concatenate([y.numpy().ravel(), np.ravel(rows.grad)])


def conv(dtype):
    images = np.sin(x[:32 * 900].astype(dtype)).reshape(4, 8, 30, 30)
    weight = gpuprop.tensor(np.cos(np.arange(576, dtype=dtype)).reshape(8, 8, 3, 3),
                            requires_grad=True)
    y = F.conv2d(images, weight)
    y.backward(y.numpy())
    return np.concatenate([np.ravel(y.numpy()), np.ravel(weight.grad)]).astype("float32")


def attention():
    arrays = np.random.default_rng(0).standard_normal((4, 2, 3, 130, 24), "float32")
    qkv = [gpuprop.tensor(a, requires_grad=True) for a in arrays[:3]]
    y = F.scaled_dot_product_attention(*qkv)
    y.backward(arrays[3])
    found = np.concatenate([np.ravel(a)[::7] for a in (y.data, *(t.grad for t in qkv))])
    return np.repeat(found, 500)


def depthwise():
    images = gpuprop.tensor(np.sin(x[:8 * 16 * 900]).reshape(8, 16, 30, 30))
    weight = gpuprop.tensor(np.cos(x[:144]).reshape(16, 1, 3, 3), requires_grad=True)
    y = F.conv2d(images, weight, groups=16)
    y.backward(np.sin(y.numpy()))
    return np.concatenate([np.ravel(y.numpy()), np.repeat(weight.grad, 500)])


def product():
    gpuprop.set_num_threads(2)
    a = np.sin(x[:300 * 400]).reshape(300, 400)
    return gpuprop.matmul(a, a.T[:, :200]).ravel()


def has_linalg():
    return np.full(500, "numba.np.linalg" in sys.modules, "float32")


with events.install_recorder("numba:compile") as record:
    results = [eval(call).view("int32")[::500].tolist() for call in sys.argv[1:]]
print(json.dumps([results, sum(e.is_start for _, e in record.buffer)]))
"""


@pytest.fixture
def run(tmp_path):
    """``run(*calls)`` in a process: the bits of the results, and how much it compiled."""

    def result(*calls, before="", **environment):
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("NUMBA_", "GPUPROP_"))}
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # no loops of waits
        env = kept | one | {"NUMBA_CACHE_DIR": str(tmp_path), **environment}
        done = subprocess.run([sys.executable, "-c", before + PROGRAM, *calls], env=env, text=True,
                              capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return result


def files(folder):
    """All files but that of Numba's runtime."""
    return sorted(path for path in folder.rglob("*")
                  if path.is_file() and not path.name.startswith("runtime-"))


def test_another_process_compiles_nothing(run, tmp_path):
    calls = "norm()", "scaled(2)", "scaled(3.5)"
    results, count = run(*calls, PYTHONHASHSEED="0")
    assert count > 3
    before = {path: path.read_bytes() for path in files(tmp_path)}
    assert len(before) == 4 and {path.suffix for path in before} == {".loop"}
    assert run(*calls, PYTHONHASHSEED="9", PYTHONDONTWRITEBYTECODE="1") == [results, 0]
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


@pytest.mark.parametrize("call", ["attention()", "conv('float32')", "depthwise()", "norm()"])
def test_loaded_loops_have_the_bits_of_compiled_ones(run, call):
    results, count = run(call)
    assert count and run(call) == [results, 0]


def test_loaded_loops_import_nothing_large(run):
    """Code of Numba for functions such as `all` is imported with scipy, which takes 20 MB."""
    calls = ("product()", "norm()", "conv('float32')", "depthwise()", "attention()", "scaled(2)",
             "has_linalg()")
    threads = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    run(*calls, **threads)
    results, count = run(*calls, **threads)
    assert count == 0 and results[-1] == [0]


def test_loops_that_several_processes_have_compiled_do_not_meet(run):
    """Numba gives the functions that a process compiles first the same names in each process."""
    calls = "conv('float32')", "conv('float64')"
    alone = [run(call)[0][0] for call in calls]
    assert run(*calls) == [alone, 0]


@pytest.mark.parametrize("before", ["", "import numpy; numpy.set_printoptions(legacy='1.13')\n"])
def test_similar_constants_have_files_of_their_own(before, run):
    calls = ["put(float('nan'))", "put(-float('nan'))", "put(0.0)", "put(-0.0)",
             "scaled(1000.00006)", "scaled(1000.00012)"]
    results, count = run(*calls, before=before)
    assert count == len({*map(str, results)}) == len(calls)


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:-1], lambda data: data[:40], lambda data: b"x" * 1000,
    lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]],
    ids=["empty", "cut", "short", "other", "bit"])
def test_a_damaged_file_is_compiled_again(damage, run, tmp_path):
    results, _ = run("scaled(2)")
    path, = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert run("scaled(2)") == [results, 1]
    assert run("scaled(2)") == [results, 0]


DAMAGES = {
    "empty": lambda data: b"", "cut": lambda data: data[:-1], "other": lambda data: b"x" * 1000,
    "bit": lambda data: data[:700] + bytes([data[700] ^ 1]) + data[701:], "none": lambda data: data}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_runtime_of_numba_is_loaded_or_compiled_again(damage, run, tmp_path):
    results, _ = run("norm()")
    path, = tmp_path.rglob("runtime-*.loop")
    saved = path.read_bytes()
    path.write_bytes(DAMAGES[damage](saved))
    assert run("norm()") == [results, 0]
    assert len(path.read_bytes()) == len(saved)


def test_functions_are_compiled_with_a_loaded_runtime(run):
    """Functions of the user that allocate memory, raise and print."""
    use = """
import numba, numpy as np
def check():
    @numba.njit
    def f(n):
        lists = [np.zeros(n), np.ones(n)]
        if n > 5:
            raise ValueError("large")
        return lists[1].sum()
    try:
        f(6)
    except ValueError as e:
        assert str(e) == "large"
    return np.array([f(5)], "float32")
"""
    first, _ = run("norm()", "check()", before=use)
    second, count = run("norm()", "check()", before=use)
    assert first == second and count  # of the user's function


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_nothing_waits_for_a_pipe(run, tmp_path):
    results, _ = run("scaled(2)")
    path, = files(tmp_path)
    path.unlink()
    os.mkfifo(path)
    assert run("scaled(2)") == [results, 1]


def test_without_a_folder(run, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    results, count = run("scaled(2)", NUMBA_CACHE_DIR=str(blocked / "sub"))
    assert count == 1
    assert run("scaled(2)", GPUPROP_LOOP_CACHE="0") == [results, 1]
    assert files(tmp_path) == [blocked]


@pytest.mark.parametrize("setting", [
    {"NUMBA_OPT": "1"}, {"before": "import numba; numba.config.BOUNDSCHECK = 1\n"},
    {"NUMBA_CPU_NAME": "generic"}], ids=str)
def test_settings_of_numba_have_files_of_their_own(setting, run, tmp_path):
    run("scaled(2)")
    assert run("scaled(2)", **setting)[1] == 1
    assert len(files(tmp_path)) == 2


def test_a_file_serves_any_number_of_threads(run):
    run("scaled(2)", NUMBA_NUM_THREADS="2")
    assert run("scaled(2)", NUMBA_NUM_THREADS="1")[1] == 0


def test_other_users_may_read_the_files(run, tmp_path):
    run("scaled(2)")
    path, = files(tmp_path)
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="XDG_CACHE_HOME is of Linux")
def test_no_folder_is_relative(monkeypatch):
    monkeypatch.delenv("GPUPROP_LOOP_CACHE", raising=False)
    monkeypatch.setattr("numba.core.config.CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert loop_cache.cache_folder() is None
    monkeypatch.setattr("numba.core.config.CACHE_DIR", "relative")
    assert loop_cache.cache_folder() == Path("relative").absolute() / "gpuprop/loops"


@pytest.mark.parametrize("missing", [
    "numba.core.compiler.CompileResult._reduce", "numba.core.compiler.CompileResult._rebuild",
    "numba.misc.appdirs.AppDirs"])
def test_another_numba_compiles(missing, monkeypatch, tmp_path):
    """Its private functions may be missing."""
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    monkeypatch.delattr(missing)
    loop = compiled.Loop(compiled.njit()(lambda x, y: x + y))
    assert loop.function(1, 2) == 3
    assert files(tmp_path) == []


# ---- the description of a function ---------------------------------------------------------------


def function(source, **names):
    exec(source, names := {"__name__": "gpuprop_numpy.example", **names})
    return names["f"]


def test_equal_functions_have_equal_descriptions():
    source = "def f(x):\n    return g(x) + K"
    make = lambda k: function(source, K=k, g=function("def f(x): return 2 * x"))
    assert loop_cache.description(make(1.5)) == loop_cache.description(make(1.5))
    assert loop_cache.description(make(1.5)) != loop_cache.description(make(2.5))


@pytest.mark.parametrize(("first", "second"), [
    (function("def f(x): return 2 * x"), function("def f(x): return 3 * x")),
    (function("def f(x): return x + 1"), function("def f(x): return x - 1")),
    (function("def f(x, y=1): return x + y"), function("def f(x, y=2): return x + y")),
    (function("def f(x, *, y=1): return x + y"), function("def f(x, *, y=2): return x + y")),
    (function("def f(x): return K", K=np.float32(1)), function("def f(x): return K", K=1.0)),
    (function("def f(x): return K", K=0.0), function("def f(x): return K", K=-0.0)),
    (function("def f(x): return K[0]", K=(1, 2)), function("def f(x): return K[0]", K=(1, 3))),
    (function("def f(x):\n    def g(): return K\n    return g()", K=1),
     function("def f(x):\n    def g(): return K\n    return g()", K=2)),
    (function("def f(x): return g(x)", g=function("def f(x): return 2")),
     function("def f(x): return g(x)", g=function("def f(x): return 3"))),
    (compiled.njit()(function("def f(x): return x")),
     compiled.njit(in_any_order=True)(function("def f(x): return x"))),
    (function("def f(x): return K in {1, 2}", K=1), function("def f(x): return K in {1, 3}", K=1)),
    (function("def f(x): return K", K=np.float32(np.nan)),
     function("def f(x): return K", K=-np.float32(np.nan))),
    (function("def f(x): return x[K]", K=slice(1, None)),
     function("def f(x): return x[K]", K=slice(2, None))),
], ids=[
    "a constant", "an operation", "a default", "a default by keyword",
    "the type of a constant", "the sign of zero", "a tuple", "an inner function",
    "another function", "options of Numba", "a set", "the sign of NaN",
    "a slice"])
def test_functions_that_differ(first, second):
    assert loop_cache.description(first) != loop_cache.description(second)


def test_a_function_that_calls_itself():
    assert loop_cache.description(function("def f(n): return n and f(n - 1)"))


@pytest.mark.parametrize("value", [
    function("def f(x): return g(x)", g=json.dumps), function("def f(x): return m", m=json),
    function("def f(x): return m", m=compiled), object()], ids=["function", "module", "own module",
                                                                "object"])
def test_what_has_no_description(value):
    """The code of others may change, and so may what a module's attribute is."""
    with pytest.raises(TypeError, match="no description"):
        loop_cache.description(value)


def test_every_loop_has_a_description():
    float32, float64 = map(np.dtype, ("float32", "float64"))
    found = [traced.loop_of(lambda xp, x: x + 1, [np.zeros(3)], {}, [float64]),
             *activation.compiled_loops(), *pooling.compiled_loops(np.dtype("float32"), 3, 2, 1),
             *normalization.compiled_loops(), *row_norm.compiled_loops(), scatter.compiled_loop(),
             *attention_loops.attention_loops(), *lstm_loops.lstm_loops(),
             *(spinning.spin_loops() or ())]
    for dtype in (float32, float64):
        found += [*tiles.tile_loops(dtype), *depthwise.slice_loops(dtype),
                  *packed_tiles.packed_tile_loops(dtype), product_loops.product_loop(dtype),
                  product_loops.part_loop(dtype), product_loops.divided_loop(dtype)]
    descriptions = [tuple(loop_cache.description(loop.function)) for loop in found]
    assert len({*descriptions}) == len(found)
    assert not any(" at 0x" in line for lines in descriptions for line in lines)
