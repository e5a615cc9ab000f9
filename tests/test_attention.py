"""Attention: tiles against the definition, linear memory, masks, windows, ALiBi and errors."""

import tracemalloc

import numpy as np
import pytest

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn
from gpuprop.functional import _attention as attention_module
from gpuprop.testing import check_training

attend = F.scaled_dot_product_attention


def arrays(*shapes, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return [gp.tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True)
            for shape in shapes]


def results(inputs, **options):
    """The output, and the gradients of all inputs."""
    gp.manual_seed(1)
    for x in inputs:
        x.grad = None
    q, k, v, *biases = inputs
    names = [name for name in ("attn_mask", "alibi_slopes") if options.get(name) is True]
    y = attend(q, k, v, **options | dict(zip(names, biases, strict=True)))
    (y * gp.arange(y.size, dtype=y.dtype).reshape(y.shape)).sum().backward()
    return [y.numpy(), *(gp.asnumpy(x.grad) for x in inputs)]


HIDDEN = np.random.default_rng(3).random((2, 1, 9, 11)) < 0.7
CASES = {
    "plain": ([], {}),
    "causal": ([], {"is_causal": True}),
    "window": ([], {"window": np.int64(2)}),
    "one-sided window": ([], {"window": (3, -1)}),
    "causal window": ([], {"window": (4, 4), "is_causal": True}),
    "window that hides whole rows": ([], {"window": (0, 0), "is_causal": True}),
    "boolean mask": ([], {"attn_mask": HIDDEN}),
    "additive mask": ([(9, 11)], {"attn_mask": True}),
    "mask per head": ([(2, 3, 9, 11)], {"attn_mask": True, "is_causal": False}),
    "mask per key": ([(2, 3, 1, 11)], {"attn_mask": True, "window": (5, 1)}),
    "slopes": ([(3,)], {"alibi_slopes": True, "is_causal": True}),
    "all options": (
        [(3, 9, 1), (3,)],
        {"attn_mask": True, "alibi_slopes": True, "dropout_p": 0.25, "window": (6, 0)}),
    "dropout": ([], {"dropout_p": 0.5}),
    "scale": ([], {"scale": -2.0}),
}


def set_tile_size(monkeypatch, backend, scores):
    monkeypatch.setattr(backend, "workspace", lambda: scores * attention_module.SCORE_BYTES)


