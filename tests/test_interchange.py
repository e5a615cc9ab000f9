"""Pickles, copies and DLPack: devices, shared memory, and what is not copied."""

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


def pickle_and_load(value):
    return pickle.loads(pickle.dumps(value))


def backend_name(tensor):
    return backend_of(tensor.data).name


# ---- pickles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [Tensor, Parameter])
def test_pickles_load_on_the_default_backend(backend, kind, protocol):
    t = kind(gpuprop.tensor([[1.5, -2.0]]).data, requires_grad=True)
    pickled = pickle.dumps(t, protocol)
    assert b"strict" not in pickled
    assert b"cupy" not in pickled
    for name in ("numpy", backend.name):
        with gpuprop.use(name):
            loaded = pickle.loads(pickled)
        assert type(loaded) is kind
        assert loaded.requires_grad and loaded.is_leaf
        assert backend_name(loaded) == name
        assert type(loaded.data) is get_backend(name).array_type
        assert loaded.data is not t.data
        np.testing.assert_array_equal(loaded.numpy(), t.numpy())


@pytest.mark.parametrize("value", [
    np.float16(1.5), np.zeros((0, 2)), True, 3, np.ones(2, ml_dtypes.bfloat16)], ids=str)
def test_pickles_of_any_dtype_and_shape(value):
    t = gpuprop.tensor(value)
    loaded = pickle_and_load(t)
    assert (loaded.dtype, loaded.shape) == (t.dtype, t.shape)
    assert loaded.data.flags.writeable
    np.testing.assert_array_equal(loaded.numpy(), t.numpy())


def test_pickle_of_a_parameter_holds_its_values_only():
    """Neither the arena, nor the gradient, nor the hooks."""
    p = Parameter(gpuprop.ones(3))
    large = Parameter(gpuprop.zeros(10**5))
    optimizer = optim.SGD([large, p], lr=0.5)
    p.register_hook(do_nothing)
    (p * p).sum().backward()
    optimizer.step()
    assert len(pickle.dumps(p)) < 1000
    loaded = pickle_and_load(p)
    assert loaded.grad is None
    assert loaded.grad_buffer is None
    assert loaded.hooks is None
    assert loaded.numpy().tolist() == [0, 0, 0]


def do_nothing(*_):
    return None


class Tied(nn.Module):
    """A module with shared parameters, layers and generators."""

    def __init__(self):
        self.encode = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 4)
        self.decode.weight = self.encode.weight
        self.drop = nn.Dropout(0.5, rng=Generator(7))
        self.shared = nn.ModuleDict({"drop": nn.Dropout(0.5, rng=self.drop.rng),
                                     "encode": self.encode})
        self.register_buffer("steps", gpuprop.zeros(()), persistent=False)

    def forward(self, x):
        return self.decode(self.shared["drop"](self.encode(x)))


@pytest.mark.parametrize("duplicate", [pickle_and_load, copy.deepcopy])
def test_copies_of_modules_keep_shared_parts(backend, duplicate):
    model = Tied().eval()
    other = duplicate(model)
    assert other.decode.weight is other.encode.weight
    assert other.shared["encode"] is other.encode
    assert other.shared["drop"].rng is other.drop.rng
    assert other.drop.rng is not model.drop.rng
    assert not other.drop.training
    assert len(list(other.parameters())) == 3
    assert [name for name, _ in other.named_buffers()] == ["steps"]
    arrays = {id(p.data) for p in model.parameters()}
    assert not arrays & {id(p.data) for p in other.parameters()}
    x = gpuprop.ones((2, 4))
    for training in (False, True):
        expected = model.train(training)(x)
        np.testing.assert_array_equal(other.train(training)(x).numpy(), expected.numpy())


@pytest.mark.parametrize("duplicate", [pickle_and_load, copy.deepcopy])
def test_copy_of_a_model_and_its_optimizer_trains_on(backend, duplicate):
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
    other, other_optimizer = duplicate((model, optimizer))
    optimized = other_optimizer.param_groups[0]["params"]
    assert all(p is q for p, q in zip(other.parameters(), optimized, strict=True))
    expected = train(model, optimizer)
    result = train(other, other_optimizer)
    for name, value in expected.items():
        np.testing.assert_array_equal(result[name], value)


