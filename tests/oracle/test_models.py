"""Whole models written by a PyTorch user: they run after a change of imports, take PyTorch's weights and agree."""

import types
from pathlib import Path

import numpy as np
import pytest
import torch

import gpuprop

# The change, word for word; docs/differences.md is the table for what a model outside these may meet.
IMPORTS = {"import torch\n": "import gpuprop as torch\n",
           "import torch.nn.functional as F\n": "import gpuprop.functional as F\n",
           "from torch import nn\n": "from gpuprop import nn\n"}
MODELS = Path(__file__).parent / "models"


def load(name, imports):
    """The model's file as a module, after the change of imports."""
    source = (MODELS / f"{name}.py").read_text(encoding="utf-8")
    for theirs, ours in imports.items():
        assert theirs in source
        source = source.replace(theirs, ours)
    module = types.ModuleType(name)
    exec(compile(source, name, "exec"), vars(module))
    return module


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_resnet18(training):
    torch.manual_seed(0)
    theirs = load("resnet18", {}).ResNet18(width=8, num_classes=10).double()
    with torch.no_grad():  # statistics that are not those of the beginning
        theirs(torch.randn(6, 3, 64, 64, dtype=torch.float64))
    ours = load("resnet18", IMPORTS).ResNet18(width=8, num_classes=10).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    theirs.train(training)
    ours.train(training)

    x, labels = np.random.default_rng(0).standard_normal((6, 3, 64, 64)), np.arange(6)
    want, got = theirs(torch.tensor(x)), ours(gpuprop.tensor(x))
    np.testing.assert_allclose(got.numpy(), want.detach().numpy(), rtol=1e-9, atol=1e-9)
    torch.nn.functional.cross_entropy(want, torch.tensor(labels)).backward()
    gpuprop.functional.cross_entropy(got, gpuprop.tensor(labels)).backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-7, atol=1e-10, err_msg=name)
    for (name, b), c in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(b.numpy(), c.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)
