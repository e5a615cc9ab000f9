"""Two devices: new arrays are made on the current device, ops run on their arrays' device."""

import contextlib
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
    """A backend whose current device is 0, before and after the test."""
    with use(request.param, device=0) as b:
        yield b
        assert b.device() == 0


def on_second(backend, values, dtype="float32", requires_grad=False):
    with use(backend.name, device=1):
        return gpuprop.tensor(np.asarray(values, dtype), requires_grad=requires_grad)


def device(value):
    return backend_of(raw(value)).device_of(raw(value))


class Net(nn.Module):
    """Layers that make arrays: noise, states, masks, tables of positions."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout1d(0.1)
        self.rnn = nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, 0.1)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.batch_norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        h, _ = self.rnn(self.drop(self.norm(self.embedding(x))))
        h = self.batch_norm(self.conv(self.attention(h).swapaxes(1, 2)))
        return self.last(F.adaptive_avg_pool1d(F.gelu(h), 4).mean(axis=1))


def trained(backend, where, steps=3):
    """Train on device `where`, with device 0 current; returns losses, weights, model, optimizer."""
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
    assert len(first[0]) == len(second[0])  # each device draws its own noise, so losses differ


def test_optimizer_state_follows_a_model_that_moves(backend):
    _, _, model, optimizer = trained(backend, 0)
    before = copy.deepcopy(optimizer.state_dict())
    model.to(f"{backend.name}:1")
    x = on_second(backend, [[1, 2, 3, 4]] * 2, "int64")
    F.cross_entropy(model(x), on_second(backend, [0, 1], "int64")).backward()
    optimizer.step()
    assert {device(state["exp_avg"]) for state in optimizer.state.values()} == {1}
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


def test_two_devices_in_one_call_raise(backend):
    x, y = gpuprop.ones(3), on_second(backend, [1, 2, 3])
    with pytest.raises(BackendMismatchError, match=r"multiply.*x1.*:0.*x2.*:1.*x2.to\("):
        x * y


def test_plain_arrays_and_gradient_functions(backend):
    x = on_second(backend, [1.0, 2.0])
    y = F.relu(x.data)
    assert device(y) == 1
    g = gpuprop.grad(lambda t: (t * t * t).sum())(x)
    assert device(g) == 1 and g.tolist() == [3, 12]
    second = gpuprop.grad(lambda t: gpuprop.grad(lambda u: (u**3).sum())(t).sum())(x)
    assert device(second) == 1 and second.tolist() == [6, 12]
    assert device(Tensor(x.data, requires_grad=True).sum()) == 1
    assert gpuprop.asnumpy(x).tolist() == [1, 2]


def test_hooks_and_retained_gradients(backend):
    x = on_second(backend, [1.0, 2.0], requires_grad=True)
    seen = []
    x.register_hook(lambda g: seen.append(device(g)))
    y = x * 2
    y.retain_grad()
    (y * y).sum().backward()
    assert seen == [1] and device(x.grad) == 1 and device(y.grad) == 1


# ---- results are on the device of their arrays --------------------------------------------------


def devices(values):
    """The devices of arrays, in order."""
    return [device(v) for v in values]


def test_casts_stay_on_the_device(backend):
    for cast in (lambda m: m.to("float16"), nn.Module.half, nn.Module.double, nn.Module.float):
        model = nn.BatchNorm1d(3).to(f"{backend.name}:1")
        model(on_second(backend, np.ones((2, 3)))).sum().backward()
        cast(model)
        assert devices_of_model(model) == {1}
    x = on_second(backend, [1.0, 2.0])
    cast = [x.half(), x.to("float64"), x.astype("int64"), x.type_as(gpuprop.ones(1))]
    assert devices(cast) == [1, 1, 1, 0]


def devices_of_model(model):
    """The devices of all parameters, gradients and buffers."""
    gradients = [p.grad for p in model.parameters()]
    return set(devices([*model.parameters(), *model.buffers(), *gradients]))


def test_copies_and_likes_are_on_the_device_of_the_array(backend):
    x = on_second(backend, [1.0, 2.0], requires_grad=True)
    made = [
        gpuprop.zeros_like(x),
        gpuprop.ones_like(x),
        gpuprop.full_like(x, 3, "int64"),
        gpuprop.zeros_like(x.data),
        gpuprop.tensor(x),
        gpuprop.tensor(x, dtype="float16"),
        gpuprop.tensor(x.data),
        gpuprop.Parameter(x),
        copy.deepcopy(x),
        x.copy(),
    ]
    assert devices(made) == [1] * len(made)
    (x * x).sum().backward()
    copied = copy.deepcopy(x)
    assert device(copied.grad) == 1 and copied.grad is not x.grad
    if hasattr(x.data, "__dlpack__"):
        shared = gpuprop.from_dlpack(x.detach())
        shared.fill_(5)
        assert device(shared) == 1 and x.tolist() == [5, 5]


def test_indexing_and_assignment(backend):
    x = on_second(backend, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    index = on_second(backend, [1, 0], "int64")
    assert devices([x[[0, 1]], x[:, [0, 2]], x[index], x[x > 2]]) == [1] * 4
    assert x[:, [0, 2]].tolist() == [[1, 3], [4, 6]]
    x[0] = 7.0
    x[1, :2] = [8.0, 9.0]
    x[index, 2] = x[:, 0] * 1
    assert x.tolist() == [[7, 7, 8], [8, 9, 7]]
    assert x.fill_(2.0) is x and x.tolist() == [[2] * 3] * 2
    assert x.copy_(gpuprop.ones(2, 3)).tolist() == [[1] * 3] * 2
    assert x.copy_(np.ones((2, 3))).tolist() == [[1] * 3] * 2
    assert x.zero_().tolist() == [[0] * 3] * 2 and device(x) == 1
    with pytest.raises(BackendMismatchError, match=r":1'.*value.*:0'.*to\('\w+:1'\)"):
        x[0] = gpuprop.ones(3)
    with pytest.raises(BackendMismatchError, match=r":1'.*index.*:0'.*to\('\w+:1'\)"):
        x[gpuprop.tensor([0])]


def test_gradients_passed_to_backward(backend):
    on_device = [on_second(backend, 2.0), on_second(backend, 2.0, "float64")]
    for gradient in (2.0, np.float32(2), *on_device):
        x = on_second(backend, [1.0, 2.0], requires_grad=True)
        (x * x).sum().backward(gradient)
        assert device(x.grad) == 1 and backend.to_numpy(x.grad).tolist() == [4, 8]
    x = on_second(backend, [1.0, 2.0], requires_grad=True)
    for _ in range(2):
        x.backward([1.0, 3.0])
    assert device(x.grad) == 1 and backend.to_numpy(x.grad).tolist() == [2, 6]
    with pytest.raises(BackendMismatchError, match=r":1'.*gradient.*:0'.*to\('"):
        (x * x).backward(gpuprop.ones(2))


INITIALIZERS = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initial_values(backend, name):
    shape = (4, 4, 3) if name == "dirac_" else (4, 4)
    arguments = {"constant_": (2.0,), "sparse_": (0.5,)}.get(name, ())
    first = gpuprop.Parameter(np.full(shape, 9.0))
    second = gpuprop.Parameter(on_second(backend, np.full(shape, 9.0)))
    for parameter in (first, second):
        gpuprop.manual_seed(1)
        getattr(nn.init, name)(parameter, *arguments)
    np.testing.assert_array_equal(second.numpy(), first.numpy().astype("float32"))
    assert device(second) == 1


def test_state_of_modules_and_optimizers(backend):
    second = f"{backend.name}:1"
    model = nn.Sequential(nn.Linear(3, 3, device=second), nn.BatchNorm1d(3, device=second))
    x = on_second(backend, np.arange(6).reshape(2, 3))
    optimizer = optim.Adam(model.parameters())
    for _ in range(2):
        model(x).sum().backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    assert devices_of_model(model) == {1}
    assert not any(np.any(backend.to_numpy(p.grad)) for p in model.parameters())
    model.load_state_dict(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).state_dict())
    copied = copy.deepcopy(model)
    copied_optimizer = copy.deepcopy(optimizer)
    copied[1].reset_running_stats()
    copied[1].reset_parameters()
    copied[0].reset_parameters()
    vector = nn.utils.parameters_to_vector(copied.parameters())
    nn.utils.vector_to_parameters(vector * 2, copied.parameters())
    copied_optimizer.step()
    assert devices_of_model(model) == devices_of_model(copied) == {1}
    assert {device(state["exp_avg"]) for state in copied_optimizer.state.values()} == {1}
    cache = nn.KeyValueCache(1, 4, 1, 2, device=second)
    step = on_second(backend, np.ones((1, 1, 1, 2)))
    cache.update(step, step)
    cache.reorder(on_second(backend, [0], "int64"))
    cache.reset()
    assert cache.length.item() == 0 and set(devices(cache.buffers())) == {1}


@pytest.mark.parametrize("name", [name for name in optim.__all__ if name[0].isupper()
                                  and name != "Optimizer"])
def test_every_optimizer(backend, name):
    """A step on the second device gives the values of one on the first."""
    found = []
    for where in (f"{backend.name}:0", f"{backend.name}:1"):
        model = nn.Linear(3, 2, bias=False, device=where)
        model.load_state_dict({"weight": np.arange(6.0).reshape(2, 3)})
        optimizer = getattr(optim, name)(model.parameters())

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (model.weight ** 2).sum()
            loss.backward()
            return loss

        averaged = optim.swa_utils.AveragedModel(model)
        for _ in range(2):
            optimizer.step(closure)
            averaged.update_parameters(model)
        found += [model.weight.numpy(), averaged.module.weight.numpy()]
        assert set(devices(averaged.parameters())) == {int(where[-1])}
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
        optimizer.step(closure)
    np.testing.assert_array_equal(found[:2], found[2:])


def test_layers_and_functions_that_make_arrays(backend):
    x = on_second(backend, np.arange(6).reshape(2, 3))
    i = on_second(backend, [[0, 1], [1, 0]], "int64")
    second = f"{backend.name}:1"
    normalized = nn.utils.spectral_norm(nn.Linear(3, 2).to(second))
    adaptive = nn.AdaptiveLogSoftmaxWithLoss(3, 20, [5, 10]).to(second)
    log_p = F.log_softmax(on_second(backend, np.zeros((5, 2, 4))), -1)
    made = [
        normalized(x),
        adaptive(x, on_second(backend, [1, 12], "int64")).loss,
        F.alpha_dropout(x, training=True),
        F.feature_alpha_dropout(x, training=True),
        F.rrelu(x, training=True),
        F.gumbel_softmax(x),
        F.embedding(i, x, max_norm=1.0),
        F.embedding_bag(i, x, max_norm=1.0, mode="max"),
        F.fractional_max_pool2d(on_second(backend, np.ones((1, 1, 6, 6))), 2, output_size=3),
        F.ctc_loss(log_p, i + 1, [5, 5], [2, 2]),
        F.ctc_loss(log_p, i.reshape(-1) + 1, [5, 5], [2, 2]),
    ]
    assert devices(made) == [1] * len(made)


def test_a_users_module_and_pointwise_body(backend):
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


def test_an_error_names_its_module_once(backend):
    model = nn.Sequential(nn.Linear(3, 2)).to(f"{backend.name}:1")
    with pytest.raises(Exception) as raised:
        model(on_second(backend, np.ones((2, 4))))
    assert "\n".join(raised.value.__notes__).count("in Sequential.0: Linear") == 1
    assert backend.device() == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("tensors", [True, False], ids=["tensors", "arrays"])
def test_every_op_runs_on_the_device_of_its_arrays(backend, dtype, tensors):
    def put(a):
        is_floating = a.dtype.kind == "f"
        t = on_second(backend, a, dtype if is_floating else a.dtype, tensors and is_floating)
        return t if tensors else t.data

    # one row for each op and combination of dtypes
    rows = {(row.name, *(str(a.dtype) for a in row.arrays())): row for row in all_rows()}
    wrong = set()
    for row in rows.values():
        outputs = row.map_arrays(put)()
        if not isinstance(outputs, tuple | list):
            outputs = [outputs]
        outputs = [output for output in outputs if hasattr(output, "shape")]
        for output in outputs:
            if getattr(output, "requires_grad", False):
                with contextlib.suppress(NotImplementedError):  # a derivative without its own one
                    output.sum().backward(retain_graph=True)
        if set(devices(outputs)) - {1} or backend.device() != 0:
            wrong.add(row.name)
    assert not wrong


def test_sequences_are_generated_on_the_device_of_the_prompts(backend):
    embedding = nn.Embedding(5, 5).to(f"{backend.name}:1")
    step = lambda ids: embedding(ids)[:, -1]
    choose = lambda z: decoding.sample(z, top_k=3, top_p=0.9)
    prompts = on_second(backend, [[1, 2]], "int64")
    assert device(decoding.generate(step, prompts, 3, eos=0)) == 1
    assert device(decoding.generate(step, prompts, 3, choose=choose)) == 1
    assert devices(decoding.beam_search(step, prompts, 3, 2, eos=0)) == [1, 1]


@pytest.mark.parametrize("loader", [True, False], ids=["loader", "arrays"])
def test_a_trainer_copies_the_data_to_the_device_of_its_model(backend, loader):
    x, y = np.ones((8, 3), "float32"), np.arange(8) % 2
    if loader:
        data = DataLoader(TensorDataset(x, y), batch_size=4)
    else:
        data = gpuprop.tensor(x), gpuprop.tensor(y)
    model = nn.Linear(3, 2).to(f"{backend.name}:1")
    loss = nn.CrossEntropyLoss(gpuprop.ones(2))
    trainer = Trainer(model, loss, optim.Adam(model.parameters()), "accuracy")
    trainer.fit(data, data, epochs=2, progress=False)
    assert trainer.evaluate(data).keys() == {"loss", "accuracy"}
    assert device(trainer.predict(x)) == 1 and set(devices(model.parameters())) == {1}
    assert gpuprop.summary(model, (1, 3)).rows[0].output == (1, 2)


# ---- reads and the order of copies --------------------------------------------------------------


def test_a_read_raises_the_failed_checks_of_its_device(backend):
    F.embedding(on_second(backend, [5], "int64"), on_second(backend, [[1.0], [2.0]]))
    assert gpuprop.ones(1).tolist() == [1]
    with pytest.raises(IndexError, match="embedding"):
        on_second(backend, [1.0]).numpy()
    assert on_second(backend, [1.0]).tolist() == [1]


def test_copies_between_devices_are_ordered_with_the_work_of_both(backend):
    values = np.arange(4096)
    second = f"{backend.name}:1"
    x = gpuprop.tensor(values) * 1
    y = x.to(second)  # waits for the product
    x.fill_(9)  # waits for the copy
    assert y.numpy().tolist() == values.tolist()
    z = (gpuprop.tensor(values) * 2).to(second) * 1
    # this array may get the memory of the freed product
    assert (gpuprop.zeros(4096, dtype="int64") + 7).sum().item() == 7 * 4096
    assert z.numpy().tolist() == (2 * values).tolist()
    back = (x.reshape(64, 64).T * 1).to(second).to(f"{backend.name}:0")
    assert back.numpy().tolist() == np.full((64, 64), 9).tolist()


def test_the_device_that_receives_a_batch_waits_for_it(backend):
    x = np.arange(24, dtype="float32").reshape(8, 3)
    batches = iter(DataLoader(TensorDataset(x), batch_size=2))
    found = []
    for current in (1, 0, 1, 0):
        with use(backend.name, device=current):
            batch, = next(batches)
        found.append((batch * 1.0).numpy()[0, 0])
    assert found == [0, 6, 12, 18] and next(batches, None) is None


# ---- the default backend of the process and of a block ------------------------------------------


def test_a_device_argument_does_not_change_the_default_backend(backend):
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


def test_overlapping_blocks_restore_the_default_backend(backend):
    before = on_a_thread(default_backend)
    one, two = use("numpy"), use(backend.name)  # created in turn, as by two threads
    with one:
        pass
    assert on_a_thread(default_backend) is before  # `two` is not entered yet
    with two:
        assert on_a_thread(default_backend) is before
    assert on_a_thread(default_backend) is before


def test_a_plain_use_persists_after_a_block_that_was_created_before_it(backend):
    before = on_a_thread(default_backend)
    block = use(backend.name)
    use("numpy")
    with block:
        assert default_backend() is backend
    assert on_a_thread(default_backend).name == "numpy"
    use(before.name)
    assert on_a_thread(default_backend) is before
