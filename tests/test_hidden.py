"""What an op hides gets no gradient, also if the gradient that it hides is infinite or NaN.

`check_hidden` tests each op by its rows, in tests/test_ops.py; here are whole expressions.
"""

import contextlib
import functools
import math

import numpy as np
import pytest
from tested_backends import BACKENDS

import gpuprop
import gpuprop.functional as F
from gpuprop import nn
from gpuprop._core.registry import get_backend
from gpuprop.functional._attention import attention
from gpuprop.testing._checks import TOLERANCE

HIDING = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, 0, 2),
    "hardsigmoid": F.hardsigmoid,
    "threshold": lambda x: F.threshold(x, 0, 0),
    "clip": lambda x: gpuprop.clip(x, 0, None),
    "maximum": lambda x: gpuprop.maximum(x, 0),
    "where": lambda x: gpuprop.where(x > 0, x, 0),
    "masked_fill": lambda x: gpuprop.masked_fill(x, x <= 0, 0),
    "dropout": lambda x: F.dropout(gpuprop.absolute(x)),
    "dropout2d": lambda x: F.dropout2d(gpuprop.absolute(x)),
    "max_pool2d": lambda x: F.max_pool2d(F.relu(x), 2),
    "lp_pool2d": lambda x: F.lp_pool2d(F.relu(x), 2, 2),
    "tril": lambda x: gpuprop.tril(F.relu(x)),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", HIDING)
