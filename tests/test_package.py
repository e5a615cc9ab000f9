"""The package as its users meet it: what importing it brings along, its size, its version, its names, its README."""

import importlib
import json
import re
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import gpuprop

ROOT = Path(__file__).parents[1]
OPTIONAL = {"PIL", "cupy", "cupyx", "jax", "matplotlib", "ml_dtypes", "onnx", "pooch", "safetensors", "scipy",
            "sklearn", "torch", "tqdm"}
MODULES = ["backend", "data", "decoding", "functional", "io", "nn", "optim", "random", "testing", "training"]
NAMES = """
    Array BackendMismatchError Parameter Tensor asnumpy autocast backends capture debug enable_grad from_dlpack generic
    get_array_module grad is_grad_enabled kernel load manual_seed no_grad no_sync op pointwise save set_default_backend
    show_config tensor use value_and_grad verify
""".split()


def run(code, folder):
    """Standard output of `code`, run by a fresh interpreter in `folder`; warnings are errors there too."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_nothing_optional(tmp_path):
    modules = run("import sys, gpuprop; print(*{m.partition('.')[0] for m in sys.modules})", tmp_path)
    assert set(modules.split()) & (OPTIONAL | {"gpuprop_cupy"}) == set()


def test_numpy_trains_without_anything_optional(tmp_path):
    """A finder in front of all others stands for a machine where only NumPy is installed."""
    code = f"""
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
import gpuprop
gpuprop.use("numpy")
from gpuprop import functional as F, nn, optim
model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 3))
optimizer = optim.AdamW(model.parameters())
loss = F.cross_entropy(model(gpuprop.tensor(np.eye(4, dtype=np.float32))), gpuprop.tensor([0, 1, 2, 0]))
loss.backward()
optimizer.step()
print(loss.item())
"""
    assert float(run(code, tmp_path)) > 0


def test_installed_size():
    """What the wheel holds: at most 2 MB.  Python may write bytecode beside it, twice as much again."""
    folders = [Path(find_spec(name).origin).parent for name in ("gpuprop", "gpuprop_numpy", "gpuprop_cupy")]
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert sum(f.stat().st_size for f in files) <= 2e6


def test_version_is_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", gpuprop.__version__)
    assert metadata.version("gpuprop") == gpuprop.__version__, "installed from another state: pip install -e . again"
    assert f"## [{gpuprop.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_numpy_is_the_only_dependency():
    required = [r for r in metadata.requires("gpuprop") if "extra ==" not in r]
    assert [re.match(r"[\w-]+", r).group() for r in required] == ["numpy"]


def test_backends_are_entry_points():
    points = {p.name: p.value for p in metadata.entry_points(group="gpuprop.backends") if p.dist.name == "gpuprop"}
    assert points == {"numpy": "gpuprop_numpy:NumpyBackend", "cupy": "gpuprop_cupy:CupyBackend"}


@pytest.mark.parametrize("name", NAMES)
def test_public_name(name):
    assert name in gpuprop.__all__
    assert getattr(gpuprop, name) is not None


@pytest.mark.parametrize("name", MODULES)
def test_public_module(name):
    importlib.import_module(f"gpuprop.{name}")


def test_all_is_all():
    assert len(gpuprop.__all__) == len(set(gpuprop.__all__))
    assert [n for n in gpuprop.__all__ if not hasattr(gpuprop, n)] == []
    loose = {n for n, v in vars(gpuprop).items() if not n.startswith("_") and not isinstance(v, ModuleType)}
    assert loose - {"annotations"} <= set(gpuprop.__all__)  # the other is __future__'s


def test_import_time_script(tmp_path):
    script = ROOT / "benchmarks" / "import_time.py"
    command = [sys.executable, script, "--rounds", "1"]
    result = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert result["added"]["best"] == result["gpuprop"]["best"] - result["numpy"]["best"]


# ---- what the documents say -----------------------------------------------------------------------------------------

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
READMES_CODE = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("code", READMES_CODE, ids=lambda code: code.splitlines()[0])
def test_readme_code_runs(code, tmp_path):
    run(code, tmp_path)


def test_readme_figures_are_the_stored_ones(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    tables = importlib.import_module("benchmarks.tables")
    assert tables.page() == tables.README.read_text(encoding="utf-8"), "python -m benchmarks.tables writes them"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_point_at_what_exists(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


@pytest.mark.parametrize("name", gpuprop._NUMPYS)
def test_a_word_of_pytorchs_is_answered_by_numpys(name):
    with pytest.raises(AttributeError, match=r"here$") as error:
        getattr(gpuprop, name)
    found = gpuprop
    for part in re.search(r"it is gpuprop\.(\S+) here", str(error.value))[1].split("."):
        found = getattr(found, part)
    assert callable(found)


def test_bfloat16_by_name(tmp_path):
    """Before anything else has imported ml_dtypes, which tells NumPy of the name."""
    run("import gpuprop; print(gpuprop.tensor([1.5], dtype='bfloat16').dtype)", tmp_path)
