"""Tests of the examples that need no data files, in short runs."""

import csv
import functools
import importlib
import io
import itertools
import json
import mmap
import os
import re
import subprocess
import sys
import tarfile
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
from PIL import Image
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

import gpuprop

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch):
    """A function that imports an example."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def run(name, *arguments, cwd):
    command = [sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)
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
    lines = run("sunspots.py", *options, cwd=tmp_path).stdout.splitlines()
    sunspots, _, temperatures, _ = lines[-4:]
    errors = [list(map(float, re.findall(r"(?::|persistence|earlier) ([0-9.]+)", line)))
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
    options = ["--backend", "cpu", "--epochs", 10, "--data", tmp_path, "--out", tmp_path / "out",
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
    logits = np.eye(len(spoken.LETTERS))[classes.T]
    assert spoken.greedy(logits, np.array([24, 24, 24])) == ["three", "ssix", ""]
    assert spoken.greedy(logits, np.array([17, 3, 13])) == ["thre", "s", ""]

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


def write_films(folder, users=60, films=80):
    """Ratings of people who rate the films of their own half, and like these the more."""
    rng = np.random.default_rng(0)
    rated = rng.random((users, films)) < np.where(
        np.arange(users)[:, None] % 2 == np.arange(films) % 2, 0.6, 0.02)
    rows = [f"{user + 1},{7 * film},{2.5 + (film % 4 < 2) + rng.integers(-1, 2) / 2},964982703"
            for user, film in zip(*rated.nonzero(), strict=True)]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rows]))
    titles = [f'{7 * film},"Film {film}, The (1999)",{"Drama" if film % 2 else "Comedy|War"}'
              for film in range(films)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *titles]))


def test_movies(tmp_path):
    write_films(tmp_path)
    options = ["--backend", "cpu", "--epochs", 20, "--data", tmp_path, "--out", tmp_path / "out"]
    *_, stars, choices = run("movies.py", *options, cwd=tmp_path).stdout.splitlines()
    network, biases, mean = map(float, re.findall(r"(?:stars:|biases|ratings) ([0-9.]+)", stars))
    assert network < 1.02 * biases and biases < 0.8 * mean
    network, popular = map(float, re.findall(r"(?:10:|films) ([0-9.]+)", choices))
    assert network > 1.2 * popular
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "movies.png", "movies_ratings.safetensors", "movies_choices.safetensors"}


def test_recommendations_and_their_recall(example):
    movies = example("movies")
    rng = np.random.default_rng(0)
    scores, rated = rng.random((5, 30)), rng.random((5, 30)) < 0.2
    wanted = (rng.random((5, 30)) < 0.3) & ~rated
    wanted[3] = False  # without films in the test set, the user does not count
    recommended = movies.recommend(scores, rated)
    shares = []
    for user in range(5):
        best = sorted((-score, film) for film, score in enumerate(scores[user])
                      if not rated[user, film])[:10]
        assert recommended[user].tolist() == [film for _, film in best]
        if wanted[user].any():
            shares.append(wanted[user, recommended[user]].sum() / wanted[user].sum())
    assert movies.recall(recommended, wanted) == pytest.approx(np.mean(shares))


def packed(values):
    """Two rows of numbers of twelve bits in format 212 of PhysioNet."""
    first, second = values % 4096
    columns = first % 256, first // 256 + 16 * (second // 256), second % 256
    return np.stack(columns, axis=1).astype("uint8").tobytes()


def write_heartbeats(folder, seconds=100):
    """A beat each second, and one in ten after 0.6 s; annotated with words of all kinds."""
    intervals = np.where(np.arange(seconds) % 10 == 5, 216, 360)
    time = np.cumsum(intervals)
    phase = np.arange(360 * seconds)[:, None] - time
    beats = 200 * np.exp(-phase**2 / 40).sum(axis=1)
    signal = beats * [[1], [-0.5]] + np.random.default_rng(0).normal(size=(2, 360 * seconds))
    (folder / "100.dat").write_bytes(packed(1024 + signal.round().astype(int)))
    (folder / "100.hea").write_text("# a comment\n100 2 360 36000\n"
                                    "100.dat 212 200 11 1024 0 0 0 MLII\n"
                                    "100.dat 212 100 11 1024 0 0 0 V5\n")
    codes = np.where(intervals == 216, 8, 1)
    words = [28 * 1024, 63 * 1024 + 3, 0x4E28, 0]  # a mark of rhythm and its text
    words += [59 * 1024, 0, int(intervals[0]), 1024]  # a long interval, then a beat without one
    words += [int(word) for word in codes[1:] * 1024 + intervals[1:]]
    (folder / "100.atr").write_bytes(np.array([*words, 0], "<u2").tobytes())
    return signal, time, codes == 8


def test_heartbeat_reads_the_files_of_a_record(tmp_path, example):
    heartbeat = example("heartbeat")
    signal, time, premature = write_heartbeats(tmp_path)
    beats = heartbeat.read_beats(tmp_path / "100.atr")
    np.testing.assert_array_equal(beats.time, time)
    np.testing.assert_array_equal(beats.premature, premature)
    millivolts = heartbeat.read_signal(tmp_path / "100.hea", tmp_path / "100.dat")
    np.testing.assert_allclose(millivolts, signal.round() / [[200], [100]], rtol=1e-6)
    lowest = np.array([[-2048, 2047, -1], [0, -2047, 1]])
    (tmp_path / "100.dat").write_bytes(packed(lowest))
    millivolts = heartbeat.read_signal(tmp_path / "100.hea", tmp_path / "100.dat")
    np.testing.assert_allclose(millivolts, (lowest - 1024) / [[200], [100]], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_matches_of_beats_are_a_maximum_matching(seed, example):
    rng = np.random.default_rng(seed)
    found, marked = (np.sort(rng.choice(300, size, replace=False)) for size in (40, 30))
    close = csr_array(abs(found[:, None] - marked) <= 4)
    pairs = (maximum_bipartite_matching(close) >= 0).sum()
    assert example("heartbeat").matches(found, marked, 4) == pairs > 0


def test_heartbeat(tmp_path):
    write_heartbeats(tmp_path)
    options = ["--backend", "cpu", "--epochs", 14, "--data", tmp_path, "--out", tmp_path / "out"]
    *_, clean, noisy, _ = run("heartbeat.py", *options, cwd=tmp_path).stdout.splitlines()
    for line, least in (clean, 95), (noisy, 50):
        assert all(float(value) > least for value in re.findall(r"([0-9.]+)%", line)), line
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "heartbeat.png", "heartbeat.safetensors"}


def test_carts_move_by_the_equations_of_motion(example):
    cartpole = example("cartpole")
    rng = np.random.default_rng(0)
    state, right = rng.normal(size=(50, 4)), rng.random(50) < 0.5
    after = cartpole.moved(state, right)
    for (x, v, angle, turning), push, found in zip(state, right, after, strict=True):
        # Newton's laws for the cart of 1 kg with the pole, and for the pole of 0.1 kg and 1 m
        sin, cos = np.sin(angle), np.cos(angle)
        a = [[1.1, 0.1 * 0.5 * cos], [cos, 0.5 * 4 / 3]]
        b = [(10 if push else -10) + 0.1 * 0.5 * turning**2 * sin, 9.8 * sin]
        linear, angular = np.linalg.solve(a, b)
        expected = [x + 0.02 * v, v + 0.02 * linear, angle + 0.02 * turning,
                    turning + 0.02 * angular]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_carts_stop_at_the_limits(example):
    cartpole = example("cartpole")
    carts = cartpole.Carts(5, seed=0)
    assert (abs(carts.state) <= 0.05).all() and len(np.unique(carts.state)) == 20
    carts.state = np.zeros((5, 4))
    carts.state[:4, [0, 2]] = [[2.41, 0], [2.39, 0], [0, -0.2100], [0, 0.2090]]
    carts.age = np.array([499, 3, 499, 499, 499])
    after, failed, late = carts.step(np.ones(5, bool))
    assert failed.tolist() == [True, False, True, False, False]
    assert late.tolist() == [False, False, False, True, True]
    carts.restart(failed | late)
    np.testing.assert_array_equal(carts.state[1], after[1])
    assert carts.age.tolist() == [0, 4, 0, 0, 0]
    assert (abs(carts.state[[0, 2, 3, 4]]) <= 0.05).all() and abs(after[0, 0]) > 2.4


def test_advantages_are_discounted_sums_of_errors(example):
    cartpole = example("cartpole")
    rng = np.random.default_rng(0)
    shape = 30, 4
    value, after = rng.normal(size=(2, *shape))
    failed = rng.random(shape) < 0.1
    ended = failed | (rng.random(shape) < 0.1)
    drive = cartpole.Drive(*[None] * 3, failed, ended, [])
    found = cartpole.advantages(drive, value, after)
    for t, cart in np.ndindex(shape):
        expected = 0.0
        for k in range(t, shape[0]):
            error = 1 + 0.99 * after[k, cart] * (not failed[k, cart]) - value[k, cart]
            expected += (0.99 * 0.95)**(k - t) * error
            if ended[k, cart]:
                break
        assert found[t, cart] == pytest.approx(expected)


def test_cartpole(tmp_path):
    options = ["--backend", "cpu", "--rounds", 10, "--out", tmp_path]
    *_, last = run("cartpole.py", *options, cwd=tmp_path).stdout.splitlines()
    mean, chance = map(float, re.findall(r"(?:episodes:|pushes) ([0-9.]+)", last))
    assert 15 < chance < 30 and mean > 4 * chance
    assert {path.name for path in tmp_path.iterdir()} == {"cartpole.png", "cartpole.safetensors"}


def write_tub(path):
    """A drive over a bright road that lies to the right where the angle is positive."""
    rng = np.random.default_rng(0)
    angles = np.sin(np.arange(200) / 9)
    lines = []
    with tarfile.open(path, "w:gz") as tar:
        def add(name, data):
            info = tarfile.TarInfo(f"tub/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for i, angle in enumerate(angles):
            pixels = rng.integers(0, 60, (120, 160, 3), dtype="uint8")
            middle = round(80 + 50 * angle)
            pixels[:, middle - 15:middle + 15] = 220
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "JPEG")
            add(f"images/{i}.jpg", data.getvalue())
            lines.append(json.dumps({"cam/image_array": f"{i}.jpg", "user/angle": angle}))
        add("catalog_0.catalog", "\n".join(lines).encode())
        add("._catalog_0.catalog", b"not a catalog")


def test_driving(tmp_path):
    write_tub(tmp_path / "tub.tar.gz")
    options = ["--backend", "cpu", "--epochs", 5, "--data", tmp_path, "--out", tmp_path / "out",
               "--record", tmp_path / "figures.json"]
    lines = run("driving.py", *options, cwd=tmp_path).stdout.splitlines()
    assert lines[0].startswith("200 frames")
    r2, error = json.loads((tmp_path / "figures.json").read_text())
    assert r2["value"] > 0.8 and error["value"] < 0.3 < error["beside"]["mean angle"]
    assert r2["beside"]["ridge regression"] > 0.8 and r2["beside"]["mean angle"] < 0.1
    assert f"network: R^2 {r2['value']:.3f}, mean absolute error {error['value']:.3f}" in lines
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "driving.png", "driving.safetensors"}


def test_the_stretches_of_driving(example):
    driving = example("driving")
    tested = []
    for fold in range(driving.FOLDS):
        train, held, test = driving.divide(1000, fold)
        tested += list(test)
        away = np.concatenate([held, test])
        assert abs(train[:, None] - away).min() == driving.GAP + 1
        assert not set(held) & set(test)
        assert all(len(np.unique(rows // 100)) == 2 for rows in (held, test))
    assert sorted(tested) == list(range(1000))


def test_adapters_change_a_frozen_network(example):
    finetune = example("finetune")
    base = finetune.network()
    model, step, batches = finetune.run(finetune.with_adapters(base))
    x = gpuprop.random.uniform((7, 784))
    body = lambda: model[0](x).numpy()
    np.testing.assert_array_equal(body(), base[0](x).numpy())
    before = model.state_dict()
    for batch in batches:
        step(*batch)
    trained = finetune.trained(model)
    after = model.state_dict()
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert changed == {*trained} and all(name.split(".")[-1] in {"a", "b", "weight", "bias"}
                                         for name in trained)
    assert abs(body() - base[0](x).numpy()).max() > 1e-3
    for index in 1, 4, 8:  # the weights of the layers differ by matrices of low rank
        difference = (model[0][index].weight - base[0][index].weight).numpy()
        assert np.linalg.matrix_rank(difference.reshape(len(difference), -1),
                                     tol=1e-4 * abs(difference).max()) <= finetune.RANK


def test_the_order_of_stream(example):
    stream = example("stream")
    n = 3 * stream.BLOCK * stream.MIXED + 50
    order = lambda seed: [*stream.MixedBlocks(n).epoch_indices(gpuprop.random.Generator(seed))]
    found = order(0)
    assert found == order(0) != order(1)
    assert sorted(found) == list(range(n))
    for batch in np.array_split(found, n // 256):
        counts = np.bincount(batch * 10 // n, minlength=10)  # ten classes, one after the other
        assert counts.min() >= 5 and counts.max() <= 60


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc on this system")
def test_the_memory_of_stream(tmp_path, example):
    stream = example("stream")
    size = 2**25
    before = stream.memory()
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as own:
        own.write(bytes(size))
        allocated = stream.memory()
    assert size <= allocated.own - before.own < 2.2 * size  # the bytes are copied
    (tmp_path / "file").write_bytes(b"1" * size)
    mapped = np.memmap(tmp_path / "file", "uint8", "r")
    before = stream.memory()
    assert mapped.max() == ord("1")
    after = stream.memory()
    assert after.own - before.own < size / 8 and after.files - before.files > 0.8 * size


def test_the_memory_of_stream_on_other_systems(monkeypatch, example):
    stream = example("stream")
    now = stream.memory()
    monkeypatch.setattr(stream, "STATUS", Path("missing"))
    assert stream.memory().own >= 0.99 * now.own and stream.memory().files == 0
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert np.isnan(stream.memory().own) and stream.memory().files == 0


@pytest.mark.parametrize(("options", "words"), [
    (["mnist.py", "--epochs", "0"], "argument --epochs: .*at least 1, got 0"),
    (["mnist.py", "--epochs", "some"], "argument --epochs: invalid int value: 'some'"),
    (["diffusion.py", "--eta", "2"], "--eta 2.0: expected 0 to 1"),
    (["diffusion.py", "--steps", "401"], "--steps 401: expected 1 to 400")])
def test_wrong_options(options, words, example, monkeypatch, capsys):
    module = example(options[0].removesuffix(".py"))
    monkeypatch.setattr(sys, "argv", options)
    with pytest.raises(SystemExit) as raised:
        module.main()
    assert re.search(words, f"{raised.value} {capsys.readouterr().err}")


def write_blood(folder, rng):
    """Pictures of discs that are colored as white cells, red cells and platelets are."""
    kinds = {"WBC": (60, 8, (145, 110, 210)), "RBC": (50, 0, (180, 155, 160)),
             "Platelets": (26, 8, (145, 110, 210))}  # radius, pale rim, color
    for name in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    y, x = np.mgrid[:288, :432]  # six places of 144 x 144 pixels
    for part, n in {"train": 24, "val": 2, "test": 4}.items():
        names = [f"{part}{i}" for i in range(n)]
        (folder / f"ImageSets/Main/{part}.txt").write_text("\n".join(names))
        for name in names:
            pixels = 200 + rng.integers(-5, 6, (288, 432, 3))
            objects = ["<object><name>RBC</name><bndbox><xmin>50</xmin><ymin>60</ymin>"
                       "<xmax>50</xmax><ymax>60</ymax></bndbox></object>"]  # of no area
            places = rng.permutation(6)
            for place, kind in zip(places, ["WBC", *["RBC"] * 3, *["Platelets"] * 2], strict=True):
                radius, rim, color = kinds[kind]
                cx, cy = 72 + 144 * (place % 3), 72 + 144 * (place // 3)
                pixels[(x - cx)**2 + (y - cy)**2 < (radius - rim)**2] = color
                corners = zip(("xmin", "ymin", "xmax", "ymax"),
                              (cx - radius, cy - radius, cx + radius, cy + radius), strict=True)
                box = "".join(f"<{side}>{value}</{side}>" for side, value in corners)
                objects.append(f"<object><name>{kind}</name><bndbox>{box}</bndbox></object>")
            Image.fromarray(pixels.astype("uint8")).save(folder / f"JPEGImages/{name}.jpg")
            (folder / f"Annotations/{name}.xml").write_text(
                f"<annotation>{''.join(objects)}</annotation>")


def test_blood_cells(tmp_path):
    write_blood(tmp_path / "BCCD", np.random.default_rng(0))
    options = ["--backend", "cpu", "--epochs", 10, "--data", tmp_path, "--out", tmp_path / "out"]
    *_, network, colors = run("blood_cells.py", *options, cwd=tmp_path).stdout.splitlines()
    for line in (network, colors):
        assert min(map(float, re.findall(r"[0-9.]+", line))) > 0.8, line
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "blood_cells.png", "blood_cells.safetensors"}


def test_average_precision_is_that_of_pascal_voc(example):
    blood = example("blood_cells")
    rng = np.random.default_rng(0)
    found, cells = [], []
    for _ in range(12):
        corner = rng.integers(0, 80, (9, 2))
        boxes = np.concatenate([corner, corner + rng.integers(10, 40, (9, 2))], axis=1)
        near = np.repeat(boxes, 2, axis=0) + rng.integers(-4, 5, (18, 4))
        kinds = rng.integers(0, 3, 9)
        scores = rng.random(18)
        order = np.argsort(-scores)
        cells.append(blood.Cells(boxes, kinds))
        found.append(blood.Found(near[order], np.repeat(kinds, 2)[order], scores[order]))
    # by voc_eval.py of github.com/rbgirshick/py-faster-rcnn, whose boxes include their last pixel
    expected = [0.854726150951599, 0.7266001507931128, 0.7266716469667736]
    np.testing.assert_allclose(blood.average_precisions(found, cells), expected, rtol=1e-12)
    nothing = [blood.Found(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)) for _ in cells]
    assert not blood.average_precisions(nothing, cells).any()


def test_the_network_of_blood_cells_can_give_its_targets(example):
    blood = example("blood_cells")
    boxes = np.array([[10, 10, 110, 90], [100, 60, 150, 118], [30, 99, 41, 111]], "float32")
    cells = blood.Cells(boxes, np.array([0, 1, 2]))
    heat, distances, weight = blood.targets(cells, 120, 160)
    assert heat.shape == (3, 15, 20) and (heat == 1).sum(axis=(1, 2)).tolist() == [1, 1, 1]
    assert 2.5 < weight.sum() <= 3
    found = blood.decode(np.where(heat == 1, 5, -5), distances)
    order = np.argsort(found.kinds)
    np.testing.assert_allclose(found.boxes[order], boxes, rtol=1e-5)


def test_the_overlap_loss_of_blood_cells(example):
    blood = example("blood_cells")
    rng = np.random.default_rng(0)
    distances = rng.uniform(1, 9, (2, 1, 4, 3, 5))
    weight = rng.random((1, 3, 5))
    corners = [np.concatenate([-own[0, :2], own[0, 2:]]).reshape(4, -1).T for own in distances]
    overlap = gpuprop.functional.generalized_box_iou(*corners).diagonal()
    expected = np.average(1 - overlap, weights=weight.ravel())
    assert blood.overlap_loss(*distances, weight) == pytest.approx(expected)


def test_mirror_images_of_blood_cells(example):
    blood = example("blood_cells")
    image = np.zeros((1, 3, 40, 60), "uint8")
    image[..., 5:15, 20:50] = 1
    cells = [blood.Cells(np.array([[20, 5, 50, 15]], "float32"), np.array([0]))]
    mirrored = blood.Pictures(image, cells).and_mirrored(0).and_mirrored(1)
    assert len(mirrored.images) == len(mirrored.cells) == 4
    for image, ([box], _) in zip(*mirrored, strict=True):
        _, y, x = image.nonzero()
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_segment(tmp_path):
    write_blood(tmp_path / "BCCD", np.random.default_rng(0))
    options = ["--backend", "cpu", "--epochs", 6, "--data", tmp_path, "--out", tmp_path / "out"]
    lines = run("segment.py", *options, cwd=tmp_path).stdout.splitlines()
    network, otsu, rim = (float(line.split()[-1]) for line in lines[-3:])
    assert otsu < 0.8 < min(network, rim)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "segment.png", "segment.safetensors"}


def test_thresholds_of_otsu(example):
    values = np.random.default_rng(0).integers([[-30], [10]], [[5], [90]], (2, 500))

    def between(threshold):  # the definition
        low, high = values[values <= threshold], values[values > threshold]
        return len(low) * len(high) * (high.mean() - low.mean())**2

    best = max(range(values.min(), values.max()), key=between)
    assert example("segment").otsu(values) == best + 0.5


def test_regions_and_rims(example):
    segment = example("segment")
    x, y = np.arange(60) + 0.5, np.arange(40)[:, None] + 0.5
    distance = np.hypot(x - 30, y - 20)
    stained = (distance <= 10) & (distance >= 4)
    stained[2:4, 2:4] = True  # too small
    found = segment.cells_around(stained[None, None], 50, 3)
    assert found.shape == (1, 1, 40, 60)
    assert found[0, 0, distance < 12].all() and not found[0, 0, distance > 13.5].any()
    ellipse = segment.ellipses(np.array([[17, 7, 43, 33]]), 40, 60)
    assert segment.agreement(ellipse, found) > 0.9
    assert not segment.cells_around(stained[None, None], 500, 3).any()


@pytest.mark.parametrize(("name", "files"), [
    ("blood_cells", "BCCD"),
    ("movies", "ratings.csv and movies.csv"),
    ("segment", "BCCD"),
    ("spoken_digits", "free-spoken-digit-dataset-master.zip"),
    ("volatility", "vix-daily.csv and sp500-monthly.csv")])
def test_which_files_are_needed(name, files, tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "GPUPROP_DATA"}
    done = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], env=env, cwd=tmp_path,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and files in done.stderr


EXAMPLES_WITH_RUNS = sorted(path.stem for path in EXAMPLES.glob("*.py")
                            if re.search("^def run", path.read_text(), re.M))


def test_all_examples_can_be_verified():
    helpers = {"command_line", "figures", "judge", "runs", "texts"}
    others = {path.stem for path in EXAMPLES.glob("*.py")} - {*EXAMPLES_WITH_RUNS, *helpers}
    assert others == {"backprop_by_hand"}  # which has no gradients to compare but its own


@pytest.mark.parametrize("name", EXAMPLES_WITH_RUNS)
def test_the_same_run_on_the_strict_backend(name, example):
    assert gpuprop.verify(example(name).run, candidate="strict")
