"""Loops of Numba that multiply in tiles of registers, for the vectors of several processors.

They compute convolutions, and the steps of LSTMs.
"""

import functools
import itertools

import numpy as np
import pytest
from numba.core import config

import gpuprop
import gpuprop.functional as F
from gpuprop import nn
from gpuprop_numpy import (
    attention_loops,
    compiled,
    convolution,
    elementary,
    lstm_loops,
    microkernels,
    packed_tiles,
    product_loops,
    tiles,
)
from gpuprop_numpy.columns import Columns

needs_avx = pytest.mark.skipif(not microkernels.has_avx(), reason="other tiles are used")
KERNELS = {}  # each is compiled once


@pytest.fixture(params=[(64, 32), (32, 16), (16, 32), (16, 16)], ids=str)
def vectors(request, monkeypatch):
    """LLVM divides vectors that the processor does not have."""
    monkeypatch.setattr(microkernels, "vectors", lambda: request.param)
    modules = tiles, lstm_loops, product_loops, packed_tiles, attention_loops, microkernels
    functions = (microkernels.microkernels, microkernels.tile_of_strips, product_loops.packing,
                 product_loops.address_loop, product_loops.allocating_loop, product_loops.workspace,
                 product_loops.product_loop, product_loops.part_loop, product_loops.divided_loop,
                 tiles.tile_loops,
                 lstm_loops.lstm_loops, packed_tiles.packed_tile_loops)
    kept = KERNELS.setdefault(request.param, {
        f.__name__: functools.cache(f.__wrapped__) for f in functions})
    for module in modules:
        for name in kept.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, kept[name])


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


def assert_as_defined(found, x, w, b, **options):
    with gpuprop.generic():
        want = results(x, w, b, **options)
    tolerance = 2e-5 if x.dtype == "float32" else 1e-12
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(got, expected, tolerance, tolerance * abs(expected).max())


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
    assert_as_defined(found, x, w, b, **options)


@needs_avx
@pytest.mark.parametrize("vectors", [(64, 32), (32, 16)], indirect=True)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "filters", "options"), [
    ((3, 8, 9, 8), (16, 8, 3, 3), {"padding": 1}), ((1, 9, 8, 8), (8, 9, 3, 3), {"padding": 1}),
    ((5, 32, 12, 16), (16, 16, 3, 2), {"stride": (1, 2), "groups": 2, "padding": (0, 1)}),
    ((2, 9, 11, 22), (24, 9, 2, 4), {"dilation": 2}), ((4, 8, 44), (8, 8, 5), {}),
    ((2, 8, 5, 4, 9), (8, 8, 3, 2, 2), {"stride": (2, 1, 1), "padding": (1, 0, 0)}),
    ((20, 50, 8, 8), (8, 50, 3, 3), {"padding": 1})])
def test_packed_tiles(shape, filters, options, dtype, vectors, used, rng, monkeypatch):
    geometries = []
    packs = packed_tiles.PackedTiles.loops
    monkeypatch.setattr(packed_tiles.PackedTiles, "loops", staticmethod(
        lambda dtype: geometries.append(dtype) or packs(dtype)))
    monkeypatch.setattr(packed_tiles, "MIN_OUT", 0)
    monkeypatch.setattr(packed_tiles, "MIN_SAVED", 0)
    convolution.bands.cache_clear()
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in (shape, filters, filters[:1]))
    found = results(x, w, b, **options)
    assert len(geometries) >= 2
    assert_as_defined(found, x, w, b, **options)


@needs_avx
def test_bands_of_signals_end_with_pieces(used, rng, monkeypatch):
    """The windows of a band that are copied together are of one image."""
    monkeypatch.setattr(convolution, "MAX_ELEMENTS", 1 << 12)
    monkeypatch.setattr(packed_tiles, "MIN_SAVED", 0)
    convolution.bands.cache_clear()
    x = rng.standard_normal((3, 16, 200), "float32")
    w, b = rng.standard_normal((64, 16, 3), "float32"), np.zeros(64, "float32")
    found = results(x, w, b, padding=16, dilation=16)
    convolution.bands.cache_clear()
    assert_as_defined(found, x, w, b, padding=16, dilation=16)


