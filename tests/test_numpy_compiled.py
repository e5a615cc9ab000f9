"""Elementwise bodies as loops of Numba: the bits are those of the body on NumPy arrays."""

import contextlib
import functools
import os
import signal
import subprocess
import sys

import numba
import numpy as np
import pytest
import scipy.stats

import gpuprop
from gpuprop import functional as F
from gpuprop import optim
from gpuprop._core import graph
from gpuprop.optim._adam import adam_update
from gpuprop.testing import check_kernel
from gpuprop.testing.rows._attention import ROWS as ATTENTION
from gpuprop.testing.rows._normalization import ROWS as NORMALIZATION
from gpuprop.testing.rows._pooling import ROWS as POOLING
from gpuprop_numpy import (
    NumpyBackend,
    attention,
    attention_loops,
    compiled,
    convolution,
    depthwise,
    microkernels,
    normalization,
    pointwise,
    pooling,
    row_norm,
    scatter,
    threads,
    traced,
)

xp = NumpyBackend().xp
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 1e38, np.inf, -np.inf, np.nan]


def momentum(xp, p, g, m, lr):
    m *= 0.9
    m += g
    p -= lr * m
    return abs(p)


def maximum_of_all(xp, v, v_max):
    v_max[...] = xp.maximum(v_max, v)
    v = v_max
    return xp.sqrt(v) + 1, v


def aliases(xp, x, y):
    z = x * 2
    same = z
    z += y
    return same * z


def masks(xp, x, y):
    low, high = x < y, xp.isnan(x)
    return xp.where((low | high) & ~(x >= 1), x, 0), low, xp.isfinite(y).astype(x.dtype) - 1


# bodies of arrays x and y, in operators and functions
BODIES = {
    "operators": lambda xp, x, y: (x + y, x - y, x * y, x / y, -x, abs(x), x**2),
    "reflected": lambda xp, x, y: (1 + x, 1 - x, 3 * x, 1 / x, 2.5 - y),
    "comparisons": lambda xp, x, y: (x < y, x <= y, x > y, x >= 0, x == y, x != y, x > 1),
    "functions": lambda xp, x, y: (
        xp.add(x, y), xp.subtract(x, 1), xp.multiply(2, y), xp.divide(x, y), xp.negative(x),
        xp.abs(x), xp.absolute(y), xp.square(x), xp.sqrt(xp.abs(x)), xp.maximum(x, y),
        xp.minimum(x, y), xp.clip(x, -1, 1), xp.clip(x, None, y), xp.isnan(x), xp.isfinite(x)),
    "where": lambda xp, x, y: xp.where(x > y, xp.pi, y),
    "masks": masks,
    "aliases": aliases,
    "one argument twice": lambda xp, x, y: x * x.astype(x.dtype) + xp.float32(1).item(),
}


@pytest.fixture
def loops(monkeypatch):
    """The names of the bodies that were compiled, and None for others."""
    found = []

    def spy(fn, *arguments):
        loop = traced.loop_of(fn, *arguments)
        found.append(fn.__name__ if loop else None)
        return loop

    monkeypatch.setattr(pointwise, "loop_of", spy)
    monkeypatch.setattr(pointwise, "SMALL", 16)
    monkeypatch.setattr(pointwise, "FIRST", 32)
    monkeypatch.setattr(pointwise, "BLOCK", 64)
    monkeypatch.setattr(threads, "MIN_SECONDS", 0)
    return found


def pairs(dtype):
    """Arrays with all pairs of special values, and random ones."""
    x, y = (a.ravel() for a in np.meshgrid(SPECIAL, SPECIAL))
    rng = np.random.default_rng(0)
    return [np.concatenate([a, rng.standard_normal(400)]).astype(dtype) for a in (x, y)]


def same_bits(got, want, of_zeros=True):
    got, want = (r if isinstance(r, tuple) else (r,) for r in (got, want))
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype and g.shape == w.shape
        np.testing.assert_array_equal(g, w)
        if of_zeros and g.dtype != bool:  # the sign of NaN has no meaning
            np.testing.assert_array_equal(np.signbit(g)[g == g], np.signbit(w)[g == g])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BODIES)
