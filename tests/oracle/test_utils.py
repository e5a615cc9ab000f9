"""torch.nn.utils: weights computed from parameters, fused layers, gradient clipping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compare import Inputs, assert_close, compare_gradients, without_warnings

import gpuprop
from gpuprop import optim
from gpuprop.nn import utils

LAYERS: dict[str, tuple[tuple, tuple[int, ...]]] = {  # arguments, shape of the input
    "Linear": ((5, 4), (3, 5)),
    "Conv1d": ((4, 6, 3, 1, 1, 1, 2), (2, 4, 5)),
    "Conv2d": ((2, 3, (2, 3)), (2, 2, 5, 4)),
    "ConvTranspose1d": ((2, 3, 3), (2, 2, 4)),
    "ConvTranspose2d": ((4, 6, 2, 2, 0, 0, 2), (1, 4, 3, 2)),
}
NORMS: list[tuple[str, dict[str, Any]]] = [
    ("weight_norm", {}),
    ("weight_norm", {"dim": 1}),
    ("weight_norm", {"dim": None}),
    ("spectral_norm", {}),
    ("spectral_norm", {"n_power_iterations": 3, "dim": 1}),
    ("spectral_norm", {"dim": 0, "eps": 0.1}),
]


def make_layers(name: str,
                change: Callable[[Any, Any], Any] = lambda utils, layer: layer) -> tuple[Any, Any]:
    """PyTorch's layer and gpuprop's with the same state, each changed by its library's utils."""
    torch.manual_seed(0)
    args, _ = LAYERS[name]
    theirs = change(torch.nn.utils, getattr(torch.nn, name)(*args).double())
    ours = change(gpuprop.nn.utils, getattr(gpuprop.nn, name)(*args).double())
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def compare_states(theirs: Any, ours: Any) -> None:
    expected = theirs.state_dict()
    state = ours.state_dict()
    assert sorted(expected) == sorted(state)
    for key, value in state.items():
        assert_close(key, value, expected[key])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("norm, options", NORMS)
def test_computed_weights(name: str, norm: str, options: dict[str, Any]) -> None:
    """Outputs, gradients, optimizer steps and buffers in both modes; the weights after removal."""
    apply_norm = lambda utils, layer: getattr(utils, norm)(layer, **options)
    theirs, ours = without_warnings(make_layers, name, apply_norm)
    their_parameters = dict(theirs.named_parameters())
    our_parameters = dict(ours.named_parameters())
    assert [*their_parameters] == [*our_parameters]
    optimizers = torch.optim.SGD(theirs.parameters(), 0.1), optim.SGD(ours.parameters(), 0.1)
    for training in (True, True, False, True):
        theirs.train(training)
        ours.train(training)
        x = torch.randn(LAYERS[name][1], dtype=torch.float64, requires_grad=True)
        inputs = Inputs([x], {})
        for optimizer in optimizers:
            optimizer.zero_grad()
        leaves = [("x", x, inputs.ours[0])]
        leaves += [(key, p, our_parameters[key]) for key, p in their_parameters.items()]
        output = theirs(x)
        for p in theirs.parameters():
            p.grad = None
        compare_gradients([output], lambda inputs=inputs: ours(*inputs.ours), leaves)
        for key, p in their_parameters.items():
            p.grad = torch.as_tensor(our_parameters[key].grad)
        for optimizer in optimizers:
            optimizer.step()
        compare_states(theirs, ours)
        assert_close("weight", ours.weight, theirs.weight)
    getattr(torch.nn.utils, f"remove_{norm}")(theirs)
    getattr(utils, f"remove_{norm}")(ours)
    compare_states(theirs, ours)


def randomize(layer: torch.nn.Module) -> None:
    """Set all parameters and buffers of floats to random numbers."""
    for p in (*layer.parameters(), *layer.buffers()):
        if p.is_floating_point():
            p.data.uniform_(0.5, 2)


@pytest.mark.parametrize("name, affine", [
    ("Linear", True), ("Conv2d", True), ("Conv2d", False), ("ConvTranspose1d", True)])
def test_fused_batch_norm(name: str, affine: bool) -> None:
    theirs, ours = make_layers(name)
    features = len(theirs.bias)
    their_norm = torch.nn.BatchNorm1d(features, affine=affine).double()
    our_norm = gpuprop.nn.BatchNorm1d(features, affine=affine).double()
    randomize(their_norm)
    our_norm.load_state_dict(their_norm.state_dict())
    function = "fuse_linear_bn_eval" if name == "Linear" else "fuse_conv_bn_eval"
    transposed = [] if name == "Linear" else ["Transpose" in name]
    expected = getattr(torch.nn.utils, function)(theirs.eval(), their_norm.eval(), *transposed)
    result = getattr(utils, function)(ours.eval(), our_norm.eval(), *transposed)
    compare_states(expected, result)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
def test_clipping_with_a_given_norm(norm_type: float) -> None:
    grads = [np.random.default_rng(i).standard_normal((2, 3)) for i in range(3)]
    theirs = [torch.nn.Parameter(torch.zeros(2, 3, dtype=torch.float64)) for _ in grads]
    ours = [gpuprop.Parameter(np.zeros((2, 3))) for _ in grads]
    for grad, t, o in zip(grads, theirs, ours, strict=True):
        t.grad = torch.tensor(grad)
        o.grad = grad.copy()
    expected = torch.nn.utils.get_total_norm([t.grad for t in theirs], norm_type)
    assert_close("norm", utils.get_total_norm([o.grad for o in ours], norm_type), expected)
    for max_norm in (100.0, 0.7):
        torch.nn.utils.clip_grads_with_norm_(theirs, max_norm, expected)
        utils.clip_grads_with_norm_(ours, max_norm, gpuprop.tensor(expected.numpy()))
        for t, o in zip(theirs, ours, strict=True):
            assert_close("gradient", o.grad, t.grad)


def test_weight_norm_of_one_of_several_weights() -> None:
    torch.manual_seed(0)
    theirs = without_warnings(torch.nn.utils.weight_norm, torch.nn.RNN(3, 4).double(),
                              "weight_hh_l0")
    ours = utils.weight_norm(gpuprop.nn.RNN(3, 4).double(), "weight_hh_l0")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    expected, _ = without_warnings(theirs, x)
    expected.sum().backward()
    result, _ = ours(gpuprop.Tensor(x.numpy()))
    result.sum().backward()
    assert_close("output", result, expected)
    their_parameters = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        assert_close(name, p.grad, their_parameters[name].grad)
