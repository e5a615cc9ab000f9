"""Writes in place between forward and backward: no gradient is wrong silently.

Backward uses the values of the forward pass, or it raises.
"""

import contextlib
import functools
import threading

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import Parameter, Tensor, nn, no_grad, optim
from gpuprop._core import graph
from gpuprop._core.dtypes import as_dtype
from gpuprop._core.graph import MAX_WRITES, extent, raw
from gpuprop.testing import all_rows

REFUSED = "written in place, after the forward pass"


def forward(row):
    """The inputs of a row, its outputs that have a gradient, and a weighted sum of these."""
    inputs = []

    def place(a):
        inputs.append(Tensor(a.copy(), requires_grad=a.dtype.kind == "f"))
        return inputs[-1]

    outputs = row.map_arrays(place)()
    outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    outputs = [o for o in outputs if isinstance(o, Tensor) and o.requires_grad]
    weighted = [(o * (1 + np.arange(o.size).reshape(o.shape) % 3)).sum() for o in outputs]
    return inputs, outputs, sum(weighted) if weighted else None


def backward(inputs, loss):
    loss.backward()
    return [t.grad for t in inputs]


@pytest.mark.parametrize("versions", ["chosen", "generic"])
def test_every_op(versions):
    """After a write to any input or output, backward raises or the gradients are as before."""
    refused = 0
    with gpuprop.generic() if versions == "generic" else contextlib.nullcontext():
        for row in all_rows():
            if "gradient" in row.skipped or not any(a.size for a in row.arrays()):
                continue
            inputs, outputs, loss = forward(row)
            if loss is None:
                continue
            expected = backward(inputs, loss)
            for i in range(len(inputs) + len(outputs)):
                inputs, outputs, loss = forward(row)
                t = (inputs + outputs)[i].detach()
                if not t.data.flags.writeable:
                    continue
                t[...] = ~t if t.dtype == bool else t * 0 + 1
                try:
                    actual = backward(inputs, loss)
                except RuntimeError as error:
                    assert REFUSED in str(error), row
                    refused += 1
                    assert all(t.grad is None for t in inputs)
                    continue
                for a, e in zip(actual, expected, strict=True):
                    np.testing.assert_array_equal(a, e, f"{row}, array {i}")
    assert refused > 1000


class Scaled:
    def __init__(self, by):
        self.by = [by]

    def __call__(self, dy):
        return dy * self.by[0]

    def method(self, dy):
        return dy * self.by[0]


def of_an_object(x):
    inside = Scaled(Scaled(x))
    return lambda dy: inside.by[0].method(dy)


def keyword_only(x):
    return lambda dy, *, by=x: dy * by


@pytest.mark.parametrize("pullback", [
    Scaled, lambda x: Scaled(x).method, lambda x: functools.partial(lambda x, dy: dy * x, x),
    of_an_object, keyword_only, lambda x: lambda dy, by=({"x": x},): dy * by[0]["x"],
    lambda x: (lambda dy: (lambda: dy * x)())])
def test_pullbacks_of_every_kind(pullback):
    @gpuprop.op
    def scale(xp, w: gpuprop.Array, x: gpuprop.Array):
        return w * x, (pullback(x), None)

    w, x = Parameter([1.0, 2]), gpuprop.tensor([1.0, 2])
    y = scale(w, x).sum()
    x.zero_()
    with pytest.raises(RuntimeError, match=REFUSED):
        y.backward()


def weight_and_input(backend):
    w = Parameter(backend.asarray(np.array([1.0, 2, 3], "float32")))
    return w, gpuprop.tensor([1.0, 2, 3])


