"""The examples on texts, on small ones that a network learns in seconds."""

import functools
import http.server
import os
import random
import re
import runpy
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pooch
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments, cwd, **environment):
    environment = {**os.environ, "GPUPROP_DATA": "", **environment}
    command = [sys.executable, "-W", "error", EXAMPLES / name, "--backend", "cpu", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


def last_number(done):
    assert done.returncode == 0, done.stderr
    return float(re.search(r": (\d+\.\d+)[^:]*$", done.stdout).group(1))


def test_names(tmp_path):
    """Names that end as they begin, which pairs of letters do not tell."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    (tmp_path / "names").mkdir()
    names = [2 * rng.choice(syllables) + rng.choice(syllables) for _ in range(1500)]
    (tmp_path / "names" / "names.txt").write_text("\n".join(names))
    done = run("names.py", "--epochs", 4, "--batch-size", 32, "--out", "a/b", cwd=tmp_path, GPUPROP_DATA=str(tmp_path))
    pairs = float(re.search(r"counts pairs of letters: (\S+)", done.stdout).group(1))
    assert last_number(done) < pairs - 0.1
    new = (tmp_path / "a" / "b" / "names.txt").read_text().split()
    assert new and not set(new) & set(names)
    assert (tmp_path / "a" / "b" / "names.png").read_bytes().startswith(b"\x89PNG")


def test_sentiment(tmp_path):
    rng = random.Random(0)
    words = {"neg": "bad dull poor".split(), "pos": "good bright rich".split()}
    fill = [f"w{i}" for i in range(30)]
    with zipfile.ZipFile(tmp_path / "sentence_polarity.zip", "w") as file:
        for kind, own in words.items():
            lines = (rng.sample([rng.choice(own), *rng.sample(fill, k := rng.randrange(1, 9))], k + 1)
                     for _ in range(300))
            file.writestr(f"sentence_polarity/rt-polarity.{kind}", "".join(" ".join(line) + "\n" for line in lines))
    done = run("sentiment.py", "--data", tmp_path, "--folds", 2, "--epochs", 4, "--batch-size", 16, cwd=tmp_path)
    assert last_number(done) > 0.9
    assert len(re.findall(r"^fold .* accuracy 0\.\d{4}|^fold .* accuracy 1\.0000", done.stdout, re.M)) == 2
    assert (tmp_path / "out" / "sentiment.png").read_bytes().startswith(b"\x89PNG")


def test_shakespeare(tmp_path):
    rng = random.Random(0)
    lines = ["To be, or not to be: that is the question.\n", "O Romeo, Romeo! wherefore art thou Romeo?\n",
             "All the world's a stage.\n", "If music be the food of love, play on.\n"]
    (tmp_path / "input.txt").write_text("".join(rng.choice(lines) for _ in range(400)))
    done = run("shakespeare.py", "--data", tmp_path, "--steps", 80, cwd=tmp_path)
    assert last_number(done) < 1  # from log(36) = 3.6
    assert (tmp_path / "out" / "shakespeare.txt").read_text() in done.stdout


def test_translate(tmp_path):
    """Sums in words."""
    digits = dict(zip("零一二三四五六七八九", "zero one two three four five six seven eight nine".split(), strict=True))
    pairs = [(f"{x} {word} {y}.", f"{a}{sign}{b}。") for a, x in digits.items() for b, y in digits.items()
             for sign, word in (("加", "plus"), ("减", "minus"), ("乘", "times"))]
    (tmp_path / "cmn.txt").write_text("".join(f"{e}\t{c}\tby hand\n" for e, c in pairs), encoding="utf-8")
    done = run("translate.py", "--data", tmp_path, "--epochs", 6, "--batch-size", 16, cwd=tmp_path,
               PYTHONIOENCODING="ascii")
    alike = float(re.search(r"^BLEU of the most alike .*: (\d+\.\d)$", done.stdout, re.M).group(1))
    assert last_number(done) > alike > 1
    assert (tmp_path / "out" / "translations.txt").read_text(encoding="utf-8").count("。") == 15
    assert (tmp_path / "out" / "translate.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "file"), [
    ("names.py", "names.txt"), ("sentiment.py", "sentence_polarity.zip"), ("shakespeare.py", "input.txt"),
    ("translate.py", "cmn.txt")])
def test_a_folder_without_the_file(name, file, tmp_path):
    done = run(name, "--data", tmp_path, cwd=tmp_path)
    assert done.returncode == 1 and f"{tmp_path} holds no {file}, which is expected there, or in " in done.stderr


def test_pairs_are_not_downloaded(tmp_path):
    done = run("translate.py", cwd=tmp_path)
    assert done.returncode == 1 and "unzip it from cmn-eng.zip of " in done.stderr


def test_files_are_downloaded_once_and_checked(tmp_path, monkeypatch):
    download = runpy.run_path(EXAMPLES / "texts.py")["download"]
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "names.txt").write_bytes(b"emma\nolivia\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/names.txt"
        with pytest.raises(ValueError, match="SHA256 hash of downloaded file"):
            download(url, "0" * 64, "names")
        checksum = pooch.file_hash(tmp_path / "served" / "names.txt")
        path = download(url, checksum, "names")
        server.shutdown()
    assert path == tmp_path / "gpuprop" / "names" / "names.txt" and path.read_bytes() == b"emma\nolivia\n"
    assert download(url, checksum, "names") == path  # nobody serves it any more
