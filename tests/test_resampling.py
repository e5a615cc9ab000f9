"""Resampling where rows do not reach: values, dtypes, errors, grids, layers."""

import numpy as np
import pytest

import gpuprop.functional as F
from gpuprop import nn

X = np.arange(24.0).reshape(1, 2, 3, 4)
MODES = ["nearest", "nearest-exact", "area", "bilinear", "bicubic"]


@pytest.mark.parametrize("mode", MODES)
def test_constants_stay(mode):
    ones = np.ones((2, 1, 5, 3), "float32")
    for size in (7, (2, 9), 1):
        y = F.interpolate(ones, size, mode=mode)
        np.testing.assert_allclose(y, 1, rtol=1e-6)
        assert y.dtype == "float32"


def test_values():
    np.testing.assert_allclose(F.interpolate(X[..., 0, :], 7, None, "linear", True)[0, 0], np.linspace(0, 3, 7))
    np.testing.assert_allclose(F.interpolate(X[..., 0, :], 8, None, "linear")[0, 0],
                               [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    np.testing.assert_array_equal(F.interpolate(X[..., 0, :], 8)[0, 0], [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(F.interpolate(X[..., 0, :], 3)[0, 0], [0, 1, 2])
    np.testing.assert_array_equal(F.interpolate(X[..., 0, :], 2, mode="nearest-exact")[0, 0], [1, 3])
    np.testing.assert_allclose(F.interpolate(X[..., 0, :], 3, mode="area")[0, 0], [0.5, 1.5, 2.5])
    assert F.interpolate(X.astype("uint8"), 5).dtype == "uint8"


def test_what_is_not_read_does_not_matter():
    x = X.copy()
    x[..., 0] = np.inf
    y = F.interpolate(x, (3, 8))
    assert np.isfinite(y[..., 2:]).all()


def test_shuffles():
    x = np.arange(16.0).reshape(1, 4, 2, 2)
    np.testing.assert_array_equal(F.pixel_shuffle(x, 2)[0, 0],
                                  [[0, 4, 1, 5], [8, 12, 9, 13], [2, 6, 3, 7], [10, 14, 11, 15]])
    np.testing.assert_array_equal(F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), x)
    np.testing.assert_array_equal(F.channel_shuffle(x, 2)[:, :, 0, 0], [[0, 8, 4, 12]])


IDENTITY = np.eye(3)[None, :2]


def test_grids():
    np.testing.assert_allclose(F.affine_grid(IDENTITY, (1, 1, 2, 3), True)[0, :, :, 0], [[-1, 0, 1]] * 2)
    np.testing.assert_allclose(F.affine_grid(IDENTITY, (1, 1, 2, 3), False)[0, :, :, 1].T, [[-0.5, 0.5]] * 3)
    moved = F.affine_grid(np.array([[[0.0, 2, 0.5], [1, 0, 0]]]), (1, 1, 2, 2), False)
    np.testing.assert_allclose(moved[0], [[[-0.5, -0.5], [-0.5, 0.5]], [[1.5, -0.5], [1.5, 0.5]]])


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_the_identity_reads_what_is_there(mode, aligned):
    y = F.grid_sample(X.astype("float32"), F.affine_grid(IDENTITY.astype("float32"), X.shape, aligned), mode,
                      align_corners=aligned)
    np.testing.assert_allclose(y, X, atol=1e-5)
    assert y.dtype == "float32"


def test_beyond_the_edges():
    at = np.array([[[[-3.0, 0]], [[3.0, 0]]]])
    one = np.arange(4.0).reshape(1, 1, 1, 4)
    assert F.grid_sample(one, at)[0, 0, :, 0].tolist() == [0, 0]
    assert F.grid_sample(one, at, padding_mode="border")[0, 0, :, 0].tolist() == [0, 3]
    assert F.grid_sample(one, at, padding_mode="reflection", align_corners=True)[0, 0, :, 0].tolist() == [3, 0]


ERRORS = [
    (lambda: F.interpolate(X), "give either size or scale_factor"),
    (lambda: F.interpolate(X, 2, 2), "give either size or scale_factor"),
    (lambda: F.interpolate(X, 2, mode="sharp"), "mode is 'nearest', .*, not 'sharp'"),
    (lambda: F.interpolate(X, 2, mode="linear"), "with 1 more axes for mode 'linear', not of shape"),
    (lambda: F.interpolate(X[0, 0], 2), "1, 2 or 3 more axes"),
    (lambda: F.interpolate(X, 2, align_corners=True), "align_corners goes with linear"),
    (lambda: F.interpolate(X, 2, mode="area", antialias=True), "antialias goes with 'bilinear' and 'bicubic'"),
    (lambda: F.interpolate(X, (2, 3, 4)), r"size is one number or 2, not \[2, 3, 4\]"),
    (lambda: F.interpolate(X, None, (2, 3, 4)), r"scale_factor is one number or 2"),
    (lambda: F.interpolate(X, 2, recompute_scale_factor=True), "recompute_scale_factor goes with scale_factor"),
    (lambda: F.interpolate(X, 0), "sizes must be at least 1"),
    (lambda: F.interpolate(X, None, 0.1), "sizes must be at least 1"),
    (lambda: F.pixel_shuffle(X, 2), r"2 channels are not divisible by upscale_factor\*\*2 = 4"),
    (lambda: F.pixel_unshuffle(X, 2), "height 3 and width 4 are not both divisible by downscale_factor=2"),
    (lambda: F.channel_shuffle(X, 3), "C divisible by groups=3"),
    (lambda: F.affine_grid(IDENTITY, (2, 1, 2, 2)), r"not \(1, 2, 3\) for \(2, 1, 2, 2\)"),
    (lambda: F.grid_sample(X, X), "do not go together"),
    (lambda: F.grid_sample(X, X[:, :, :, :2], "cubic"), "mode is 'bilinear', 'nearest' or 'bicubic', not 'cubic'"),
    (lambda: F.grid_sample(X, X[:, :, :, :2], padding_mode="wrap"), "padding_mode is .*, not 'wrap'"),
]


@pytest.mark.parametrize(("call", "text"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_layers():
    np.testing.assert_array_equal(nn.UpsamplingNearest2d(scale_factor=2)(X), F.interpolate(X, None, 2))
    np.testing.assert_array_equal(nn.UpsamplingBilinear2d((5, 6))(X), F.interpolate(X, (5, 6), None, "bilinear", True))
    assert repr(nn.Upsample(scale_factor=2)) == "Upsample(scale_factor=2, mode='nearest')"
    assert repr(nn.PixelShuffle(2)) == "PixelShuffle(upscale_factor=2)"