WRITES = {
    "an index": lambda x: x.__setitem__(0, 5.0),
    "a slice": lambda x: x.__setitem__(slice(None), 5.0),
    "a view": lambda x: x[1:].fill_(5.0),
    "detach": lambda x: x.detach().zero_(),
    "copy_": lambda x: x.copy_([5.0, 6, 7]),
    "init": lambda x: nn.init.ones_(x),
    "reshape": lambda x: x.reshape(3, 1).__setitem__(..., 0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_every_way_to_write(backend, write):
    w, x = weight_and_input(backend)
    y = (w * x).sum()
    write(x)
    for _ in range(2):  # nothing was freed or accumulated
        with pytest.raises(RuntimeError, match=f"multiply.*{REFUSED}.*clone"):
            y.backward()
    assert w.grad is None
    (w * x).sum().backward()  # a use after the write
    np.testing.assert_array_equal(gpuprop.asnumpy(w.grad), x.numpy())


def test_a_frozen_parameter_and_the_array_of_a_trained_one(backend):
    w, _ = weight_and_input(backend)
    frozen = Parameter(w.numpy(), requires_grad=False)
    y = (w * frozen).sum()
    with no_grad():
        frozen[0] = 7.0
    with pytest.raises(RuntimeError, match=REFUSED):
        y.backward()
    other, _ = weight_and_input(backend)
    optimizer = optim.SGD([w], lr=1.0)
    y = (other * w.detach()).sum()
    w.sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=REFUSED):
        y.backward()
    model = nn.Linear(2, 2)
    y = (model.weight.detach() * other[0]).sum()
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match=REFUSED):
        y.backward()


def test_writes_that_no_pullback_reads(backend):
    w, x = weight_and_input(backend)
    y = (w + x).sum()
    x.zero_()
    y.backward()
    z = (w * x[:1]).sum()
    x[1:].fill_(3.0)  # other elements of the same memory
    z.backward()
    assert gpuprop.asnumpy(w.grad).tolist() == [1, 1, 1]


def test_retained_graphs_and_second_order(backend):
    w, x = weight_and_input(backend)
    y = (w * w * x).sum()
    y.backward(retain_graph=True)
    x.zero_()
    with pytest.raises(RuntimeError, match=REFUSED):
        y.backward()

    def penalty(v):
        inner = gpuprop.grad(lambda u: (u * u).sum())(v)
        result = (inner * x).sum()
        x.fill_(2.0)
        return result

    with pytest.raises(RuntimeError, match=REFUSED):
        gpuprop.grad(penalty)(raw(w))


def test_layers_that_write_their_buffers(backend):
    """A call in training between forward and backward does not change the gradients."""
    x = gpuprop.tensor(np.random.default_rng(0).standard_normal((6, 4)).astype("float32"))
    for layer in (nn.BatchNorm1d(4), nn.utils.spectral_norm(nn.Linear(4, 4)),
                  nn.InstanceNorm1d(4, affine=True, track_running_stats=True)):
        given = x.reshape(2, 4, 3) if isinstance(layer, nn.InstanceNorm1d) else x
        state = layer.state_dict()
        for first_mode in (True, False):
            grads = []
            for twice in (False, True):
                layer.load_state_dict(state)
                layer.zero_grad()
                layer.train(first_mode)
                loss = (layer(given) ** 2).sum()
                if twice:
                    layer.train()
                    layer(given * 5)
                loss.backward()
                grads.append([gpuprop.asnumpy(p.grad) for p in layer.parameters()])
            for a, e in zip(*grads, strict=True):
                np.testing.assert_array_equal(a, e)


LAYERS_WITH_STATISTICS = [n for n in nn.__all__ if n.startswith(("BatchNorm", "InstanceNorm"))]


@pytest.mark.parametrize("held", ["array", "view"])
@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
@pytest.mark.parametrize("name", LAYERS_WITH_STATISTICS)
def test_running_statistics_in_a_graph(backend, name, buffer, held):
    if held == "view" and backend.name == "strict":
        return  # its views do not refer to the array that they are views of
    layer = getattr(nn, name)(3, track_running_stats=True)
    x = gpuprop.ones(4, 3, *[2] * int(name[-2]))
    w = Parameter(np.ones(3, "float32"))
    statistics = getattr(layer, buffer)
    y = (w * (statistics if held == "array" else statistics[...])).sum()
    layer(x)
    with pytest.raises(RuntimeError, match=REFUSED):
        y.backward()


