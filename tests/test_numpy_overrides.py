"""The NumPy backend's overrides of ops, with sizes small enough to test every branch."""

import math

import numpy as np
import pytest
import scipy.special

import gpuprop as gp
import gpuprop.functional as F
from gpuprop.functional._recurrent import scan
from gpuprop.testing import check_kernel
from gpuprop.testing.rows._normalization import ROWS
from gpuprop.testing.rows._recurrent import ROWS as RECURRENT
from gpuprop_numpy import (
    attention,
    lstm_loops,
    normalization,
    products,
    recurrent,
    row_norm,
    threads,
)


@pytest.mark.parametrize("block", [20, 1 << 17])
def test_standardize_in_blocks(block, monkeypatch):
    monkeypatch.setattr(normalization, "MIN_SIZE", 1)
    monkeypatch.setattr(normalization, "CACHE_SIZE", block)
    monkeypatch.setattr(normalization, "PER_TASK", block)
    monkeypatch.setattr(row_norm, "BLOCK", block)
    check_kernel("numpy", "gpuprop.functional:standardize", ROWS)


@pytest.mark.parametrize("shape, axes", [((300, 64), (1,)), ((40, 3, 200), (0, 2))])
def test_large_mean_keeps_variance_accurate(shape, axes, rng):
    x = (rng.standard_normal(shape) + 1e4).astype("float32")
    y = normalization.standardize(np, x, None, None, axes, 1e-5)[0]
    exact = x.astype("float64")
    deviation = np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
    exact = (exact - exact.mean(axes, keepdims=True)) / deviation
    np.testing.assert_allclose(y, exact, atol=5e-3)  # float32 has three digits after the point here


@pytest.mark.parametrize("shape, axes", [((300, 64), (1,)), ((40, 3, 200), (0, 2))])
def test_values_whose_squares_overflow(shape, axes, rng):
    """Nanoseconds since 1970, for example."""
    x = (1.7e18 + 1e16 * rng.standard_normal(shape)).astype("float32")
    x *= 10
    with np.errstate(over="ignore", invalid="ignore"):
        y = normalization.standardize(np, x, None, None, axes, 1e-5)[0]
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-3)
    np.testing.assert_allclose(y.std(axes), 1, atol=1e-3)


def test_erf_in_float32_is_1_from_4_on():
    x = np.array([4, 5, 1e10, math.inf], "float32")
    assert gp.erf(x).tolist() == [1] * 4 and gp.erf(-x).tolist() == [-1] * 4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layer", [gp.nn.LSTM, gp.nn.GRU])
def test_recurrent_layers_of_one_unit(layer, dtype, rng):
    """NumPy's negative in place is wrong for some strides, which activations of one unit have."""
    for steps in range(1, 18):
        model = layer(2, 1, dtype=dtype)
        x = rng.standard_normal((steps, 2)).astype(dtype)
        with gp.generic():
            expected = model(x)[0].numpy()
        np.testing.assert_allclose(model(x)[0].numpy(), expected, rtol=1e-5)


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


NORMS = [
    (lambda x: F.batch_norm(x, None, None, training=True), (64, 16, 32), 1),
    (lambda x, w: F.layer_norm(x, (256,), w), (128, 256), 256),
    (lambda x, w: F.layer_norm(x, (2048,), w), (16, 2048), 2048),
    (lambda x, w: F.group_norm(x, 4, w), (8, 16, 256), 16)]


@pytest.mark.parametrize(("norm", "shape", "size"), NORMS)
def test_norms_see_writes_in_place(norm, shape, size, rng):
    x = gp.tensor(rng.standard_normal(shape), requires_grad=True)
    w = gp.tensor(rng.standard_normal(size), requires_grad=True)
    arguments = [x, w][:norm.__code__.co_argcount]

    def gradients(write):
        x.grad = w.grad = None
        loss = (norm(*arguments) ** 2).sum()
        write()
        loss.backward()
        return [a.grad.copy() for a in arguments]

    expected = gradients(lambda: None)
    for a in arguments:
        def write(a=a):
            a.detach()[...] = 2

        try:
            actual = gradients(write)
        except RuntimeError as error:
            assert "written in place" in str(error)
        else:
            np.testing.assert_equal(actual, expected)


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("mean", [0, 0.7, 2, 1e4])
def test_norms_of_any_mean(mean, by_channel, monkeypatch, rng):
    """Rows and channels with a large mean are centered before their squares are summed."""
    monkeypatch.setattr(normalization, "MIN_SIZE", 1)
    monkeypatch.setattr(normalization, "PER_TASK", 20)
    monkeypatch.setattr(row_norm, "BLOCK", 20)
    w, b, dy = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal((16, 5))
    x = rng.standard_normal((16, 5))
    x[:12] += mean

    def results():
        x_w_b = [gp.tensor(a, requires_grad=True) for a in (x, w, b)]
        if by_channel:
            y = F.batch_norm(x_w_b[0], None, None, *x_w_b[1:], training=True)
        else:
            y = F.layer_norm(x_w_b[0], (5,), *x_w_b[1:])
        y.backward(dy)
        return y.data, *(a.grad for a in x_w_b)

    with gp.generic():
        expected = results()
    for got, want in zip(results(), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-7), ("float64", 1e-15)])
