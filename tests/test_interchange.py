"""Copies, pickles and other libraries' arrays: what stays on the device, what travels, whose memory it is."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import Parameter, Tensor, nn, optim
from gpuprop._core import interchange
from gpuprop._core.registry import backend_of, get_backend
from gpuprop.random import Generator
from gpuprop_cupy import CupyBackend


def through(thing, protocol=pickle.HIGHEST_PROTOCOL):
    return pickle.loads(pickle.dumps(thing, protocol))


def owner(tensor):
    return backend_of(tensor.data).name


# ---- pickles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [Tensor, Parameter])
def test_a_pickle_holds_host_arrays_and_opens_where_one_is(backend, kind, protocol):
    t = kind(gpuprop.tensor([[1.5, -2.0]]).data, requires_grad=True)
    blob = pickle.dumps(t, protocol)
    assert b"strict" not in blob and b"cupy" not in blob
    for name in ("numpy", backend.name):
        with gpuprop.use(name):
            again = pickle.loads(blob)
        assert type(again) is kind and owner(again) == name and again.requires_grad and again.is_leaf
        np.testing.assert_array_equal(again.numpy(), t.numpy())
        assert type(again.data) is get_backend(name).array_type and again.data is not t.data


@pytest.mark.parametrize("value", [np.float16(1.5), np.zeros((0, 2)), True, 3, np.ones(2, ml_dtypes.bfloat16)], ids=str)
def test_any_dtype_and_shape(value):
    t = gpuprop.tensor(value)
    again = through(t)
    assert (again.dtype, again.shape) == (t.dtype, t.shape) and again.data.flags.writeable
    np.testing.assert_array_equal(again.numpy(), t.numpy())


def test_a_parameter_takes_along_its_values_alone():
    """Of an arena it is a part of, of its gradient and of its hooks nothing."""
    p, q = Parameter(gpuprop.ones(3)), Parameter(gpuprop.zeros(10**5))
    optimizer = optim.SGD([q, p], lr=0.5)
    p.register_hook(print_nothing)
    (p * p).sum().backward()
    optimizer.step()
    again = through(p)
    assert len(pickle.dumps(p)) < 1000
    assert again.grad is None and again.grad_buffer is None and again.hooks is None and again.numpy().tolist() == [0, 0, 0]


def print_nothing(*_):
    return None


class Tied(nn.Module):
    def __init__(self):
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decode.weight = self.encode.weight
        self.drop = nn.Dropout(0.5, rng=Generator(7))
        self.also = nn.ModuleDict({"drop": nn.Dropout(0.5, rng=self.drop.rng), "same": self.encode})
        self.register_buffer("steps", gpuprop.zeros(()), persistent=False)

    def forward(self, x):
        return self.decode(self.also["drop"](self.encode(x)))


@pytest.mark.parametrize("again", [through, copy.deepcopy])
def test_a_module_is_the_same_again(backend, again):
    model = Tied().eval()
    other = again(model)
    assert other.decode.weight is other.encode.weight and other.also["same"] is other.encode
    assert other.also["drop"].rng is other.drop.rng is not model.drop.rng and not other.drop.training
    assert len(list(other.parameters())) == 3 and [n for n, _ in other.named_buffers()] == ["steps"]
    assert not {id(p.data) for p in other.parameters()} & {id(p.data) for p in model.parameters()}
    x = gpuprop.ones((2, 4))
    for mode in (False, True):
        np.testing.assert_array_equal(other.train(mode)(x).numpy(), model.train(mode)(x).numpy())


@pytest.mark.parametrize("again", [through, copy.deepcopy])
def test_a_model_and_its_optimizer_go_on_together(backend, again):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    x = gpuprop.random.normal((5, 3))

    def train(model, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            (model(x) ** 2).mean().backward()
            optimizer.step()
        return model.state_dict()

    train(model, optimizer)
    other, its = again((model, optimizer))
    assert all(p is q for p, q in zip(other.parameters(), its.param_groups[0]["params"], strict=True))
    expected, found = train(model, optimizer), train(other, its)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_what_was_computed_does_not_travel(backend):
    y = Parameter(gpuprop.ones(2)) * 2
    for carry in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(RuntimeError, match=r"this tensor was computed; use \.detach\(\) first"):
            carry(y)
    assert through(y.detach()).numpy().tolist() == [2, 2]


def test_hooks_that_pickle_finds_by_name_travel_and_others_are_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_pre_hook(print_nothing)
    assert through(model)[0]._hooks["before"] == [print_nothing]
    seen = []
    remove = model[0].register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(TypeError, match=r"with the hook test_hooks.*<lambda> cannot be pickled: remove the hook first"):
        pickle.dumps(model)
    copy.deepcopy(model)(gpuprop.ones((1, 2)))
    assert seen == [1]
    remove()
    pickle.dumps(model)


def test_a_generator_goes_on(backend):
    generator = Generator(3)
    generator.normal((2,)), generator.noise(gpuprop.ones(1))
    for again in (through, copy.deepcopy):
        assert again(generator).get_state() == generator.get_state()


# ---- copies ---------------------------------------------------------------------------------------------------------


def test_a_copy_stays_on_its_device(backend):
    p = Parameter(gpuprop.ones(2))
    (p * 3).sum().backward()
    with gpuprop.use("numpy"):
        q = copy.deepcopy(p)
    assert owner(q) == backend.name and type(q.grad) is backend.array_type
    q.data[...] = 5
    q.grad[...] = 7
    assert p.numpy().tolist() == [1, 1] and gpuprop.asnumpy(p.grad).tolist() == [3, 3]
    assert copy.copy(p).data is p.data


# ---- other libraries' arrays ----------------------------------------------------------------------------------------


class Foreign:
    """An array of a library that speaks DLPack."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, f"foreign.{array.dtype}"

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def address(a):
    return a.__array_interface__["data"][0]