def test_bits(name, dtype, loops):
    x, y = pairs(dtype)
    body = BODIES[name]
    with np.errstate(all="ignore"):
        want = body(xp, x, y)
        # processors choose one of 0 and -0 as the maximum
        same_bits(pointwise.blockwise(body)(xp, x, y), want, of_zeros=name != "functions")
    assert loops == [body.__name__]


@pytest.mark.parametrize("min_seconds", [0, 1e9], ids=["threads", "no threads"])
@pytest.mark.parametrize("count", [1, 2])
def test_every_element_is_computed(count, min_seconds, loops, monkeypatch):
    monkeypatch.setattr(threads, "MIN_SECONDS", min_seconds)
    x = np.arange(1000.0)
    before = gpuprop.get_num_threads()
    try:
        gpuprop.set_num_threads(count)
        np.testing.assert_array_equal(pointwise.blockwise(lambda xp, x: x + 1)(xp, x), x + 1)
    finally:
        gpuprop.set_num_threads(before)
    assert loops == ["<lambda>"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lr", [0.1, np.array(0.1), None], ids=["number", "0-d array", "array"])
def test_updates(lr, dtype, loops):
    p, g = pairs(dtype)
    m = np.ones_like(p)
    lr = p + 1 if lr is None else lr.astype(dtype) if isinstance(lr, np.ndarray) else lr
    copies = [a.copy() for a in (p, g, m)]
    with np.errstate(all="ignore"):
        want = momentum(xp, *copies, lr)
        got = pointwise.blockwise(momentum)(xp, p, g, m, lr)
    same_bits((got, p, g, m), (want, *copies))
    assert loops == ["momentum"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BODIES)
def test_bits_with_a_broadcast_number(name, dtype, loops):
    x = pairs(dtype)[0]
    y = np.broadcast_to(x.dtype.type(0.5), x.shape)
    body = BODIES[name]
    for a, b in ((x, y), (y, x), (y, y)):
        with np.errstate(all="ignore"):
            same_bits(pointwise.blockwise(body)(xp, a, b), body(xp, a, b),
                      of_zeros=name != "functions")


@pytest.mark.parametrize("rows", [700, 4000])  # one loop, and threads
@pytest.mark.parametrize("activation", [F.relu, F.elu, F.hardtanh, F.leaky_relu, F.softplus])
def test_broadcast_arguments_and_gradients(activation, rows, rng):
    number = np.broadcast_to(np.float32(2), (rows, 100))
    for values in (rng.standard_normal((rows, 100), "float32"), number):
        found = []
        for context in (contextlib.nullcontext, gpuprop.generic):
            x = gpuprop.Tensor(values, requires_grad=True)
            with context():
                activation(x).sum().backward()
            found.append(x.grad)
        np.testing.assert_allclose(*found, rtol=1e-6)


def test_an_array_given_twice(loops):
    x = np.arange(100.0)
    copy = x.copy()
    want = maximum_of_all(xp, copy, copy)
    same_bits((*pointwise.blockwise(maximum_of_all)(xp, x, x), x), (*want, copy))
    run = pointwise.blockwise(maximum_of_all)
    v, v_max = np.arange(100.0), np.full(100, 30.0)
    run(xp, v, v)
    run(xp, v, v_max)
    np.testing.assert_array_equal(v_max, np.maximum(v, 30))
    assert loops == ["maximum_of_all"] * 3


RULES = [name for name in optim.__all__ if hasattr(getattr(optim, name), "update_kernel")]


@pytest.mark.parametrize("rule", RULES)
def test_optimizers(rule, loops):
    """Three steps on one large and one small parameter."""

    def trained():
        gpuprop.manual_seed(0)
        params = [gpuprop.Parameter(gpuprop.random.normal(shape)) for shape in ((60, 50), (3, 2))]
        optimizer = getattr(optim, rule)(params)
        for _ in range(3):
            optimizer.zero_grad()
            sum((p**3).sum() for p in params).backward()
            optimizer.step()
        return [p.numpy() for p in params]

    found = trained()
    with gpuprop.generic():
        want = trained()
    for a, b in zip(found, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_adam_is_compiled(loops):
    p, g = pairs("float32")
    coefficients = [np.array(c, "float32") for c in (0.1, 0.999, 0.001, 1e-3, 1e-8, 0, 1)]
    found, want = ([p.copy(), g, *coefficients, g.copy(), abs(g)] for _ in range(2))
    with np.errstate(all="ignore"):
        adam_update.fn(xp, *want)
        pointwise.blockwise(adam_update.fn)(xp, *found)
    same_bits(tuple(found), tuple(want))
    assert loops == ["adam_update"]


@pytest.mark.parametrize("body", [
    lambda xp, x: xp.exp(x), lambda xp, x: x**3, lambda xp, x: x**0.5, lambda xp, x: x // 2,
    lambda xp, x: x.astype("float32"), lambda xp, x: x + np.float32(1),
    lambda xp, x: xp.where(x > 0, 1, 0), lambda xp, x: xp.sign(x), lambda xp, x: (x > 0) * 2,
    lambda xp, x: (x > 0) + (x < 1), lambda xp, x: xp.where(x, x, 1)])
def test_other_bodies_run_as_they_are(body, loops):
    x = np.linspace(0.5, 2, 100)
    got = pointwise.blockwise(body)(xp, x)
    np.testing.assert_array_equal(got, body(xp, x))
    assert loops == [None]


def other_update(name):
    def body(xp, x, mask):
        if name == "power":
            x **= 2
        elif name == "or":
            mask |= x > 1
        else:
            mask &= x > 1
        return x * 1

    return body


@pytest.mark.parametrize("name", ["power", "or", "and"])
def test_other_updates_reach_the_arguments(name, loops):
    x, mask = np.linspace(0.5, 2, 100), np.arange(100) % 2 == 0
    copies = x.copy(), mask.copy()
    body = other_update(name)
    want = body(xp, *copies)
    same_bits((pointwise.blockwise(body)(xp, x, mask), x, mask), (want, *copies))
    assert loops == [None]


def test_bodies_that_read_attributes_run_as_they_are(loops):
    body = lambda xp, x: x * x.ndim
    x = np.ones(100)
    np.testing.assert_array_equal(pointwise.blockwise(body)(xp, x), x)
    assert loops == [None]


@pytest.mark.parametrize("arrays", [
    [np.arange(100), np.arange(100)], [np.ones(100, "float32"), np.ones(100)],
    [np.ones(100, "float32"), np.array(2.0)], [np.ones(100), 3], [np.ones(100, "float16"), 1.0],
    [np.ones((10, 10)), np.ones(10)], [np.ones((20, 20))[::2, ::2], np.ones((10, 10))]])
def test_other_arrays_are_not_compiled(arrays, loops):
    body = lambda xp, x, y: x + y
    same_bits(pointwise.blockwise(body)(xp, *arrays), np.asarray(body(xp, *arrays)))
    assert not any(loops)


def test_errors_are_numpys(loops):
    def increase(xp, x):
        x += 1

    x = np.ones(100)
    run = pointwise.blockwise(increase)
    run(xp, x)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        run(xp, x)
    assert loops == ["increase", None] and (x == 2).all()
    reciprocal = pointwise.blockwise(lambda xp, x: 1 / x)
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        reciprocal(xp, np.zeros(100))
    seen = []
    with np.errstate(divide="call", call=lambda *args: seen.append(args)):
        reciprocal(xp, np.zeros(100))
    assert seen


WITH_LOOPS = pytest.mark.parametrize("with_loops", [True, False], ids=["loops", "NumPy"])


@WITH_LOOPS
def test_gelu(with_loops, monkeypatch):
    monkeypatch.setattr(compiled, "MIN_SIZE", 0 if with_loops else 1 << 60)
    x = np.concatenate([np.linspace(-12, 12, 4801), SPECIAL, [1e20, -1e20]]).astype("float32")
    dy = np.linspace(-2, 2, x.size, dtype="float32")
    t = gpuprop.tensor(x, requires_grad=True)
    with np.errstate(all="ignore"):
        y = F.gelu(t)
        y.backward(dy)
        exact = x.astype("float64")
        cdf = scipy.stats.norm.cdf(exact)
        slope = cdf + exact * scipy.stats.norm.pdf(exact)
        np.testing.assert_allclose(y.numpy(), (exact * cdf).astype("float32"), 3e-7, 1e-6)
    finite = np.isfinite(x)
    np.testing.assert_allclose(t.grad[finite], (dy * slope)[finite], 3e-7, 1e-6)


@WITH_LOOPS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "filters", "options"), [
    ((3, 4, 9, 10), (4, 1, 3, 3), {"padding": 1}), ((2, 4, 9, 9), (4, 2, 3, 2), {"stride": 2}),
    ((2, 6, 11, 8), (6, 1, 2, 4), {"dilation": 2, "padding": 3}), ((2, 3, 7, 7), (3, 1, 1, 2), {}),
    ((4, 5, 40), (5, 1, 5), {"padding": 2, "stride": 3}), ((1, 2, 60, 60), (2, 1, 5, 5), {})])