def test_computed_tensors_cannot_be_copied(backend):
    y = Parameter(gpuprop.ones(2)) * 2
    for duplicate in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(RuntimeError, match=r"only leaves.*\.detach\(\)"):
            duplicate(y)
    assert pickle_and_load(y.detach()).numpy().tolist() == [2, 2]


def test_pickles_keep_hooks_that_can_be_imported():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_pre_hook(do_nothing)
    (hook,) = pickle_and_load(model)[0]._hook_lists["before"]
    assert hook.function is do_nothing
    calls = []
    remove = model[0].register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(TypeError, match=r"hook test_pickles.*<lambda> cannot be pickled"):
        pickle.dumps(model)
    copy.deepcopy(model)(gpuprop.ones((1, 2)))
    assert calls == [1]
    remove()
    pickle.dumps(model)


def test_copies_of_a_generator_have_its_state(backend):
    generator = Generator(3)
    generator.normal((2,))
    generator.noise(gpuprop.ones(1))
    for duplicate in (pickle_and_load, copy.deepcopy):
        assert duplicate(generator).get_state() == generator.get_state()


# ---- copies --------------------------------------------------------------------------------------


def test_copies_stay_on_their_device(backend):
    p = Parameter(gpuprop.ones(2))
    (p * 3).sum().backward()
    with gpuprop.use("numpy"):
        q = copy.deepcopy(p)
    assert backend_name(q) == backend.name
    assert type(q.grad) is backend.array_type
    q.data[...] = 5
    q.grad[...] = 7
    assert p.numpy().tolist() == [1, 1]
    assert gpuprop.asnumpy(p.grad).tolist() == [3, 3]
    assert copy.copy(p).data is p.data


# ---- other libraries' arrays ---------------------------------------------------------------------


