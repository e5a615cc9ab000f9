"""The examples on MNIST, on small files of the same kind."""

import functools
import gzip
import hashlib
import http.server
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

EXAMPLES = Path(__file__).parents[1] / "examples"


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype("uint8").tobytes(), mtime=0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """1 797 digits of 8 by 8, made 28 by 28, the last 300 to be tested on."""
    images, labels = load_digits(return_X_y=True)
    images = np.pad(np.kron(images.reshape(-1, 8, 8) * 15.9, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    folder = tmp_path_factory.mktemp("data") / "mnist"
    folder.mkdir()
    for part, rows in (("train", slice(-300)), ("t10k", slice(-300, None))):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images[rows])
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels[rows])
    return folder


def run(name, *arguments, **environment):
    environment = {**os.environ, "GPUPROP_DATA": "", **environment}
    command = [sys.executable, "-W", "error", EXAMPLES / name, "--backend", "cpu", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_it_learns_says_how_well_and_keeps_what_it_learnt(folder, tmp_path):
    done = run("mnist.py", "--epochs", "2", "--batch-size", "32", "--out", tmp_path / "out",
               GPUPROP_DATA=str(folder.parent))
    assert done.returncode == 0, done.stderr
    first, *epochs, last = done.stdout.splitlines()
    assert first == "1497 images to learn from, 300 to be tested on; backend 'numpy'"
    assert [line[:10] for line in epochs] == ["epoch  1/2", "epoch  2/2"]
    accuracy = float(re.fullmatch(r"test accuracy: (0\.\d{4})", last).group(1))
    assert accuracy > 0.8
    assert (tmp_path / "out" / "history.csv").read_text().count("\n") == 3
    weights = gpuprop.load(tmp_path / "out" / "mnist.safetensors")
    assert {name: a.shape for name, a in weights.items()} == {
        "0.weight": (512, 784), "0.bias": (512,), "3.weight": (512, 512), "3.bias": (512,), "6.weight": (10, 512),
        "6.bias": (10,)}


def pictures(folder):
    return sorted(p.name for p in folder.iterdir() if p.read_bytes().startswith(b"\x89PNG"))


def test_the_convolutional_network_learns_shows_what_and_goes_on(folder, tmp_path):
    arguments = "mnist_cnn.py", "--data", folder, "--epochs", "1", "--batch-size", "16", "--out", tmp_path
    done, again = run(*arguments), run(*arguments, "--resume")  # there is nothing left to learn for the second
    assert done.returncode == again.returncode == 0, done.stderr + again.stderr
    first, epoch, _, last = done.stdout.splitlines()
    assert first == "1497 images to learn from, 300 to be tested on; backend 'numpy'"
    accuracy = float(re.fullmatch(r"test accuracy: (0\.\d{4})", last).group(1))
    assert accuracy > 0.8 and f", {accuracy:.4f}; " in epoch
    assert again.stdout.splitlines() == [first, *done.stdout.splitlines()[2:]]
    assert pictures(tmp_path) == ["curves.png", "features.png", "mistakes.png"]


def test_the_autoencoder_learns_without_labels(folder, tmp_path):
    done = run("autoencoder.py", "--data", folder, "--epochs", "4", "--batch-size", "16", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    _, *epochs, _, last = done.stdout.splitlines()
    first_loss, *_, last_loss = (float(re.search(r"loss (\S+),", line).group(1)) for line in epochs)
    assert last_loss < 0.8 * first_loss
    assert float(last.removeprefix("test accuracy of a linear probe: ")) > 0.7
    assert pictures(tmp_path) == ["codes.png", "denoised.png"]
    weights = gpuprop.load(tmp_path / "autoencoder.safetensors")
    assert weights["encoder.6.weight"].shape == (64, 32 * 7 * 7)


class Server(http.server.SimpleHTTPRequestHandler):
    """Hands out the files of a folder, and notes which."""

    asked: ClassVar[list] = []

    def log_message(self, *_):
        self.asked.append(self.path)


def test_files_are_downloaded_once_and_checked(folder, tmp_path, monkeypatch):
    example = runpy.run_path(EXAMPLES / "mnist.py")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names = example["download"].__globals__
        names["SOURCE"] = f"http://127.0.0.1:{server.server_port}/"
        with pytest.raises(ValueError, match="SHA256 hash of downloaded file"):
            example["download"]()
        names["SHA256"].update({n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names["SHA256"]})
        first = example["download"]()
        asked = len(Server.asked)
        assert example["download"]() == first and len(Server.asked) == asked > 0
        server.shutdown()
    assert [path.read_bytes() for path in first] == [(folder / path.name).read_bytes() for path in first]
    assert first[0].parent == tmp_path / "gpuprop" / "mnist"


def test_a_folder_without_the_files(tmp_path):
    done = run("mnist.py", "--data", tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path} holds no MNIST: train-images-idx3-ubyte.gz, " in done.stderr