def test_depthwise_convolutions(shape, filters, options, dtype, with_loops, monkeypatch):
    monkeypatch.setattr(convolution, "MIN_WORK_OF_SLICES", 0 if with_loops else 1 << 60)
    used = []
    find = depthwise.slice_loops
    monkeypatch.setattr(depthwise, "slice_loops", lambda dtype: used.append(1) or find(dtype))
    monkeypatch.setattr(convolution, "is_faster", lambda *_: True)
    rng = np.random.default_rng(0)
    x, w, bias = (rng.standard_normal(s).astype(dtype) for s in (shape, filters, filters[:1]))
    conv = F.conv1d if len(shape) == 3 else F.conv2d
    groups = shape[1] // filters[1]

    def results():
        a, b = (gpuprop.tensor(v, requires_grad=True) for v in (x, w))
        y = conv(a, b, bias, groups=groups, **options)
        (y * y).sum().backward()
        return y.numpy(), a.grad.copy(), b.grad.copy()

    found = results()
    with gpuprop.generic():
        want = results()
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(got, expected, tolerance, tolerance * abs(expected).max())
    assert bool(used) == with_loops


def count_calls(monkeypatch, module):
    """The results of the module's `compiled_loops` from now on."""
    used = []
    find = module.compiled_loops
    spy = lambda *options: used.append(find(*options)) or used[-1]
    monkeypatch.setattr(module, "compiled_loops", spy)
    return used


