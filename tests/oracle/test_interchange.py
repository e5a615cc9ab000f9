"""PyTorch's and JAX's arrays and gpuprop's in one memory, and safetensors files that either side wrote."""

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

MAKERS = {
    "float32": lambda: torch.arange(6.0).reshape(2, 3), "transposed": lambda: torch.arange(6.0).reshape(2, 3).T,
    "int64": lambda: torch.arange(3), "bool": lambda: torch.tensor([True, False]), "0-d": lambda: torch.tensor(2.5),
    "empty": lambda: torch.zeros(0, 2), "float16": lambda: torch.ones(2, dtype=torch.float16),
}


@pytest.mark.parametrize("name", MAKERS)
def test_torch_shares_memory_both_ways(name):
    t = MAKERS[name]()
    x = gpuprop.from_dlpack(t)
    np.testing.assert_array_equal(x.numpy(), t.numpy())
    if t.numel():
        assert x.data.__array_interface__["data"][0] == t.data_ptr() == torch.from_dlpack(x).data_ptr()
        assert gpuprop.tensor(t).data.__array_interface__["data"][0] != t.data_ptr()


def test_jax_shares_memory_in():
    j = jnp.arange(6.0).reshape(2, 3)
    x = gpuprop.from_dlpack(j)
    assert x.data.__array_interface__["data"][0] == j.unsafe_buffer_pointer()
    assert not x.data.flags.writeable, "JAX's arrays never change"
    np.testing.assert_array_equal(jnp.from_dlpack(gpuprop.tensor(j)), j)
    np.testing.assert_array_equal(F.relu(x).numpy(), j)


def test_what_one_writes_the_other_reads():
    t = torch.zeros(3)
    x = gpuprop.from_dlpack(t)
    t[0] = 5
    x.data[1] = 7
    assert x.numpy().tolist() == t.tolist() == [5, 7, 0]


def test_gradients_do_not_cross():
    t = torch.ones(2, requires_grad=True)
    with pytest.raises(BufferError, match="detach"):
        gpuprop.from_dlpack(t)
    with pytest.raises(BufferError, match="detach"):
        torch.from_dlpack(nn.Linear(2, 2).weight)
    assert gpuprop.from_dlpack(t.detach()).numpy().tolist() == [1, 1]


@pytest.mark.parametrize("value", [torch.ones(2), jnp.ones(2)], ids=["torch", "jax"])
def test_ops_name_the_way_in(value):
    for call in (lambda: F.relu(value), lambda: gpuprop.tensor([1.0, 2.0]) + value):
        with pytest.raises(TypeError, match=r"gpuprop\.from_dlpack"):
            call()


def test_bfloat16_says_what_is_in_the_way():
    for value in (torch.ones(2, dtype=torch.bfloat16), jnp.ones(2, "bfloat16")):
        with pytest.raises(BufferError, match=r"\((torch\.)?bfloat16\)"):
            gpuprop.tensor(value)


@pytest.mark.parametrize("make", [torch.tensor, jnp.asarray, lambda a: torch.nn.Parameter(torch.tensor(a))],
                         ids=["torch", "jax", "parameters"])
def test_their_state_loads(make):
    layer = nn.Linear(3, 2)
    weight, bias = np.arange(6, dtype="float32").reshape(2, 3), np.ones(2, "float32")
    layer.load_state_dict({"weight": make(weight), "bias": make(bias)})
    np.testing.assert_array_equal(layer.weight.numpy(), weight)


STATE = {
    "w": np.arange(6.0).reshape(2, 3), "half": np.ones(3, "float16"), "scalar": np.array(7), "byte": np.ones(3, "u1"),
    "mask": np.array([True, False]), "none": np.zeros((0, 2), "int32"), "complex": np.ones(2, "complex64"),
}


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, a in expected.items():
        assert (found[name].dtype, found[name].shape) == (a.dtype, a.shape)
        np.testing.assert_array_equal(found[name], a)


def test_safetensors_of_the_library_and_ours(tmp_path):
    gpuprop.save(tmp_path / "ours.safetensors", STATE)
    equal(safetensors.numpy.load_file(tmp_path / "ours.safetensors"), STATE)
    safetensors.numpy.save_file(STATE, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    equal(gpuprop.load(tmp_path / "theirs.safetensors"), STATE)


def test_the_library_reads_the_arrays_of_a_nested_state(tmp_path):
    gpuprop.save(tmp_path / "a.safetensors", {"model": {"w": np.ones(2)}, "lr": 0.1})
    equal(safetensors.numpy.load_file(tmp_path / "a.safetensors"), {"model.w": np.ones(2)})


def test_a_model_goes_to_pytorch_and_back_in_bfloat16(tmp_path):
    theirs, ours = torch.nn.Linear(3, 2).bfloat16(), nn.Linear(3, 2)
    safetensors.torch.save_model(theirs, tmp_path / "theirs.safetensors")
    state = gpuprop.load(tmp_path / "theirs.safetensors")
    assert state["weight"].dtype == ml_dtypes.bfloat16
    ours.load_state_dict(state)
    assert ours.weight.numpy().tolist() == theirs.weight.tolist()
    gpuprop.save(tmp_path / "ours.safetensors", state)
    safetensors.torch.load_model(again := torch.nn.Linear(3, 2).bfloat16(), tmp_path / "ours.safetensors")
    assert torch.equal(again.weight, theirs.weight)
