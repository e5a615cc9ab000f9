"""Pooling: error messages, ties, NaN, infinities, node names.  Values: test_ops.py."""

import contextlib
import inspect
import pickle
import re

import numpy as np
import pytest
from check_raises import check_raises

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn

X = np.random.default_rng(0).standard_normal((2, 3, 9, 9)).astype("float32")

ERRORS = [  # a call, and the words that its message must contain
    (lambda: F.max_pool2d(X, 2, padding=2), ["max_pool2d", "padding (2, 2)", "half", "(2, 2)"]),
    (lambda: F.max_pool2d(X, 12), ["max_pool2d", "(12, 12)", "(2, 3, 9, 9)"]),
    (lambda: F.max_pool2d(X, 0), ["kernel_size", "at least 1", "0"]),
    (lambda: F.max_pool2d(X, 2, stride=0), ["stride", "at least 1"]),
    (lambda: F.max_pool2d(X, 2, dilation=0), ["dilation", "at least 1"]),
    (lambda: F.max_pool2d(X[0, 0], 2), ["input", "(N, C, H, W)", "(9, 9)"]),
    (lambda: F.max_pool2d(X, (2, 2, 2)), ["kernel_size", "int", "length 2", "(2, 2, 2)"]),
    (lambda: F.max_pool2d(X, 2, indices=True), ["max_pool2d()", "indices"]),
    (lambda: F.avg_pool3d(X, 10), ["avg_pool3d", "(10, 10, 10)"]),
    (lambda: F.avg_pool2d(X, 2, divisor_override=0), ["avg_pool2d", "divisor_override"]),
    (lambda: F.adaptive_avg_pool2d(X, (1, 2, 3)), ["output_size", "int", "length 2", "(1, 2, 3)"]),
    (lambda: F.adaptive_max_pool2d(X, -1), ["output_size", "at least 0"]),
    (lambda: F.fractional_max_pool2d(X, 2), ["output_size", "output_ratio"]),
    (lambda: F.fractional_max_pool2d(X, 2, output_ratio=1.5), ["output_ratio", "1.5"]),
    (lambda: F.fractional_max_pool2d(X, 5, 6), ["(6, 6)", "(5, 5)", "(2, 3, 9, 9)"]),
    (lambda: F.fractional_max_pool2d(X, 2, 4, _random_samples=X[0, 0]),
     ["_random_samples", "(2, 3, 2)"]),
    (lambda: F.max_unpool2d(X, np.zeros(X.shape), 2), ["indices", "integers", "float64"]),
    (lambda: F.max_unpool2d(X, np.zeros((2, 3, 4, 4), int), 2), ["indices", "(2, 3, 4, 4)"]),
    (lambda: F.max_unpool2d(X, np.full(X.shape, 324), 2), ["index", "(18, 18)"]),
    (lambda: F.max_unpool2d(X, np.zeros(X.shape, int), 2, output_size=(20, 20)),
     ["output_size", "(18, 18)", "(20,"]),
    (lambda: F.max_unpool2d(X, np.zeros(X.shape, int), 2, output_size=(18,)),
     ["output_size", "2 or 4 elements", "(18,)"]),
]


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_error_message(number):
    check_raises(*ERRORS[number], (TypeError, ValueError, IndexError))


FUNCTIONS = [name for name in dir(F) if re.fullmatch(r"\w+pool\dd", name)]
ONE_OP = [name for name in FUNCTIONS if not name.startswith(("lp_pool", "max_unpool"))]


@pytest.mark.parametrize("size", [2, 3])  # of windows, or their number
@pytest.mark.parametrize("name", ONE_OP)
def test_node_has_the_name_of_the_function(name, size):
    n = int(name[-2])
    arguments = [2, size] if "fractional" in name else [size]
    x = gp.Tensor(np.zeros((2, 3, *(4,) * n), "float32"), requires_grad=True)
    assert getattr(F, name)(x, *arguments).node.name == name
    if "max" in name:
        y, indices = getattr(F, name)(x, *arguments, return_indices=True)
        assert y.node.name == name
        assert not indices.requires_grad


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_can_be_inspected_and_pickled(name):
    function = getattr(F, name)
    axes = {"1": "(N, C, L)", "2": "(N, C, H, W)", "3": "(N, C, D, H, W)"}[name[-2]]
    assert function.__name__ == name
    assert "input" in inspect.signature(function).parameters
    assert f"def {name}(" in inspect.getsource(function)
    assert axes in function.__doc__
    assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize("version", [gp.generic, contextlib.nullcontext])