def test_max_pool_rows(monkeypatch):
    monkeypatch.setattr(compiled, "MIN_SIZE", 0)
    used = count_calls(monkeypatch, pooling)
    rows = [row for row in POOLING if "max_pool" in row.op.__name__]
    check_kernel("numpy", "gpuprop.functional:max_pool", rows)
    assert used and all(used)


@pytest.mark.parametrize(("shape", "dtype", "size", "options"), [
    ((3, 5, 90, 91), "float32", 2, {}), ((2, 2, 130, 130), "float64", 2, {}),
    ((2, 3, 120, 123), "float32", 3, {"stride": 2, "padding": 1}),
    ((2, 3, 111, 120), "float32", (2, 4),
     {"stride": (3, 1), "padding": (0, 2), "dilation": (1, 2)}),
    ((2, 2, 150, 150), "float64", 3, {"stride": 4, "ceil_mode": True}),
    ((40, 2, 1001), "float32", 5, {"padding": 2}),
    ((2, 3, 21, 24, 25), "float32", 2, {"padding": 1}),
    ((1, 1, 300, 301), "float64", (16, 16), {"stride": 5})])
def test_max_pool(shape, dtype, size, options, monkeypatch, rng):
    """Ties, NaN and infinities too: both versions take the same elements."""
    monkeypatch.setattr(pooling, "PER_LOOP", 1 << 15)
    used = count_calls(monkeypatch, pooling)
    x = rng.integers(-3, 4, shape).astype(dtype)
    x[rng.random(shape) < 0.1] = np.nan
    x[rng.random(shape) < 0.1] = np.inf
    x[:, :1, :40] = -np.inf
    pool = getattr(F, f"max_pool{len(shape) - 2}d")

    def results():
        a = gpuprop.tensor(x, requires_grad=True)
        y = pool(a, size, **options)
        y.backward(np.arange(y.size).reshape(y.shape).astype(dtype))
        return y.numpy(), a.grad.copy()

    found = results()
    with gpuprop.generic():
        want = results()
    same_bits(found[0], want[0])
    np.testing.assert_allclose(found[1], want[1], 1e-6)
    assert used


