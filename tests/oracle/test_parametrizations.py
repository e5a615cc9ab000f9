"""torch.nn.utils.parametrize and parametrizations: the same programs under both libraries."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from compare import assert_close

import gpuprop
import gpuprop.torch as dialect
from gpuprop.nn.utils import parametrizations, parametrize

LAYERS = {
    "Linear": ((5, 4), (3, 5)),
    "Linear square": ((4, 4), (3, 4)),
    "Linear tall": ((3, 5), (3, 3)),
    "Conv2d": ((2, 3, (2, 3)), (2, 2, 5, 4)),
    "ConvTranspose1d": ((2, 3, 3), (2, 2, 4)),
}
CHANGES = [
    ("weight_norm", {}), ("weight_norm", {"dim": 1}), ("weight_norm", {"dim": None}),
    ("spectral_norm", {}), ("spectral_norm", {"n_power_iterations": 3, "dim": 1}),
    ("spectral_norm", {"name": "bias"}),
    *(("orthogonal", {"orthogonal_map": m, "use_trivialization": t})
      for m in (None, "matrix_exp", "cayley", "householder") for t in (True, False)),
]
BOTH = pytest.mark.parametrize("library", [gpuprop, dialect], ids=["gpuprop", "torch"])


def compare_states(theirs, ours):
    expected, state = theirs.state_dict(), ours.state_dict()
    assert list(expected) == list(state)
    for key, value in state.items():
        assert_close(key, value, expected[key])


@BOTH
@pytest.mark.parametrize(
    ("name", "change", "options"),
    [(name, change, options) for name in LAYERS for change, options in CHANGES
     if not (options == {"name": "bias"} and name == "ConvTranspose1d")])  # PyTorch raises
def test_parametrizations(library, name, change, options):
    """Outputs, gradients, steps of an optimizer and states; the weights after removal."""
    torch.manual_seed(0)
    args, shape = LAYERS[name]
    kind = name.split()[0]
    theirs = getattr(torch.nn, kind)(*args).double()
    ours = getattr(library.nn, kind)(*args).double()
    ours.load_state_dict(theirs.state_dict())
    for utils, layer in ((torch.nn.utils, theirs), (library.nn.utils, ours)):
        getattr(utils.parametrizations, change)(layer, **options)
    ours.load_state_dict(theirs.state_dict())
    assert type(ours).__name__ == type(theirs).__name__
    names = [name for name, _ in theirs.named_parameters()]
    assert names == [name for name, _ in ours.named_parameters()]
    sgd = torch.optim.SGD(theirs.parameters(), 0.01), library.optim.SGD(ours.parameters(), 0.01)
    x = np.random.default_rng(0).standard_normal(shape)
    for training in (True, False, True):
        for model, optimizer, lib in ((theirs, sgd[0], torch), (ours, sgd[1], library)):
            model.train(training)
            optimizer.zero_grad()
            y = model(lib.tensor(x))
            (y * y * y).sum().backward()
            optimizer.step()
        expected = model_weight(theirs, options)
        assert_close("weight", model_weight(ours, options).detach(), expected)
        compare_states(theirs, ours)
    if options.get("use_trivialization") is not False or options["orthogonal_map"] == "householder":
        new = np.random.default_rng(1).standard_normal(expected.shape)
        square = new.ndim == 2 and new.shape[0] == new.shape[1]
        if change != "orthogonal" or square or not options["use_trivialization"]:
            set_weight(theirs, options, torch.tensor(new))
            set_weight(ours, options, library.tensor(new))
            compare_states(theirs, ours)
    weight = options.get("name", "weight")
    torch.nn.utils.parametrize.remove_parametrizations(theirs, weight)
    library.nn.utils.parametrize.remove_parametrizations(ours, weight)
    assert type(ours).__name__ == kind
    compare_states(theirs, ours)


def model_weight(model, options):
    return getattr(model, options.get("name", "weight"))


def set_weight(model, options, value):
    setattr(model, options.get("name", "weight"), value)


@BOTH
def test_own_parametrizations(library):
    """Two of one attribute, a buffer, several originals, an assignment, the cache, removal."""

    def program(lib):
        nn, utils = lib.nn, lib.nn.utils.parametrize

        class Shift(nn.Module):
            def __init__(self):
                super().__init__()
                self.by = nn.Parameter(lib.tensor([0.5, 1.0, 2.0]))

            def forward(self, x):
                calls.append(None)
                return x + self.by

        class Exp(nn.Module):
            def forward(self, x):
                return lib.exp(x)

            def right_inverse(self, y):
                return lib.log(y)

        class Sum(nn.Module):
            def forward(self, a, b):
                return a + 2 * b

            def right_inverse(self, y):
                return y * 0.5, y * 0.25

        calls, seen = [], []
        layer = nn.Linear(3, 2).double()
        for p in layer.parameters():
            p.requires_grad_(True)
        layer.load_state_dict({"weight": np.full((2, 3), 0.5), "bias": np.ones(2)}
                              if lib is not torch else
                              {"weight": torch.full((2, 3), 0.5), "bias": torch.ones(2)})
        weight = layer.weight
        layer.register_buffer("mask", lib.tensor(np.ones(3)))
        utils.register_parametrization(layer, "weight", Exp())
        utils.register_parametrization(layer, "weight", Shift().double())
        utils.register_parametrization(layer, "bias", Sum())
        utils.register_parametrization(layer, "mask", Shift().double())
        seen.append(layer.parametrizations.weight.original is weight)
        seen.append([utils.is_parametrized(layer), utils.is_parametrized(layer, "mask"),
                     utils.is_parametrized(layer, "other"), len(layer.parametrizations.weight)])
        seen.append(list(layer.state_dict()))
        calls.clear()
        with utils.cached():
            seen.append(layer.weight is layer.weight)
            layer(lib.tensor(np.ones((1, 3))))
        seen.append([len(calls), layer.weight is layer.weight])
        layer.bias = lib.tensor(np.array([4.0, 8.0]))
        layer(lib.tensor(np.ones((1, 3)))).sum().backward()
        lists = layer.parametrizations
        values = [layer.weight, layer.mask, layer.bias, lists.bias.original0,
                  lists.bias.original1.grad, lists.weight[1].by.grad]
        copied = copy.deepcopy(layer)
        utils.remove_parametrizations(layer, "bias")
        utils.remove_parametrizations(layer, "mask", leave_parametrized=False)
        utils.remove_parametrizations(layer, "weight")
        seen.append([type(layer).__name__, layer.weight is weight, list(layer.state_dict())])
        seen.append([type(copied).__name__, utils.type_before_parametrizations(copied).__name__])
        return seen, [*values, layer.weight, layer.bias, layer.mask]

    expected, their_values = program(torch)
    found, values = program(library)
    assert found == expected
    for i, (a, b) in enumerate(zip(values, their_values, strict=True)):
        assert_close(str(i), a.detach() if hasattr(a, "detach") else a, b)
    if library is dialect:
        assert isinstance(dialect.nn.utils.parametrizations.weight_norm(
            dialect.nn.Linear(2, 2)).parametrizations.weight.original0, dialect.nn.Parameter)
        assert all(isinstance(v, dialect.Tensor) for v in values)


def test_what_is_refused():
    layer = gpuprop.nn.Linear(3, 2)
    nn = gpuprop.nn
    with pytest.raises(ValueError, match="no parameter, buffer"):
        parametrize.register_parametrization(layer, "other", nn.Identity())
    with pytest.raises(ValueError, match="keep the shape"):
        parametrize.register_parametrization(layer, "weight", nn.Flatten(0))
    assert type(layer) is nn.Linear and [*layer.state_dict()] == ["weight", "bias"]
    parametrize.register_parametrization(layer, "weight", nn.Tanh())
    with pytest.raises(RuntimeError, match="Tanh has no method right_inverse"):
        layer.weight = gpuprop.ones(2, 3)
    with pytest.raises(ValueError, match="orthogonal_map must be"):
        parametrizations.orthogonal(layer, orthogonal_map="qr")
    with pytest.raises(ValueError, match="with at least 2 axes"):
        parametrizations.orthogonal(layer, "bias")
    with pytest.raises(NotImplementedError, match="use_trivialization=True"):
        other = parametrizations.orthogonal(nn.Linear(3, 3), use_trivialization=False)
        other.weight = gpuprop.ones(3, 3)
    again = pickle.loads(pickle.dumps(layer))
    copied = copy.deepcopy(layer)
    parametrize.remove_parametrizations(copied, "weight")
    assert type(copied) is nn.Linear and parametrize.is_parametrized(layer, "weight")
    np.testing.assert_array_equal(again.weight.numpy(), layer.weight.numpy())
    assert again.bias.numpy().tolist() == layer.bias.numpy().tolist()


def test_every_name_exists():
    theirs = {name for name, value in vars(torch.nn.utils.parametrize).items()
              if getattr(value, "__module__", "") == "torch.nn.utils.parametrize"
              and name[0] != "_"}
    missing = theirs - set(parametrize.__all__)
    assert missing == {"transfer_parametrizations_and_params"}  # between modules of two classes
    assert set(torch.nn.utils.parametrizations.__all__) == set(parametrizations.__all__)
