"""State files: exact round trips, formats of other libraries, and errors for invalid files."""

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
DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
          "float16", "bfloat16", "float32", "float64", "complex64"]


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"state{request.param}"


def same(a, b):
    """Equal in structure, types and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


# ---- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (0, 3)], ids=str)
def test_arrays(path, rng, dtype, shape):
    array = np.asarray(rng.standard_normal(shape) * 50).astype(dtype)
    save(path, {"a": array, "b": array})
    assert same(load(path), {"a": array, "b": array})


def test_every_layout_and_byte_order(path, rng):
    a = rng.standard_normal((4, 6))
    state = {
        "transposed": a.T, "fortran": np.asfortranarray(a), "sliced": a[::2, 1::3],
        "reversed": a[::-1], "broadcast": np.broadcast_to(a[0], (3, 6)),
        "big-endian": a.astype(">f8"), "memmap": a.view(np.memmap),
    }
    save(path, state)
    found = load(path)
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable and found[name].dtype == "float64"


def test_tensors_of_every_backend(backend, path):
    x = gpuprop.arange(6).reshape(2, 3)
    save(path, {"tensor": x, "array": x.data, "parameter": gpuprop.Parameter(x.astype("float32"))})
    want = x.numpy()
    assert same(load(path), {"tensor": want, "array": want, "parameter": want.astype("float32")})


def test_plain_values(path):
    state = {
        "numbers": [0, -1, 2**64, 0.1, float("nan"), float("-inf"), True, None],
        "string": "naïve 数",
        "pair": (1, (2.5,)), "empty": [{}, [], (), ""],
        3: {"deep": {0: np.arange(2), -1: [np.ones(1), {"x": np.zeros(())}]}},
    }
    save(path, state)
    assert same(load(path), state)


def test_numpy_scalars_become_python_numbers(path):
    save(path, {"a": np.float32(0.5), "b": np.int8(3), "c": np.bool_(True), "d": np.str_("x")})
    assert same(load(path), {"a": 0.5, "b": 3, "c": True, "d": "x"})


NAMES = ["", "a", "a.b", "a_", "__metadata__", "__types__", "file", "0", "..", "/x", "a/b", "数"]
ARRAYS = st.sampled_from([np.arange(3), np.zeros((2, 0)), np.array(1.5, "float16"),
                          np.ones(2, ml_dtypes.bfloat16)])
LEAVES = st.one_of(ARRAYS, st.none(), st.booleans(), st.integers(), st.floats(),
                   st.text(max_size=5))
KEYS = st.one_of(st.sampled_from(NAMES), st.integers())
TREES = st.recursive(LEAVES, lambda trees: st.one_of(
    st.lists(trees, max_size=3),
    st.lists(trees, max_size=3).map(tuple),
    st.dictionaries(KEYS, trees, max_size=4),
), max_leaves=8)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None, max_examples=60)
@given(state=st.dictionaries(st.sampled_from(NAMES), TREES, max_size=4))
def test_any_state(tmp_path_factory, suffix, state):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    save(path, state)
    assert same(load(path), state)


def test_training_resumes_from_a_file(backend, path):
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
    assert same(again.state_dict(), model.state_dict())
    assert same(other.state_dict(), optimizer.state_dict())
    assert state["epoch"] == 3 and state["generator"]["draws"][0] > 0


# ---- the formats ---------------------------------------------------------------------------------


def test_a_flat_npz_is_a_numpy_file(tmp_path, rng):
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


def test_the_bytes_of_a_flat_safetensors_file(tmp_path):
    state = {"b": np.array([1, 2], "uint8"), "a": np.array([[1.0]], "float32")}
    save(tmp_path / "a.safetensors", state)
    header = (b'{"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},'
              b'"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}')
    header += b" " * (-len(header) % 8)
    data = len(header).to_bytes(8, "little") + header + b"\x00\x00\x80\x3f\x01\x02"
    assert (tmp_path / "a.safetensors").read_bytes() == data


def test_safetensors_aligns_every_array(tmp_path):
    dtypes = ("bool", "int64", "float16")
    save(tmp_path / "a.safetensors", {f"{n} {d}": np.ones(n, d) for n in (1, 3) for d in dtypes})
    header, _ = header_of(tmp_path / "a.safetensors")
    sizes = {"BOOL": 1, "I64": 8, "F16": 2}
    assert all(entry["data_offsets"][0] % sizes[entry["dtype"]] == 0 for entry in header.values())


def test_equal_states_make_equal_files(path):
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


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state, message", [
    ({"a": {"f": print}}, r"entry 'a.f', builtin_function_or_method"),
    ({"a": [1, {2}]}, r"entry 'a.1', set"),
    ({"a": np.array([None])}, "entry 'a', ndarray of Python objects"),
    ({"a": {(1, 2): 3}}, r"entry 'a' has the key \(1, 2\)"),
    ({"a": 1j}, "entry 'a', complex"),
    (nn.Linear(1, 1), r"got Linear: .*state_dict\(\)"),
    (np.ones(3), "must be a dict, got ndarray"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_states_that_cannot_be_saved(path, state, message):
    with pytest.raises(TypeError, match=message):
        save(path, state)
    assert list(path.parent.iterdir()) == []


def test_the_path_comes_first(path):
    with pytest.raises(TypeError, match=r"path comes first"):
        save({"a": np.ones(2)}, path)


def test_dtypes_that_safetensors_does_not_support(tmp_path):
    with pytest.raises(TypeError, match=r"'a' has dtype <U1, .* save as .npz"):
        save(tmp_path / "a.safetensors", {"a": np.array(["x"])})
    save(tmp_path / "a.npz", {"a": np.array(["x"])})
    assert list(tmp_path.iterdir()) == [tmp_path / "a.npz"]


@pytest.mark.parametrize("name", ["a.pt", "a", "a.npy", "a.NPZ"])
@pytest.mark.parametrize("call", [load, lambda path: save(path, {})], ids=["load", "save"])
def test_other_suffixes(tmp_path, name, call):
    with pytest.raises(ValueError, match=r"must end in \.npz or \.safetensors") as caught:
        call(tmp_path / name)
    assert ("pickles" in str(caught.value)) == (name == "a.pt")


def test_a_missing_file(path):
    with pytest.raises(FileNotFoundError, match=path.name):
        load(path)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was loaded')",)


def test_pickles_are_not_read(tmp_path):
    bomb = np.array([Bomb()], dtype=object)
    file = io.BytesIO()
    np.lib.format.write_array(file, bomb)
    with zipfile.ZipFile(tmp_path / "array.npz", "w") as archive:
        archive.writestr("a.npy", file.getvalue())
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("array.npz", "pickle.npz"):
        with pytest.raises(ValueError, match=f"{name}' is not a valid .npz file"):
            load(tmp_path / name)


def test_damaged_files_raise_value_error(path, rng):
    """Truncated files raise ValueError; a changed byte raises ValueError or no error at all."""
    save(path, {"a": np.arange(3, dtype="float32"), "b": np.ones((2, 2), bool), "n": [1, "x"]})
    intact = path.read_bytes()
    for n in range(len(intact)):
        path.write_bytes(intact[:n])
        with pytest.raises(ValueError, match="is not a valid"):
            load(path)
        changed = bytes([intact[n] ^ int(rng.integers(1, 256))])
        path.write_bytes(intact[:n] + changed + intact[n + 1:])
        try:
            load(path)
        except ValueError as e:
            assert "is not a valid" in str(e)


def test_a_changed_number_in_an_npz_is_detected(tmp_path):
    save(tmp_path / "a.npz", {"a": np.arange(100.0)})
    intact = (tmp_path / "a.npz").read_bytes()
    i = intact.index(np.float64(50).tobytes())
    (tmp_path / "a.npz").write_bytes(intact[:i] + b"\x01" + intact[i + 1:])
    with pytest.raises(ValueError, match="CRC"):
        load(tmp_path / "a.npz")


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize("header, message", [
    ({"a": {**ENTRY, "data_offsets": [4, 8]}}, r"'a' .* expected .*\[0, 4\], got \[4, 8\]"),
    ({"a": {**ENTRY, "shape": [2]}}, r"'a' of shape \[2\] and dtype F32"),
    ({"a": {**ENTRY, "shape": [2**60], "data_offsets": [0, 2**62]}}, "'a' ends at byte .* 4 bytes"),
    ({"a": {**ENTRY, "shape": [-1, -1]}}, "one unknown dimension"),
    ({"a": {**ENTRY, "dtype": "F4"}}, "'a' has unknown dtype 'F4'"),
    ({"a": ENTRY, "b": ENTRY}, "'b' of shape"),
    ({}, "4 of 4 bytes of data belong to no array"),
    ({"a": {}}, "KeyError"),
    ([1], "AttributeError|TypeError"),
], ids=str)
def test_invalid_safetensors_headers(tmp_path, header, message):
    head = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.safetensors")


def test_a_header_longer_than_the_file(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"GIF89a, some other format")
    with pytest.raises(ValueError, match=r"header of \d{19} bytes, got 17"):
        load(tmp_path / "a.safetensors")


# ---- replacing files -----------------------------------------------------------------------------


def test_a_failed_write_keeps_the_old_file(path, monkeypatch):
    save(path, {"a": np.ones(3)})
    before = path.read_bytes()
    monkeypatch.setattr(gpuprop.io._state.FORMATS[path.suffix], "write", full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        save(path, {"a": np.zeros(3)})
    assert "an existing file is unchanged" in caught.value.__notes__[0]
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def full_disk(file, arrays, text):
    file.write(b"half of it")
    raise OSError(28, "No space left on device")


def test_missing_folders_are_created(path):
    path = path.parent / "runs" / "1" / path.name
    save(str(path), {"a": np.ones(1)})
    assert same(load(str(path)), {"a": np.ones(1)})


def test_replacing_text(tmp_path):
    with replacing(tmp_path / "a.txt") as file:
        file.write("ü\n")
    assert (tmp_path / "a.txt").read_bytes() == "ü\n".encode()
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt") as file:
        file.write(str(1 / 0))
    assert (tmp_path / "a.txt").read_bytes() == "ü\n".encode()
    assert len(list(tmp_path.iterdir())) == 1
