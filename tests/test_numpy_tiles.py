"""Loops of Numba that multiply in tiles of registers, for the vectors of several processors."""

import functools
import itertools

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop_numpy import compiled, convolution, microkernels, tiles

KERNELS = {}  # each is compiled once


@pytest.fixture(params=[(64, 32), (32, 16), (16, 32), (16, 16)], ids=str)
def vectors(request, monkeypatch):
    """LLVM divides vectors that the processor does not have."""
    monkeypatch.setattr(microkernels, "vectors", lambda: request.param)
    kernels, loops = KERNELS.setdefault(request.param, (
        functools.cache(microkernels.microkernels.__wrapped__),
        functools.cache(tiles.tile_loops.__wrapped__)))
    monkeypatch.setattr(tiles, "microkernels", kernels)
    monkeypatch.setattr(tiles, "tile_loops", loops)


@pytest.fixture
def used(monkeypatch):
    """The geometries that were computed in tiles."""
    found = []
    fills_tiles = tiles.fills_tiles
    monkeypatch.setattr(
        convolution, "fills_tiles", lambda g: fills_tiles(g) and (found.append(g) or True))
    for limit in ("MIN_WORK", "MIN_WORK_OF_COLUMNS", "MIN_WORK_OF_TILES", "MIN_WINDOWS"):
        monkeypatch.setattr(convolution, limit, 0)
    return found


def results(x, w, b, **options):
    tensors = [gpuprop.tensor(a, requires_grad=True) for a in (x, w, b)]
    conv = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    y = conv(*tensors, **options)
    y.backward(np.sin(np.arange(y.size, dtype=x.dtype)).reshape(y.shape))
    return [y.numpy(), *(t.grad.copy() for t in tensors)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "filters", "options"), [
    ((3, 8, 9, 10), (11, 8, 3, 3), {"padding": 1}),
    ((5, 16, 12, 11), (18, 8, 3, 2), {"stride": 2, "groups": 2, "padding": (2, 1)}),
    ((2, 9, 11, 8), (8, 9, 2, 4), {"dilation": 2, "padding": 3, "stride": (1, 3)}),
    ((4, 8, 40), (9, 8, 5), {"padding": 2, "stride": 3}),
    ((2, 8, 5, 4, 6), (8, 8, 3, 2, 1), {"stride": (2, 1, 2), "padding": 1}),
    ((70, 8, 3, 3), (13, 8, 3, 3), {}), ((2, 8, 3, 3), (8, 8, 3, 3), {})])
def test_convolutions(shape, filters, options, dtype, vectors, used, rng):
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in (shape, filters, filters[:1]))
    found = results(x, w, b, **options)
    assert used
    with gpuprop.generic():
        want = results(x, w, b, **options)
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(got, expected, tolerance, tolerance * abs(expected).max())


def test_arrays_in_other_orders(used, rng):
    x = rng.standard_normal((4, 12, 11, 8), "float32").transpose(0, 3, 1, 2)
    w = rng.standard_normal((10, 8, 3, 3), "float32")[:, ::-1, :, ::-1]
    b = np.zeros(20, "float32")[::2]
    before = x.copy()
    found = results(x[::-1], w, b)
    contiguous = [np.ascontiguousarray(a) for a in (x[::-1], w, b)]
    for got, expected in zip(found, results(*contiguous), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert used and np.array_equal(x, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_windows(value, used):
    x = np.ones((3, 8, 9, 10), "float32")
    x[1, 2, 4, 5] = value
    w = np.ones((8, 8, 3, 3), "float32")
    with np.errstate(invalid="ignore"):
        y = F.conv2d(x, w, padding=1)
    assert used
    outside = np.ones(y.shape, bool)
    outside[1, :, 3:6, 4:7] = False
    assert np.isfinite(y[outside]).all() and not np.isfinite(y[~outside]).any()


def test_they_are_as_accurate_as_products_of_columns(used, rng, monkeypatch):
    x = rng.standard_normal((8, 64, 14, 14), "float32")
    w, b = rng.standard_normal((64, 64, 3, 3), "float32"), rng.standard_normal(64, "float32")
    exact = results(*(a.astype("float64") for a in (x, w, b)), padding=1)
    errors = lambda found: [abs(got - e).max() for got, e in zip(found, exact, strict=True)]
    in_tiles = errors(results(x, w, b, padding=1))
    monkeypatch.setattr(convolution, "fills_tiles", lambda g: False)
    for error, other in zip(in_tiles, errors(results(x, w, b, padding=1)), strict=True):
        assert error <= 3 * other


def test_without_numba_nothing_is_tiled(monkeypatch):
    monkeypatch.setattr(compiled, "njit", lambda: None)
    g = convolution.Geometry((9, 9), (16, 16, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    assert not tiles.fills_tiles(g)


def test_few_outputs_or_terms_are_not_tiled():
    def tiled(out, channels, size):
        return tiles.fills_tiles(convolution.Geometry(
            (9, 9), (out, channels, size, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1))

    assert [tiled(*sizes) for sizes in ((8, 8, 1), (7, 8, 3), (8, 1, 7), (8, 2, 4))] == [
        True, False, False, True]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_copies(dtype):
    copy = microkernels.microkernels(np.dtype(dtype)).copy
    run = compiled.njit()(lambda a, b, c, d, e: copy(a, b, c, d, e))
    a = np.arange(60, dtype=dtype)
    for step, stride, count in itertools.product((1, 2, -1), (1, 2, -3), (0, 1, 7)):
        to, want = np.zeros(60, dtype), np.zeros(60, dtype)
        run(to[30:].ctypes.data, step * a.itemsize, a[30:].ctypes.data, stride * a.itemsize, count)
        for k in range(count):
            want[30 + k * step] = a[30 + k * stride]
        np.testing.assert_array_equal(to, want)