def test_gelu(dtype, tolerance, approximate):
    """The tails too, in which the polynomials must not change their sign."""
    x = np.concatenate([np.linspace(-9, 9, 20001), np.geomspace(9, 1e38, 1000)]).astype(dtype)
    x = np.concatenate([x, -x]).reshape(2, -1)[:, ::2]
    z = x.astype("float64")
    cdf = scipy.special.ndtr(z)
    if approximate == "tanh":
        with np.errstate(over="ignore"):
            cdf = (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
    y = F.gelu(x, approximate)
    np.testing.assert_allclose(y / np.where(x == 0, 1, x), np.where(z == 0, 0, cdf), atol=tolerance)


@pytest.mark.parametrize("kept_keys", [0, 256])
@pytest.mark.parametrize("last", [None, 0, 2])
@pytest.mark.parametrize(("n", "m"), [(7, 7), (3, 8), (8, 3), (1, 1)])
def test_attention_in_tiles(n, m, last, kept_keys, monkeypatch, rng):
    monkeypatch.setattr(attention, "SCORES", 3 * n * m)
    monkeypatch.setattr(attention, "QUERIES", 3)
    monkeypatch.setattr(attention, "MIN_QUERIES", 2)
    monkeypatch.setattr(attention, "KEPT_KEYS", kept_keys)
    q = rng.standard_normal((2, n, 4, 5)).swapaxes(1, 2)
    k, v = rng.standard_normal((2, 2, 1, m, 5))
    dy = rng.standard_normal(q.shape)

    def results():
        qkv = [gp.tensor(a, requires_grad=True) for a in (q, k, v)]
        y = F.scaled_dot_product_attention(*qkv, window=None if last is None else (-1, last))
        y.backward(dy)
        return y.data, *(a.grad for a in qkv)

    with gp.generic():
        expected = results()
    for got, want in zip(results(), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(7, 8), (2, 1, 1, 8), (4, 7, 1), (8,)])
@pytest.mark.parametrize("kind", ["bool", "float", "hidden", "large", "gradient"])
@pytest.mark.parametrize("kept_keys", [0, 256])
def test_attention_with_masks(shape, kind, kept_keys, monkeypatch, rng):
    monkeypatch.setattr(attention, "SCORES", 100)
    monkeypatch.setattr(attention, "MIN_QUERIES", 2)
    monkeypatch.setattr(attention, "KEPT_KEYS", kept_keys)
    mask = rng.random(shape) < 0.7
    mask[..., -1] = True
    if kind == "hidden":
        mask[..., :] = False
    if kind not in ("bool", "hidden"):
        mask = np.where(mask, rng.standard_normal(shape), -math.inf)
    if kind == "large":
        mask *= 100
    q = rng.standard_normal((2, 7, 4, 5)).swapaxes(1, 2)
    k, v = rng.standard_normal((2, 2, 4, 8, 5))

    def results():
        qkv = [gp.tensor(a, requires_grad=True) for a in (q, k, v)]
        attn_mask = gp.tensor(mask, requires_grad=kind == "gradient")
        y = F.scaled_dot_product_attention(*qkv, attn_mask)
        y.backward(q)
        return y.data, *(a.grad for a in qkv)

    with gp.generic():
        expected = results()
    for got, want in zip(results(), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size", [1.0, 100.0, np.nan, np.inf])
def test_attention_with_scores_of_any_size(size, rng):
    q, k, v = rng.standard_normal((3, 2, 6, 5)).astype("float32")
    q[1, 2, 3] *= size
    with np.errstate(invalid="ignore"):
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        with gp.generic():
            expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(threads._blas() is None, reason="an unknown BLAS")
@pytest.mark.parametrize("layer", [gp.nn.LSTM, gp.nn.GRU])
def test_steps_of_recurrent_layers_do_not_use_the_threads_of_blas(layer, monkeypatch, rng):
    """These wait for each other without sleeping, 20 times as long on a busy machine."""
    used = []
    matmul = np.matmul

    def watched(a, b, **options):
        if a.size * b.shape[-1] > products.SMALL:
            used.append(threads._blas()[0]())
        return matmul(a, b, **options)

    monkeypatch.setattr(lstm_loops, "is_faster", lambda *_: False)
    monkeypatch.setattr(recurrent, "has_small_products", lambda: False)
    monkeypatch.setattr(products, "can_be_added", lambda a, b: False)
    monkeypatch.setattr(np, "matmul", watched)
    before = gp.get_num_threads()
    gp.set_num_threads(2)
    try:
        x = gp.tensor(rng.standard_normal((3, 32, 100)).astype("float32"), requires_grad=True)
        layer(100, 100)(x)[0].sum().backward()
    finally:
        gp.set_num_threads(before)
    assert len(used) >= 6 and {*used} == {1}


def test_recurrent_weights_in_blocks(monkeypatch):
    monkeypatch.setattr(recurrent, "BLOCK", 2)
    monkeypatch.setattr(recurrent, "MIN_ROWS", 1)
    monkeypatch.setattr(recurrent, "has_small_products", lambda: True)
    rows = [row for row in RECURRENT if row.op is scan]
    check_kernel("numpy", "gpuprop.functional:scan", rows)
