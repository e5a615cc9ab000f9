"""Convolutions: what they refuse, in which words, and what their layers look like; values are in the table of rows."""

import numpy as np
import pytest
from refused import refused

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn
from gpuprop._core.registry import get_backend
from gpuprop.functional import _windows as windows


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


X, W = zeros(2, 4, 9, 9), zeros(6, 4, 3, 3)

REFUSED = [
    (lambda: F.conv2d(zeros(9, 9), W), ["conv2d", "input", "(N, C, H, W)", "(9, 9)"]),
    (lambda: F.conv1d(X, W), ["conv1d", "input", "(N, C, L)", "(2, 4, 9, 9)"]),
    (lambda: F.conv2d(X, W[0]), ["conv2d", "weight", "4 axes", "(4, 3, 3)"]),
    (lambda: F.conv2d(X, zeros(6, 3, 3, 3)), ["conv2d", "4 channels", "takes 3"]),
    (lambda: F.conv2d(X, zeros(6, 4, 3, 3), groups=2), ["4 channels", "groups=2", "takes 8"]),
    (lambda: F.conv2d(X, zeros(5, 2, 3, 3), groups=2), ["groups=2", "5 filters"]),
    (lambda: F.conv2d(X, W, groups=0), ["groups=0"]),
    (lambda: F.conv2d(X, W, zeros(4)), ["bias", "(6,)", "(4,)"]),
    (lambda: F.conv2d(X, zeros(6, 4, 3, 12), padding=1), ["conv2d", "(3, 12)", "padded input", "(11, 11)"]),
    (lambda: F.conv2d(X, W, dilation=5), ["(11, 11)", "(9, 9)"]),
    (lambda: F.conv2d(X, W, stride=0), ["conv2d", "stride", "at least 1", "0"]),
    (lambda: F.conv2d(X, W, stride=(1, 1, 1)), ["stride", "one number or 2", "(1, 1, 1)"]),
    (lambda: F.conv2d(X, W, dilation=0), ["dilation", "at least 1"]),
    (lambda: F.conv2d(X, W, dilation=1.5), ["dilation", "integer", "1.5"]),
    (lambda: F.conv2d(X, W, padding=-1), ["padding", "at least 0", "-1"]),
    (lambda: F.conv2d(X, W, padding="some"), ["padding", "'same'", "'valid'", "'some'"]),
    (lambda: F.conv2d(X, W, padding="same", stride=2), ["'same'", "stride", "(2, 2)"]),
    (lambda: F.conv2d(X, W, pading=1), ["conv2d()", "pading"]),
    (lambda: F.conv2d(X, zeros(6, 4, 3, 3, dtype="float64")), ["conv2d", "float32", "float64"]),
    (lambda: F.conv_transpose2d(X, zeros(3, 4, 3, 3)), ["conv_transpose2d", "4 channels", "takes 3"]),
    (lambda: F.conv_transpose2d(X, zeros(4, 4, 3, 3), output_padding=2), ["output_padding", "(2, 2)", "stride"]),
    (lambda: F.conv_transpose2d(X, zeros(4, 4, 3, 3), padding=7), ["nothing is left", "(-3, -3)"]),
    (lambda: F.unfold(X, 10), ["unfold", "(10, 10)", "(9, 9)"]),
    (lambda: F.fold(zeros(2, 12, 5), 4, 2), ["fold", "(2, 12, 5)", "9 columns"]),
    (lambda: F.fold(zeros(2, 11, 9), 4, 2), ["fold", "11 rows", "multiple of 4"]),
    (lambda: nn.Conv2d(3, 6, 3, groups=2), ["Conv2d", "groups=2", "in_channels=3", "out_channels=6"]),
    (lambda: nn.Conv2d(4, 6, 3, padding_mode="mirror"), ["padding_mode", "reflect", "'mirror'"]),
    (lambda: nn.Conv2d(4, 6, 3, padding="same", stride=2), ["Conv2d", "'same'"]),
    (lambda: nn.ConvTranspose2d(4, 6, 3, padding_mode="reflect"), ["padding_mode", "'zeros'", "'reflect'"]),
    (lambda: nn.ConvTranspose2d(4, 6, 3, 2)(gp.Tensor(X), (30, 30)), ["output_size", "[19, 19]", "[20, 20]", "(30,"]),
    (lambda: windows.windows(zeros(5), (2,), (5,), (1,), (1,)), ["windows", "(5,)", "[6]"]),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals_say_what_is_wrong(number):
    refused(*REFUSED[number])


def test_layers_show_what_is_not_usual():
    assert repr(nn.Conv2d(3, 4, 3, padding=1, bias=False, padding_mode="reflect")) == (
        "Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False, padding_mode=reflect)")
    assert repr(nn.Conv1d(4, 4, 3, padding="same", groups=2, dilation=2)) == (
        "Conv1d(4, 4, kernel_size=(3,), stride=(1,), padding=same, dilation=(2,), groups=2)")
    assert repr(nn.ConvTranspose2d(3, 4, 3, 2, output_padding=1)) == (
        "ConvTranspose2d(3, 4, kernel_size=(3, 3), stride=(2, 2), output_padding=(1, 1))")


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 4, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2)])
def test_parameters_start_within_the_bound(layer):
    gp.manual_seed(0)
    layer.reset_parameters()
    bound = 1 / np.sqrt(3 * 3 * 3)
    for p in layer.parameters():
        assert np.abs(p.numpy()).max() <= bound and p.numpy().std() == pytest.approx(bound / np.sqrt(3), rel=0.5)
    assert np.abs(layer.weight.numpy()).max() > 0.9 * bound


def test_transposed_layer_gives_the_size_asked_for():
    layer, x = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), gp.Tensor(zeros(1, 2, 5, 5))
    assert [layer(x, size).shape[2:] for size in ((9, 10), (1, 3, 10, 9))] == [(9, 10), (10, 9)]


def test_windows_are_a_view():
    x = np.arange(6.0)
    w = windows.windows(x, (2,), (3,), (1,), (2,))
    assert np.shares_memory(w, x) and w.tolist() == [[0, 1, 2], [2, 3, 4]]


@pytest.mark.parametrize("workspace", [1, 10_000, 1 << 22])
def test_parts_are_as_good_as_the_whole(workspace, monkeypatch):
    monkeypatch.setattr(get_backend("numpy"), "workspace", lambda: workspace)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in ((5, 2, 6, 5), (4, 2, 3, 3), (4,))]

    def results():
        x, w, b = (gp.Tensor(a, requires_grad=True) for a in arrays)
        y = F.conv2d(x, w, b, padding=1)
        (y * y).sum().backward()
        return y.numpy(), x.grad, w.grad, b.grad

    fast = results()
    with gp.generic():
        for got, want in zip(fast, results(), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_the_input_may_lie_anyhow_in_memory():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 6, 7, 3)), rng.standard_normal((4, 3, 3, 3))
    last = x.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(F.conv2d(last, w), F.conv2d(last.copy(), w), rtol=1e-12)


def test_pickled_and_named_as_public():
    import pickle

    assert pickle.loads(pickle.dumps(F.conv2d)) is F.conv2d and F.conv_transpose3d.__name__ == "conv_transpose3d"
    assert "(N, C, D, H, W)" in F.conv3d.__doc__
