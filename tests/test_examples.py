"""Tests of the examples that need no data files, in short runs."""

import csv
import functools
import importlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

import gpuprop

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch):
    """A function that imports an example."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def run(name, *arguments, cwd):
    command = [sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_digits(tmp_path):
    options = {"--backend": "cpu", "--epochs": 2, "--batch-size": 64, "--seed": 1, "--out": "a/b"}
    done = run("digits.py", *itertools.chain(*options.items()), cwd=tmp_path)
    assert done.stderr == ""  # no progress bar without a terminal, no log of a given backend
    label, number = done.stdout.splitlines()[-1].split(": ")
    assert label == "test accuracy"
    assert 0.85 < float(number) <= 1
    out = tmp_path / "a" / "b"
    assert sorted(p.name for p in out.iterdir()) == ["curves.png", "history.csv", "weights.npz"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    with open(out / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert f"{float(rows[-1]['val_accuracy']):.3f}" == number
    with np.load(out / "weights.npz") as weights:
        assert weights["0.weight"].shape == (256, 64)
        assert len(weights) == 6


def test_digits_logs_the_chosen_backend_and_the_reason(tmp_path):
    done = run("digits.py", "--epochs", 1, cwd=tmp_path)
    line, = done.stderr.splitlines()
    assert line.startswith("gpuprop uses ")
    assert line.endswith(")")
    assert (tmp_path / "out" / "curves.png").exists()


def test_backprop_by_hand(tmp_path):
    done = run("backprop_by_hand.py", "--backend", "cpu", "--steps", 40, cwd=tmp_path)
    lines = done.stdout.splitlines()
    _, first_loss, _, _ = lines[-11].split()
    step, last_loss, _, difference = lines[-1].split()
    assert int(step) == 40
    assert float(last_loss) < float(first_loss)
    assert float(difference) < 1e-12


def test_accelerate(tmp_path):
    options = ["--backend", "cpu", "--steps", 150, "--out", tmp_path]
    lines = run("accelerate.py", *options, cwd=tmp_path).stdout.splitlines()
    assert float(lines[1].split()[-1]) < 1e-12
    assert "[1.988 0.501 0.798 0.312], SciPy [1.988 0.501 0.798 0.312]" in lines[2]
    error = re.search(r"heat equation: relative L2 error (\S+),", lines[-1])
    assert float(error[1]) < 0.1
    assert (tmp_path / "accelerate.png").read_bytes().startswith(b"\x89PNG")


def test_diagnosis(tmp_path):
    options = ["--backend", "cpu", "--members", 1, "--steps", 60, "--out", tmp_path]
    folder = tmp_path / "medical_tabular"
    folder.mkdir()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (60, 8))  # zeros are missing values in some columns
    np.savetxt(folder / "pima-indians-diabetes.csv",
               np.column_stack([x, x[:, 0] > 2]), delimiter=",", fmt="%d")
    lines = run("diagnosis.py", *options, "--data", tmp_path, cwd=tmp_path).stdout.splitlines()
    for line in lines[-4:]:
        assert float(re.search("AUROC (.*), sens", line)[1]) > 0.8
    assert [line.split(":")[0] for line in lines[-4:]] == [
        "breast cancer, logistic regression", "breast cancer, ensemble",
        "diabetes, logistic regression", "diabetes, ensemble"]
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"diagnosis.png", "diagnosis_breast_cancer.safetensors",
                       "diagnosis_diabetes.safetensors", "medical_tabular"}


def test_karate(tmp_path):
    options = ["--backend", "cpu", "--runs", 1, "--out", tmp_path]
    lines = run("karate.py", *options, cwd=tmp_path).stdout.splitlines()
    assert lines[0].startswith("34 members, 78 pairs")
    assert int(re.search(r"(\d+) of 34 members right", lines[1])[1]) >= 30
    assert {path.name for path in tmp_path.iterdir()} == {"karate.png", "karate.safetensors"}


def test_sunspots(tmp_path):
    noise = np.random.default_rng(0).normal(size=1900)
    for file, values in {
            "monthly-sunspots.csv": (6 + 3 * np.sin(np.arange(1900) * 2 * np.pi / 132))**2,
            "daily-min-temperatures.csv": 10 + noise}.items():
        lines = [f'"1749-01",{value:.3f}' for value in values]
        lines[3] = '"1749-04",?' + lines[3].split(",")[1]  # as in the file of temperatures
        (tmp_path / file).write_text("\n".join(["Date,Value", *lines]))
    options = ["--backend", "cpu", "--epochs", 5, "--data", tmp_path, "--out", tmp_path / "out"]
    *_, sunspots, temperatures = run("sunspots.py", *options, cwd=tmp_path).stdout.splitlines()
    errors = [list(map(float, re.findall(r"(?:error|persistence|earlier) ([0-9.]+)", line)))
              for line in (sunspots, temperatures)]
    own, persistence, earlier = errors[0]  # a wave without noise
    assert own < persistence / 2 and earlier < 0.01
    own, persistence, earlier = errors[1]  # noise: its mean is the best forecast
    assert own < 0.99 * persistence and own < 1.1 * earlier
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}.{end}" for name in ("sunspots", "temperatures") for end in ("png", "safetensors")}


def test_volatility(tmp_path):
    rng = np.random.default_rng(0)
    noise = np.zeros(600)
    for i in range(1, 600):  # it returns to 0 within days: persistence is wrong
        noise[i] = 0.7 * noise[i - 1] + rng.normal()
    vix = [f"2000-01-01,1,1,1,{20 * np.exp(0.2 * x):.4f}" for x in noise]
    (tmp_path / "vix-daily.csv").write_text("\n".join(["DATE,OPEN,HIGH,LOW,CLOSE", *vix]))
    prices = 100 * np.exp(np.cumsum(0.04 * rng.normal(size=300)))
    rows = [f"1900-01-01,{p:.2f},{p * 0.03:.3f},{p * 0.06:.3f},{4 + rng.normal():.2f}"
            for p in prices]
    rows.append("1930-01-01,100.0,0.0,0.0,4.0")  # not known yet
    (tmp_path / "sp500-monthly.csv").write_text(
        "\n".join(["Date,SP500,Dividend,Earnings,Long Interest Rate", *rows]))
    options = ["--backend", "cpu", "--epochs", 3, "--data", tmp_path, "--out", tmp_path / "out"]
    *_, vix, sp500 = run("volatility.py", *options, cwd=tmp_path).stdout.splitlines()
    network, linear = map(float, re.findall(r"[+-][0-9.]+", vix))
    assert network > 0.2 and linear > 0.2
    network, linear = map(float, re.findall(r"[+-][0-9.]+", sp500))
    assert network < 0.1 and linear < 0.1  # a random walk
    assert (tmp_path / "out" / "volatility.png").exists()


def write_recordings(path):
    """Recordings of two tones for each digit, which are spelled as the digits are."""
    rng = np.random.default_rng(0)
    seconds = np.arange(4000) / 8000
    with zipfile.ZipFile(path, "w") as archive:
        for digit, number in itertools.product(range(10), range(30)):
            tones = np.where(seconds < 0.25, 200 + 150 * digit, 2000 - 150 * digit)
            sound = 8000 * np.sin(2 * np.pi * tones * seconds) + 20 * rng.normal(size=4000)
            data = io.BytesIO()
            with wave.open(data, "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(sound.astype("<i2").tobytes())
            archive.writestr(f"recordings/{digit}_nobody_{number}.wav", data.getvalue())


def test_spoken_digits(tmp_path):
    write_recordings(tmp_path / "free-spoken-digit-dataset-master.zip")
    options = ["--backend", "cpu", "--epochs", 6, "--data", tmp_path, "--out", tmp_path / "out",
               "--record", tmp_path / "figures.json"]
    lines = run("spoken_digits.py", *options, cwd=tmp_path).stdout.splitlines()
    first, *_, letters, classes = lines
    assert first.startswith("200 recordings for training, 50 for the test")
    figures = json.loads((tmp_path / "figures.json").read_text())
    accuracy, words, errors = (figure["value"] for figure in figures)
    assert accuracy > 90 and f"test accuracy {accuracy:.1f} %" in classes
    assert errors < 90 and f"character error rate {errors:.1f} %" in letters  # 100: no letters
    assert f"{words:.1f} % of words" in letters
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "spoken_digits.png", "spoken_digits_classes.safetensors",
        "spoken_digits_letters.safetensors"}


def test_the_spectrograms_of_spoken_digits(example):
    spoken = example("spoken_digits")
    sound = np.random.default_rng(0).normal(size=4000)
    stft = scipy.signal.ShortTimeFFT(scipy.signal.windows.hann(256, sym=False), 128, 8000)
    frames = spoken.power_spectrum(sound)
    power = np.abs(stft.stft(sound, p0=0, p1=len(frames)))**2
    np.testing.assert_allclose(frames, power.T, rtol=1e-9, atol=1e-9)
    filters = spoken.mel_filters()
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(256, 1 / 8000) / 700)
    np.testing.assert_allclose(filters @ mel / filters.sum(axis=1),
                               mel.max() * np.arange(1, 41) / 41, rtol=0.02, atol=20)
    image = spoken.log_mel(sound * 1000)
    assert image.shape == (40, 64) and image.max() == 1
    assert image[:, :len(frames)].min() > 0 and not image[:, len(frames):].any()
    np.testing.assert_allclose(image, spoken.log_mel(sound), rtol=1e-5)


def test_the_words_of_spoken_digits(example):
    spoken = example("spoken_digits")
    times = ["--tthh-rre-e-", "-s-s-iiiixx--", "-------------"]
    classes = np.array([[spoken.LETTERS.index(c) for c in row] for row in times])
    assert spoken.greedy(np.eye(len(spoken.LETTERS))[classes.T]) == ["three", "ssix", ""]

    @functools.cache
    def distance(a, b):  # the definition
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1,
                   distance(a[1:], b[1:]) + (a[0] != b[0]))

    words = ["", "e", "seven", "sven", "eevens", "nine", "one", "zero"]
    for a, b in itertools.product(words, repeat=2):
        assert spoken.edit_distance(a, b) == distance(a, b)
    assert spoken.character_error_rate(["sven", "oneo"], ["seven", "one"]) == 2 / 8


@pytest.mark.parametrize(("name", "files"), [
    ("spoken_digits", "free-spoken-digit-dataset-master.zip"),
    ("volatility", "vix-daily.csv and sp500-monthly.csv")])
def test_which_files_are_needed(name, files, tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "GPUPROP_DATA"}
    done = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], env=env, cwd=tmp_path,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and files in done.stderr


@pytest.mark.parametrize("name", ["accelerate", "diagnosis", "karate", "spoken_digits", "sunspots",
                                  "volatility"])
def test_the_same_run_on_the_strict_backend(name, example):
    assert gpuprop.verify(example(name).run, candidate="strict")
