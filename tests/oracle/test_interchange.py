"""Memory shared with PyTorch and JAX, and safetensors files written by either side."""

import sys

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import gpuprop
import gpuprop.functional as F
from gpuprop import nn

TENSORS = {
    "float32": lambda: torch.arange(6.0).reshape(2, 3),
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).T,
    "int64": lambda: torch.arange(3),
    "bool": lambda: torch.tensor([True, False]),
    "0-d": lambda: torch.tensor(2.5),
    "empty": lambda: torch.zeros(0, 2),
    "float16": lambda: torch.ones(2, dtype=torch.float16),
}


def address(x):
    return x.data.__array_interface__["data"][0]


@pytest.mark.parametrize("name", TENSORS)
def test_memory_is_shared_with_torch_in_both_directions(name):
    t = TENSORS[name]()
    x = gpuprop.from_dlpack(t)
    np.testing.assert_array_equal(x.numpy(), t.numpy())
    if t.numel():
        assert address(x) == t.data_ptr() == torch.from_dlpack(x).data_ptr()
        assert address(gpuprop.tensor(t)) != t.data_ptr()


def test_memory_of_jax_arrays_is_shared():
    j = jnp.arange(6.0).reshape(2, 3)
    x = gpuprop.from_dlpack(j)
    assert address(x) == j.unsafe_buffer_pointer()
    assert not x.data.flags.writeable, "JAX arrays are immutable"
    np.testing.assert_array_equal(jnp.from_dlpack(gpuprop.tensor(j)), j)
    np.testing.assert_array_equal(F.relu(x).numpy(), j)


def test_writes_are_visible_on_both_sides():
    t = torch.zeros(3)
    x = gpuprop.from_dlpack(t)
    t[0] = 5
    x.data[1] = 7
    assert x.numpy().tolist() == t.tolist() == [5, 7, 0]


def test_tensors_with_gradients_are_not_shared():
    t = torch.ones(2, requires_grad=True)
    with pytest.raises(BufferError, match="detach"):
        gpuprop.from_dlpack(t)
    with pytest.raises(BufferError, match="detach"):
        torch.from_dlpack(nn.Linear(2, 2).weight)
    assert gpuprop.from_dlpack(t.detach()).numpy().tolist() == [1, 1]


@pytest.mark.parametrize("value", [torch.ones(2), jnp.ones(2)], ids=["torch", "jax"])
def test_ops_on_foreign_arrays_suggest_from_dlpack(value):
    for call in (lambda: F.relu(value), lambda: gpuprop.tensor([1.0, 2.0]) + value):
        with pytest.raises(TypeError, match=r"gpuprop\.from_dlpack"):
            call()


SPECIAL = [1.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 3.3895314e38, 1.0078125]


@pytest.mark.parametrize("make", [
    lambda: torch.tensor(SPECIAL).bfloat16(),
    lambda: torch.tensor(SPECIAL).bfloat16().reshape(2, 4).T,
    lambda: torch.tensor(2.5).bfloat16(), lambda: torch.zeros(0, 2).bfloat16(),
    lambda: jnp.asarray(SPECIAL, "bfloat16")],
    ids=["torch", "transposed", "0-d", "empty", "jax"])
def test_bfloat16_is_read_exactly(make):
    theirs = make()
    is_torch = isinstance(theirs, torch.Tensor)
    bits = theirs.view(torch.int16).numpy() if is_torch else np.asarray(theirs).view("int16")
    for convert in (gpuprop.tensor, gpuprop.from_dlpack, gpuprop.asnumpy):
        ours = gpuprop.asnumpy(convert(theirs))
        assert ours.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(ours.view("int16"), bits)


def test_memory_of_bfloat16_is_shared_with_torch(monkeypatch):
    t = torch.zeros(3).bfloat16()
    x = gpuprop.from_dlpack(t)
    t[0] = 5
    assert x.numpy().tolist() == [5, 0, 0] and address(x) == t.data_ptr()
    with pytest.raises(BufferError, match="detach"):
        gpuprop.tensor(torch.nn.Parameter(t))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="pip install ml_dtypes"):
        gpuprop.tensor(t)


@pytest.mark.parametrize("has_ml_dtypes", [True, False])
def test_bfloat16_states_of_pytorch(monkeypatch, has_ml_dtypes):
    if not has_ml_dtypes:
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    theirs, ours = torch.nn.Linear(3, 2).bfloat16(), nn.Linear(3, 2)
    their_adam = torch.optim.Adam(theirs.parameters())
    theirs(torch.ones(4, 3).bfloat16()).sum().backward()
    their_adam.step()
    ours.load_state_dict(theirs.state_dict())
    assert ours.weight.numpy().tolist() == theirs.weight.tolist()
    adam = gpuprop.optim.Adam(ours.parameters())
    adam.load_state_dict(their_adam.state_dict())
    moment = adam.state_dict()["state"][0]["exp_avg"]
    assert moment.tolist() == their_adam.state_dict()["state"][0]["exp_avg"].tolist()


@pytest.mark.parametrize(
    "make", [torch.tensor, jnp.asarray, lambda a: torch.nn.Parameter(torch.tensor(a))],
    ids=["torch", "jax", "parameters"])
def test_load_state_dict_accepts_foreign_arrays(make):
    layer = nn.Linear(3, 2)
    weight, bias = np.arange(6, dtype="float32").reshape(2, 3), np.ones(2, "float32")
    layer.load_state_dict({"weight": make(weight), "bias": make(bias)})
    np.testing.assert_array_equal(layer.weight.numpy(), weight)


STATE = {
    "w": np.arange(6.0).reshape(2, 3),
    "half": np.ones(3, "float16"),
    "scalar": np.array(7),
    "byte": np.ones(3, "u1"),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 2), "int32"),
    "complex": np.ones(2, "complex64"),
}


def assert_same_state(result, expected):
    assert result.keys() == expected.keys()
    for name, array in expected.items():
        assert (result[name].dtype, result[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(result[name], array)


def test_safetensors_reads_our_files_and_we_read_its_files(tmp_path):
    gpuprop.save(tmp_path / "ours.safetensors", STATE)
    assert_same_state(safetensors.numpy.load_file(tmp_path / "ours.safetensors"), STATE)
    safetensors.numpy.save_file(STATE, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    assert_same_state(gpuprop.load(tmp_path / "theirs.safetensors"), STATE)


def test_safetensors_reads_the_arrays_of_a_nested_state(tmp_path):
    gpuprop.save(tmp_path / "a.safetensors", {"model": {"w": np.ones(2)}, "lr": 0.1})
    loaded = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert_same_state(loaded, {"model.w": np.ones(2)})


def test_bfloat16_model_from_pytorch_and_back(tmp_path):
    theirs = torch.nn.Linear(3, 2).bfloat16()
    safetensors.torch.save_model(theirs, tmp_path / "theirs.safetensors")
    state = gpuprop.load(tmp_path / "theirs.safetensors")
    assert state["weight"].dtype == ml_dtypes.bfloat16
    ours = nn.Linear(3, 2)
    ours.load_state_dict(state)
    assert ours.weight.numpy().tolist() == theirs.weight.tolist()
    gpuprop.save(tmp_path / "ours.safetensors", state)
    reloaded = torch.nn.Linear(3, 2).bfloat16()
    safetensors.torch.load_model(reloaded, tmp_path / "ours.safetensors")
    assert torch.equal(reloaded.weight, theirs.weight)