def test_out_and_in_without_a_copy():
    t = gpuprop.tensor([[1.0, 2.0], [3.0, 4.0]])
    out = np.from_dlpack(t)
    assert address(out) == address(t.data) and t.__dlpack_device__() == (1, 0)
    back = gpuprop.from_dlpack(out)
    assert address(back.data) == address(t.data)
    t.data[0, 0] = 9
    assert back.numpy()[0, 0] == 9
    assert address(gpuprop.from_dlpack(t).data) == address(gpuprop.from_dlpack(t.data).data) == address(t.data)


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.arange(6.0).reshape(2, 3).T, np.array(1.5, "float32"),
                                   np.zeros((0, 2)), np.array([True])], ids=str)
def test_from_dlpack_shares_and_tensor_copies(array):
    x = Foreign(array)
    shared = gpuprop.from_dlpack(x)
    assert address(shared.data) == address(array) and (shared.shape, shared.dtype) == (array.shape, array.dtype)
    for copied in (gpuprop.tensor(x), Tensor(x), gpuprop.tensor(shared)):
        assert not np.shares_memory(copied.data, array) and copied.data.flags.writeable
        np.testing.assert_array_equal(copied.numpy(), array)
    np.testing.assert_array_equal(gpuprop.asnumpy(x), array)


def test_foreign_arrays_go_to_the_backend_in_use(backend):
    x = Foreign(np.ones(3))
    assert owner(gpuprop.tensor(x)) == backend.name and gpuprop.tensor(x, dtype="float32").dtype == "float32"
    assert owner(Parameter(x)) == backend.name
    layer = nn.Linear(3, 1)
    layer.load_state_dict({"weight": Foreign(np.ones((1, 3))), "bias": Foreign(np.ones(1))})
    assert layer(gpuprop.ones((1, 3))).item() == 4


def test_views_of_special_arrays():
    whole = np.arange(4.0)
    assert address(gpuprop.from_dlpack(whole.view(np.memmap)).data) == address(whole)
    whole.flags.writeable = False
    frozen = gpuprop.from_dlpack(Foreign(whole))
    assert not frozen.data.flags.writeable and F.relu(frozen).numpy().tolist() == [0, 1, 2, 3]


def test_what_requires_a_gradient_is_not_given_away():
    p = Parameter(gpuprop.ones(2))
    for t in (p, p * 2):
        with pytest.raises(BufferError, match=r"requires a gradient, .* give \.detach\(\)"):
            np.from_dlpack(t)
        assert not hasattr(t, "__cuda_array_interface__")
    assert address(np.from_dlpack(p.detach())) == address(p.data)


def test_ops_name_the_way_in():
    with pytest.raises(TypeError, match=r"relu\(\): 'input' must be .*Foreign: .*tensor.*or with gpuprop\.from_dlpack"):
        F.relu(Foreign(np.ones(2)))


def test_what_cannot_be_shared():
    bfloat16 = Foreign(np.ones(2, ml_dtypes.bfloat16))
    told = r"'numpy' cannot share the memory of this \S*Foreign \(foreign\.bfloat16\): DLPack"
    with pytest.raises(BufferError, match=told):
        gpuprop.from_dlpack(bfloat16)
    for value in ([1.0], 2, None):
        with pytest.raises(TypeError, match=r"no backend owns .* gpuprop\.tensor"):
            gpuprop.from_dlpack(value)
    with pytest.raises(TypeError, match="masked"):
        gpuprop.from_dlpack(np.ma.ones(2))
    with gpuprop.use("strict"), pytest.raises(AttributeError, match="__dlpack"):
        np.from_dlpack(gpuprop.ones(2))


class OnDevice:
    """An array in CUDA's memory, as far as can be seen from outside."""

    shape, dtype = (2,), "float32"


def test_cudas_memory_is_cupys(monkeypatch):
    asked = []
    monkeypatch.setattr(interchange, "backend_for", lambda wanted: asked.append(wanted(CupyBackend)) or Double())

    class Double:
        name = "cupy"
        xp = property(lambda self: self)
        from_dlpack = asarray = staticmethod(lambda value: np.ones(2))

    class ByDlpack(OnDevice):
        def __dlpack__(self, **_):
            raise AssertionError("CuPy's business")

        def __dlpack_device__(self):
            return 2, 0

    class ByInterface(OnDevice):
        __cuda_array_interface__ = {"version": 3}

    for kind in (ByDlpack, ByInterface):
        np.testing.assert_array_equal(gpuprop.from_dlpack(kind()).numpy(), np.ones(2))
    assert asked == [True, True]


@pytest.mark.gpu
def test_on_a_gpu_without_a_copy():
    import cupy

    with gpuprop.use("cuda"):
        t = gpuprop.tensor([1.0, 2.0])
        pointer = t.data.data.ptr
        assert t.__cuda_array_interface__["data"][0] == pointer
        assert cupy.asarray(t).data.ptr == cupy.from_dlpack(t).data.ptr == pointer
        for x in (t.data, Foreign(t.data)):
            assert gpuprop.from_dlpack(x).data.data.ptr == pointer != gpuprop.tensor(x).data.data.ptr

        class Interface:
            shape, dtype, __cuda_array_interface__ = t.shape, t.dtype, t.data.__cuda_array_interface__

        assert gpuprop.from_dlpack(Interface()).data.data.ptr == pointer
        with pytest.raises(BufferError, match="detach"):
            cupy.asarray(Parameter(t))
        assert owner(through(t)) == "cupy" and through(t).data.data.ptr != pointer
    assert owner(through(t)) == "numpy"
