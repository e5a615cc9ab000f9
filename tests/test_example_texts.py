"""Tests of the examples on text, with small data that a network learns in seconds."""

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
    command = [sys.executable, "-W", "error", EXAMPLES / name, "--backend", "cpu",
               *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment,
                          timeout=300)


def last_number(done):
    """The number in the last line of the output."""
    assert done.returncode == 0, done.stderr
    return float(re.search(r": (\d+\.\d+)[^:]*$", done.stdout).group(1))


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_names(tmp_path):
    """Names whose first syllable is repeated, which a bigram model cannot express."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    (tmp_path / "names").mkdir()
    names = [2 * rng.choice(syllables) + rng.choice(syllables) for _ in range(1500)]
    (tmp_path / "names" / "names.txt").write_text("\n".join(names))
    done = run("names.py", "--epochs", 4, "--batch-size", 32, "--out", "a/b", cwd=tmp_path,
               GPUPROP_DATA=str(tmp_path))
    bigram_loss = float(re.search(r"bigram model: (\S+)", done.stdout).group(1))
    assert last_number(done) < bigram_loss - 0.1
    generated = (tmp_path / "a" / "b" / "names.txt").read_text().split()
    assert generated
    assert not set(generated) & set(names)
    assert is_png(tmp_path / "a" / "b" / "names.png")


def test_sentiment(tmp_path):
    rng = random.Random(0)
    telling = {"neg": ["bad", "dull", "poor"], "pos": ["good", "bright", "rich"]}
    neutral = [f"w{i}" for i in range(30)]
    with zipfile.ZipFile(tmp_path / "sentence_polarity.zip", "w") as archive:
        for kind, words in telling.items():
            lines = []
            for _ in range(300):
                telling_word = rng.choice(words)
                sentence = [telling_word, *rng.sample(neutral, rng.randrange(1, 9))]
                lines.append(" ".join(rng.sample(sentence, len(sentence))) + "\n")
            archive.writestr(f"sentence_polarity/rt-polarity.{kind}", "".join(lines))
    done = run("sentiment.py", "--data", tmp_path, "--folds", 2, "--epochs", 4,
               "--batch-size", 16, cwd=tmp_path)
    assert last_number(done) > 0.9
    folds = re.findall(r"^fold .* accuracy (?:0\.\d{4}|1\.0000) ", done.stdout, re.M)
    assert len(folds) == 2
    assert is_png(tmp_path / "out" / "sentiment.png")


def test_shakespeare(tmp_path):
    rng = random.Random(0)
    lines = ["To be, or not to be: that is the question.\n",
             "O Romeo, Romeo! wherefore art thou Romeo?\n",
             "All the world's a stage.\n",
             "If music be the food of love, play on.\n"]
    (tmp_path / "input.txt").write_text("".join(rng.choice(lines) for _ in range(400)))
    done = run("shakespeare.py", "--data", tmp_path, "--steps", 80, cwd=tmp_path)
    assert last_number(done) < 1  # log(36) = 3.6 before training
    assert (tmp_path / "out" / "shakespeare.txt").read_text() in done.stdout


def test_translate(tmp_path):
    """Arithmetic expressions in words."""
    chinese = "零一二三四五六七八九"
    english = "zero one two three four five six seven eight nine".split()
    digits = list(zip(chinese, english, strict=True))
    signs = [("加", "plus"), ("减", "minus"), ("乘", "times")]
    lines = [f"{x} {word} {y}.\t{a}{sign}{b}。\tby hand\n"
             for a, x in digits for b, y in digits for sign, word in signs]
    (tmp_path / "cmn.txt").write_text("".join(lines), encoding="utf-8")
    done = run("translate.py", "--data", tmp_path, "--epochs", 6, "--batch-size", 16, cwd=tmp_path,
               PYTHONIOENCODING="ascii")
    baseline = re.search(r"^BLEU of the nearest .*: (\d+\.\d)$", done.stdout, re.M).group(1)
    assert last_number(done) > float(baseline) > 1
    translations = (tmp_path / "out" / "translations.txt").read_text(encoding="utf-8")
    assert translations.count("。") == 15
    assert is_png(tmp_path / "out" / "translate.png")


@pytest.mark.parametrize(("name", "file"), [
    ("names.py", "names.txt"),
    ("sentiment.py", "sentence_polarity.zip"),
    ("shakespeare.py", "input.txt"),
    ("translate.py", "cmn.txt"),
])
def test_missing_files_are_reported(name, file, tmp_path):
    done = run(name, "--data", tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert f"{file} not found in {tmp_path} or in its subfolder " in done.stderr


def test_translate_without_a_folder_says_how_to_get_the_file(tmp_path):
    done = run("translate.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "download cmn-eng.zip" in done.stderr


def test_files_are_downloaded_once_and_checked(tmp_path, monkeypatch):
    download = runpy.run_path(EXAMPLES / "texts.py")["download"]
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    content = b"emma\nolivia\n"
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "names.txt").write_bytes(content)
    checksum = pooch.file_hash(tmp_path / "served" / "names.txt")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler,
                                directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/names.txt"
        with pytest.raises(ValueError, match="SHA256 hash of downloaded file"):
            download(url, "0" * 64, "names")
        path = download(url, checksum, "names")
        server.shutdown()
    assert path == tmp_path / "gpuprop" / "names" / "names.txt"
    assert path.read_bytes() == content
    assert download(url, checksum, "names") == path  # from the cache: the server is down
