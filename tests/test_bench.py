"""`gpuprop bench` and the comparison of benchmarks/, in quick mode and without peers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpuprop.torch
from benchmarks import examples, frame, tables
from gpuprop._bench import floor, measure
from gpuprop._bench.library import Library, TorchLibrary
from gpuprop._bench.workloads import WORKLOADS
from gpuprop._cli import main

ROOT = Path(__file__).parents[1]


def losses(workload, library, count=3):
    s = workload.sizes_of(quick=True)
    step = workload.step(library, s, workload.initial_weights(s), {})
    return [measure.value_of(step()) for _ in range(count)]


@pytest.mark.parametrize("name", WORKLOADS)
def test_losses_are_finite_reproducible_and_the_same_in_both_dialects(name):
    workload = WORKLOADS[name]
    found = losses(workload, Library())
    assert np.isfinite(found).all() and found == losses(workload, Library())
    assert found == pytest.approx(losses(workload, TorchLibrary(gpuprop.torch)), rel=1e-6)


@pytest.mark.parametrize("name", WORKLOADS)
def test_quick_sizes_are_smaller(name):
    workload = WORKLOADS[name]
    assert workload.quick.keys() <= workload.sizes.keys()
    assert workload.sizes_of(quick=True) != workload.sizes_of(quick=False)


class TestFloor:
    def work(self, name, **sizes):
        workload = WORKLOADS[name]
        s = workload.sizes_of(quick=True)
        vars(s).update(sizes)
        return floor.work(workload, s, workload.initial_weights(s))

    def test_linear_layers(self):
        flops, moved = self.work("mlp", widths=(5, 3, 2), batch=7)
        assert flops == 2 * 7 * (2 * 5 * 3 + 3 * (3 * 2))  # the input gets no gradient
        forward = (35 + 15 + 3 + 21) + (21 + 6 + 2 + 14)
        backward = (21 + 35 + 15 + 3 + 15 + 3) + (14 + 21 + 6 + 2 + 21 + 6 + 2)
        adam = 7 * (15 + 3 + 6 + 2)
        assert moved == 4 * (forward + backward + adam)

    def test_convolutions(self):
        flops, _ = self.work("cnn_one", widths=(2, 3, 4), pixels=8, batch=1)
        convolutions = 6 * 6 * 2 * 9 + 4 * 4 * 3 * 2 * 9
        assert flops == 2 * (convolutions + 12 * 4 + 4 * 10)

    def test_causal_attention(self):
        n, t, d = 2, 6, 8
        flops, _ = self.work("gpt_one", layers=1, heads=2, width=d, length=t, batch=n)
        attention = 2 * d * t * (t + 1) // 2
        assert flops == 2 * n * (t * (12 * d * d + 65 * d) + attention)

    def test_loading(self):
        assert self.work("images", images=2) == (0, 2 * 3 * 32 * 32 * 5)

    def test_recording_has_no_product(self):
        assert self.work("tape") == (0, 4 * 4 * 3)


class TestMeasure:
    def test_summary(self):
        assert measure.summary([2.0, 1.0, 4.0]) == {"best": 1.0, "median": 2.0, "spread": 1.5}

    @pytest.mark.parametrize("values, expected", [
        ([1.0, 2.0], 0), ([1.0, 2.2], 0.1), ([1.0, np.nan], np.inf), ([np.inf, 2.0], np.inf)])
    def test_worst_difference(self, values, expected):
        assert measure.worst_difference([1.0, 2.0], values) == pytest.approx(expected)

    @pytest.mark.parametrize("seconds, text", [
        (2.5, "2.5 s"), (0.123456, "123 ms"), (1.234e-3, "1.23 ms"), (5e-7, "0.5 µs")])
    def test_duration(self, seconds, text):
        assert measure.duration(seconds) == text

    def test_steps_are_counted(self):
        steps = []
        assert measure.seconds_per_step(lambda: steps.append(1), 0.01) > 0
        assert len(steps) > 2
        assert measure.seconds_per_step(lambda: steps.clear(), 0) > 0 and not steps

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("count", [0, 7, 1 << 23])
    def test_copies(self, count, threads):
        assert measure.copy_seconds(count, threads=threads) > 0

    def test_memory(self):
        if not Path("/proc/self/status").exists():
            assert measure.memory() is None and measure.peak_memory() is None
            return
        code = """
