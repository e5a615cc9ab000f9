"""Convolutions: error messages, layers, node names.  Values are checked in test_ops.py."""

import inspect
import pickle

import numpy as np
import pytest
from check_raises import check_raises

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn
from gpuprop._core.registry import get_backend
from gpuprop.functional import _windows as windows


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


X = zeros(2, 4, 9, 9)
W = zeros(6, 4, 3, 3)

ERRORS = [  # a call, and the words that its message must contain
    (lambda: F.conv2d(zeros(9, 9), W), ["conv2d", "input", "(N, C, H, W)", "(9, 9)"]),
    (lambda: F.conv1d(X, W), ["conv1d", "input", "(N, C, L)", "(2, 4, 9, 9)"]),
    (lambda: F.conv2d(X, W[0]), ["conv2d", "weight", "4 axes", "(4, 3, 3)"]),
    (lambda: F.conv2d(X, zeros(6, 3, 3, 3)), ["conv2d", "4 channels", "takes 3"]),
    (lambda: F.conv2d(X, zeros(6, 4, 3, 3), groups=2), ["4 channels", "groups=2", "takes 8"]),
    (lambda: F.conv2d(X, zeros(5, 2, 3, 3), groups=2), ["groups=2", "5 filters"]),
    (lambda: F.conv2d(X, W, groups=0), ["groups", "at least 1", "0"]),
    (lambda: F.conv2d(X, W, zeros(4)), ["bias", "(6,)", "(4,)"]),
    (lambda: F.conv2d(X, zeros(6, 4, 3, 12), padding=1),
     ["conv2d", "(3, 12)", "padded input", "(11, 11)"]),
    (lambda: F.conv2d(X, zeros(6, 4, 3, 0)), ["conv2d", "kernel size", "(3, 0)", "positive"]),
    (lambda: F.conv2d(X, W, dilation=5), ["conv2d", "(11, 11)", "(9, 9)"]),
    (lambda: F.conv2d(X, W, stride=0), ["conv2d", "stride", "at least 1", "0"]),
    (lambda: F.conv2d(X, W, stride=(1, 1, 1)), ["stride", "int", "length 2", "(1, 1, 1)"]),
    (lambda: F.conv2d(X, W, dilation=0), ["dilation", "at least 1"]),
    (lambda: F.conv2d(X, W, dilation=1.5), ["dilation", "int", "1.5"]),
    (lambda: F.conv2d(X, W, padding=-1), ["padding", "at least 0", "-1"]),
    (lambda: F.conv2d(X, W, padding="some"), ["padding", "'same'", "'valid'", "'some'"]),
    (lambda: F.conv2d(X, W, padding="same", stride=2), ["'same'", "stride", "(2, 2)"]),
    (lambda: F.conv2d(X, W, pading=1), ["conv2d()", "pading"]),
    (lambda: F.conv2d(X, zeros(6, 4, 3, 3, dtype="float64")), ["conv2d", "float32", "float64"]),
    (lambda: F.conv_transpose2d(X, zeros(3, 4, 3, 3)),
     ["conv_transpose2d", "4 channels", "takes 3"]),
    (lambda: F.conv_transpose2d(X, zeros(4, 4, 3, 3), output_padding=2),
     ["output_padding", "(2, 2)", "stride"]),
    (lambda: F.conv_transpose2d(X, zeros(4, 4, 3, 3), padding=7),
     ["conv_transpose2d", "output size", "(-3, -3)", "positive"]),
    (lambda: F.unfold(X, 10), ["unfold", "(10, 10)", "(9, 9)"]),
    (lambda: F.fold(zeros(2, 12, 5), 4, 2), ["fold", "(2, 12, 5)", "9 columns"]),
    (lambda: F.fold(zeros(2, 11, 9), 4, 2), ["fold", "11 rows", "multiple of 4"]),
    (lambda: nn.Conv2d(3, 6, 3, groups=2),
     ["Conv2d", "groups=2", "in_channels=3", "out_channels=6"]),
    (lambda: nn.Conv2d(4, 6, 3, padding_mode="mirror"), ["padding_mode", "reflect", "'mirror'"]),
    (lambda: nn.Conv2d(4, 6, 3, padding="same", stride=2), ["Conv2d", "'same'"]),
    (lambda: nn.ConvTranspose2d(4, 6, 3, padding_mode="reflect"),
     ["padding_mode", "'zeros'", "'reflect'"]),
    (lambda: nn.ConvTranspose2d(4, 6, 3, 2)(gp.Tensor(X), (30, 30)),
     ["output_size", "[19, 19]", "[20, 20]", "(30,"]),
    (lambda: windows.windows(zeros(5), (2,), (5,), (1,), (1,)), ["windows", "(5,)", "[6]"]),
]


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_error_message(number):
    check_raises(*ERRORS[number])


