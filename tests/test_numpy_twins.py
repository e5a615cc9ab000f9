"""The NumPy backend's own versions of ops: those that look at sizes, at the sizes of rows too."""

import numpy as np
import pytest
import scipy.special

import gpuprop as gp
import gpuprop.functional as F
from gpuprop.testing import check_kernel
from gpuprop.testing.rows.normalization import ROWS
from gpuprop_numpy import normalization
from gpuprop_numpy.special import normal_cdf


@pytest.mark.parametrize("part", [20, 1 << 17])
def test_normalization_in_parts(part, monkeypatch):
    monkeypatch.setattr(normalization, "SMALL", 1)
    monkeypatch.setattr(normalization, "PART", part)
    check_kernel("numpy", "gpuprop.functional:standardize", ROWS)


@pytest.mark.parametrize("shape, axes", [((300, 64), (1,)), ((40, 3, 200), (0, 2))])
def test_a_large_mean_takes_nothing_from_the_variance(shape, axes, rng):
    x = (rng.standard_normal(shape) + 1e4).astype("float32")
    y = normalization.standardize(np, x, None, None, axes, 1e-5)[0]
    exact = x.astype("float64")
    exact = (exact - exact.mean(axes, keepdims=True)) / np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, exact, atol=5e-3)  # float32 has no more than three digits after the point here


def test_gradients_nobody_wants_are_no_matter(monkeypatch):
    monkeypatch.setattr(normalization, "SMALL", 1)
    x, w, b = gp.Tensor(np.eye(3)), gp.Tensor(np.ones(3), True), gp.Tensor(np.zeros(3))
    F.layer_norm(x, 3, w, b).sum().backward()
    assert w.grad is not None and x.grad is None and b.grad is None


def test_normal_distribution():
    x = np.linspace(-8, 8, 10001)
    np.testing.assert_allclose(normal_cdf(x), scipy.special.ndtr(x), atol=1e-15)
    np.testing.assert_allclose(normal_cdf(x.astype("float32")), scipy.special.ndtr(x), atol=3e-7)