@needs_avx
def test_which_convolutions_are_packed():
    def kinds(out, width):
        g = convolution.Geometry((width, width), (out, 64, 3, 3), (1, 1), ((1, 1), (1, 1)),
                                 (1, 1), 1)
        return [convolution.kind_of(g).__name__, convolution.grad_kind_of(g).__name__]

    assert kinds(64, 16) == kinds(128, 16) == ["Tiles", "PackedTiles"]
    assert kinds(128, 8) == ["PackedTiles", "PackedTiles"]
    assert kinds(32, 16) == kinds(64, 17) == kinds(68, 16) == ["Tiles", "Tiles"]


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


def test_a_small_band_is_computed_as_the_others(rng, monkeypatch):
    """The last band of an image has fewer rows, too few for tiles of its own."""
    x, w = rng.standard_normal((1, 8, 33, 20)), rng.standard_normal((8, 8, 3, 3))
    for limit in ("MIN_WORK", "MIN_WORK_OF_COLUMNS", "MIN_WINDOWS"):
        monkeypatch.setattr(convolution, limit, 0)
    monkeypatch.setattr(convolution, "MIN_WORK_OF_TILES", 5 * 18 * 8 * 72)
    monkeypatch.setattr(convolution, "MAX_ELEMENTS", 18 * 16 * 5)
    monkeypatch.setattr(convolution, "bands", convolution.bands.__wrapped__)  # without its cache
    geometries = [band.geometry for band in convolution.bands(convolution.Geometry(
        (33, 20), w.shape, (1, 1), ((0, 0), (0, 0)), (1, 1), 1))]
    assert {convolution.kind_of(g) for g in geometries} == {tiles.Tiles, Columns}
    found = results(x, w, np.zeros(8))
    with gpuprop.generic():
        want = results(x, w, np.zeros(8))
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(got, expected, 1e-12, 1e-12 * abs(expected).max())


@pytest.mark.parametrize(("setting", "size"), [
    ("", 16), ("+avx,+sse2", 32), ("+avx2,-avx512f", 16), ("+avx,+avx512f", 64)])
def test_vectors_are_those_for_which_numba_compiles(setting, size, monkeypatch):
    monkeypatch.setattr(config, "CPU_FEATURES", setting)
    assert microkernels.vectors()[0] == size


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_copies(dtype):
    copy = microkernels.microkernels(np.dtype(dtype)).copy
    run = compiled.njit()(lambda a, b, c, d, e: copy(a, b, c, d, e))
    a = np.arange(100, dtype=dtype)
    for step, stride, count in itertools.product((1, 2, -1), (1, 2, -3), (*range(10), 15)):
        to, want = np.zeros(100, dtype), np.zeros(100, dtype)
        run(to[50:].ctypes.data, step * a.itemsize, a[50:].ctypes.data, stride * a.itemsize, count)
        for k in range(count):
            want[50 + k * step] = a[50 + k * stride]
        np.testing.assert_array_equal(to, want)


def test_products(vectors, rng):
    loop = product_loops.product_loop.__wrapped__(np.dtype("float32"))
    for rows, terms, columns in ((8, 8, 8), (9, 400, 61), (200, 11, 49)):
        a = rng.integers(-4, 5, (rows, terms)).astype("float32")
        b = rng.integers(-4, 5, (columns, terms)).astype("float32").T
        for x, y in ((a, b), (np.asfortranarray(a), np.ascontiguousarray(b))):
            out = np.empty((rows, columns), "float32")
            loop(np.ones(columns, "float32"), x, y, out)
            np.testing.assert_array_equal(out, x @ y + 1)


def test_attention(vectors, monkeypatch, rng):
    monkeypatch.setattr(attention_loops, "attention_loops",
                        functools.cache(attention_loops.attention_loops.__wrapped__))
    monkeypatch.setattr(attention_loops, "has_avx", lambda: True)
    arrays = rng.standard_normal((3, 2, 2, 70, 9), "float32")

    def results():
        qkv = [gpuprop.tensor(a, requires_grad=True) for a in arrays]
        y = F.scaled_dot_product_attention(*qkv, is_causal=True)
        y.backward(arrays[0])
        return y.data, *(a.grad for a in qkv)

    found = results()
    assert attention_loops.attention_loops.cache_info().misses
    with gpuprop.generic():
        for got, want in zip(found, results(), strict=True):
            np.testing.assert_allclose(got, want, 1e-4, 1e-5)


