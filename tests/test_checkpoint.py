"""Activation recomputation: gradients, noise, memory, and what it works together with."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import gpuprop
from gpuprop import functional as F
from gpuprop import nn
from gpuprop.nn.utils import checkpoint, checkpoint_sequential


def block(n=6):
    return nn.Sequential(nn.Linear(n, n), nn.GELU(), nn.Dropout(0.4), nn.LayerNorm(n))


def leaf(*shape):
    values = np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")
    return gpuprop.tensor(values, requires_grad=True)


def gradients(run, model, x):
    """The output and all gradients of ``run(model, x)``, from the same noise."""
    gpuprop.manual_seed(3)
    model.zero_grad()
    x.grad = None
    y = run(model, x)
    ((y if hasattr(y, "shape") else y[0] + 2 * y[1]["b"]) ** 2).sum().backward()
    next_noise = gpuprop.random.uniform((2,), stream=gpuprop.random.NOISE)
    found = [y if hasattr(y, "shape") else y[1]["b"], x.grad, next_noise]
    return [gpuprop.asnumpy(a) for a in (*found, *(p.grad for p in model.parameters()))]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = block(), block(), gpuprop.Parameter(gpuprop.ones(6))

    def plain(self, x):
        h = x * self.scale  # made outside of the function that reads it
        return self.b(self.a(x) + h) * h

    def recomputed(self, x):
        h = x * self.scale
        return checkpoint(lambda a: self.b(checkpoint(self.a, a) + h) * h, x)


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_same_bits_as_without(backend, dtype):
    """Noise, parameters, Tensors of the closure, nested, under autocast."""
    gpuprop.manual_seed(0)
    net, x = Net(), leaf(4, 6)
    with gpuprop.autocast(dtype or "bfloat16", enabled=dtype is not None):
        expected = gradients(Net.plain, net, x)
    calls = []

    def run(net, x):
        with gpuprop.autocast(dtype or "bfloat16", enabled=dtype is not None):
            calls.append(None)
            return net.recomputed(x)

    found = gradients(run, net, x)
    for e, f in zip(expected, found, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-6 if dtype is None else 2e-2, atol=1e-6)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[2], expected[2])  # the generator moved as far


def test_structures_and_several_outputs(backend):
    class Two(nn.Linear):
        def forward(self, pair, scale=None):
            y = super().forward(pair["x"])
            return y, {"b": F.dropout(y * scale, 0.5), "n": 3}

    layer, x = Two(3, 3), leaf(2, 3)
    plain = gradients(lambda m, x: m({"x": x}, scale=2.0), layer, x)
    again = gradients(lambda m, x: checkpoint(m, {"x": x}, scale=2.0), layer, x)
    for e, f in zip(plain, again, strict=True):
        np.testing.assert_array_equal(f, e)
    assert checkpoint(layer, {"x": x}, scale=1.0)[1]["n"] == 3


def test_twice_backward_and_second_order(backend):
    gpuprop.manual_seed(1)
    net, x = block(), leaf(3, 6)
    y = (checkpoint(net, x) ** 2).sum()
    y.backward(retain_graph=True)
    once = gpuprop.asnumpy(x.grad)
    y.backward()
    np.testing.assert_allclose(gpuprop.asnumpy(x.grad), 2 * once, rtol=1e-6)
    with pytest.raises(RuntimeError, match="freed"):
        y.backward()
    inner = lambda f: gpuprop.grad(lambda x: (gpuprop.grad(lambda x: f(x))(x) ** 2).sum())
    cube = lambda x: (x ** 3).sum()
    expected = inner(cube)(x.data)
    np.testing.assert_allclose(gpuprop.asnumpy(inner(lambda x: checkpoint(cube, x))(x.data)),
                               gpuprop.asnumpy(expected), rtol=1e-5)


def test_nothing_to_recompute(backend):
    net, x = block(), leaf(3, 6)
    with gpuprop.no_grad():
        assert not checkpoint(net, x).requires_grad
    assert checkpoint(lambda x: x, x) is x
    assert not checkpoint(lambda x: x * 2, x.detach()).requires_grad


def test_what_is_refused(backend):
    x, other = leaf(3), leaf(3)
    calls = []
    cases = [(lambda x: x * (other if calls else 1) * x, "reads other Tensors"),
             (lambda x: F.dropout(x, 0.5) if calls else x * x, "more random numbers"),
             (lambda x: x[:1 + len(calls)] * 2, "other shapes")]
    for f, message in cases:
        calls.clear()
        y = checkpoint(f, x).sum()
        calls.append(None)
        with pytest.raises(RuntimeError, match=message):
            y.backward()
    with pytest.raises(RuntimeError, match="grad"):
        checkpoint(lambda x: (x * x).sum().backward() or x, x)


def test_a_step_between_forward_and_backward_raises(backend):
    layer, x = nn.Linear(3, 3), leaf(2, 3)
    y = checkpoint(lambda x: (layer(x) ** 2).sum(), x)
    optimizer = gpuprop.optim.SGD(layer.parameters(), lr=0.1)
    layer(x).sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed by a step"):
        y.backward()


def test_in_a_captured_step():
    gpuprop.manual_seed(5)
    runs = []
    with gpuprop.use("strict"):
        for capture in (False, True):
            gpuprop.manual_seed(5)
            net = nn.Sequential(block(), block(), nn.Linear(6, 2))
            optimizer = gpuprop.optim.Adam(net.parameters(), lr=0.01)

            def step(x, net=net, optimizer=optimizer):
                optimizer.zero_grad()
                loss = (checkpoint_sequential(net, 3, x) ** 2).mean()
                loss.backward()
                optimizer.step()
                return loss

            run = gpuprop.capture(step) if capture else step
            x = gpuprop.tensor(np.ones((4, 6), "float32"))
            runs.append([run(x).item() for _ in range(6)])
    assert runs[0] == runs[1]


def test_memory():
    """n layers in sqrt(n) parts keep about 2 sqrt(n) of the activations."""
    n, rows = 64, 20_000
    layers = [lambda x: F.gelu(x) for _ in range(n)]
    x = gpuprop.tensor(np.ones((rows,), "float64"), requires_grad=True)

    def peak(run):
        x.grad = None
        tracemalloc.start()
        run(x).sum().backward()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used / x.data.nbytes

    with gpuprop.use("numpy"):
        plain = peak(lambda x: checkpoint_sequential(layers, 1, x))
        recomputed = peak(lambda x: checkpoint_sequential(layers, 8, x))
    per_layer = plain / n
    assert recomputed < (8 * 1 + 8 * per_layer + 6), (plain, recomputed)
    assert plain > 2.5 * recomputed, (plain, recomputed)
