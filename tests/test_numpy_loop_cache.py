"""Machine code of loops on disk: other processes load it, and damage and chance do no harm."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from gpuprop_numpy import compiled, loop_cache, row_norm, scatter, tiles

PROGRAM = """
import json, sys
import numba.core.event as events
import numpy as np
import gpuprop
import gpuprop.functional as F
from gpuprop_numpy import compiled
from gpuprop_numpy.pointwise import blockwise

gpuprop.use("numpy")
compiled.MIN_SIZE = 0


def scaled(factor):
    return blockwise(lambda xp, x: x * factor + 1)


def conv(dtype):
    rng = np.random.default_rng(0)
    x = gpuprop.tensor(rng.standard_normal((4, 8, 20, 20)).astype(dtype), requires_grad=True)
    weight = gpuprop.tensor(rng.standard_normal((16, 8, 3, 3)).astype(dtype), requires_grad=True)
    y = F.conv2d(x, weight)
    (y * y).sum().backward()
    with gpuprop.generic(), gpuprop.no_grad():
        error = abs((F.conv2d(x, weight) - y).numpy()).max()
    return float(error), y.numpy().tobytes().hex(), np.asarray(weight.grad).tobytes().hex()


def run(what):
    if what.startswith("scale"):
        return scaled(float(what[5:]))(np, np.arange(1 << 19, dtype="float32"))[:8].tolist()
    return conv(what)


with events.install_recorder("numba:compile") as record:
    results = [run(what) for what in sys.argv[1:]]
loops = {str(e.data["dispatcher"].py_func.__name__) for _, e in record.buffer if e.is_start}
print(json.dumps([results, sorted(loops)]))
"""


@pytest.fixture
def run(tmp_path):
    """``run(*calls)`` makes the calls in a process: their results, and what it compiled."""

    def call(*calls, **environment):
        env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), **environment}
        done = subprocess.run([sys.executable, "-c", PROGRAM, *calls], env=env, text=True,
                              capture_output=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_another_process_compiles_nothing(run, tmp_path):
    calls = "float32", "scale2", "scale3"
    results, loops = run(*calls)
    assert {"forward", "grad", "loop"} <= set(loops)
    before = {path: path.read_bytes() for path in files(tmp_path)}
    assert {path.suffix for path in before} == {".loop"}
    assert run(*calls) == [results, []]
    assert {path: path.read_bytes() for path in files(tmp_path)} == before
    assert results[1][5] == 11 and results[2][5] == 16


@pytest.mark.parametrize("saved", ["float32", "float64"])
def test_loaded_and_compiled_loops_do_not_meet(saved, run):
    """Numba gives the functions in both loops the same names, whichever is compiled first."""
    alone, _ = run(saved)
    other = "float64" if saved == "float32" else "float32"
    both, loops = run(saved, other)
    assert loops and both[0] == alone[0]
    assert max(error for error, *_ in both) < 1e-4
    assert run(other, saved) == [both[::-1], []]


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:-1], lambda data: data[:40], lambda data: b"x" * 1000,
    lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]],
    ids=["empty", "cut", "short", "other", "bit"])
def test_a_damaged_file_is_compiled_again(damage, run, tmp_path):
    results, loops = run("scale2")
    path, = files(tmp_path)
    data = path.read_bytes()
    path.write_bytes(damage(data))
    assert run("scale2") == [results, loops]
    assert run("scale2") == [results, []]


def test_without_a_folder(run, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    results, loops = run("scale2", NUMBA_CACHE_DIR=str(blocked / "sub"))
    assert loops == ["loop"]
    assert run("scale2", GPUPROP_LOOP_CACHE="0") == [results, loops]
    assert files(tmp_path) == [blocked]


def test_settings_of_numba_have_files_of_their_own(run, tmp_path):
    run("scale2")
    assert run("scale2", NUMBA_OPT="1")[1] == ["loop"]
    assert len(files(tmp_path)) == 2


def test_no_folder_is_relative(monkeypatch):
    monkeypatch.setattr("numba.core.config.CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("LOCALAPPDATA", "relative")
    if sys.platform.startswith("linux"):
        assert loop_cache.cache_folder() is None


def test_another_numba_compiles(monkeypatch, tmp_path):
    """Its private functions may be missing."""
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    monkeypatch.delattr("numba.core.compiler.CompileResult._reduce")
    monkeypatch.delattr("numba.core.compiler.CompileResult._rebuild")
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
], ids=[
    "a constant", "an operation", "a default", "a default by keyword",
    "the type of a constant", "the sign of zero", "a tuple", "an inner function",
    "another function", "options of Numba", "a set"])
def test_functions_that_differ(first, second):
    assert loop_cache.description(first) != loop_cache.description(second)


def test_a_function_that_calls_itself():
    assert loop_cache.description(function("def f(n): return n and f(n - 1)"))


def test_every_loop_has_a_description():
    found = [*tiles.tile_loops(np.dtype("float32"))[:2], *tiles.tile_loops(np.dtype("float64"))[:2],
             *row_norm.compiled_loops(), scatter.compiled_loop()]
    found.append(compiled.loop_of(lambda xp, x: x + 1, [np.zeros(3)], {}, [np.dtype("float64")]))
    descriptions = [tuple(loop_cache.description(loop.function)) for loop in found]
    assert len({*descriptions}) == len(found)
    assert not any(" at 0x" in line for lines in descriptions for line in lines)
