"""PyTorch programs on the GPU; tests/oracle compares the same programs with PyTorch."""

import runpy
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import gpuprop
import gpuprop.testing  # registers the backend "strict"
import gpuprop.torch as torch
from gpuprop.data._dataset import batch_taker
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


def test_threads_add_completely_to_a_leaf_they_share():
    x = torch.ones(3, requires_grad=True)
    n = 6
    barrier = threading.Barrier(n)

    def add():
        barrier.wait()
        for _ in range(2):
            (x * 1.0).sum().backward()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(150):
            x.grad = None
            threads = [threading.Thread(target=add) for _ in range(n)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert x.grad.tolist() == [2 * n] * 3
    finally:
        sys.setswitchinterval(interval)


def written(device, dtype):
    """Results of writes, with and without a gradient, into memory that several tensors view."""
    x = torch.arange(12.0).view(3, 4).to(device).to(dtype).requires_grad_()
    h = x * 2
    flat, row = h.view(-1), h[1]
    row.mul_(3)
    flat[::3] += 1.0
    h[0, :2].sub_(x[2, :2])
    h.t()[2] *= x[1, 2]
    h[:, 3].add_(5)
    buffer = torch.zeros(2, 4, device=device, dtype=dtype)
    buffer[1].copy_(x[0])
    buffer[0, 1:].fill_(2)
    ((h * row).sum() + (buffer * buffer).sum()).backward()
    kept = x.grad
    x.sum().backward()
    return [gpuprop.asnumpy(t.detach()) for t in (h, flat, row, buffer, kept, x.grad)]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_writes_on_the_gpu_are_those_on_the_cpu(dtype):
    for a, b in zip(written("cuda", dtype), written("cpu", dtype), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3)


def test_tensor_datasets_are_read_batch_by_batch():
    """Sample by sample, an epoch takes many times as long."""
    data = torch.utils.data
    x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    dataset = data.TensorDataset(x, y)
    for source, rows in (dataset, [0, 1, 2, 3, 4, 5]), (data.Subset(dataset, [5, 2]), [5, 2]):
        assert batch_taker(source) is not None
        batches = list(data.DataLoader(source, 4))
        assert all(type(t) is torch.Tensor for batch in batches for t in batch)
        assert torch.cat([a for a, _ in batches]).tolist() == x[rows].tolist()
        assert torch.cat([b for _, b in batches]).tolist() == rows
    dataset.tensors = (y,)  # as programs do
    assert next(iter(data.DataLoader(dataset, 4)))[0].tolist() == [0, 1, 2, 3]

    class Doubled(data.TensorDataset):
        def __getitem__(self, index):
            return 2 * super().__getitem__(index)[1]

    assert next(iter(data.DataLoader(Doubled(x, y), 4))).tolist() == [0, 2, 4, 6]


def kept_gradients(run, variant):
    """Losses and kept gradients of a step that `run` may capture."""
    with gpuprop.use("strict"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

        def step(x, y):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            if variant == "scaled":
                for p in model.parameters():
                    p.grad.mul_(0.5)
            optimizer.step()
            return loss

        run_step, kept = run(step), []
        for i in range(7):
            x = torch.tensor(np.sin(np.arange(20.0) + i), dtype=torch.float32).view(5, 4)
            loss = run_step(x, torch.arange(5) % 3)
            kept += [loss, model[0].weight.grad, model[2].bias.grad[1:]]
        return [gpuprop.asnumpy(t) for t in kept]


@pytest.mark.parametrize("variant", ["plain", "scaled"])
@pytest.mark.filterwarnings("error")
def test_gradients_that_a_program_keeps_stay_when_a_step_is_replayed(variant):
    captured = kept_gradients(gpuprop.capture, variant)
    for a, b in zip(captured, kept_gradients(lambda step: step, variant), strict=True):
        np.testing.assert_array_equal(a, b)