# ---- LSTM ----------------------------------------------------------------------------------------


@pytest.fixture
def compiled_lstms(monkeypatch):
    """The calls of the compiled version."""
    found = []
    lstm = lstm_loops.lstm
    monkeypatch.setattr(lstm_loops, "MIN_WORK", 0)
    monkeypatch.setattr(lstm_loops, "lstm", lambda *args: found.append(1) or lstm(*args))
    return found


def lstm_results(model, x, lengths=None, states=None):
    arrays = [gpuprop.tensor(a, requires_grad=True) for a in (x, *(states or ()))]
    input = arrays[0]
    if lengths is not None:
        input = nn.utils.rnn.pack_padded_sequence(input, lengths, enforce_sorted=False)
    y, (h, c) = model(input, tuple(arrays[1:]) or None)
    y = y if lengths is None else y.data
    weights = gpuprop.tensor(np.cos(np.arange(y.size, dtype="float32")).reshape(y.shape))
    model.zero_grad()
    ((y * weights).sum() + (h * h).sum() - (c * c).sum()).backward()
    grads = [*(a.grad for a in arrays), *(p.grad for p in model.parameters())]
    return [y.numpy(), h.numpy(), c.numpy(), *map(np.array, grads)]


@pytest.mark.parametrize("options", [
    {"hidden_size": 64}, {"hidden_size": 48, "num_layers": 2, "bidirectional": True},
    {"hidden_size": 51, "bias": False}])
@pytest.mark.parametrize("n", [1, 8, 37])
@pytest.mark.parametrize("kind", ["plain", "packed", "states"])
def test_lstm(options, n, kind, vectors, compiled_lstms, rng):
    model = nn.LSTM(11, **options)
    x = rng.standard_normal((7, n, 11), "float32")
    lengths = rng.integers(1, 8, n) if kind == "packed" else None
    layers = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    states = kind == "states" and [
        rng.standard_normal((layers, n, model.hidden_size), "float32") for _ in range(2)]
    found = lstm_results(model, x, lengths, states)
    assert compiled_lstms
    with gpuprop.generic():
        want = lstm_results(model, x, lengths, states)
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(got, expected, 2e-5, 2e-6 * abs(expected).max())


def test_the_bits_of_a_sequence_depend_on_nothing_else(compiled_lstms, rng):
    model = nn.LSTM(8, 64)
    x = rng.integers(-8, 9, (5, 40, 8)).astype("float32")
    w = model.weight_ih_l0.data  # its products with x are exact: BLAS's may depend on all rows
    w[...] = np.round(16 * w) / 16
    before = gpuprop.get_num_threads()
    whole = []
    try:
        for threads in (1, 2, 3):
            gpuprop.set_num_threads(threads)
            whole.append(lstm_results(model, x))
    finally:
        gpuprop.set_num_threads(before)
    for other in whole[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(whole[0], other, strict=True))
    with gpuprop.no_grad():
        y, alone = (model(gpuprop.tensor(part))[0].numpy() for part in (x, x[:, 3:19]))
    np.testing.assert_array_equal(alone, y[:, 3:19])


def test_lstms_that_are_not_compiled(compiled_lstms, rng):
    lstm_results(nn.LSTM(8, 47), rng.standard_normal((5, 4, 8), "float32"))
    with gpuprop.no_grad():
        nn.LSTM(8, 64, dtype="float64")(gpuprop.tensor(rng.standard_normal((5, 4, 8))))
        nn.LSTM(8, 64, proj_size=48)(gpuprop.tensor(rng.standard_normal((5, 4, 8), "float32")))
    assert not compiled_lstms


def test_sigmoid_and_tanh():
    x = np.concatenate([np.linspace(-100, 100, 40_001), np.logspace(-37, 2, 1001),
                        -np.logspace(-37, 2, 1001), [0, -0.0, np.inf, -np.inf, np.nan]])
    x = x.astype("float32")
    exact = x.astype("float64")
    with np.errstate(over="ignore"):
        wanted = {"sigmoid": 1 / (1 + np.exp(-exact)), "tanh": np.tanh(exact)}
    for name, want in wanted.items():
        function = getattr(elementary.elementary(), name)
        loop = compiled.njit()(lambda x, function=function: np.array([function(a) for a in x]))
        np.testing.assert_allclose(loop(x), want, 4e-7, 1e-37)
