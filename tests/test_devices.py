"""Two devices of one backend: creation follows the context, computing follows the arrays."""

import copy

import numpy as np
import pytest
from tested_backends import SEVERAL_DEVICES

import gpuprop
import gpuprop.functional as F
from gpuprop import Tensor, nn, optim
from gpuprop.autograd import raw
from gpuprop.backend import BackendMismatchError, backend_of, use


@pytest.fixture(params=SEVERAL_DEVICES)
def backend(request):
    """A backend whose device 0 is the current one, before and after."""
    with use(request.param, device=0) as b:
        yield b
        assert b.device() == 0


def on_second(backend, values, dtype="float32", requires_grad=False):
    with use(backend.name, device=1):
        return gpuprop.tensor(np.asarray(values, dtype), requires_grad=requires_grad)


def device(value):
    return backend_of(raw(value)).device_of(raw(value))


class Net(nn.Module):
    """Layers that make arrays of their own: noise, states, masks, tables of places."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm, self.drop = nn.Embedding(11, 8), nn.LayerNorm(8), nn.Dropout1d(0.1)
        self.rnn, self.attention = nn.LSTM(8, 8, batch_first=True), nn.TransformerEncoderLayer(8, 2, 16, 0.1)
        self.conv, self.batch_norm, self.last = nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8), nn.Linear(4, 3)

    def forward(self, x):
        h, _ = self.rnn(self.drop(self.norm(self.embedding(x))))
        h = self.batch_norm(self.conv(self.attention(h).swapaxes(1, 2)))
        return self.last(F.adaptive_avg_pool1d(F.gelu(h), 4).mean(axis=1))


def trained(backend, where, steps=3):
    """The losses and weights after training on a device, with the current one, 0, as it is."""
    gpuprop.manual_seed(3)
    model = Net().to(f"{backend.name}:{where}")
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    x, y = np.arange(28).reshape(4, 7) % 11, np.arange(4) % 3
    x, y = (gpuprop.tensor(a).to(f"{backend.name}:{where}") for a in (x, y))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        assert device(loss) == where
        loss.backward()
        assert {device(p.grad) for p in model.parameters()} == {where}
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.numpy() for p in model.parameters()], model, optimizer


def test_training_on_the_second_device_while_the_first_is_current(backend):
    gpuprop.manual_seed(3)
    first, second = trained(backend, 0), trained(backend, 1)
    assert {device(p) for p in second[2].parameters()} == {1}
    assert second[0][-1] < second[0][0]
    assert len(first[0]) == len(second[0])  # the devices draw their own noise, so the losses differ


def test_state_follows_a_model_that_moves(backend):
    _, _, model, optimizer = trained(backend, 0)
    before = copy.deepcopy(optimizer.state_dict())
    model.to(f"{backend.name}:1")
    loss = F.cross_entropy(model(on_second(backend, [[1, 2, 3, 4]] * 2, "int64")), on_second(backend, [0, 1], "int64"))
    loss.backward()
    optimizer.step()
    assert {device(s) for state in optimizer.state.values() for s in state.values()} == {1}
    after = optimizer.state_dict()["state"]
    assert all(after[k]["step"] == before["state"][k]["step"] + 1 for k in after)
    optimizer.load_state_dict(before)
    for k, state in optimizer.state_dict()["state"].items():
        np.testing.assert_array_equal(state["exp_avg"], before["state"][k]["exp_avg"])


def test_a_model_across_two_devices(backend):
    first, last = nn.Linear(3, 4), nn.Linear(4, 2).to(f"{backend.name}:1")
    x = gpuprop.ones((5, 3))
    loss = (last(F.relu(first(x)).to(f"{backend.name}:1")) ** 2).sum()
    loss.backward()
    assert device(first.weight.grad) == 0 and device(last.weight.grad) == 1
    optimizer = optim.Adam([*first.parameters(), *last.parameters()])
    optimizer.step()
    assert (device(first.weight), device(last.weight)) == (0, 1)


def test_two_devices_in_one_call(backend):
    x, y = gpuprop.ones(3), on_second(backend, [1, 2, 3])
    with pytest.raises(BackendMismatchError, match=r"multiply\(\): 'x1' is on '\w+:0' and 'x2' on '\w+:1'.*x2.to\("):
        x * y


def test_plain_arrays_and_gradients_as_functions(backend):
    x = on_second(backend, [1.0, 2.0])
    y = F.relu(x.data)
    assert device(y) == 1
    g = gpuprop.grad(lambda t: (t * t * t).sum())(x)
    assert device(g) == 1 and g.tolist() == [3, 12]
    second = gpuprop.grad(lambda t: gpuprop.grad(lambda u: (u**3).sum())(t).sum())(x)
    assert device(second) == 1 and second.tolist() == [6, 12]
    assert device(Tensor(x.data, requires_grad=True).sum()) == 1
    assert gpuprop.asnumpy(x).tolist() == [1, 2]


def test_hooks_and_kept_gradients(backend):
    x = on_second(backend, [1.0, 2.0], requires_grad=True)
    seen = []
    x.register_hook(lambda g: seen.append(device(g)))
    y = x * 2
    y.retain_grad()
    (y * y).sum().backward()
    assert seen == [1] and device(x.grad) == 1 and device(y.grad) == 1