@pytest.mark.parametrize("axis", [0, 1])
def test_max_pool_windows_in_the_padding(axis, monkeypatch):
    """Their maximum is -inf, and no element has its gradient."""
    monkeypatch.setattr(compiled, "MIN_SIZE", 0)
    used = count_calls(monkeypatch, pooling)
    monkeypatch.setattr(np, "empty", lambda *args: np.full(*args[:1], 255, *args[1:]))
    size, padding, dilation = ((a, b) if axis else (b, a) for a, b in ((1, 2), (0, 1), (1, 3)))
    x = gpuprop.tensor(np.ones((3, 2, 2, 2), "float32"), requires_grad=True)
    y = F.max_pool2d(x, size, 1, padding, dilation)
    y.sum().backward()
    assert used and (y.data == -np.inf).all() and (x.grad == 0).all()


def test_max_pool_of_wide_windows_and_other_layouts(monkeypatch, rng):
    used = count_calls(monkeypatch, pooling)
    x = rng.standard_normal((2, 300, 210, 3)).transpose(0, 3, 2, 1)[:, ::-1]
    with gpuprop.generic():
        want = F.max_pool2d(x, 3), F.max_pool2d(x, (1, 257))
    same_bits((F.max_pool2d(x, 3), F.max_pool2d(x, (1, 257))), want)
    assert len(used) == 1  # the number of an element of the wider window needs more than one byte


# ---- attention -----------------------------------------------------------------------------------


@pytest.fixture
def compiled_attention(monkeypatch):
    """The calls of the loops."""
    if not microkernels.has_avx():
        pytest.skip("no loops of attention")
    found = []
    loops = attention_loops.attention_loops
    monkeypatch.setattr(attention_loops, "MIN_SCORES", 0)
    monkeypatch.setattr(
        attention_loops, "attention_loops", lambda: found.append(1) or loops())
    return found


def test_attention_rows(compiled_attention):
    rows = [row for row in ATTENTION if row.op.__name__ == "attention"]
    check_kernel("numpy", "gpuprop.functional:attention", rows)
    assert compiled_attention


@pytest.mark.parametrize("kept_keys", [0, 1 << 20])
@pytest.mark.parametrize(("shape", "keys", "width", "options"), [
    ((2, 3, 64, 32), 64, 32, {"is_causal": True}), ((3, 50, 17), 70, 20, {}),
    ((2, 2, 300, 24), 300, 24, {"is_causal": True}), ((1, 2, 130, 8), 600, 5, {"scale": 0.1}),
    ((2, 2, 300, 24), 320, 24, {"window": (-1, 2)}), ((200, 40), 130, 1, {"is_causal": True}),
    ((1, 1), 1, 1, {}), ((2, 1, 1, 9), 500, 9, {"window": (-1, 0)}),
    ((1, 3, 1000, 8), 700, 8, {"is_causal": True})])
def test_attention(shape, keys, width, options, kept_keys, compiled_attention, monkeypatch, rng):
    monkeypatch.setattr(attention, "KEPT_KEYS", kept_keys)
    monkeypatch.setattr(attention, "SCORES", 1 << 15)
    *heads, n, size = shape
    arrays = [2 * rng.standard_normal(s, "float32") for s in (
        (*heads, n, size), (*heads, keys, size), (*heads, keys, width))]
    dy = rng.standard_normal((n, *heads, width), "float32")
    dy = dy.transpose(*range(1, dy.ndim - 1), 0, -1)  # of heads that are joined

    def results(dtype):
        qkv = [gpuprop.tensor(a.astype(dtype), requires_grad=True) for a in arrays]
        y = F.scaled_dot_product_attention(*qkv, **options)
        y.backward(dy.astype(dtype))
        return y.data, *(a.grad for a in qkv)

    found = results("float32")
    assert compiled_attention
    with gpuprop.generic():
        want = results("float64")
    for got, expected in zip(found, want, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, 1e-5, 3e-6 * abs(expected).max())


