"""PyTorch programs on the GPU; tests/oracle compares the same programs with PyTorch."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpuprop
import gpuprop.torch as torch
from gpuprop.torch.__main__ import modules

FOLDER = Path(__file__).parent / "oracle" / "programs"
PROGRAMS = "classifier", "unet"  # those that put all their tensors on the device


def results(program, monkeypatch):
    with monkeypatch.context() as patch, gpuprop.use("cpu"):
        patch.syspath_prepend(str(FOLDER))
        for name, module in modules().items():
            patch.setitem(sys.modules, name, module)
        found = runpy.run_path(str(FOLDER / f"{program}.py"))["main"]()
    sys.modules.pop("common", None)
    return list(leaves(found))


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield value


@pytest.mark.gpu
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_on_the_gpu_gives_the_results_of_the_cpu(program, monkeypatch):
    on_gpu = results(program, monkeypatch)
    assert any(isinstance(v, torch.Tensor) and v.is_cuda for v in on_gpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = results(program, monkeypatch)
    for a, b in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_allclose(gpuprop.asnumpy(a), gpuprop.asnumpy(b), 1e-9, 1e-10)


@pytest.mark.gpu
def test_new_tensors_are_on_the_cpu_unless_told_otherwise():
    code = ("import gpuprop.torch as torch\n"
            "print(torch.zeros(2).device, torch.nn.Linear(2, 2).weight.device)\n"
            "print(torch.zeros(2, device='cuda').device, torch.ones(2).cuda().device.type)\n"
            "torch.set_default_device('cuda')\n"
            "print(torch.get_default_device().type, torch.zeros(2).is_cuda)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "cpu", "cuda:0", "cuda", "cuda", "True"]
