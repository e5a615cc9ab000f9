"""Files of states: what goes in comes out; what is damaged, foreign or dangerous is refused by name."""

import io
import json
import pickle
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuprop
from gpuprop import nn, optim
from gpuprop.io import load, replacing, save

SUFFIXES = [".npz", ".safetensors"]
DTYPES = "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 complex64".split()


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"state{request.param}"


def same(a, b):
    """Equal in structure, types and bits."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


# ---- what goes in comes out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (0, 3)], ids=str)
def test_arrays(path, rng, dtype, shape):
    array = np.asarray(rng.standard_normal(shape) * 50).astype(dtype)
    save(path, {"a": array, "b": array})
    assert same(load(path), {"a": array, "b": array})


def test_every_layout_and_byte_order(path, rng):
    a = rng.standard_normal((4, 6))
    given = {"transposed": a.T, "fortran": np.asfortranarray(a), "sliced": a[::2, 1::3], "backwards": a[::-1],
             "spread": np.broadcast_to(a[0], (3, 6)), "big": a.astype(">f8"), "memmap": a.view(np.memmap)}
    save(path, given)
    found = load(path)
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable and found[name].dtype == "float64"


def test_tensors_of_every_backend(backend, path):
    x = gpuprop.arange(6).reshape(2, 3)
    save(path, {"tensor": x, "array": x.data, "parameter": gpuprop.Parameter(x.astype("float32"))})
    found = load(path)
    assert same(found, {"tensor": x.numpy(), "array": x.numpy(), "parameter": x.numpy().astype("float32")})


def test_plain_values(path):
    state = {
        "numbers": [0, -1, 2**64, 0.1, float("nan"), float("-inf"), True, None], "text": "naïve 数",
        "pair": (1, (2.5,)), "empty": [{}, [], (), ""],
        3: {"deep": {0: np.arange(2), -1: [np.ones(1), {"x": np.zeros(())}]}},
    }
    save(path, state)
    assert same(load(path), state)


def test_numpys_scalars_are_numbers(path):
    save(path, {"a": np.float32(0.5), "b": np.int8(3), "c": np.bool_(True), "d": np.str_("x")})
    assert same(load(path), {"a": 0.5, "b": 3, "c": True, "d": "x"})


AWKWARD = ["", "a", "a.b", "a_", "__metadata__", "__types__", "file", "0", "..", "/x", "a/b", "数"]
ARRAYS = st.sampled_from([np.arange(3), np.zeros((2, 0)), np.array(1.5, "float16"), np.ones(2, ml_dtypes.bfloat16)])
LEAVES = st.one_of(ARRAYS, st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
TREES = st.recursive(LEAVES, lambda inside: st.one_of(
    st.lists(inside, max_size=3), st.lists(inside, max_size=3).map(tuple),
    st.dictionaries(st.one_of(st.sampled_from(AWKWARD), st.integers()), inside, max_size=4)), max_leaves=8)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None, max_examples=60)
@given(state=st.dictionaries(st.sampled_from(AWKWARD), TREES, max_size=4))
def test_any_state(tmp_path_factory, suffix, state):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    save(path, state)
    assert same(load(path), state)


def test_a_run_goes_on_from_a_file(backend, path):
    x, y = gpuprop.random.normal((8, 3)), gpuprop.random.normal((8, 2))

    def make():
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        return model, optim.Adam(model.parameters(), lr=0.1)

    def train(model, optimizer, steps=3):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.MSELoss()(model(x), y).backward()
            optimizer.step()

    model, optimizer = make()
    train(model, optimizer)
    save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3,
                "generator": gpuprop.random.default_generator.get_state()})
    again, other = make()
    state = load(path)
    again.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    train(model, optimizer)
    train(again, other)
    assert same(again.state_dict(), model.state_dict()) and same(other.state_dict(), optimizer.state_dict())
    assert state["epoch"] == 3 and state["generator"]["draws"][0] > 0


# ---- the files are the formats' own ---------------------------------------------------------------------------------


def test_a_flat_npz_is_what_numpy_makes(tmp_path, rng):
    weights = nn.Linear(2, 3).state_dict()
    save(tmp_path / "ours.npz", weights)
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as file:
        assert same(dict(file), weights)
    np.savez_compressed(tmp_path / "theirs.npz", **weights)
    assert same(load(tmp_path / "theirs.npz"), weights)


def test_numpy_reads_bfloat16_as_float32(tmp_path):
    save(tmp_path / "a.npz", {"x": np.array([1.5, -2], ml_dtypes.bfloat16)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["x"].dtype == "float32" and file["x"].tolist() == [1.5, -2]


def header_of(path):
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8:8 + n]), data[8 + n:]


def test_a_flat_safetensors_file_to_the_byte(tmp_path):
    save(tmp_path / "a.safetensors", {"b": np.array([1, 2], "uint8"), "a": np.array([[1.0]], "float32")})
    header = (b'{"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},'
              b'"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}')
    header += b" " * (-len(header) % 8)
    data = len(header).to_bytes(8, "little") + header + b"\x00\x00\x80\x3f\x01\x02"
    assert (tmp_path / "a.safetensors").read_bytes() == data


def test_safetensors_aligns_every_array(tmp_path):
    save(tmp_path / "a.safetensors", {f"{n} {d}": np.ones(n, d) for n in (1, 3) for d in ("bool", "int64", "float16")})
    header, _ = header_of(tmp_path / "a.safetensors")
    sizes = {"BOOL": 1, "I64": 8, "F16": 2}
    assert all(entry["data_offsets"][0] % sizes[entry["dtype"]] == 0 for entry in header.values())


def test_the_same_state_makes_the_same_bytes(path):
    state = {"a": np.arange(3.0), "n": 1}
    save(path, state)
    first = path.read_bytes()
    save(path, state)
    assert path.read_bytes() == first


def test_without_ml_dtypes_bfloat16_is_float32(path, monkeypatch):
    x = np.array([1.5, -0.0, np.inf], ml_dtypes.bfloat16)
    save(path, {"x": x})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert same(load(path)["x"], x.astype("float32"))


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state, told", [
    ({"a": {"f": print}}, r"state entry 'a.f' is builtin_function_or_method"),
    ({"a": [1, {2}]}, r"state entry 'a.1' is set"),
    ({"a": np.array([None])}, "state entry 'a' is ndarray of Python objects"),
    ({"a": {(1, 2): 3}}, r"state entry 'a' has the key \(1, 2\)"),
    ({"a": 1j}, "state entry 'a' is complex"),
    (nn.Linear(1, 1), r"not Linear: give its state_dict\(\)"),
    (np.ones(3), "a state is a dict, not ndarray"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_no_file_holds(path, state, told):
    with pytest.raises(TypeError, match=told):
        save(path, state)
    assert list(path.parent.iterdir()) == []


def test_the_path_comes_first(path):
    with pytest.raises(TypeError, match=r"save\(path, state\): the path comes first"):
        save({"a": np.ones(2)}, path)


def test_types_that_safetensors_has_not(tmp_path):
    with pytest.raises(TypeError, match=r"'a' is of type <U1, which safetensors lacks: convert it, or save as .npz"):
        save(tmp_path / "a.safetensors", {"a": np.array(["x"])})
    save(tmp_path / "a.npz", {"a": np.array(["x"])})
    assert list(tmp_path.iterdir()) == [tmp_path / "a.npz"]


@pytest.mark.parametrize("name", ["a.pt", "a", "a.npy", "a.NPZ"])
@pytest.mark.parametrize("call", [load, lambda path: save(path, {})], ids=["load", "save"])
def test_other_suffixes(tmp_path, name, call):
    with pytest.raises(ValueError, match=r"\.npz or \.safetensors file, and .* is named otherwise") as caught:
        call(tmp_path / name)
    assert ("PyTorch's files are pickles" in str(caught.value)) == (name == "a.pt")


def test_what_is_not_there(path):
    with pytest.raises(FileNotFoundError, match=path.name):
        load(path)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was run')",)


def test_pickles_are_not_read(tmp_path):
    bomb = np.array([Bomb()], dtype=object)
    file = io.BytesIO()
    np.lib.format.write_array(file, bomb)
    with zipfile.ZipFile(tmp_path / "array.npz", "w") as archive:
        archive.writestr("a.npy", file.getvalue())
    (tmp_path / "whole.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("array.npz", "whole.npz"):
        with pytest.raises(ValueError, match=f"{name}' is no whole .npz file of arrays"):
            load(tmp_path / name)


def test_damage_is_an_error_or_harmless(path, rng):
    """Files cut short anywhere are refused, and those with any one byte changed raise ValueError or nothing."""
    save(path, {"a": np.arange(3, dtype="float32"), "b": np.ones((2, 2), bool), "n": [1, "x"]})
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match="is no whole"):
            load(path)
        path.write_bytes(whole[:n] + bytes([whole[n] ^ int(rng.integers(1, 256))]) + whole[n + 1:])
        try:
            load(path)
        except ValueError as e:
            assert "is no whole" in str(e)


def test_a_changed_number_in_an_npz_is_found(tmp_path):
    save(tmp_path / "a.npz", {"a": np.arange(100.0)})
    whole = (tmp_path / "a.npz").read_bytes()
    at = whole.index(np.float64(50).tobytes())
    (tmp_path / "a.npz").write_bytes(whole[:at] + b"\x01" + whole[at + 1:])
    with pytest.raises(ValueError, match="CRC"):
        load(tmp_path / "a.npz")


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize("header, told", [
    ({"a": {**ENTRY, "data_offsets": [4, 8]}}, "'a', of shape .* is not at bytes 4 to 8 of 4"),
    ({"a": {**ENTRY, "shape": [2]}}, r"'a', of shape \[2\] and type F32"),
    ({"a": {**ENTRY, "shape": [2**60], "data_offsets": [0, 2**62]}}, "is not at bytes"),
    ({"a": {**ENTRY, "shape": [-1, -1]}}, "one unknown dimension"),
    ({"a": {**ENTRY, "dtype": "F4"}}, "'a' is of a type unknown here, 'F4'"),
    ({"a": ENTRY, "b": ENTRY}, "'b', of shape"),
    ({}, "4 belong to no array"),
    ({"a": {}}, "KeyError"),
    ([1], "AttributeError|TypeError"),
], ids=str)
def test_safetensors_headers_that_lie(tmp_path, header, told):
    head = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    with pytest.raises(ValueError, match=told):
        load(tmp_path / "a.safetensors")


def test_a_header_longer_than_the_file(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"GIF89a, some other format")
    with pytest.raises(ValueError, match=r"its header should have \d{19} bytes, and 17 are there"):
        load(tmp_path / "a.safetensors")


# ---- whole or not at all --------------------------------------------------------------------------------------------


def test_a_file_that_fails_leaves_the_old_one(path, monkeypatch):
    save(path, {"a": np.ones(3)})
    before = path.read_bytes()
    monkeypatch.setattr(gpuprop.io._state.FORMATS[path.suffix], "write", full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        save(path, {"a": np.zeros(3)})
    assert "a file that was there is as it was" in caught.value.__notes__[0]
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def full_disk(file, arrays, text):
    file.write(b"half of it")
    raise OSError(28, "No space left on device")


def test_folders_on_the_way_are_made(path):
    path = path.parent / "runs" / "1" / path.name
    save(str(path), {"a": np.ones(1)})
    assert same(load(str(path)), {"a": np.ones(1)})


def test_replacing_text(tmp_path):
    with replacing(tmp_path / "a.txt") as file:
        file.write("ü\n")
    assert (tmp_path / "a.txt").read_bytes() == "ü\n".encode()
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt") as file:
        file.write(str(1 / 0))
    assert (tmp_path / "a.txt").read_bytes() == "ü\n".encode() and len(list(tmp_path.iterdir())) == 1