def test_attention_of_heads_that_were_split(compiled_attention, rng):
    """The output and the gradients have the memory order of the heads, and any number of threads
    the same bits."""
    x = rng.standard_normal((5, 70, 3, 4, 16), "float32")

    def results():
        qkv = gpuprop.tensor(x, requires_grad=True)
        q, k, v = (qkv.swapaxes(1, 3)[:, :, i] for i in range(3))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y.backward(y.data)
        return y.data, qkv.grad

    before = gpuprop.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3):
            gpuprop.set_num_threads(n)
            found.append(results())
    finally:
        gpuprop.set_num_threads(before)
    assert compiled_attention and found[0][0].swapaxes(1, 2).flags.c_contiguous
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))
    with gpuprop.generic():
        for got, want in zip(found[0], results(), strict=True):
            np.testing.assert_allclose(got, want, 1e-4, 1e-5)


@pytest.mark.parametrize("value", [50.0, -50.0, 1e4, -1e4, np.inf, -np.inf, np.nan])
def test_attention_with_unusual_scores(value, compiled_attention, rng):
    q, k, v = rng.standard_normal((3, 2, 40, 8), "float32")
    q[0, 7, 1] = k[0, 2, 1] = 1
    q[0, 7, 1] *= value
    q[1, :, :], k[1, :, :] = value ** 0.5 if value > 0 else value, 1  # equal scores
    with np.errstate(invalid="ignore", over="ignore"):
        y = F.scaled_dot_product_attention(q, k, v)
        with gpuprop.generic():
            want = F.scaled_dot_product_attention(q, k, v)
    assert compiled_attention
    np.testing.assert_allclose(y, want, 2e-5, 1e-5)


def test_norm_rows(monkeypatch):
    monkeypatch.setattr(compiled, "MIN_SIZE", 0)
    monkeypatch.setattr(normalization, "MIN_SIZE", 1)
    monkeypatch.setattr(row_norm, "MIN_SIZE", 1)
    used = [count_calls(monkeypatch, module) for module in (normalization, row_norm)]
    check_kernel("numpy", "gpuprop.functional:standardize", NORMALIZATION)
    assert all(loops and all(loops) for loops in used)


def norm_results(norm, x, *parameters):
    """The output and the gradients of a function of arrays."""
    tensors = [None if a is None else gpuprop.tensor(a, requires_grad=True)
               for a in (x, *parameters)]
    y = norm(*tensors)
    y.backward(np.random.default_rng(1).standard_normal(y.shape).astype(x.dtype))
    return [y.numpy(), *(t.grad.copy() for t in tensors if t is not None)]


def check_norm(norm, x, *parameters, tolerance):
    """Compare with the definition, in float64, and with other numbers of threads."""
    threads = gpuprop.get_num_threads()
    results = []
    for n in (1, 2, 3):
        gpuprop.set_num_threads(n)
        results.append(norm_results(norm, x, *parameters))
    gpuprop.set_num_threads(threads)
    for other in results[1:]:
        same_bits(tuple(results[0]), tuple(other))
    with gpuprop.generic():
        wide = [None if a is None else a.astype("float64") for a in (x, *parameters)]
        want = norm_results(norm, *wide)
    for got, expected in zip(results[0], want, strict=True):
        assert got.dtype == x.dtype
        scale = np.nanmax(abs(expected), initial=0)
        np.testing.assert_allclose(got, expected, tolerance, tolerance * scale)


def batch_norm(x, w, b):
    return F.batch_norm(x, None, None, w, b, training=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [
    (33, 40, 7, 9), (5, 3, 5001), (90, 1500, 2), (1, 3, 300, 301), (8, 2, 15, 20, 25)])
