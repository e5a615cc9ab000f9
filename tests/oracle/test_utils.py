"""torch.nn.utils: weights computed from parameters, fused layers, the clipping of gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compare import Inputs, close, quietly, same_gradients

import gpuprop
from gpuprop import optim
from gpuprop.nn import utils

LAYERS: dict[str, tuple[tuple, tuple[int, ...]]] = {
    "Linear": ((5, 4), (3, 5)),
    "Conv1d": ((4, 6, 3, 1, 1, 1, 2), (2, 4, 5)),
    "Conv2d": ((2, 3, (2, 3)), (2, 2, 5, 4)),
    "ConvTranspose1d": ((2, 3, 3), (2, 2, 4)),
    "ConvTranspose2d": ((4, 6, 2, 2, 0, 0, 2), (1, 4, 3, 2)),
}
CASES = [(layer, norm, options) for layer in LAYERS for norm, options in [
    ("weight_norm", {}), ("weight_norm", {"dim": 1}), ("weight_norm", {"dim": None}), ("spectral_norm", {}),
    ("spectral_norm", {"n_power_iterations": 3, "dim": 1}), ("spectral_norm", {"dim": 0, "eps": 0.1})]]


def pair(name: str, change: Callable[[Any, Any], Any] = lambda library, layer: layer) -> tuple[Any, Any]:
    """A layer of PyTorch's and ours, changed by the libraries' own means, with the same state."""
    torch.manual_seed(0)
    theirs, mine = (change(library.nn.utils, getattr(library.nn, name)(*LAYERS[name][0]).double())
                    for library in (torch, gpuprop))
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def same_state(theirs: Any, mine: Any) -> None:
    assert sorted(theirs.state_dict()) == sorted(mine.state_dict())
    for key, value in mine.state_dict().items():
        close(key, value, theirs.state_dict()[key])


@pytest.mark.parametrize("name, norm, options", CASES)
def test_computed_weights(name: str, norm: str, options: dict[str, Any]) -> None:
    """Outputs, gradients, parameters stepped over and buffers, in training and in use, and what removal leaves."""
    theirs, mine = quietly(pair, name, lambda utils, layer: getattr(utils, norm)(layer, **options))
    assert [k for k, _ in theirs.named_parameters()] == [k for k, _ in mine.named_parameters()]
    steppers = torch.optim.SGD(theirs.parameters(), 0.1), optim.SGD(mine.parameters(), 0.1)
    for training in (True, True, False, True):
        theirs.train(training), mine.train(training)
        x = torch.randn(LAYERS[name][1], dtype=torch.float64, requires_grad=True)
        inputs = Inputs([x], {})
        for optimizer in steppers:
            optimizer.zero_grad()
        own = dict(mine.named_parameters())
        leaves = [("x", x, inputs.ours[0])] + [(k, p, own[k]) for k, p in theirs.named_parameters()]
        output = theirs(x)
        for p in theirs.parameters():
            p.grad = None
        same_gradients([output], lambda inputs=inputs: mine(*inputs.ours), leaves)
        for k, p in theirs.named_parameters():
            p.grad = torch.as_tensor(own[k].grad)
        for optimizer in steppers:
            optimizer.step()
        same_state(theirs, mine)
        close("weight", mine.weight, theirs.weight)
    for library, layer in ((torch, theirs), (gpuprop, mine)):
        getattr(library.nn.utils, f"remove_{norm}")(layer)
    same_state(theirs, mine)


def in_use(layer: torch.nn.Module) -> torch.nn.Module:
    for p in (*layer.parameters(), *layer.buffers()):
        if p.is_floating_point():
            p.data.uniform_(0.5, 2)
    return layer.eval()


@pytest.mark.parametrize("name, affine", [
    ("Linear", True), ("Conv2d", True), ("Conv2d", False), ("ConvTranspose1d", True)])
def test_fused(name: str, affine: bool) -> None:
    theirs, mine = pair(name)
    features = len(theirs.bias)
    norms = [library.nn.BatchNorm1d(features, affine=affine).double() for library in (torch, gpuprop)]
    norms[1].load_state_dict(in_use(norms[0]).state_dict())
    word, options = ("linear", []) if name == "Linear" else ("conv", ["Transpose" in name])
    results = [getattr(library.nn.utils, f"fuse_{word}_bn_eval")(layer.eval(), norm.eval(), *options)
               for library, layer, norm in zip((torch, gpuprop), (theirs, mine), norms, strict=True)]
    same_state(*results)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
def test_clipping_by_a_norm_of_ones_own(norm_type: float) -> None:
    grads = [np.random.default_rng(i).standard_normal((2, 3)) for i in range(3)]
    theirs = [torch.nn.Parameter(torch.zeros(2, 3, dtype=torch.float64)) for _ in grads]
    mine = [gpuprop.Parameter(np.zeros((2, 3))) for _ in grads]
    for g, t, o in zip(grads, theirs, mine, strict=True):
        t.grad, o.grad = torch.tensor(g), g.copy()
    expected = torch.nn.utils.get_total_norm([t.grad for t in theirs], norm_type)
    close("norm", utils.get_total_norm([o.grad for o in mine], norm_type), expected)
    for most in (100.0, 0.7):
        torch.nn.utils.clip_grads_with_norm_(theirs, most, expected)
        utils.clip_grads_with_norm_(mine, most, gpuprop.tensor(expected.numpy()))
        for t, o in zip(theirs, mine, strict=True):
            close("gradient", o.grad, t.grad)


def test_recurrent_weights() -> None:
    """One weight of a layer that has several."""
    torch.manual_seed(0)
    theirs, mine = (quietly(library.nn.utils.weight_norm, library.nn.RNN(3, 4).double(), "weight_hh_l0")
                    for library in (torch, gpuprop))
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    output = quietly(theirs, x)[0]
    output.sum().backward()
    result = mine(gpuprop.Tensor(x.numpy()))[0]
    result.sum().backward()
    close("output", result, output)
    for name, p in mine.named_parameters():
        close(name, p.grad, dict(theirs.named_parameters())[name].grad)