def random_tensor(*shape):
    values = np.random.default_rng(0).standard_normal(shape)
    return gp.Tensor(values.astype("float32"), requires_grad=True)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_node_has_the_name_of_the_function(n):
    x = random_tensor(2, 3, *(5,) * n)
    w = random_tensor(3, 3, *(3,) * n)
    assert getattr(F, f"conv{n}d")(x, w).node.name == f"conv{n}d"
    assert getattr(F, f"conv_transpose{n}d")(x, w).node.name == f"conv_transpose{n}d"


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
def test_function_can_be_inspected_and_pickled(kind, n):
    name = f"{kind}{n}d"
    function = getattr(F, name)
    parameters = inspect.signature(function).parameters
    assert function.__name__ == name
    assert list(parameters)[:4] == ["input", "weight", "bias", "stride"]
    assert parameters["groups"].default == 1
    assert f"def {name}(" in inspect.getsource(function)
    assert {1: "(N, C, L)", 2: "(N, C, H, W)", 3: "(N, C, D, H, W)"}[n] in function.__doc__
    assert pickle.loads(pickle.dumps(function)) is function


def test_repr_shows_options_that_differ_from_the_defaults():
    assert repr(nn.Conv2d(3, 4, 3, padding=1, bias=False, padding_mode="reflect")) == (
        "Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False, "
        "padding_mode=reflect)")
    assert repr(nn.Conv1d(4, 4, 3, padding="same", groups=2, dilation=2)) == (
        "Conv1d(4, 4, kernel_size=(3,), stride=(1,), padding=same, dilation=(2,), groups=2)")
    assert repr(nn.ConvTranspose2d(3, 4, 3, 2, output_padding=1)) == (
        "ConvTranspose2d(3, 4, kernel_size=(3, 3), stride=(2, 2), output_padding=(1, 1))")


LAYERS = [nn.Conv2d(6, 4, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2)]


@pytest.mark.parametrize("layer", LAYERS)
def test_initial_parameters_are_uniform_within_the_bound(layer):
    gp.manual_seed(0)
    layer.reset_parameters()
    bound = 1 / np.sqrt(3 * 3 * 3)
    for p in layer.parameters():
        assert np.abs(p.numpy()).max() <= bound
        assert p.numpy().std() == pytest.approx(bound / np.sqrt(3), rel=0.5)
    assert np.abs(layer.weight.numpy()).max() > 0.9 * bound


def test_transposed_layer_accepts_an_output_size():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    x = gp.Tensor(zeros(1, 2, 5, 5))
    assert layer(x, (9, 10)).shape[2:] == (9, 10)
    assert layer(x, (1, 3, 10, 9)).shape[2:] == (10, 9)


def test_windows_are_a_view():
    x = np.arange(6.0)
    w = windows.windows(x, (2,), (3,), (1,), (2,))
    assert np.shares_memory(w, x)
    assert w.tolist() == [[0, 1, 2], [2, 3, 4]]


@pytest.mark.parametrize("workspace", [1, 10_000, 1 << 22])
def test_conv_in_chunks_agrees_with_the_definition(workspace, monkeypatch):
    monkeypatch.setattr(get_backend("numpy"), "workspace", lambda: workspace)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in ((5, 2, 6, 5), (4, 2, 3, 3), (4,))]

    def results():
        x, w, b = (gp.Tensor(a, requires_grad=True) for a in arrays)
        y = F.conv2d(x, w, b, padding=1)
        (y * y).sum().backward()
        return y.numpy(), x.grad, w.grad, b.grad

    chunked = results()
    with gp.generic():
        definition = results()
    for got, expected in zip(chunked, definition, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_channels_last_memory():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 7, 3)).transpose(0, 3, 1, 2)
    w = rng.standard_normal((4, 3, 3, 3))
    np.testing.assert_allclose(F.conv2d(x, w), F.conv2d(x.copy(), w), rtol=1e-12)