@pytest.mark.parametrize("tile", [(8, 2), (30, 5), (150, 4)])
@pytest.mark.parametrize("case", CASES)
def test_tiles_equal_the_definition(backend, monkeypatch, case, tile):
    """With lengths that no tile size divides, and with the gradients of masks and slopes."""
    biases, options = CASES[case]
    options = {k: gp.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    inputs = arrays((2, 3, 9, 5), (2, 3, 11, 5), (2, 3, 11, 4), *biases)
    with gp.generic():
        want = results(inputs, **options)
    scores, rows = tile
    set_tile_size(monkeypatch, backend, scores)
    monkeypatch.setattr(attention_module, "MIN_QUERIES", rows)
    for w, g in zip(want, results(inputs, **options), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("lead", [(), (5,), ((2, 1), (1, 3), (3,))], ids=str)
def test_leading_axes_broadcast(backend, monkeypatch, lead):
    leads = lead if lead and isinstance(lead[0], tuple) else (lead,) * 3
    sizes = (9, 5), (11, 5), (11, 4)
    inputs = arrays(*((*own, *size) for own, size in zip(leads, sizes, strict=True)))
    with gp.generic():
        want = results(inputs)
    set_tile_size(monkeypatch, backend, 20)
    for w, g in zip(want, results(inputs), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("version", ["definition", "tiles"])
def test_half_types_compute_in_float32(backend, monkeypatch, version):
    set_tile_size(monkeypatch, backend, 1 << 18 if version == "definition" else 20)
    want = results(arrays((2, 9, 8), (2, 11, 8), (2, 11, 4)), is_causal=True)
    got = results([gp.tensor(x.data.astype("float16"), requires_grad=True)
                   for x in arrays((2, 9, 8), (2, 11, 8), (2, 11, 4))], is_causal=True)
    for w, g in zip(want, got, strict=True):
        assert g.dtype == "float16"
        np.testing.assert_allclose(g, w, rtol=2e-2, atol=2e-2 * abs(w).max())


@pytest.mark.parametrize("tile", [1 << 18, 20])
def test_query_without_keys_gives_zeros(backend, monkeypatch, tile):
    set_tile_size(monkeypatch, backend, tile)
    visible = np.ones((9, 11), bool)
    visible[4] = False
    y, dq, dk, dv = results(arrays((9, 5), (11, 5), (11, 4)), attn_mask=gp.tensor(visible))
    assert (y[4] == 0).all() and (dq[4] == 0).all()
    assert all(np.isfinite(a).all() for a in (y, dq, dk, dv))
    additive = gp.tensor(np.where(visible, 0.0, -np.inf))
    others = results(arrays((9, 5), (11, 5), (11, 4)), attn_mask=additive)
    for a, b in zip(others, (y, dq, dk, dv), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_huge_scores_do_not_overflow(backend, monkeypatch):
    set_tile_size(monkeypatch, backend, 20)
    q, k, v = arrays((9, 5), (11, 5), (11, 4), dtype="float32")
    y, dq, *_ = results([gp.tensor(q.data * 1e4, requires_grad=True), k, v])
    best = v.numpy()[(q.numpy() @ k.numpy().T).argmax(axis=-1)]
    np.testing.assert_allclose(y, best, rtol=1e-5)
    assert np.isfinite(dq).all()


def weights(n, m, **options):
    """The attention weights of equal scores: the values are unit vectors."""
    return attend(gp.zeros((n, 2)), gp.zeros((m, 2)), gp.eye(m), **options).numpy()


def test_alignment_of_causal_and_window(backend):
    """For different lengths: `is_causal` as in PyTorch, `window` as in flash-attention."""
    third = 1 / 3
    for options, want in (
            ({"is_causal": True}, [[1, 0, 0, 0], [0.5, 0.5, 0, 0]]),
            ({"window": (-1, 0)}, [[third, third, third, 0], [0.25, 0.25, 0.25, 0.25]]),
            ({"window": (1, 0)}, [[0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]]),
            ({"window": 1}, [[0, third, third, third], [0, 0, 0.5, 0.5]])):
        np.testing.assert_allclose(weights(2, 4, **options), want)


def test_alibi(backend):
    slopes = gp.tensor([0.5])
    q, k, v = gp.zeros((1, 2, 2)), gp.zeros((1, 4, 2)), gp.eye(4)[None]
    got = attend(q, k, v, alibi_slopes=slopes).numpy()[0]
    want = np.exp(-0.5 * np.array([[2, 1, 0, 1], [3, 2, 1, 0]]))
    np.testing.assert_allclose(got, want / want.sum(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(F.alibi_slopes(8).numpy(), 0.5 ** np.arange(1, 9))
    # as in the authors' code
    np.testing.assert_allclose(F.alibi_slopes(3).numpy(), [2**-4, 2**-8, 2**-2])
    with pytest.raises(ValueError, match=r"num_heads must be .* at least 1, got 0"):
        F.alibi_slopes(0)


def test_grouped_query_attention(backend):
    q, k, v = arrays((2, 6, 5, 4), (2, 2, 7, 4), (2, 2, 7, 3))
    repeated = [gp.repeat(a, 3, 1) for a in (k, v)]
    want = attend(q, *repeated, is_causal=True)
    got = attend(q, k, v, is_causal=True, enable_gqa=True)
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-12)


def test_dropout_keeps_the_mean_and_follows_the_seed(backend):
    q, k, v = gp.zeros((64, 2)), gp.zeros((64, 2)), gp.ones((64, 1))
    first, other = (attend(q, k, v, dropout_p=0.5).numpy() for _ in range(2))
    assert abs(first.mean() - 1) < 0.1 and (first != other).any()
    gp.manual_seed(0)
    np.testing.assert_array_equal(attend(q, k, v, dropout_p=0.5).numpy(), first)
    rng = gp.random.Generator(0)
    np.testing.assert_array_equal(attend(q, k, v, dropout_p=0.5, rng=rng).numpy(), first)


def test_memory_is_linear_in_length():
    """Length 2048, then 4096: all weights would take 16 MB, then 64 MB, in float32."""

    def peak(length):
        q, k, v = arrays(*((1, length, 8),) * 3, dtype="float32")
        tracemalloc.start()
        try:
            attend(q, k, v, is_causal=True, dropout_p=0.1).sum().backward()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(64)  # allocations of the first call
    short, long = peak(2048), peak(4096)
    assert long < 1.5 * short and long < 4096 * 4096 * 4 / 2


def test_training_step_on_every_backend_and_captured(recorder):
    class Model(nn.Module):
        def __init__(self):
            self.inputs = nn.Linear(6, 18)

        def forward(self, x):
            q, k, v = gp.split(self.inputs(x), 3, -1)
            return attend(q, k, v, is_causal=True, dropout_p=0.25, window=(3, 0))

    def make():
        model = Model()
        optimizer = gp.optim.SGD(model.parameters(), lr=0.1)

        def step(x):
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        return model, optimizer, step

    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((2, 7, 6)).astype("float32"),) for _ in range(6)]
    check_training(make, batches, backend=recorder)


X = (2, 3, 5, 4)


@pytest.mark.parametrize(("shapes", "options", "message"), [
    ([X, X, X], {"dropout_p": 1.5}, r"dropout_p .*\[0, 1\].* 1.5"),
    ([X, X, X], {"attn_mask": np.ones((5, 5), bool), "is_causal": True},
     "attn_mask .*is_causal=True"),
    ([X, X, X], {"attn_mask": np.ones((4, 5), bool)},
     r"attn_mask \(4, 5\) .*broadcast to \(2, 3, 5, 5\)"),
    ([X, X, X], {"alibi_slopes": np.ones(2)}, r"alibi_slopes \(2,\) .*broadcast to \(2, 3\)"),
    ([(4,), X, X], {}, r"two axes or more, got query \(4,\)"),
    ([X, (2, 3, 5, 3), X], {}, "query and key differ .*last axis"),
    ([X, X, (2, 3, 6, 4)], {}, "key and value differ .*axis -2"),
    ([X, (2, 2, 5, 4), (2, 2, 5, 4)], {}, "leading axes do not broadcast"),
    ([X, (2, 2, 5, 4), (2, 2, 5, 4)], {"enable_gqa": True}, "enable_gqa .*heads, axis -3"),
    ([X, X, X], {"window": -2}, "window .*pair .*got -2"),
    ([X, X, X], {"window": (1, 2, 3)}, r"window .*got \(1, 2, 3\)"),
])
def test_errors(backend, shapes, options, message):
    options = {k: gp.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    with pytest.raises(ValueError, match=f"scaled_dot_product_attention: .*{message}"):
        attend(*arrays(*shapes), **options)


def test_errors_of_dtypes(backend):
    q, k, v = arrays(X, X, X)
    with pytest.raises(TypeError, match="one floating dtype, got float64, float32, float64"):
        attend(q, k.float(), v)
    with pytest.raises(TypeError, match=r"attn_mask .*bool.*float64, got int64"):
        attend(q, k, v, gp.ones((5, 5), dtype="int64"))
