"""The NumPy backend's overrides of ops, with sizes small enough to test every branch."""

import numpy as np
import pytest
import scipy.special

import gpuprop as gp
import gpuprop.functional as F
from gpuprop.testing import check_kernel
from gpuprop.testing.rows._normalization import ROWS
from gpuprop_numpy import normalization
from gpuprop_numpy.special import normal_cdf


@pytest.mark.parametrize("block", [20, 1 << 17])
def test_standardize_in_blocks(block, monkeypatch):
    monkeypatch.setattr(normalization, "MIN_SIZE", 1)
    monkeypatch.setattr(normalization, "CACHE_SIZE", block)
    check_kernel("numpy", "gpuprop.functional:standardize", ROWS)


@pytest.mark.parametrize("shape, axes", [((300, 64), (1,)), ((40, 3, 200), (0, 2))])
def test_large_mean_keeps_variance_accurate(shape, axes, rng):
    x = (rng.standard_normal(shape) + 1e4).astype("float32")
    y = normalization.standardize(np, x, None, None, axes, 1e-5)[0]
    exact = x.astype("float64")
    deviation = np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
    exact = (exact - exact.mean(axes, keepdims=True)) / deviation
    np.testing.assert_allclose(y, exact, atol=5e-3)  # float32 has three digits after the point here


def test_only_requested_gradients_are_set(monkeypatch):
    monkeypatch.setattr(normalization, "MIN_SIZE", 1)
    x, w, b = gp.Tensor(np.eye(3)), gp.Tensor(np.ones(3), True), gp.Tensor(np.zeros(3))
    F.layer_norm(x, 3, w, b).sum().backward()
    assert w.grad is not None and x.grad is None and b.grad is None


def test_gradient_with_running_stats_and_no_parameters(monkeypatch, rng):
    """Statistics per sample and channel, while the override works on rows of both."""
    monkeypatch.setattr(normalization, "MIN_SIZE", 1)
    monkeypatch.setattr(normalization, "CACHE_SIZE", 20)
    array = rng.standard_normal((4, 3, 5))

    def gradient():
        x = gp.tensor(array, requires_grad=True)
        (F.instance_norm(x, gp.zeros(3, "float64"), gp.ones(3, "float64")) ** 3).sum().backward()
        return x.grad

    with gp.generic():
        expected = gradient()
    np.testing.assert_allclose(gradient(), expected, rtol=1e-10, atol=1e-12)


def test_normal_cdf():
    x = np.linspace(-8, 8, 10001)
    np.testing.assert_allclose(normal_cdf(x), scipy.special.ndtr(x), atol=1e-15)
    np.testing.assert_allclose(normal_cdf(x.astype("float32")), scipy.special.ndtr(x), atol=3e-7)
