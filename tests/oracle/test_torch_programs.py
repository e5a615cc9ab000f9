"""Whole PyTorch programs give the same results with PyTorch and with gpuprop.torch, in float64.

Both libraries read the same files, tests/oracle/programs/*.py.  A program imports torch and defines
``main()``, which returns its results.
"""

import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch as theirs
from torch.utils._pytree import tree_leaves

import gpuprop.torch as ours
from gpuprop.torch.__main__ import modules

FOLDER = Path(__file__).parent / "programs"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "common")


def run(program, monkeypatch, library):
    """The results of ``main()``, where ``import torch`` imports a library."""
    with monkeypatch.context() as patch, np.errstate(all="ignore"), warnings.catch_warnings():
        patch.syspath_prepend(str(FOLDER))
        if library is ours:
            for name in [name for name in sys.modules if name.startswith("torch.")]:
                patch.delitem(sys.modules, name)
            for name, module in modules().items():
                patch.setitem(sys.modules, name, module)
        else:
            warnings.simplefilter("ignore")
        library.manual_seed(0)
        try:
            results = runpy.run_path(str(FOLDER / f"{program}.py"))["main"]()
        finally:
            library.set_default_dtype(library.float32)
            sys.modules.pop("common", None)
    return tree_leaves(results)


def as_array(value):
    is_tensor = isinstance(value, theirs.Tensor | ours.Tensor)
    return value.detach().numpy() if is_tensor else np.asarray(value)


# training amplifies the rounding of products, which differs between processors: 9e-9 with AVX2
TOLERANCES = {"spatial_transformer": 1e-7}


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(program, monkeypatch):
    expected = run(program, monkeypatch, theirs)
    results = run(program, monkeypatch, ours)
    assert len(results) == len(expected) > 0
    for i, (a, b) in enumerate(zip(results, expected, strict=True)):
        a, b = as_array(a), as_array(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), f"result {i}"
        if a.dtype.kind == "f":
            rtol = TOLERANCES.get(program, 1e-9)
            np.testing.assert_allclose(a, b, rtol, rtol / 10, err_msg=f"result {i}")
        else:
            np.testing.assert_array_equal(a, b, f"result {i}")


def test_a_program_as_it_is(tmp_path):
    """``python -m gpuprop.torch`` runs a file that imports torch, and what that imports."""
    (tmp_path / "layers.py").write_text("import torch.nn as nn\nLayer = nn.Linear\n")
    (tmp_path / "train.py").write_text(
        "import sys\nimport torch\nfrom torch.nn import functional as F\nfrom layers import Layer\n"
        "print(torch.__name__, type(F.relu(Layer(2, 3)(torch.ones(1, 2)))).__name__, sys.argv[1:])")
    done = subprocess.run([sys.executable, "-m", "gpuprop.torch", str(tmp_path / "train.py"), "-x"],
                          capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "gpuprop.torch Tensor ['-x']\n"


STARTS = """
import multiprocessing, subprocess, sys
import torch.nn as nn

def work(layer, send):
    import torch
    send.put((torch.__name__, layer(torch.ones(2)).tolist()))

if __name__ == "__main__":
    context = multiprocessing.get_context("METHOD")
    results = context.Queue()
    layer = nn.Linear(2, 1)
    process = context.Process(target=work, args=(layer, results))
    process.start()
    name, values = results.get(timeout=60)
    process.join()
    print(name, values == layer(__import__("torch").ones(2)).tolist())
    code = "import torch.nn as nn, torch; print(torch.__name__, nn.__name__)"
    print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_that_a_program_starts(tmp_path, method):
    (tmp_path / "train.py").write_text(STARTS.replace("METHOD", method))
    done = subprocess.run([sys.executable, "-m", "gpuprop.torch", str(tmp_path / "train.py")],
                          capture_output=True, text=True, check=True, cwd=tmp_path, timeout=120)
    assert done.stdout.split() == ["gpuprop.torch", "True", "gpuprop.torch", "gpuprop.torch.nn"]


def test_a_package_that_imports_torch_itself(tmp_path):
    """The writer for TensorBoard is found when all modules have their names."""
    (tmp_path / "tensorboardX.py").write_text(
        "import torch\nclass SummaryWriter:\n    knows = torch.Tensor.__module__\n")
    (tmp_path / "train.py").write_text(
        "import subprocess, sys\nfrom torch.utils.tensorboard import SummaryWriter\n"
        "print(SummaryWriter.knows, flush=True)\n"
        "if len(sys.argv) == 1:\n    subprocess.run([sys.executable, __file__, 'again'])")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-m", "gpuprop.torch", str(tmp_path / "train.py")],
                          capture_output=True, text=True, check=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": path})
    assert done.stdout.split() == ["gpuprop.torch._tensor"] * 2