import numpy as np
from gpuprop._bench import measure
before = measure.memory()
measure.forget_peak()
np.ones(1 << 24)
print(measure.peak_memory() - before)
"""  # in a new process, which keeps no freed memory
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert int(done.stdout) > 60 << 20


class TestCommand:
    def test_json(self, capsys):
        assert main(["bench", "mlp", "cnn_one", "--quick", "--rounds", "1", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [w["workload"] for w in found["workloads"]] == ["mlp", "cnn_one"]
        for row in found["workloads"]:
            assert row["same"] and row["times"].keys() == {"gpuprop", "gpuprop.torch"}
            assert row["floor"]["seconds"] >= row["floor"]["arithmetic"] > 0

    def test_backends(self, capsys, backend):
        assert main(["bench", "mlp", "--quick", "--rounds", "1", "--backend", backend.name]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"{backend.name}, ") and "gpuprop.torch" in text

    def test_different_losses_fail(self, capsys, monkeypatch):
        values = iter(map(float, range(100)))
        monkeypatch.setattr(measure, "value_of", lambda result: next(values))
        assert main(["bench", "mlp", "--quick", "--rounds", "1"]) == 1
        assert "FAILED" in capsys.readouterr().out

    @pytest.mark.parametrize("arguments, expected", [
        (["nets"], ("'nets'", "resnet")),
        (["mlp", "--backend", "nobodys"], ("'nobodys'", "numpy")),
    ])
    def test_unknown_names(self, capsys, arguments, expected):
        assert main(["bench", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and all(word in error for word in expected)

    def test_no_rounds(self, capsys):
        with pytest.raises(SystemExit):
            main(["bench", "--rounds", "0"])
        assert "at least 1" in capsys.readouterr().err


class TestComparison:
    """python -m benchmarks, with gpuprop.torch as the only other library."""

    def run(self, *arguments):
        command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "2", "--threads", "1"]
        before = filter(None, [os.environ.get("PYTHONPATH")])
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *before])}
        return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=ROOT,
                              env=env)

    def test_results_are_stored(self, tmp_path):
        done = self.run("mlp_small", "--peers", "dialect", "--out", str(tmp_path))
        assert done.returncode == 0, done.stderr
        row = json.loads((tmp_path / "mlp_small.json").read_text())
        assert row["quick"] and row["threads"]["1"]["contenders"].keys() == {"gpuprop", "dialect"}
        assert "| gpuprop.torch |" in (tmp_path / "speed.md").read_text()
        assert "mlp_small" in (tmp_path / "speed.svg").read_text()

    def test_a_library_that_is_not_installed_is_left_out(self):
        done = self.run("mlp_small", "--peers", "nothing")
        assert done.returncode == 2 and "unknown nothing" in done.stderr

    def test_different_losses_fail(self, monkeypatch):
        monkeypatch.syspath_prepend(ROOT)
        from benchmarks import frame

        class Process:
            def __init__(self, name):
                self.name = name

        check = frame._check_values
        check("mlp", {Process("gpuprop"): [1.0, 2.0], Process("jax"): [1.001, 2.0]})
        for values in ([1.0, 2.1], [1.0, float("nan")]):
            with pytest.raises(frame.DifferentValues, match="JAX jit and gpuprop differ"):
                check("mlp", {Process("gpuprop"): [1.0, 2.0], Process("jax"): values})
        with pytest.raises(frame.DifferentValues, match="inf"):
            check("mlp", {Process("gpuprop"): [1.0, float("inf")]})


def test_table_of_a_busy_machine():
    rows = [{"what": "A", "seconds": {"gpuprop": {"1": 2.0, "4": 3.0}, "pytorch": {"1": 1.0,
                                                                                   "4": 9.0}}},
            {"what": "B", "seconds": {"gpuprop": {"1": 2.0, "4": 1.0}}}]
    assert tables.busy(rows) == """\
