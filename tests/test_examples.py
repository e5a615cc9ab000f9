"""The examples run as their docstrings say, in short form."""

import csv
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments, cwd):
    command = [sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_digits(tmp_path):
    options = {"--backend": "cpu", "--epochs": 2, "--batch-size": 64, "--seed": 1, "--out": "a/b"}
    done = run("digits.py", *itertools.chain(*options.items()), cwd=tmp_path)
    assert done.stderr == ""  # no bar where nobody looks, and nothing to say of a choice that was not made
    label, number = done.stdout.splitlines()[-1].split(": ")
    assert label == "test accuracy" and 0.85 < float(number) <= 1
    out = tmp_path / "a" / "b"
    assert sorted(p.name for p in out.iterdir()) == ["curves.png", "history.csv", "weights.npz"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    with open(out / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and f"{float(rows[-1]['val_accuracy']):.3f}" == number
    with np.load(out / "weights.npz") as weights:
        assert weights["0.weight"].shape == (256, 64) and len(weights) == 6


def test_digits_says_where_it_runs_and_why(tmp_path):
    done = run("digits.py", "--epochs", 1, cwd=tmp_path)
    line, = done.stderr.splitlines()
    assert line.startswith("gpuprop uses ") and line.endswith(")")
    assert (tmp_path / "out" / "curves.png").exists()


def test_backprop_by_hand(tmp_path):
    done = run("backprop_by_hand.py", "--backend", "cpu", "--steps", 40, cwd=tmp_path)
    first, last = (line.split() for line in (done.stdout.splitlines()[i] for i in (-11, -1)))
    assert int(last[0]) == 40 and float(last[1]) < float(first[1]) and float(last[3]) < 1e-12
