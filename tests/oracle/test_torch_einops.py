"""einops takes Tensors of gpuprop.torch."""

import subprocess
import sys

import einops
import numpy as np
import pytest

import gpuprop.torch as torch


def test_rearrange_reduce_repeat():
    x = torch.tensor(np.arange(24.0).reshape(2, 3, 4), requires_grad=True)
    h = einops.rearrange(x, "b (p c) d -> b p d c", p=3)
    assert isinstance(h, torch.Tensor) and h.shape == (2, 3, 4, 1)
    h = einops.reduce(h, "b p d c -> b d", "mean") + einops.reduce(x, "b c d -> b d", "max")
    h = einops.repeat(h, "b d -> b d n", n=5)
    y = einops.einsum(h, torch.ones(4, 2).double(), "b d n, d k -> b n k")
    y.sum().backward()
    expected = np.full((2, 3, 4), 10 / 3)
    expected[:, 2] += 10
    np.testing.assert_allclose(x.grad.numpy(), expected)
    packed, shapes = einops.pack([x, x], "* d")
    assert [t.shape for t in einops.unpack(packed, shapes, "* d")] == [x.shape, x.shape]


@pytest.mark.parametrize("first", ["einops", "gpuprop.torch"])
def test_order_of_imports(first):
    second = {"einops": "gpuprop.torch", "gpuprop.torch": "einops"}[first]
    code = (f"import {first}, {second}\n"
            "x = einops.rearrange(gpuprop.torch.ones(2, 3), 'a b -> b a')\n"
            "assert x.shape == (3, 2) and type(x) is gpuprop.torch.Tensor\n"
            "import numpy as np\n"
            "assert einops.rearrange(np.ones((2, 3)), 'a b -> b a').shape == (3, 2)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_layers_of_a_program(tmp_path):
    """Under ``python -m gpuprop.torch`` einops's layers are modules of the dialect."""
    (tmp_path / "train.py").write_text(
        "import torch\nfrom einops.layers.torch import EinMix, Rearrange, Reduce\n"
        "net = torch.nn.Sequential(\n"
        "    Rearrange('b c h w -> b (h w) c'), Reduce('b n c -> b c', 'max'),\n"
        "    EinMix('b c -> b k', weight_shape='c k', bias_shape='k', c=3, k=2))\n"
        "net(torch.ones(2, 3, 4, 4)).sum().backward()\n"
        "print(torch.__name__, net[2].weight.grad.shape)\n")
    done = subprocess.run([sys.executable, "-m", "gpuprop.torch", str(tmp_path / "train.py")],
                          capture_output=True, text=True, check=True)
    assert done.stdout == "gpuprop.torch torch.Size([3, 2])\n"