def test_first_of_equal_elements_gets_the_gradient(version):
    x = gp.Tensor(np.ones((1, 1, 4, 4)), requires_grad=True)
    with version():
        F.max_pool2d(x, 2).sum().backward()
    assert x.grad[0, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]] * 2
    indices = F.max_pool2d(x, 2, return_indices=True)[1]
    assert indices.numpy().ravel().tolist() == [0, 2, 8, 10]


@pytest.mark.parametrize("version", [gp.generic, contextlib.nullcontext])
def test_nan_is_the_maximum(version):
    x = gp.Tensor(np.array([[[1.0, np.nan, 3.0, 2.0]]]), requires_grad=True)
    with version():
        y = F.max_pool1d(x, 2)
        y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), [[[np.nan, 3.0]]])
    assert x.grad.tolist() == [[[0, 1, 1, 0]]]


def test_padding_is_never_the_maximum():
    x = np.full((1, 1, 3, 3), -np.inf)
    y, indices = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert (y == -np.inf).all()
    assert indices.ravel().tolist() == [0, 1, 3, 4]
    assert F.max_pool1d(np.full((1, 2, 3), -7), 3, 2, 1).tolist() == [[[-7, -7]] * 2]


def test_max_unpool_puts_the_maxima_back():
    y, indices = F.max_pool2d(X, 3, 3, return_indices=True)
    z = F.max_unpool2d(y, indices, 3)
    np.testing.assert_array_equal(z, np.where(z != 0, X, 0))
    assert (z != 0).sum() == y.size
    assert z.shape == X.shape


def test_fractional_windows_repeat_with_the_seed():
    def draw():
        return F.fractional_max_pool2d(gp.Tensor(X), 2, 5, return_indices=True)[1].numpy()

    gp.manual_seed(0)
    first = draw()
    second = draw()
    gp.manual_seed(0)
    assert (draw() == first).all()
    assert (first != second).any()


def test_adaptive_pooling_to_size_1_is_the_mean():
    y = F.adaptive_avg_pool2d(X, 1)
    np.testing.assert_allclose(y[..., 0, 0], X.mean(axis=(2, 3)), rtol=1e-5)


def test_adaptive_pooling_of_integers():
    x = np.arange(5).reshape(1, 1, 5)
    assert F.adaptive_avg_pool1d(x, 2).tolist() == [[[1, 3]]]
    assert F.adaptive_max_pool1d(x, 2).tolist() == [[[2, 4]]]


@pytest.mark.parametrize("pool", [F.adaptive_avg_pool2d, F.adaptive_max_pool2d])
def test_adaptive_pooling_to_size_0(pool):
    x = gp.Tensor(X, requires_grad=True)
    y = pool(x, (0, 4))
    assert y.shape == (2, 3, 0, 4)
    y.sum().backward()
    assert not x.grad.any()


def test_nan_stays_in_its_adaptive_windows():
    x = X.copy()
    x[0, 0, 8, 8] = np.nan
    assert np.isnan(F.adaptive_avg_pool2d(x, 4)).sum() == 1


def test_repr_shows_options():
    assert repr(nn.MaxPool2d(2)) == (
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)")
    assert repr(nn.AdaptiveAvgPool2d((1, None))) == "AdaptiveAvgPool2d(output_size=(1, None))"


@pytest.mark.parametrize("dilation", [1, 2])
def test_gradient_of_windows_of_minus_infinity(dilation, backend):
    """It goes to the first element outside of the padding, as in PyTorch."""
    values = X.copy()
    values[:, :, :6, :7] = -np.inf
    grads = []
    for version in (contextlib.nullcontext, gp.generic):
        x = gp.Tensor(backend.asarray(values), requires_grad=True)
        with version():
            y = F.max_pool2d(x, (3, 4), (2, 1), (1, 2), dilation, ceil_mode=True)
            dy = np.arange(y.size, dtype="float32").reshape(y.shape)
            y.backward(backend.asarray(dy))
        grads.append(gp.asnumpy(x.grad))
    np.testing.assert_array_equal(*grads)
    assert grads[0][0, 0, :6, :7].any()
