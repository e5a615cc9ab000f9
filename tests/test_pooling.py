"""Pooling: what it refuses, in which words, ties, NaN and infinities; values are in the table of rows."""

import contextlib

import numpy as np
import pytest
from refused import refused

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn

X = np.random.default_rng(0).standard_normal((2, 3, 9, 9)).astype("float32")

REFUSED = [
    (lambda: F.max_pool2d(X, 2, padding=2), ["max_pool2d", "padding (2, 2)", "half", "(2, 2)"]),
    (lambda: F.max_pool2d(X, 12), ["max_pool2d", "(12, 12)", "(2, 3, 9, 9)"]),
    (lambda: F.max_pool2d(X, 0), ["kernel_size", "at least 1", "0"]),
    (lambda: F.max_pool2d(X, 2, stride=0), ["stride", "at least 1"]),
    (lambda: F.max_pool2d(X, 2, dilation=0), ["dilation", "at least 1"]),
    (lambda: F.max_pool2d(X[0, 0], 2), ["input", "(N, C, H, W)", "(9, 9)"]),
    (lambda: F.max_pool2d(X, (2, 2, 2)), ["kernel_size", "one number or 2"]),
    (lambda: F.max_pool2d(X, 2, indices=True), ["max_pool2d()", "indices"]),
    (lambda: F.avg_pool3d(X, 10), ["avg_pool3d", "(10, 10, 10)"]),
    (lambda: F.avg_pool2d(X, 2, divisor_override=0), ["avg_pool2d", "divisor_override"]),
    (lambda: F.adaptive_avg_pool2d(X, (1, 2, 3)), ["output_size", "one number or 2", "(1, 2, 3)"]),
    (lambda: F.adaptive_max_pool2d(X, -1), ["output_size", "at least 0"]),
    (lambda: F.fractional_max_pool2d(X, 2), ["output_size", "output_ratio"]),
    (lambda: F.fractional_max_pool2d(X, 2, output_ratio=1.5), ["output_ratio", "1.5"]),
    (lambda: F.fractional_max_pool2d(X, 5, 6), ["(6, 6)", "(5, 5)", "(2, 3, 9, 9)"]),
    (lambda: F.fractional_max_pool2d(X, 2, 4, _random_samples=X[0, 0]), ["_random_samples", "(2, 3, 2)"]),
    (lambda: F.max_unpool2d(X, np.zeros(X.shape), 2), ["indices", "integers", "float64"]),
    (lambda: F.max_unpool2d(X, np.zeros((2, 3, 4, 4), int), 2), ["indices", "(2, 3, 4, 4)"]),
    (lambda: F.max_unpool2d(X, np.full(X.shape, 324), 2), ["index", "(18, 18)"]),
    (lambda: F.max_unpool2d(X, np.zeros(X.shape, int), 2, output_size=(20, 20)), ["output_size", "(18, 18)", "(20,"]),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals_say_what_is_wrong(number):
    refused(*REFUSED[number], (TypeError, ValueError, IndexError))


@pytest.mark.parametrize("version", [gp.generic, contextlib.nullcontext])
def test_of_equals_the_first_gets_the_gradient(version):
    x = gp.Tensor(np.ones((1, 1, 4, 4)), requires_grad=True)
    with version():
        F.max_pool2d(x, 2).sum().backward()
    assert x.grad[0, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]] * 2
    assert F.max_pool2d(x, 2, return_indices=True)[1].numpy().ravel().tolist() == [0, 2, 8, 10]


@pytest.mark.parametrize("version", [gp.generic, contextlib.nullcontext])
def test_a_nan_is_the_largest(version):
    x = gp.Tensor(np.array([[[1.0, np.nan, 3.0, 2.0]]]), requires_grad=True)
    with version():
        y = F.max_pool1d(x, 2)
        y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), [[[np.nan, 3.0]]])
    assert x.grad.tolist() == [[[0, 1, 1, 0]]]


def test_padding_is_never_the_largest():
    y, places = F.max_pool2d(np.full((1, 1, 3, 3), -np.inf), 3, 2, 1, return_indices=True)
    assert (y == -np.inf).all() and places.ravel().tolist() == [0, 1, 3, 4]
    assert F.max_pool1d(np.full((1, 2, 3), -7), 3, 2, 1).tolist() == [[[-7, -7]] * 2]


def test_unpooling_puts_the_largest_back():
    y, places = F.max_pool2d(X, 3, 3, return_indices=True)
    z = F.max_unpool2d(y, places, 3)
    np.testing.assert_array_equal(z, np.where(z != 0, X, 0))
    assert (z != 0).sum() == y.size and z.shape == X.shape


def test_fractional_windows_are_drawn_anew_and_repeat_with_the_seed():
    draw = lambda: F.fractional_max_pool2d(gp.Tensor(X), 2, 5, return_indices=True)[1].numpy()
    gp.manual_seed(0)
    first, second = draw(), draw()
    gp.manual_seed(0)
    assert (draw() == first).all() and (first != second).any()


def test_pooling_to_one_is_the_mean():
    np.testing.assert_allclose(F.adaptive_avg_pool2d(X, 1)[..., 0, 0], X.mean(axis=(2, 3)), rtol=1e-5)


def test_a_nan_stays_in_its_windows():
    x = X.copy()
    x[0, 0, 8, 8] = np.nan
    assert np.isnan(F.adaptive_avg_pool2d(x, 4)).sum() == 1


def test_layers_show_their_options():
    assert repr(nn.MaxPool2d(2)) == "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"
    assert repr(nn.AdaptiveAvgPool2d((1, None))) == "AdaptiveAvgPool2d(output_size=(1, None))"


@pytest.mark.parametrize("dilation", [1, 2])
def test_windows_of_infinities_have_the_gradient_of_the_definition(dilation, backend):
    """It goes to the first element that is not padding, as PyTorch's."""
    values = X.copy()
    values[:, :, :6, :7] = -np.inf
    grads = []
    for how in (contextlib.nullcontext, gp.generic):
        x = gp.Tensor(backend.asarray(values), requires_grad=True)
        with how():
            y = F.max_pool2d(x, (3, 4), (2, 1), (1, 2), dilation, ceil_mode=True)
            y.backward(backend.asarray(np.arange(y.size, dtype="float32").reshape(y.shape)))
        grads.append(gp.asnumpy(x.grad))
    np.testing.assert_array_equal(*grads)
    assert grads[0][0, 0, :6, :7].any()