@pytest.mark.parametrize("name", LAYERS_WITH_STATISTICS)
def test_running_statistics_that_no_graph_holds(backend, name):
    """Training declares no writes then: each would make the next backward look for its array."""
    layer = getattr(nn, name)(3, affine=True, track_running_stats=True)
    x = gpuprop.ones(4, 3, *[2] * int(name[-2]))
    before = graph._last_write
    for _ in range(2):
        (layer(x) ** 2).sum().backward()
    assert graph._last_write == before


@pytest.mark.parametrize("change", [
    lambda p: nn.utils.clip_grad_norm_([p], 0.1),
    lambda p: nn.utils.clip_grads_with_norm_([p], 0.1, gpuprop.tensor(1.0)),
    lambda p: nn.utils.clip_grad_value_([p], 0.1),
    lambda p: optim.SGD([p]).zero_grad(set_to_none=False),
])
def test_a_gradient_in_a_graph(backend, change):
    p = Parameter(backend.asarray(np.ones(3, "float32")))
    (p * p).sum().backward()
    w = Parameter(backend.asarray(np.ones(3, "float32")))
    y = (w * Tensor(p.grad)).sum()
    change(p)
    with pytest.raises(RuntimeError, match=REFUSED):
        y.backward()


def test_weights_that_an_embedding_scales(backend):
    embedding = nn.Embedding(3, 2, max_norm=0.5)
    embedding.weight.data[...] = 3.0
    w = Parameter(np.ones(2, "float32"))
    y = (embedding.weight.detach() * w).sum()
    embedding(gpuprop.tensor([1]))
    with pytest.raises(RuntimeError, match=REFUSED):
        y.backward()


def test_a_cache_that_attention_has_read(backend):
    cache = nn.KeyValueCache(1, 4, 1, 2)
    new = gpuprop.ones(1, 1, 1, 2)
    with no_grad():
        keys, values = cache.update(new, new)
    query = gpuprop.tensor([[[[1.0, 2]]]], requires_grad=True)
    y = F.scaled_dot_product_attention(query, keys, values).sum()
    with no_grad():
        cache.update(new, new)
    with pytest.raises(RuntimeError, match=REFUSED):
        y.backward()


def test_threads_see_each_others_writes():
    w, x = Parameter([1.0, 2, 3]), gpuprop.tensor([1.0, 2, 3])
    y = (w * x).sum()
    thread = threading.Thread(target=x.zero_)
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError, match=REFUSED):
        y.backward()


def test_few_writes_are_remembered():
    kept = gpuprop.zeros(2 * MAX_WRITES, 3)
    for _ in range(2):
        for x in kept:
            x.zero_()
        assert 0 < len(graph._writes) <= MAX_WRITES
    w = Parameter(np.ones(3, "float32"))
    y = (w * kept[-1]).sum()
    kept[-1].fill_(2.0)
    with pytest.raises(RuntimeError, match=REFUSED):
        y.backward()


@pytest.mark.parametrize("layout", [lambda a: a, lambda a: a[::-1, ::2], lambda a: a.T,
                                    lambda a: a[:0], lambda a: a[1:2, 1]])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
def test_the_extent_of_an_array(backend, layout, dtype):
    a = layout(backend.asarray(np.zeros((4, 6)), as_dtype(dtype)))
    first, end = extent(a)
    if type(a) is np.ndarray:
        assert (first, end) == np.lib.array_utils.byte_bounds(a) or not a.size
    assert end - first >= a.nbytes


def test_a_parameter_whose_values_are_not_read_may_change():
    """The gradients of a table and of a bias do not depend on their values."""
    table = nn.Embedding(4, 2)
    bias = gpuprop.Parameter([0.0, 0.0])
    optimizer = optim.SGD([*table.parameters(), bias], lr=0.1)
    first, second = (table(gpuprop.tensor([i])).sum() + bias.sum() for i in range(2))
    first.backward()
    optimizer.step()
    optimizer.zero_grad()
    second.backward()
    assert gpuprop.asnumpy(table.weight.grad)[:2].tolist() == [[0, 0], [1, 1]]
    assert gpuprop.asnumpy(bias.grad).tolist() == [1, 1]