| workload | gpuprop | PyTorch eager |
|---|---|---|
| A | 1.50 | 9.00 |
| B | 0.50 |  |
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="limits the processors")
def test_steps_on_a_busy_machine(tmp_path):
    command = [sys.executable, "-m", "benchmarks.busy", "mlp_small", "--quick", "--rounds", "1",
               "--seconds", "0.01", "--out", str(tmp_path)]
    two = sorted(os.sched_getaffinity(0))[:2]
    subprocess.run(command, check=True, cwd=ROOT, preexec_fn=lambda: os.sched_setaffinity(0, two))
    row, = json.loads((tmp_path / "busy.json").read_text())
    assert row["workload"] == "mlp_small" and {"gpuprop", "numba"} <= row["seconds"].keys()
    times = row["seconds"]["gpuprop"]
    assert times.keys() == {str(n) for n in {1, len(two)}} and min(times.values()) > 0


def test_table_of_ratios():
    def row(what, **times):
        found = {"contenders": {name: {"best": best} for name, best in times.items()}}
        return {"what": what, "threads": {"2": found}}

    rows = [row("A", gpuprop=2.0, pytorch=4.0, jax=1.0), row("B", gpuprop=2.0, pytorch=1.0),
            row("C", gpuprop=1.0)]
    assert tables.ratios(rows) == """\
| workload | PyTorch eager, 2 threads | JAX jit, 2 threads |
|---|---|---|
| A | 0.50 | 2.00 |
| B | 2.00 |  |
| C |  |  |
| geometric mean | 1.00 | 2.00 |
"""
    assert tables.ratios(rows[2:]) == ""


def test_each_machine_has_a_folder():
    names = {"Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz": "intel-xeon-gold-6248-cpu-2-50ghz-4-cores",
             "AMD EPYC": "amd-epyc-4-cores", "": "4-cores"}
    for processor, name in names.items():
        assert tables.folder_of({"processor": processor, "cores": 4}).name == name


@pytest.mark.parametrize(("flags", "found"), [
    ("fpu avx avx2 avx512f", "Fast 1 with AVX-512"), ("avx avx2", "Fast 1 with AVX2"),
    ("sse2", "Fast 1")])
def test_the_name_of_the_processor_says_which_vectors_it_has(flags, found, monkeypatch):
    text = f"processor : 0\nmodel name\t: Fast 1\nflags\t\t: {flags}\n\n"
    monkeypatch.setattr(frame.Path, "read_text", lambda path: text)
    assert frame._processor() == found


def test_tables_of_examples(monkeypatch, tmp_path):
    def row(seed, value, persistence):
        figure = {"measure": "error, K", "value": value, "decimals": 1,
                  "beside": {"persistence": persistence}}
        return {"example": "sunspots", "seed": seed, "seconds": 99, "figures": [figure],
                "processor_seconds": 10 + seed, "machine": {"processor": "P", "cores": 2}}

    monkeypatch.setattr(tables, "RUNS", tmp_path / "examples.json")
    monkeypatch.setattr(tables, "GALLERY", tmp_path / "gallery")
    for result in (row(1, 9.0, 9.0), row(0, 1.0, 4.0), row(1, 2.0, 5.0)):  # one runs again
        tables.RUNS.touch()
        examples.store(result)
    assert tables.examples() == """\
| example | measured | mean | range | beside | seeds | processor seconds a run |
|---|---|---|---|---|---|---|
| [sunspots](examples/sunspots.py) | error, K | 1.5 | 1.0 to 2.0 | 4.5, persistence | 2 | 10 |

Measured on: P, 2 cores.
"""
    assert tables.gallery() == ""  # no picture
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "forecast.png").write_bytes(b"")
    examples.store_pictures("sunspots", tmp_path / "out")
    title, task, figure, picture = tables.gallery().split("\n\n")
    assert title == "## [sunspots](../examples/sunspots.py)"
    assert task.startswith("Forecast sunspots")
    assert figure == "- error, K: 1.5 (4.5, persistence)"
    assert picture == "![forecast](gallery/sunspots/forecast.png)\n"
