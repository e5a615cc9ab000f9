"""Tests of the examples on MNIST, with small files in MNIST's format."""

import functools
import gzip
import hashlib
import http.server
import importlib
import json
import os
import re
import runpy
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pooch
import pytest
from sklearn.datasets import load_digits

import gpuprop
from gpuprop.data import DataLoader, read_idx

EXAMPLES = Path(__file__).parents[1] / "examples"
FIRST_LINE = "1497 training images, 300 test images, backend 'numpy'"


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype("uint8").tobytes(), mtime=0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """1,797 images of 8 x 8 pixels, enlarged to 28 x 28; the last 300 are the test set."""
    images, labels = load_digits(return_X_y=True)
    enlarged = np.kron(images.reshape(-1, 8, 8) * 15.9, np.ones((3, 3)))
    images = np.pad(enlarged, ((0, 0), (2, 2), (2, 2)))
    folder = tmp_path_factory.mktemp("data") / "mnist"
    folder.mkdir()
    for part, rows in (("train", slice(-300)), ("t10k", slice(-300, None))):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images[rows])
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels[rows])
    return folder


@pytest.fixture
def example(monkeypatch):
    """A function that imports an example."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def run(name, *arguments, **environment):
    environment = {**os.environ, "GPUPROP_DATA": "", **environment}
    command = [sys.executable, "-W", "error", EXAMPLES / name, "--backend", "cpu", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def read_accuracy(line):
    return float(re.fullmatch(r"test accuracy: (0\.\d{4})", line).group(1))


def test_mnist_trains_and_saves_weights_and_history(folder, tmp_path):
    done = run("mnist.py", "--epochs", "2", "--batch-size", "32", "--out", tmp_path / "out",
               GPUPROP_DATA=str(folder.parent))
    assert done.returncode == 0, done.stderr
    first, *epochs, last = done.stdout.splitlines()
    assert first == FIRST_LINE
    assert [line[:10] for line in epochs] == ["epoch  1/2", "epoch  2/2"]
    assert read_accuracy(last) > 0.8
    assert (tmp_path / "out" / "history.csv").read_text().count("\n") == 3
    weights = gpuprop.load(tmp_path / "out" / "mnist.safetensors")
    assert {name: a.shape for name, a in weights.items()} == {
        "0.weight": (512, 784), "0.bias": (512,), "3.weight": (512, 512), "3.bias": (512,),
        "6.weight": (10, 512), "6.bias": (10,)}


def png_files(folder):
    return sorted(p.name for p in folder.iterdir() if p.read_bytes().startswith(b"\x89PNG"))


def test_mnist_cnn_trains_plots_and_resumes(folder, tmp_path):
    arguments = ["mnist_cnn.py", "--data", folder, "--epochs", "1", "--batch-size", "16",
                 "--out", tmp_path]
    done = run(*arguments)
    resumed = run(*arguments, "--resume")  # all epochs are done, so it does not train
    assert done.returncode == resumed.returncode == 0, done.stderr + resumed.stderr
    first, epoch, plots, last = done.stdout.splitlines()
    assert first == FIRST_LINE
    accuracy = read_accuracy(last)
    assert accuracy > 0.8
    assert f"test accuracy {accuracy:.4f}, " in epoch
    assert resumed.stdout.splitlines() == [first, plots, last]
    assert png_files(tmp_path) == ["curves.png", "features.png", "mistakes.png"]


def test_autoencoder_learns_without_labels(folder, tmp_path):
    done = run("autoencoder.py", "--data", folder, "--epochs", "4", "--batch-size", "16",
               "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    _, *epochs, _, last = done.stdout.splitlines()
    losses = [float(re.search(r"loss (\S+),", line).group(1)) for line in epochs]
    assert losses[-1] < 0.8 * losses[0]
    assert float(last.removeprefix("test accuracy of a linear probe: ")) > 0.7
    assert png_files(tmp_path) == ["codes.png", "denoised.png"]
    weights = gpuprop.load(tmp_path / "autoencoder.safetensors")
    assert weights["encoder.6.weight"].shape == (64, 32 * 7 * 7)


def test_similar_finds_the_same_digits(folder, tmp_path):
    figures = tmp_path / "figures.json"
    done = run("similar.py", "--data", folder, "--epochs", "5", "--out", tmp_path / "out",
               "--record", figures)
    assert done.returncode == 0, done.stderr
    first, *epochs, last = done.stdout.splitlines()
    assert first == "1372 training images, 300 test images, backend 'numpy'"
    losses = [float(re.search(r"loss (\S+),", line).group(1)) for line in epochs]
    assert losses[-1] < 0.8 * losses[0]
    figure, = json.loads(figures.read_text())
    network, pixels = figure["value"], figure["beside"]["distances between pixels"]
    assert network > 90 and pixels > 90  # scikit-learn's digits are easy
    assert last == f"retrieval@1 of test images: network {network:.2f} %, pixels {pixels:.2f} %"
    assert png_files(tmp_path / "out") == ["similar.png"]


def test_similar_teaches_the_hardest_triplets(example):
    similar = example("similar")
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 5))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    labels = rng.integers(0, 4, 40)
    same, other = similar.hardest_triplets(gpuprop.tensor(points), gpuprop.tensor(labels))
    for i, label in enumerate(labels):
        distances = np.linalg.norm(points - points[i], axis=1)
        assert distances[same.numpy()[i]] == distances[labels == label].max()
        assert distances[other.numpy()[i]] == distances[labels != label].min()


def test_vae_bounds_the_log_likelihood(example):
    vae = example("vae")
    model = vae.AutoEncoder()
    layers = model.encoder[-1], model.decoder[-1]
    for layer in layers:  # codes have one distribution; each pixel is black with probability 1/2
        layer.weight.data[...] = 0
        layer.bias.data[...] = 0
    mean, std = 0.1, 1.2
    layers[0].bias.data[:vae.CODE] = mean
    layers[0].bias.data[vae.CODE:] = np.log(std)
    divergence = vae.CODE * ((mean**2 + std**2 - 1) / 2 - np.log(std))
    images = vae.binary(gpuprop.random.uniform((3, 784)))
    with gpuprop.no_grad():
        elbo = model(images).numpy()
        likelihood = model.log_likelihood(images, 4000).numpy()
    np.testing.assert_allclose(elbo, -784 * np.log(2) - divergence, rtol=1e-5)
    np.testing.assert_allclose(likelihood, -784 * np.log(2), atol=0.25)


def test_vae_learns_and_draws(folder, tmp_path):
    figures = tmp_path / "figures.json"
    done = run("vae.py", "--data", folder, "--epochs", "30", "--batch-size", "20",
               "--samples", "50", "--out", tmp_path / "out", "--record", figures)
    assert done.returncode == 0, done.stderr
    first, *epochs, likelihood, elbo = done.stdout.splitlines()
    assert first == "1372 training images, 300 test images, backend 'numpy'"
    values = [figure["value"] for figure in json.loads(figures.read_text())]
    assert likelihood.startswith(f"negative log-likelihood of test images, nats: {values[0]:.2f};")
    assert elbo == f"negative ELBO of test images, nats: {values[1]:.2f}"
    held = -float(epochs[-1].split()[-1])
    assert values[0] < values[1] < 1.02 * held
    assert held < 0.98 * independent_pixels(folder)
    assert png_files(tmp_path / "out") == ["vae.png"]


def independent_pixels(folder):
    """The negative log-likelihood of the test images if pixels are independent."""
    train, test = (read_idx(folder / f"{part}-images-idx3-ubyte.gz") / 255
                   for part in ("train", "t10k"))
    black = train.mean(axis=0).clip(1e-3, 1 - 1e-3)
    return -(test * np.log(black) + (1 - test) * np.log(1 - black)).sum(axis=(1, 2)).mean()


def test_finetune_saves_what_the_adapters_need(folder, tmp_path, example):
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    done = run("finetune.py", "--data", folder, "--epochs", "6", "--steps", "20", "--draws", "1",
               "--out", out, "--record", figures)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert float(re.search("test accuracy (.*) %", lines[1])[1]) > 80
    accuracy, numbers = json.loads(figures.read_text())
    assert accuracy["value"] > 70 and f"{accuracy['value']:.2f} %" in lines[-4]
    assert numbers["value"] < 0.1 * numbers["beside"]["all weights"]
    assert png_files(out) == ["finetune.png"]

    finetune = example("finetune")
    base = finetune.network()
    base.load_state_dict(gpuprop.load(out / "finetune_base.safetensors"))
    state = gpuprop.load(out / "finetune_adapters.safetensors")
    assert sum(array.size for array in state.values()) == numbers["value"]
    model = finetune.with_adapters(base)
    model.load_state_dict(state, strict=False)
    test = DataLoader(finetune.digits_from(5, finetune.load_mnist(str(folder))[1]), 500)
    last = float(re.search("adapters (.*?) %", lines[-5])[1])
    assert finetune.accuracy(model, test) == pytest.approx(last, abs=0.005)


def test_stream_trains_from_a_file_and_removes_it(folder, tmp_path, example):
    figures = tmp_path / "figures.json"
    arguments = ["stream.py", "--data", folder, "--gigabytes", "0.01", "--batch-size", "32",
                 "--out", tmp_path / "out", "--record", figures]
    done = run(*arguments, "--keep")
    assert done.returncode == 0, done.stderr
    memory, accuracy = json.loads(figures.read_text())
    assert 20 < memory["value"] < 400
    assert memory["beside"]["size of the set"] == pytest.approx(10, 0.01)
    assert accuracy["value"] > 85
    assert done.stdout.splitlines()[-1] == f"test accuracy: {accuracy['value']:.2f} %"

    stream = example("stream")
    images, labels = stream.open_set(tmp_path / "out" / "stream").arrays
    assert images.shape == (10_000_000 // 784, 1, 28, 28)
    assert (np.diff(labels.astype(int)) >= 0).all()  # one digit after the other
    source = stream.load_mnist(str(folder))[0][:1497 * 11 // 12]
    order = np.argsort(source[1], kind="stable")
    starts = -(-np.arange(len(order)) * len(images) // len(order))  # of each image's versions
    for versions, own in zip(np.split(images, starts[1:]), source[0][order], strict=True):
        likeness = [np.corrcoef(image.ravel(), own.ravel())[0, 1] for image in versions]
        assert 0.5 < np.mean(likeness) < 0.99
    assert run(*arguments).returncode == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "stream.png", "stream.safetensors"}


def test_the_judge_measures_by_the_definitions(example):
    judge = example("judge")
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(8, 8)))  # covariances with one basis commute
    std, mean = rng.uniform(0.5, 2, (2, 8)), rng.normal(size=(2, 8))
    views = [judge.View((rng.normal(size=(200_000, 8)) * s) @ basis.T + m, np.eye(10))
             for s, m in zip(std, mean, strict=True)]
    expected = ((mean[0] - mean[1])**2).sum() + ((std[0] - std[1])**2).sum()
    assert views[0].distance(views[1]) == pytest.approx(expected, rel=0.02)
    assert views[0].distance(views[0]) == pytest.approx(0, abs=1e-6)
    seen = lambda digits: judge.View(views[0].features, np.eye(10)[digits])
    assert seen(np.arange(100) % 10).score() == pytest.approx(10)
    assert seen(np.arange(100) % 5).score() == pytest.approx(5)
    assert judge.View(views[0].features, np.full((100, 10), 0.1)).score() == pytest.approx(1)
    assert seen(np.arange(95) % 10).rarest() == pytest.approx(9 / 95)
    assert seen(np.arange(100) % 9).rarest() == 0


def judgements(path):
    """The figures by their measures: of the network, real images and a mixture of Gaussians."""
    return {figure["measure"]: [figure["value"], *figure["beside"].values()]
            for figure in json.loads(path.read_text())}


def check_judgements(path, lines):
    """The printed measures are stored, and real images are closer to the test images."""
    found = judgements(path)
    assert list(found) == [line.split(":")[0] for line in lines]
    network, real, _ = found["Fréchet distance from the test images"]
    assert real < network


def test_gan_learns_and_draws(folder, tmp_path):
    figures = tmp_path / "figures.json"
    done = run("gan.py", "--data", folder, "--epochs", "10", "--samples", "200",
               "--out", tmp_path / "out", "--record", figures)
    assert done.returncode == 0, done.stderr
    first, _, *epochs, distance, score, rarest = done.stdout.splitlines()
    assert first == "1247 training images, 300 test images, backend 'numpy'"
    distances = [float(re.search(r"distance (\S+),", line).group(1)) for line in epochs]
    assert distances[-1] < 0.5 * distances[0]
    check_judgements(figures, [distance, score, rarest])
    assert png_files(tmp_path / "out") == ["gan.png"]
    assert (tmp_path / "out" / "gan.safetensors").exists()


def test_gan_draws_a_single_epoch(tmp_path, example):
    example("gan").draw(tmp_path / "gan.png", {"epoch 1": np.zeros((20, 784))})
    assert png_files(tmp_path) == ["gan.png"]


def test_diffusion_removes_the_noise_of_a_known_distribution(example):
    diffusion = example("diffusion")
    a = diffusion.shares()
    assert a[0] == 1 and a[-1] < 1e-3 and (np.diff(a) <= 0).all()
    mean, std = 0.3, 0.2

    def network(x, t):  # the best estimate of the image, if pixels are normally distributed
        share = float(a[int(t[0].item())])
        gain = np.sqrt(share) * std**2 / (share * std**2 + 1 - share)
        return mean + gain * (x - np.sqrt(share) * mean)

    for steps, eta in (diffusion.T, 1.0), (diffusion.T, 0.0), (100, 0.5):
        noise = gpuprop.random.normal((20, 784))
        *_, images = diffusion.denoised(network, noise, steps, eta)
        assert images.numpy().mean() == pytest.approx(mean, abs=0.01)
        assert images.numpy().std() == pytest.approx(std, rel=0.04)


def test_diffusion_learns_and_draws(folder, tmp_path):
    figures = tmp_path / "figures.json"
    done = run("diffusion.py", "--data", folder, "--epochs", "4", "--samples", "100",
               "--steps", "20", "--out", tmp_path / "out", "--record", figures)
    assert done.returncode == 0, done.stderr
    first, *epochs, _, distance, score, rarest = done.stdout.splitlines()
    assert first == "1247 training images, 300 test images, backend 'numpy'"
    losses = [float(re.search(r"loss (\S+),", line).group(1)) for line in epochs]
    assert losses[-1] < 0.5 * losses[0]
    check_judgements(figures, [distance, score, rarest])
    assert png_files(tmp_path / "out") == ["diffusion.png"]


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder and records the requests."""

    requests: ClassVar[list] = []

    def log_message(self, *_):
        self.requests.append(self.path)


def test_files_are_downloaded_once_and_checked(folder, tmp_path, monkeypatch):
    download_files = runpy.run_path(EXAMPLES / "mnist.py")["download_files"]
    names = download_files.__globals__
    checksums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
                 for name in names["SHA256"]}
    handler = functools.partial(Server, directory=folder)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names["SOURCE"] = f"http://127.0.0.1:{server.server_port}/"
        with pytest.raises(ValueError, match="SHA256 hash of downloaded file"):
            download_files()
        names["SHA256"].update(checksums)
        paths = download_files()
        count = len(Server.requests)
        assert count > 0
        assert download_files() == paths
        assert len(Server.requests) == count
        server.shutdown()
    for path in paths:
        assert path.read_bytes() == (folder / path.name).read_bytes()
    assert paths[0].parent == tmp_path / "gpuprop" / "mnist"


def test_missing_files_are_reported(tmp_path):
    done = run("mnist.py", "--data", tmp_path)
    assert done.returncode == 1
    assert f"MNIST not found in {tmp_path}" in done.stderr
    assert "train-images-idx3-ubyte.gz, " in done.stderr