class Foreign:
    """An array of another library that supports DLPack."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, f"foreign.{array.dtype}"

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def address(a):
    return a.__array_interface__["data"][0]


def test_dlpack_shares_memory_in_both_directions():
    t = gpuprop.tensor([[1.0, 2.0], [3.0, 4.0]])
    exported = np.from_dlpack(t)
    assert address(exported) == address(t.data)
    assert t.__dlpack_device__() == (1, 0)
    imported = gpuprop.from_dlpack(exported)
    assert address(imported.data) == address(t.data)
    t.data[0, 0] = 9
    assert imported.numpy()[0, 0] == 9
    for source in (t, t.data):
        assert address(gpuprop.from_dlpack(source).data) == address(t.data)


@pytest.mark.parametrize("array", [
    np.arange(6).reshape(2, 3), np.arange(6.0).reshape(2, 3).T, np.array(1.5, "float32"),
    np.zeros((0, 2)), np.array([True])], ids=str)
def test_from_dlpack_shares_and_tensor_copies(array):
    x = Foreign(array)
    shared = gpuprop.from_dlpack(x)
    assert address(shared.data) == address(array)
    assert (shared.shape, shared.dtype) == (array.shape, array.dtype)
    for copied in (gpuprop.tensor(x), Tensor(x), gpuprop.tensor(shared)):
        assert not np.shares_memory(copied.data, array) and copied.data.flags.writeable
        np.testing.assert_array_equal(copied.numpy(), array)
    np.testing.assert_array_equal(gpuprop.asnumpy(x), array)


def test_foreign_arrays_are_copied_to_the_default_backend(backend):
    x = Foreign(np.ones(3))
    assert backend_name(gpuprop.tensor(x)) == backend.name
    assert gpuprop.tensor(x, dtype="float32").dtype == "float32"
    assert backend_name(Parameter(x)) == backend.name
    layer = nn.Linear(3, 1)
    layer.load_state_dict({"weight": Foreign(np.ones((1, 3))), "bias": Foreign(np.ones(1))})
    assert layer(gpuprop.ones((1, 3))).item() == 4


def test_subclasses_and_read_only_arrays_are_shared():
    array = np.arange(4.0)
    assert address(gpuprop.from_dlpack(array.view(np.memmap)).data) == address(array)
    array.flags.writeable = False
    if np.lib.NumpyVersion(np.__version__) < "2.1.0":  # it cannot export such arrays at all
        with pytest.raises(BufferError, match="readonly"):
            gpuprop.from_dlpack(Foreign(array))
        return
    read_only = gpuprop.from_dlpack(Foreign(array))
    assert not read_only.data.flags.writeable
    assert F.relu(read_only).numpy().tolist() == [0, 1, 2, 3]


def test_tensors_that_require_a_gradient_are_not_exported():
    p = Parameter(gpuprop.ones(2))
    for t in (p, p * 2):
        with pytest.raises(BufferError, match=r"requires a gradient.*\.detach\(\)"):
            np.from_dlpack(t)
        assert not hasattr(t, "__cuda_array_interface__")
    assert address(np.from_dlpack(p.detach())) == address(p.data)


def test_ops_on_foreign_arrays_suggest_from_dlpack():
    with pytest.raises(TypeError, match=r"relu.*'input'.*Foreign.*gpuprop\.from_dlpack"):
        F.relu(Foreign(np.ones(2)))


def test_arrays_that_cannot_be_shared():
    bfloat16 = Foreign(np.ones(2, ml_dtypes.bfloat16))
    with pytest.raises(BufferError, match=r"'numpy'.*Foreign \(foreign\.bfloat16\).*DLPack"):
        gpuprop.from_dlpack(bfloat16)
    for value in ([1.0], 2, None):
        with pytest.raises(TypeError, match=r"from_dlpack: x must.*gpuprop\.tensor"):
            gpuprop.from_dlpack(value)
    with pytest.raises(TypeError, match="masked"):
        gpuprop.from_dlpack(np.ma.ones(2))
    with gpuprop.use("strict"), pytest.raises(AttributeError, match="__dlpack"):
        np.from_dlpack(gpuprop.ones(2))


class OnDevice:
    """An array in CUDA memory of another library; its contents are never read here."""

    shape, dtype = (2,), "float32"


def test_cuda_arrays_are_imported_by_cupy(monkeypatch):
    chosen = []

    class FakeCupy:
        name = "cupy"
        xp = property(lambda self: self)
        from_dlpack = asarray = staticmethod(lambda value: np.ones(2))

    def backend_for(matches):
        chosen.append(matches(CupyBackend))
        return FakeCupy()

    class ByDlpack(OnDevice):
        def __dlpack__(self, **_):
            raise AssertionError("only CuPy may call this")

        def __dlpack_device__(self):
            return 2, 0

    class ByInterface(OnDevice):
        __cuda_array_interface__ = {"version": 3}

    monkeypatch.setattr(interchange, "backend_for", backend_for)
    for kind in (ByDlpack, ByInterface):
        np.testing.assert_array_equal(gpuprop.from_dlpack(kind()).numpy(), np.ones(2))
    assert chosen == [True, True]


@pytest.mark.gpu
def test_memory_is_shared_on_a_gpu():
    import cupy

    with gpuprop.use("cuda"):
        t = gpuprop.tensor([1.0, 2.0])
        pointer = t.data.data.ptr
        assert t.__cuda_array_interface__["data"][0] == pointer
        assert cupy.asarray(t).data.ptr == pointer
        assert cupy.from_dlpack(t).data.ptr == pointer
        for x in (t.data, Foreign(t.data)):
            assert gpuprop.from_dlpack(x).data.data.ptr == pointer
            assert gpuprop.tensor(x).data.data.ptr != pointer

        class Interface:
            shape, dtype = t.shape, t.dtype
            __cuda_array_interface__ = t.data.__cuda_array_interface__

        assert gpuprop.from_dlpack(Interface()).data.data.ptr == pointer
        with pytest.raises(BufferError, match="detach"):
            cupy.asarray(Parameter(t))
        loaded = pickle_and_load(t)
        assert backend_name(loaded) == "cupy"
        assert loaded.data.data.ptr != pointer
    assert backend_name(pickle_and_load(t)) == "numpy"
