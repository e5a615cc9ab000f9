"""Two devices of one backend: creation follows the context, computing follows the arrays."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tested_backends import SEVERAL_DEVICES

import gpuprop
import gpuprop.functional as F
from gpuprop import Tensor, decoding, nn, optim
from gpuprop._core.backend import BackendMismatchError
from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of, default_backend, making_on, use
from gpuprop.data import DataLoader, TensorDataset
from gpuprop.testing import all_rows
from gpuprop.training import Trainer


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


# ---- what follows its arrays ----------------------------------------------------------------------------------------


def where(values):
    """The devices of arrays, in order."""
    return [device(v) for v in values]


def test_what_is_cast_stays(backend):
    for cast in (lambda m: m.to("float16"), nn.Module.half, nn.Module.double, nn.Module.float):
        model = nn.BatchNorm1d(3).to(f"{backend.name}:1")
        model(on_second(backend, np.ones((2, 3)))).sum().backward()
        cast(model)
        assert set(where([*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())])) == {1}
    x = on_second(backend, [1.0, 2.0])
    assert where([x.half(), x.to("float64"), x.astype("int64"), x.type_as(gpuprop.ones(1))]) == [1, 1, 1, 0]


def test_copies_and_likes_are_made_beside_the_array(backend):
    x = on_second(backend, [1.0, 2.0], requires_grad=True)
    made = [gpuprop.zeros_like(x), gpuprop.ones_like(x), gpuprop.full_like(x, 3, "int64"), gpuprop.zeros_like(x.data),
            gpuprop.tensor(x), gpuprop.tensor(x, dtype="float16"), gpuprop.tensor(x.data), gpuprop.Parameter(x),
            copy.deepcopy(x), x.copy()]
    assert where(made) == [1] * len(made)
    (x * x).sum().backward()
    twin = copy.deepcopy(x)
    assert device(twin.grad) == 1 and twin.grad is not x.grad
    if hasattr(x.data, "__dlpack__"):
        shared = gpuprop.from_dlpack(x.detach())
        shared.fill_(5)
        assert device(shared) == 1 and x.tolist() == [5, 5]


def test_indexing_and_writing(backend):
    x = on_second(backend, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    index = on_second(backend, [1, 0], "int64")
    assert where([x[[0, 1]], x[:, [0, 2]], x[index], x[x > 2]]) == [1] * 4
    assert x[:, [0, 2]].tolist() == [[1, 3], [4, 6]]
    x[0] = 7.0
    x[1, :2] = [8.0, 9.0]
    x[index, 2] = x[:, 0] * 1
    assert x.tolist() == [[7, 7, 8], [8, 9, 7]]
    assert x.fill_(2.0) is x and x.tolist() == [[2] * 3] * 2
    assert x.copy_(gpuprop.ones(2, 3)).tolist() == x.copy_(np.ones((2, 3))).tolist() == [[1] * 3] * 2
    assert x.zero_().tolist() == [[0] * 3] * 2 and device(x) == 1
    with pytest.raises(BackendMismatchError, match=r"on '\w+:1', but value is an array on '\w+:0'.*to\('\w+:1'\)"):
        x[0] = gpuprop.ones(3)
    with pytest.raises(BackendMismatchError, match=r"on '\w+:1', but index is an array on '\w+:0'.*to\('\w+:1'\)"):
        x[gpuprop.tensor([0])]


def test_gradients_that_are_given(backend):
    for given in (2.0, np.float32(2), on_second(backend, 2.0), on_second(backend, 2.0, "float64")):
        x = on_second(backend, [1.0, 2.0], requires_grad=True)
        (x * x).sum().backward(given)
        assert device(x.grad) == 1 and backend.to_numpy(x.grad).tolist() == [4, 8]
    x = on_second(backend, [1.0, 2.0], requires_grad=True)
    for _ in range(2):
        x.backward([1.0, 3.0])
    assert device(x.grad) == 1 and backend.to_numpy(x.grad).tolist() == [2, 6]
    with pytest.raises(BackendMismatchError, match=r"the tensor is on '\w+:1' and its gradient on '\w+:0'.*to\('"):
        (x * x).backward(gpuprop.ones(2))


@pytest.mark.parametrize("name", [name for name in vars(nn.init) if name.endswith("_") and name[0] != "_"])
def test_initial_values(backend, name):
    shape = (4, 4, 3) if name == "dirac_" else (4, 4)
    arguments = {"constant_": (2.0,), "sparse_": (0.5,)}.get(name, ())
    there, here = gpuprop.Parameter(on_second(backend, np.full(shape, 9.0))), gpuprop.Parameter(np.full(shape, 9.0))
    for parameter in (there, here):
        gpuprop.manual_seed(1)
        getattr(nn.init, name)(parameter, *arguments)
    np.testing.assert_array_equal(there.numpy(), here.numpy().astype("float32"))
    assert device(there) == 1


def test_state_of_modules_and_optimizers(backend):
    model = nn.Sequential(nn.Linear(3, 3, device=f"{backend.name}:1"), nn.BatchNorm1d(3, device=f"{backend.name}:1"))
    x = on_second(backend, np.arange(6).reshape(2, 3))
    optimizer = optim.Adam(model.parameters())
    everything = lambda m: where([*m.parameters(), *m.buffers(), *(p.grad for p in m.parameters())])
    for _ in range(2):
        model(x).sum().backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    assert set(everything(model)) == {1} and not any(np.any(backend.to_numpy(p.grad)) for p in model.parameters())
    model.load_state_dict(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).state_dict())
    twin, second = copy.deepcopy(model), copy.deepcopy(optimizer)
    twin[1].reset_running_stats()
    twin[1].reset_parameters()
    twin[0].reset_parameters()
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(twin.parameters()) * 2, twin.parameters())
    second.step()
    assert set(everything(model)) == set(everything(twin)) == {1}
    assert {device(s) for state in second.state.values() for s in state.values()} == {1}
    cache = nn.KeyValueCache(1, 4, 1, 2, device=f"{backend.name}:1")
    cache.update(on_second(backend, np.ones((1, 1, 1, 2))), on_second(backend, np.ones((1, 1, 1, 2))))
    cache.reorder(on_second(backend, [0], "int64"))
    cache.reset()
    assert cache.length.item() == 0 and set(where(cache.buffers())) == {1}


def test_layers_and_functions_that_make_arrays_of_their_own(backend):
    x, i = on_second(backend, np.arange(6).reshape(2, 3)), on_second(backend, [[0, 1], [1, 0]], "int64")
    there = f"{backend.name}:1"
    adaptive = nn.AdaptiveLogSoftmaxWithLoss(3, 20, [5, 10]).to(there)
    log_p = F.log_softmax(on_second(backend, np.zeros((5, 2, 4))), -1)
    made = [
        nn.utils.spectral_norm(nn.Linear(3, 2).to(there))(x), adaptive(x, on_second(backend, [1, 12], "int64")).loss,
        F.alpha_dropout(x, training=True), F.feature_alpha_dropout(x, training=True), F.rrelu(x, training=True),
        F.gumbel_softmax(x), F.embedding(i, x, max_norm=1.0), F.embedding_bag(i, x, max_norm=1.0, mode="max"),
        F.fractional_max_pool2d(on_second(backend, np.ones((1, 1, 6, 6))), 2, output_size=3),
        F.ctc_loss(log_p, i + 1, [5, 5], [2, 2]), F.ctc_loss(log_p, i.reshape(-1) + 1, [5, 5], [2, 2]),
    ]
    assert where(made) == [1] * len(made)


def test_a_users_own_module_and_pointwise_body(backend):
    class Shift(nn.Module):
        def forward(self, x):
            return x + gpuprop.arange(x.shape[-1]) + Tensor(x.data * 2)

    @gpuprop.pointwise
    def doubled(xp, a):
        a += a
        return a * 2

    x = on_second(backend, [1.0, 2.0])
    assert device(Shift()(x)) == 1
    assert device(doubled(backend.xp, x.data)) == 1 and x.tolist() == [2, 4]


def test_a_module_that_fails_says_once_where(backend):
    model = nn.Sequential(nn.Linear(3, 2)).to(f"{backend.name}:1")
    with pytest.raises(Exception) as raised:
        model(on_second(backend, np.ones((2, 4))))
    assert "\n".join(raised.value.__notes__).count("in Sequential.0: Linear") == 1 and backend.device() == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("tensors", [True, False], ids=["tensors", "arrays"])
def test_every_op_of_the_table_follows_its_arrays(backend, dtype, tensors):
    def put(a):
        floating = a.dtype.kind == "f"
        t = on_second(backend, a, dtype if floating else a.dtype, requires_grad=tensors and floating)
        return t if tensors else t.data

    astray = set()
    for row in {(row.name, *map(str, (a.dtype for a in row.arrays()))): row for row in all_rows()}.values():
        outputs = row.map_arrays(put)()
        outputs = [o for o in (outputs if isinstance(outputs, tuple | list) else [outputs]) if hasattr(o, "shape")]
        for output in outputs:
            if getattr(output, "requires_grad", False):
                output.sum().backward(retain_graph=True)
        if set(where(outputs)) - {1} or backend.device() != 0:
            astray.add(row.name)
    assert not astray


def test_sequences_are_generated_where_the_prompts_are(backend):
    embedding = nn.Embedding(5, 5).to(f"{backend.name}:1")
    step, prompts = (lambda ids: embedding(ids)[:, -1]), on_second(backend, [[1, 2]], "int64")
    assert device(decoding.generate(step, prompts, 3, eos=0)) == 1
    sampled = decoding.generate(step, prompts, 3, choose=lambda z: decoding.sample(z, top_k=3, top_p=0.9))
    assert device(sampled) == 1
    assert where(decoding.beam_search(step, prompts, 3, 2, eos=0)) == [1, 1]


@pytest.mark.parametrize("loader", [True, False], ids=["loader", "arrays"])
def test_a_trainer_brings_the_data_to_its_model(backend, loader):
    x, y = np.ones((8, 3), "float32"), np.arange(8) % 2
    data = DataLoader(TensorDataset(x, y), batch_size=4) if loader else (gpuprop.tensor(x), gpuprop.tensor(y))
    model = nn.Linear(3, 2).to(f"{backend.name}:1")
    trainer = Trainer(model, nn.CrossEntropyLoss(gpuprop.ones(2)), optim.Adam(model.parameters()), "accuracy")
    trainer.fit(data, data, epochs=2, progress=False)
    assert trainer.evaluate(data).keys() == {"loss", "accuracy"}
    assert device(trainer.predict(x)) == 1 and set(where(model.parameters())) == {1}
    assert gpuprop.summary(model, (1, 3)).rows[0].output == (1, 2)


# ---- what is read, and in which order -------------------------------------------------------------------------------


def test_a_read_tells_what_was_wrong_on_the_device_of_what_is_read(backend):
    F.embedding(on_second(backend, [5], "int64"), on_second(backend, [[1.0], [2.0]]))
    assert gpuprop.ones(1).tolist() == [1]
    with pytest.raises(IndexError, match="embedding"):
        on_second(backend, [1.0]).numpy()
    assert on_second(backend, [1.0]).tolist() == [1]


def test_copies_between_devices_keep_the_order_of_both(backend):
    values, there = np.arange(4096), f"{backend.name}:1"
    x = gpuprop.tensor(values) * 1
    y = x.to(there)  # waits for the product
    x.fill_(9)  # waits for the copy
    assert y.numpy().tolist() == values.tolist()
    z = (gpuprop.tensor(values) * 2).to(there) * 1
    assert (gpuprop.zeros(4096, dtype="int64") + 7).sum().item() == 7 * 4096  # in the memory of what is gone
    assert z.numpy().tolist() == (2 * values).tolist()
    back = (x.reshape(64, 64).T * 1).to(there).to(f"{backend.name}:0")
    assert back.numpy().tolist() == np.full((64, 64), 9).tolist()


def test_batches_are_waited_for_on_the_device_they_were_sent_to(backend):
    batches = iter(DataLoader(TensorDataset(np.arange(24, dtype="float32").reshape(8, 3)), batch_size=2))
    found = []
    for current in (1, 0, 1, 0):
        with use(backend.name, device=current):
            batch, = next(batches)
        found.append((batch * 1.0).numpy()[0, 0])
    assert found == [0, 6, 12, 18] and next(batches, None) is None


# ---- the choice of the process, and of a block ----------------------------------------------------------------------


def test_a_device_argument_leaves_the_choice_of_the_process_alone(backend):
    before = default_backend()
    seen = []

    class Watched(str):
        def partition(self, separator):  # while the argument is read
            seen.append(on_a_thread(default_backend))
            return str.partition(self, separator)

    made = gpuprop.zeros(2, device=Watched(f"{backend.name}:1"))
    assert device(made) == 1 and default_backend() is before and seen
    with making_on(f"{backend.name}:1") as inside:
        assert inside is backend and backend.device() == 1 and default_backend() is backend
        assert on_a_thread(default_backend) is seen[0]
    assert backend.device() == 0 and default_backend() is before


def on_a_thread(f):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(f).result()


def test_blocks_that_begin_in_turns_leave_the_default_as_it_was(backend):
    before = on_a_thread(default_backend)
    one, two = use("numpy"), use(backend.name)  # as two threads may begin them
    with one:
        pass
    assert on_a_thread(default_backend) is before  # the second has not entered its block yet
    with two:
        assert on_a_thread(default_backend) is before
    assert on_a_thread(default_backend) is before


def test_a_plain_use_holds_though_a_block_began_before_it(backend):
    before = on_a_thread(default_backend)
    block = use(backend.name)
    use("numpy")
    with block:
        assert default_backend() is backend
    assert on_a_thread(default_backend).name == "numpy"
    use(before.name)
    assert on_a_thread(default_backend) is before
