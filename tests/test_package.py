"""The package as users install it: what it loads, its size, version and dependencies."""

import json
import re
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import gpuprop

ROOT = Path(__file__).parents[1]
OPTIONAL = {
    "PIL", "cupy", "cupyx", "jax", "matplotlib", "ml_dtypes", "onnx", "pooch", "safetensors",
    "scipy", "sklearn", "torch", "tqdm",
}


def run(code, folder):
    """The standard output of `code` in a new interpreter, where warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_nothing_optional(tmp_path):
    code = "import sys, gpuprop; print(*{m.partition('.')[0] for m in sys.modules})"
    modules = run(code, tmp_path)
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
x = gpuprop.tensor(np.eye(4, dtype=np.float32))
loss = F.cross_entropy(model(x), gpuprop.tensor([0, 1, 2, 0]))
loss.backward()
optimizer.step()
print(loss.item())
"""
    assert float(run(code, tmp_path)) > 0


def test_installed_size():
    """The files of the wheel have at most 3 MB; Python may write twice as much bytecode."""
    packages = "gpuprop", "gpuprop_numpy", "gpuprop_cupy"
    folders = [Path(find_spec(name).origin).parent for name in packages]
    every = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
    files = [f for f in every if "__pycache__" not in f.parts]
    assert sum(f.stat().st_size for f in files) <= 3e6


def test_version_is_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", gpuprop.__version__)
    installed = metadata.version("gpuprop")
    assert installed == gpuprop.__version__, "installed from another state: pip install -e . again"
    assert f"## [{gpuprop.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_numpy_is_the_only_dependency():
    required = [r for r in metadata.requires("gpuprop") if "extra ==" not in r]
    assert [re.match(r"[\w-]+", r).group() for r in required] == ["numpy"]


def test_backends_are_entry_points():
    every = metadata.entry_points(group="gpuprop.backends")
    points = {p.name: p.value for p in every if p.dist.name == "gpuprop"}
    assert points == {"numpy": "gpuprop_numpy:NumpyBackend", "cupy": "gpuprop_cupy:CupyBackend"}


def test_import_time_script(tmp_path):
    script = ROOT / "benchmarks" / "import_time.py"
    command = [sys.executable, script, "--rounds", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["added"]["best"] == result["gpuprop"]["best"] - result["numpy"]["best"]


def test_bfloat16_by_name(tmp_path):
    """Before anything else has imported ml_dtypes, which tells NumPy of the name."""
    run("import gpuprop; print(gpuprop.tensor([1.5], dtype='bfloat16').dtype)", tmp_path)
