"""gpuprop.func: Jacobians, Hessians, products with them, functional calls, per-sample gradients."""

from __future__ import annotations

import numpy as np
import pytest

import gpuprop
from gpuprop import func, nn

X = np.random.default_rng(0).standard_normal((2, 3))
V = np.random.default_rng(1).standard_normal((2, 3))
W = np.random.default_rng(2).standard_normal((3, 3))


def f(x):
    return gpuprop.tanh(gpuprop.matmul(x, W)) * x[:, :1]


def numeric(f, x, eps=1e-6):
    columns = []
    for i in range(x.size):
        d = np.zeros(x.size)
        d[i] = eps
        d = d.reshape(x.shape)
        columns.append((np.asarray(f(x + d)) - np.asarray(f(x - d))) / (2 * eps))
    return np.stack(columns, -1).reshape(*columns[0].shape, *x.shape)


def test_products_and_jacobian():
    with gpuprop.use("numpy"):
        j = func.jacobian(f)(X)
        assert isinstance(j, np.ndarray) and j.shape == (2, 3, 2, 3)
        np.testing.assert_allclose(j, numeric(f, X), atol=1e-8)
        y, pull = func.vjp(f, X)
        np.testing.assert_allclose(pull(V)[0], np.einsum("ij,ijkl->kl", V, j))
        np.testing.assert_allclose(pull(2 * V)[0], np.einsum("ij,ijkl->kl", 2 * V, j))
        value, product = func.jvp(f, (X,), (V,))
        np.testing.assert_allclose(value, y)
        np.testing.assert_allclose(product, np.einsum("ijkl,kl->ij", j, V))


def test_second_order():
    with gpuprop.use("numpy"):
        loss = lambda x: (f(x) ** 2).sum()
        h = func.hessian(loss)(X)
        np.testing.assert_allclose(h, numeric(gpuprop.grad(loss), X), atol=1e-7)
        np.testing.assert_allclose(func.hvp(loss, (X,), (V,))[0],
                                   np.einsum("ijkl,kl->ij", h, V), rtol=1e-10)
        third = gpuprop.grad(lambda x: (func.hvp(loss, (x,), (V,))[0] ** 2).sum())(X)
        gradient = lambda x: (func.hvp(loss, (x,), (V,))[0] ** 2).sum()
        np.testing.assert_allclose(third, numeric(gradient, X), rtol=1e-5, atol=1e-6)


def test_trees_and_tensors():
    def g(p, scale):
        return {"a": p["w"] * scale, "b": [p["w"].sum() * p["b"]]}

    p = {"w": gpuprop.tensor(X), "b": gpuprop.tensor(np.ones(2))}
    j = func.jacobian(g)(p, 3.0)
    assert j["a"]["w"].shape == (2, 3, 2, 3) and j["b"][0]["b"].shape == (2, 2)
    assert isinstance(j["a"]["w"], gpuprop.Tensor) and not j["a"]["b"].numpy().any()
    by_scale = func.jacobian(lambda s, x: s * x, 1)(2.0, gpuprop.tensor(X[0]))
    np.testing.assert_allclose(by_scale.numpy(), 2 * np.eye(3))
    assert func.jacobian(lambda x: x[:0] * 2)(X[0]).shape == (0, 3)


def test_functional_call():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = gpuprop.Parameter(gpuprop.ones(4, 4))
    before = {name: id(t) for name, t in model.named_parameters()}
    x = gpuprop.tensor(X.astype("float32"))
    new = {name: gpuprop.tensor(p.numpy() * 2, requires_grad=True)
           for name, p in model.named_parameters()}
    y = func.functional_call(model, new, x)
    y.sum().backward()
    assert new["0.weight"].grad is not None and model[0].weight.grad is None
    assert before == {name: id(t) for name, t in model.named_parameters()}
    with pytest.raises(ValueError, match="unknown names"):
        func.functional_call(model, {"x": x}, x)
    with pytest.raises(ValueError, match="missing names"):
        func.functional_call(model, new, x, strict=True)


class Cells(nn.Module):
    def __init__(self):
        self.scale = gpuprop.Parameter(gpuprop.ones(3))

    def forward(self, x):
        return x * self.scale


MODELS = {
    "linear": lambda: (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), (5, 3)),
    "linear 3-D": lambda: (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), (5, 2, 3)),
    "convolution": lambda: (nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.GroupNorm(2, 4), nn.ReLU(),
        nn.Conv2d(4, 2, (2, 1), padding="same", bias=False), nn.Flatten()), (5, 2, 6, 4)),
    "reflected": lambda: (nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1, padding_mode="reflect"), nn.InstanceNorm1d(3, affine=True),
        nn.ConvTranspose1d(3, 2, 2)), (4, 2, 5)),
    "norms": lambda: (nn.Sequential(nn.RMSNorm(3), nn.BatchNorm1d(3).eval(), Cells(),
                                    nn.LayerNorm((2, 3)) if False else nn.PReLU()), (4, 3)),
    "shared": lambda: (nn.Sequential(*[nn.Linear(3, 3)] * 2), (4, 3)),
    "embedding": lambda: (nn.Sequential(nn.Embedding(6, 3, padding_idx=1), nn.Linear(3, 2)), None),
}


@pytest.mark.parametrize("name", MODELS)
def test_per_sample_gradients(name):
    gpuprop.manual_seed(0)
    model, shape = MODELS[name]()
    model.double()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, (4, 3)) if shape is None else rng.standard_normal(shape)
    x = gpuprop.tensor(x)
    y = gpuprop.tensor(rng.standard_normal(model(x).shape))
    loss = nn.MSELoss()
    first = next(model.parameters())
    first.grad = np.ones(first.shape)
    found = func.per_sample_gradients(model, loss, x, y)
    assert (first.grad == 1).all() and [*found] == [n for n, _ in model.named_parameters()]
    for i in range(len(x)):
        model.zero_grad()
        loss(model(x[i:i + 1]), y[i:i + 1]).backward()
        for key, p in model.named_parameters():
            np.testing.assert_allclose(found[key][i].numpy(), p.grad, rtol=1e-9, atol=1e-12,
                                       err_msg=key)


def test_batch_norm_in_training_mixes_samples():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="1 is batch normalization"):
        func.per_sample_gradients(model, nn.MSELoss(), gpuprop.ones(2, 3), gpuprop.ones(2, 3))