def test_square_root_of_what_is_hidden(name, dtype, backend):
    x = np.random.default_rng(0).standard_normal((2, 4, 32, 32))  # large enough for fast versions
    x[0, 0] = -4
    with gpuprop.use(backend), np.errstate(all="ignore"):
        for outer in (gpuprop.sqrt, lambda y: 1 / y):
            t = gpuprop.tensor(x, dtype=dtype, requires_grad=True)
            outer(HIDING[name](t)).sum().backward()
            gradient = gpuprop.asnumpy(t.grad).astype("float64")
            assert not np.isnan(gradient).any()
            if "dropout" not in name:
                assert (gradient[0, 0] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_infinite_gradient_of_sinc_at_0(backend):
    """Its slope there is 0; the rows have no zeros, as finite differences need a distance."""
    with gpuprop.use(backend), np.errstate(invalid="ignore"):
        x = gpuprop.tensor([0.0, -0.0, 1.0], requires_grad=True)
        gpuprop.sinc(x).backward(gpuprop.tensor([math.inf, math.nan, 1.0]))
        assert gpuprop.asnumpy(x.grad).tolist() == [0, 0, -1]


largest_magnitude = functools.partial(gpuprop.norm, p=math.inf)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("f", [gpuprop.max, gpuprop.min, largest_magnitude])
def test_extreme_is_nan(f, backend):
    with gpuprop.use(backend):
        x = gpuprop.tensor([[1, math.nan, 3, math.nan], [2, 1, 1, 2]], requires_grad=True)
        f(x, axis=1).sum().backward()
        gradient = gpuprop.asnumpy(x.grad)
    assert (gradient[0, [0, 2]] == 0).all()
    assert np.isfinite(gradient[1]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("f", [gpuprop.max, gpuprop.min])
def test_nans_divide_the_gradient(f, backend):
    with gpuprop.use(backend):
        x = gpuprop.tensor([1.0, math.nan, 3.0, math.nan], requires_grad=True)
        f(x).backward()
        assert gpuprop.asnumpy(x.grad).tolist() == [0, 0.5, 0, 0.5]


# ---- attention -----------------------------------------------------------------------------------


def boolean(mask):
    return gpuprop.tensor(mask)


def additive(mask):
    return gpuprop.tensor(np.where(mask, 0, -math.inf).astype("float32"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("make_mask", [boolean, additive])
@pytest.mark.parametrize("tile", [None, 64])
def test_query_without_keys(tile, make_mask, dtype, backend, monkeypatch):
    """Zeros and no gradient, whatever the gradient of its output is."""
    rng = np.random.default_rng(0)
    visible = rng.random((2, 1, 8, 8)) < 0.5
    visible[..., 0] = True
    visible[0, :, 3:5] = False
    with gpuprop.use(backend) as b:
        if tile:
            monkeypatch.setattr(type(b), "workspace", lambda self: 16 * tile)
        mask = make_mask(visible)
        arrays = [gpuprop.tensor(rng.standard_normal((2, 3, 8, 4)), dtype=dtype, requires_grad=True)
                  for _ in "qkv"]
        y = F.scaled_dot_product_attention(*arrays, mask)
        assert (y.numpy()[0, :, 3:5] == 0).all()
        upstream = rng.standard_normal(y.shape)
        gradients = []
        for value in (0.0, math.inf, math.nan):
            upstream[0, :, 3:5] = value
            for a in arrays:
                a.grad = None
            y.backward(gpuprop.tensor(upstream, dtype=dtype), retain_graph=True)
            gradients.append([gpuprop.asnumpy(a.grad).astype("float64") for a in arrays])
    assert (gradients[0][0][0, :, 3:5] == 0).all()
    for other in gradients[1:]:
        for g, expected in zip(other, gradients[0], strict=True):
            np.testing.assert_array_equal(g, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [
    {}, dict(add_bias_kv=True), dict(kdim=3, vdim=2), dict(dropout=0.25)], ids=str)
@pytest.mark.parametrize("floating", [True, False])
def test_padded_sample_of_multi_head_attention(floating, options, training, backend):
    """With and without weights the result is the same: zeros before the last projection."""
    padding = np.array([[False, False, True], [True, True, True]])
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")
    results = []
    with gpuprop.use(backend):
        m = nn.MultiheadAttention(4, 2, batch_first=True, **options).train(training)
        m.out_proj.bias.data[...] = 1
        mask = additive(~padding) if floating else gpuprop.tensor(padding)
        for need_weights in (True, False):
            gpuprop.manual_seed(0)
            m.zero_grad()
            inputs = [gpuprop.tensor(x[..., :n], requires_grad=True)
                      for n in (4, m.kdim, m.vdim)]
            y, weights = m(*inputs, key_padding_mask=mask, need_weights=need_weights)
            y.sum().backward()
            parameters = [p for p in m.parameters() if p.requires_grad]
            results.append([gpuprop.asnumpy(a) for a in (
                y.data, *(t.grad for t in inputs), *(p.grad for p in parameters))])
            if weights is not None and "add_bias_kv" not in options:
                assert (weights.numpy()[1] == 0).all()
    y, dq, dk, dv, *_ = results[0]
    for a in results[0]:
        assert np.isfinite(a).all()
    if "add_bias_kv" not in options:  # which every query sees
        assert (y[1] == 1).all()
        for d in (dq, dk, dv):
            assert (d[1] == 0).all()
    if not (training and "dropout" in options):  # the routes draw other masks
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


PADDING = np.array([[False, False, True], [True, True, True]])
CAUSAL = np.tril(np.ones((3, 3), bool))
CAUSAL[1] = False  # a query that sees nothing
MASKS = {
    "none": lambda visible, dtype: None,
    "boolean": lambda visible, dtype: gpuprop.tensor(~visible),
    "additive": lambda visible, dtype: additive(visible).astype(dtype),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("padding_kind", MASKS)
def test_scores_beyond_float16_in_multi_head_attention(padding_kind, kind, dtype, backend):
    """With weights and without, scores are not rounded to a half type, in which they are inf."""
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((2, 3, 4)) for _ in range(2))
    results = []
    with gpuprop.use(backend):
        m = nn.MultiheadAttention(4, 2, batch_first=True)
        m.in_proj_weight.data[...] = gpuprop.tensor(rng.standard_normal((12, 4)) * 20).data
        m.to(dtype)
        hidden = MASKS[kind](CAUSAL, dtype)
        padding = MASKS[padding_kind](~PADDING, dtype)
        for need_weights in (True, False):
            q, k, v = (gpuprop.tensor(50 * x, dtype=dtype, requires_grad=True) for _ in "qkv")
            y, weights = m(q, k, v, attn_mask=hidden, key_padding_mask=padding,
                           need_weights=need_weights)
            (y * gpuprop.tensor(dy, dtype=dtype)).sum().backward()
            found = [y, q.grad, k.grad, v.grad, *[weights] * need_weights]
            found = [gpuprop.asnumpy(a).astype("float64") for a in found]
            assert all(np.isfinite(a).all() for a in found)
            results.append(found)
    # rounding errors of the gradients of q and k are as large as the scores
    tolerance = TOLERANCE[dtype]
    for a, b in zip(results[0][:4:3], results[1][:4:3], strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * abs(b).max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm_first", [True, False])
def test_padded_sample_of_transformer(norm_first, backend):
    with gpuprop.use(backend):
        gpuprop.manual_seed(0)
        m = nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=True, norm_first=norm_first)
        source = gpuprop.random.normal((2, 3, 8)).requires_grad_()
        target = gpuprop.random.normal((2, 4, 8)).requires_grad_()
        padding = gpuprop.tensor([[False, False, True], [True, True, True]])
        y = m(source, target, src_key_padding_mask=padding, memory_key_padding_mask=padding)
        y.sum().backward()
        for a in (y.data, source.grad, target.grad, *(p.grad for p in m.parameters())):
            assert np.isfinite(gpuprop.asnumpy(a)).all()
        assert (gpuprop.asnumpy(source.grad)[1] == 0).all()


def test_softmax_of_nothing_is_nan():
    """Outside of attention, as in PyTorch and NumPy."""
    with np.errstate(invalid="ignore"):
        assert np.isnan(F.softmax(np.full(3, -math.inf), 0)).all()


def test_versions_agree_on_queries_without_keys(monkeypatch):
    """Windows that hide all keys of some queries, in the definition and tile by tile."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, n, 3)) for n in (6, 4, 4))
    dy = rng.standard_normal((2, 6, 3))
    backend = get_backend("numpy")
    monkeypatch.setattr(type(backend), "workspace", lambda self: 16 * 8)
    xp = backend.xp
    for band in ((-1, None), (None, -2), (3, None), (0, 1)):
        hidden = attention.fn(xp, q, k, v, None, None, None, 1.0, band, 0.0, False)[0] == 0
        results = []
        for upstream in (dy, np.where(hidden, np.nan, dy)):
            for version in (attention.fn, attention.spec.portable):
                y, pullback = version(xp, q, k, v, None, None, None, 1.0, band, 0.0, False)
                results.append([y, *pullback(upstream)[:3]])
        for other in results[1:]:
            for a, b in zip(other, results[0], strict=True):
                np.testing.assert_allclose(a, b, atol=1e-12)


# ---- ignored samples -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("definition", [False, True])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.25}], ids=str)
@pytest.mark.parametrize("f", [F.nll_loss, F.cross_entropy, F.linear_cross_entropy])
def test_ignored_sample_that_is_nan(f, options, definition, backend):
    """Its loss is 0, in every version."""
    if f is F.nll_loss:
        options = {}
    with gpuprop.use(backend), np.errstate(all="ignore"):
        x = gpuprop.tensor([[math.nan, 1.0], [0.5, 1.0]])
        weight = [gpuprop.tensor([[1.0, 0.0], [0.0, 1.0]])] if f is F.linear_cross_entropy else []
        with gpuprop.generic() if definition else contextlib.nullcontext():
            losses = f(x, *weight, gpuprop.tensor([9, 1]), ignore_index=9, reduction="none",
                       **options).numpy()
    assert losses[0] == 0
    assert np.isfinite(losses[1])
