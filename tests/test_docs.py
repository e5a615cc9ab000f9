"""The documents: their code runs, their figures are the stored ones, their links lead somewhere."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
READMES_CODE = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


def run(command, folder, **options):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, **options)


@pytest.mark.parametrize("code", READMES_CODE, ids=lambda code: code.splitlines()[0])
def test_the_code_of_the_readme_runs(code, tmp_path):
    done = run([sys.executable, "-W", "error", "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    if "accuracy" in code:
        assert float(done.stdout.split()[-1]) > 0.9


def test_figures_are_the_stored_ones(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    tables = importlib.import_module("benchmarks.tables")
    for path, page in tables.pages().items():
        assert path.read_text(encoding="utf-8") == page, "python -m benchmarks.tables writes them"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_links_and_targets(page):
    text = page.read_text(encoding="utf-8")
    outside_of_tables = [line for line in text.splitlines() if not line.startswith("|")]
    assert [line for line in outside_of_tables if len(line) > 120] == []
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= set(targets)


# ---- docs/backends.md --------------------------------------------------------------------------


def files_in(page):
    """The files that a page shows whole, by name: marked with ``<!-- file: name -->``."""
    text = page.read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", text, re.DOTALL))


def test_the_backend_of_the_page_conforms(tmp_path):
    for name, text in files_in(ROOT / "docs/backends.md").items():
        (tmp_path / name).write_text(text)
    info = tmp_path / "gpuprop_toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gpuprop-toy\nVersion: 1.0\n")
    entry_points = "[gpuprop.backends]\ntoy = gpuprop_toy:ToyBackend\n"
    (info / "entry_points.txt").write_text(entry_points)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "GPUPROP"))}
    before = filter(None, [os.environ.get("PYTHONPATH")])
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *before])
    some = "relu or matmul or cross_entropy or conv2d"  # all of them take minutes
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", some]
    done = run([*command, "test_toy.py"], tmp_path, env=env)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]


def test_the_backend_of_the_page_is_short():
    code = files_in(ROOT / "docs/backends.md")["gpuprop_toy.py"]
    lines = [line for line in code.splitlines() if line.strip() and '"""' not in line]
    assert len(lines) <= 30