@pytest.mark.parametrize("mean", [0, 1e3])
def test_batch_norm(shape, dtype, mean, monkeypatch, rng):
    monkeypatch.setattr(normalization, "PER_LOOP", 1 << 14)
    used = count_calls(monkeypatch, normalization)
    x = rng.standard_normal(shape) * rng.uniform(0.5, 2, (shape[1], *(1,) * (len(shape) - 2)))
    x[:1] += mean  # the mean of the first sample is far from that of all
    w, b = rng.standard_normal((2, shape[1])).astype(dtype)
    tolerance = 1e-12 if dtype == "float64" else 3e-5 if mean else 3e-6  # of the mean in float32
    check_norm(batch_norm, x.astype(dtype), w, b, tolerance=tolerance)
    check_norm(batch_norm, x.astype(dtype), None, None, tolerance=tolerance)
    assert used and all(used)


def test_batch_norm_of_other_layouts(rng):
    x = rng.standard_normal((70, 40, 41, 3)).transpose(0, 3, 2, 1)[:, ::-1]
    check_norm(batch_norm, x, *rng.standard_normal((2, 3)), tolerance=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 1, 2), (5, 1, 3)])
def test_batch_norm_of_nan_and_infinity(value, place, rng):
    """They spread in their channel."""
    x = rng.standard_normal((64, 3, 400)).astype("float32")
    x[place] = value
    y = batch_norm(x, None, None)
    assert np.isnan(y[:, 1]).all() and np.isfinite(y[:, [0, 2]]).all()


def test_batch_norm_of_equal_elements():
    x = np.full((7, 30, 400), 0.1, "float32")
    running = np.zeros(30, "float32"), np.zeros(30, "float32")
    assert abs(F.batch_norm(x, *running, training=True, momentum=1)).max() < 1e-4
    np.testing.assert_allclose(running[0], 0.1, 1e-6)
    assert ((running[1] >= 0) & (running[1] < 1e-12)).all()


def layer_norm(x, w, b):
    return F.layer_norm(x, x.shape[-1:], w, b)


def rms_norm(x, w):
    return F.rms_norm(x, x.shape[-1:], w)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(101, 1000), (700, 5, 33), (20000, 13), (3, 30001), (2, 60000)])
@pytest.mark.parametrize("mean", [0, 1e3])
def test_layer_norm(shape, dtype, mean, monkeypatch, rng):
    monkeypatch.setattr(row_norm, "PER_LOOP", 1 << 14)
    used = count_calls(monkeypatch, row_norm)
    x = (rng.standard_normal(shape) + mean).astype(dtype)
    w, b = rng.standard_normal((2, shape[-1])).astype(dtype)
    tolerance = 1e-11 if dtype == "float64" else 1e-3 if mean else 1e-5  # of the mean in float32
    check_norm(layer_norm, x, w, b, tolerance=tolerance)
    check_norm(layer_norm, x, None, b, tolerance=tolerance)
    check_norm(rms_norm, x, w, tolerance=tolerance)
    assert used and all(used)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "groups"), [((33, 12, 20, 21), 3), ((20, 9, 501), 9)])
def test_group_norm(shape, groups, dtype, monkeypatch, rng):
    monkeypatch.setattr(row_norm, "PER_LOOP", 1 << 14)
    used = count_calls(monkeypatch, row_norm)
    x, (w, b) = rng.standard_normal(shape), rng.standard_normal((2, shape[1]))
    norms = [lambda x, w, b: F.group_norm(x, groups, w, b),
             lambda x, w, b: F.instance_norm(x, weight=w, bias=b)]
    for norm in norms:
        for arrays in ([x, w, b], [x, None, b], [x, w, None], [x, None, None]):
            arrays = [None if a is None else a.astype(dtype) for a in arrays]
            check_norm(norm, *arrays, tolerance=1e-5 if dtype == "float32" else 1e-12)
    assert used and all(used)


def test_layer_norm_of_other_layouts(rng):
    x = rng.standard_normal((41, 70, 40)).transpose(1, 2, 0)[::-1]
    check_norm(layer_norm, x, *rng.standard_normal((41, 2)).T, tolerance=1e-11)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_layer_norm_of_nan_and_infinity(value, rng):
    """They spread in their row."""
    x = rng.standard_normal((300, 300)).astype("float32")
    x[5, 7] = value
    y = layer_norm(x, None, None)
    assert np.isnan(y[5]).all() and np.isfinite(np.delete(y, 5, 0)).all()


