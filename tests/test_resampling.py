"""Resampling: values, dtypes, grids, errors, node names, layers.  Gradients: test_ops.py."""

import numpy as np
import pytest

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn

X = np.arange(24.0).reshape(1, 2, 3, 4)
MODES = ["nearest", "nearest-exact", "area", "bilinear", "bicubic"]


@pytest.mark.parametrize("mode", MODES)
def test_constant_input_gives_constant_output(mode):
    ones = np.ones((2, 1, 5, 3), "float32")
    for size in (7, (2, 9), 1):
        y = F.interpolate(ones, size, mode=mode)
        np.testing.assert_allclose(y, 1, rtol=1e-6)
        assert y.dtype == "float32"


def test_interpolated_values():
    x = X[..., 0, :]
    aligned = F.interpolate(x, 7, None, "linear", True)
    np.testing.assert_allclose(aligned[0, 0], np.linspace(0, 3, 7))
    np.testing.assert_allclose(F.interpolate(x, 8, None, "linear")[0, 0],
                               [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    np.testing.assert_array_equal(F.interpolate(x, 8)[0, 0], [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(F.interpolate(x, 3)[0, 0], [0, 1, 2])
    np.testing.assert_array_equal(F.interpolate(x, 2, mode="nearest-exact")[0, 0], [1, 3])
    np.testing.assert_allclose(F.interpolate(x, 3, mode="area")[0, 0], [0.5, 1.5, 2.5])
    assert F.interpolate(X.astype("uint8"), 5).dtype == "uint8"


def test_infinite_elements_that_are_not_read():
    x = X.copy()
    x[..., 0] = np.inf
    y = F.interpolate(x, (3, 8), mode="nearest")
    assert np.isfinite(y[..., 2:]).all()


def test_shuffles():
    x = np.arange(16.0).reshape(1, 4, 2, 2)
    np.testing.assert_array_equal(F.pixel_shuffle(x, 2)[0, 0],
                                  [[0, 4, 1, 5], [8, 12, 9, 13], [2, 6, 3, 7], [10, 14, 11, 15]])
    np.testing.assert_array_equal(F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), x)
    np.testing.assert_array_equal(F.channel_shuffle(x, 2)[:, :, 0, 0], [[0, 8, 4, 12]])


IDENTITY = np.eye(3)[None, :2]


def test_affine_grid_values():
    aligned = F.affine_grid(IDENTITY, (1, 1, 2, 3), True)
    np.testing.assert_allclose(aligned[0, :, :, 0], [[-1, 0, 1]] * 2)
    centres = F.affine_grid(IDENTITY, (1, 1, 2, 3), False)
    np.testing.assert_allclose(centres[0, :, :, 1].T, [[-0.5, 0.5]] * 3)
    moved = F.affine_grid(np.array([[[0.0, 2, 0.5], [1, 0, 0]]]), (1, 1, 2, 2), False)
    np.testing.assert_allclose(moved[0], [[[-0.5, -0.5], [-0.5, 0.5]], [[1.5, -0.5], [1.5, 0.5]]])


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_identity_grid_samples_the_input(mode, aligned):
    grid = F.affine_grid(IDENTITY.astype("float32"), X.shape, aligned)
    y = F.grid_sample(X.astype("float32"), grid, mode, align_corners=aligned)
    np.testing.assert_allclose(y, X, atol=1e-5)
    assert y.dtype == "float32"


def test_grid_sample_outside_of_the_input():
    x = np.arange(4.0).reshape(1, 1, 1, 4)
    grid = np.array([[[[-3.0, 0]], [[3.0, 0]]]])

    def sample(padding_mode, align_corners=False):
        y = F.grid_sample(x, grid, padding_mode=padding_mode, align_corners=align_corners)
        return y[0, 0, :, 0].tolist()

    assert sample("zeros") == [0, 0]
    assert sample("border") == [0, 3]
    assert sample("reflection", align_corners=True) == [3, 0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_node_has_the_name_of_the_function(mode, dtype):
    x = gp.Tensor(X.astype(dtype), requires_grad=True)
    y = F.interpolate(x, 6, mode=mode)
    assert y.node.name == "interpolate"
    assert y.dtype == dtype


GRID = X[:, :, :, :2]  # of the right shape for X
ERRORS = [
    (lambda: F.interpolate(X), "either size or scale_factor"),
    (lambda: F.interpolate(X, 2, 2), "either size or scale_factor"),
    (lambda: F.interpolate(X, 2, mode="sharp"), "mode.*'nearest', .*'sharp'"),
    (lambda: F.interpolate(X, 2, mode="linear"), r"'linear'.* 1 spatial.*\(1, 2, 3, 4\)"),
    (lambda: F.interpolate(X[0, 0], 2), r"1 to 3 spatial dimensions.*\(3, 4\)"),
    (lambda: F.interpolate(X, 2, align_corners=True), "'nearest'.*align_corners"),
    (lambda: F.interpolate(X, 2, mode="area", antialias=True),
     "antialias.*'bilinear' or 'bicubic'.*'area'"),
    (lambda: F.interpolate(X, (2, 3, 4)), r"size.*length 2.*\(2, 3, 4\)"),
    (lambda: F.interpolate(X, None, (2, 3, 4)), r"scale_factor.*length 2.*\(2, 3, 4\)"),
    (lambda: F.interpolate(X, 2, recompute_scale_factor=True),
     "recompute_scale_factor requires scale_factor"),
    (lambda: F.interpolate(X, 0), r"output size \(0, 0\).*positive"),
    (lambda: F.interpolate(X, None, 0.1), r"output size \(0, 0\).*positive"),
    (lambda: F.pixel_shuffle(X, 2), r"2 channels.*divisible.*upscale_factor\*\*2 = 4"),
    (lambda: F.pixel_shuffle(X, 0), "upscale_factor.*at least 1.*0"),
    (lambda: F.pixel_unshuffle(X, 2), "height 3 and width 4.*divisible.*downscale_factor=2"),
    (lambda: F.channel_shuffle(X, 3), "C divisible by groups=3"),
    (lambda: F.affine_grid(IDENTITY, (2, 1, 2, 2)), r"\(1, 2, 3\) for \(2, 1, 2, 2\)"),
    (lambda: F.grid_sample(X, X), r"\(1, 2, 3, 4\) and \(1, 2, 3, 4\)"),
    (lambda: F.grid_sample(X, GRID, "cubic"), "'bilinear', 'nearest' or 'bicubic'.*'cubic'"),
    (lambda: F.grid_sample(X, GRID, padding_mode="wrap"), "padding_mode.*'reflection'.*'wrap'"),
]


@pytest.mark.parametrize(("call", "text"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_layers():
    nearest = F.interpolate(X, None, 2)
    bilinear = F.interpolate(X, (5, 6), None, "bilinear", True)
    np.testing.assert_array_equal(nn.UpsamplingNearest2d(scale_factor=2)(X), nearest)
    np.testing.assert_array_equal(nn.UpsamplingBilinear2d((5, 6))(X), bilinear)
    assert repr(nn.Upsample(scale_factor=2)) == "Upsample(scale_factor=2, mode='nearest')"
    assert repr(nn.PixelShuffle(2)) == "PixelShuffle(upscale_factor=2)"


def test_older_names(backend):
    x = gp.tensor(np.random.default_rng(0).standard_normal((1, 2, 3, 4)))
    assert F.upsample_nearest(x, scale_factor=2).tolist() == F.interpolate(
        x, scale_factor=2, mode="nearest").tolist()
    assert F.upsample_bilinear(x, (5, 7)).tolist() == F.interpolate(
        x, (5, 7), mode="bilinear", align_corners=True).tolist()