@WITH_LOOPS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "axis"), [((50, 33), 0), ((3, 50, 7), 1), ((4, 50), -1)])
def test_index_add(shape, axis, dtype, with_loops, monkeypatch):
    """The sums have the same bits, since their order is the same."""
    monkeypatch.setattr(scatter, "MIN_SIZE", 0 if with_loops else 1 << 60)
    used = []
    find = scatter.compiled_loop
    monkeypatch.setattr(scatter, "compiled_loop", lambda: used.append(1) or find())
    rng = np.random.default_rng(0)
    a = rng.standard_normal(shape).astype(dtype)
    index = rng.integers(-50, 50, 300)
    count = [300 if n == 50 else n for n in shape]
    values = rng.standard_normal(count[::-1]).astype(dtype).T
    want = a.copy()
    np.add.at(np.moveaxis(want, axis, 0), index, np.moveaxis(values, axis, 0))
    assert scatter.index_add(a, index, values, axis) is a
    np.testing.assert_array_equal(a, want)
    assert bool(used) == with_loops
    a.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        scatter.index_add(a, index, values, axis)
    with pytest.raises(IndexError, match="index 50 is out of bounds"):
        scatter.index_add(want, index + 50 - index.max(), values, axis)


@pytest.mark.parametrize("activation", [F.gelu, F.relu, F.hardtanh])
def test_the_search_for_writes_does_not_enter_numba(activation, loops, monkeypatch):
    """It looks at all that pullbacks hold."""
    monkeypatch.setattr(compiled, "MIN_SIZE", 0)
    seen = []
    contents = graph._contents
    monkeypatch.setattr(graph, "_contents", lambda x: seen.append(type(x)) or contents(x))
    x = gpuprop.tensor(np.linspace(-2, 2, 1000, dtype="float32"), requires_grad=True)
    y = activation(x).sum()
    other = gpuprop.tensor(np.ones(3))
    other[...] = 2
    y.backward()
    assert seen and not {t for t in seen if t.__module__.startswith(("numba", "llvmlite"))}


def test_without_numba(loops, monkeypatch):
    @functools.cache
    def njit():
        return None

    monkeypatch.setattr(compiled, "njit", njit)
    x = np.ones(100)
    np.testing.assert_array_equal(pointwise.blockwise(lambda xp, x: x + 1)(xp, x), x + 1)
    assert loops == [None]


@pytest.mark.parametrize("error", [
    ImportError("Numba needs NumPy 2.3 or less"), SystemError("initialization failed"),
    RuntimeError("LLVM"), ValueError("Number of threads specified must be > 0.")])
def test_numba_that_cannot_be_imported_is_not_used(error, monkeypatch):

    def import_module(name):
        raise error

    monkeypatch.setattr(compiled.importlib, "import_module", import_module)
    assert compiled.njit.__wrapped__() is None


def test_numba_that_compiles_nothing_is_not_used(monkeypatch):
    """Loops in Python would be slow, and have no vectors."""
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    assert compiled.njit.__wrapped__() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_compiles():
    """The child compiles too."""
    code = """
import os, threading
from numba.core.compiler_lock import global_compiler_lock
from gpuprop_numpy import compiled

decorate = compiled.njit()
begun, ended = threading.Event(), threading.Event()

def compile_slowly():
    with global_compiler_lock:
        begun.set()
        ended.wait(0.2)

threading.Thread(target=compile_slowly).start()
begun.wait()
child = os.fork()
if not child:
    os._exit(decorate(lambda x: x + 1)(1) - 2)
print(os.waitpid(child, 0)[1], decorate(lambda x: x + 1)(1))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.split() == ["0", "2"]


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="the system has no signals")
def test_handlers_of_signals_wait_while_loops_are_compiled():
    """In LLVM's callbacks an exception would be lost, and LLVM damaged."""
    events = []

    def function(value):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        events.append(value)
        return value

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        compiled._uninterrupted(function)(1)
    assert events == [1] and signal.getsignal(signal.SIGINT) is before
    assert compiled._uninterrupted(abs)(-2) == 2
    loop = compiled.Loop(compiled.njit()(lambda x: x + 1))
    assert loop(1) == 2 and loop.function.compile.__wrapped__
