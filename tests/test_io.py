"""State files: exact round trips, formats of other libraries, and errors for invalid files."""

import contextlib
import copy
import hashlib
import io
import json
import os
import pickle
import sys
import threading
import time
import tracemalloc
import zipfile
import zlib

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
    checksums = {"a": zlib.crc32(b"\x00\x00\x80\x3f"), "b": zlib.crc32(b"\x01\x02")}
    content = [None, [["a", "F32", [1, 1], checksums["a"]], ["b", "U8", [2], checksums["b"]]]]
    digest = b"gpuprop:" + hashlib.sha256(json.dumps(content).encode()).hexdigest().encode()
    header = (b'{"__metadata__":{"gpuprop.digest":"' + digest + b'"},'
              b'"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},'
              b'"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}')
    header += b" " * (-len(header) % 8)
    data = len(header).to_bytes(8, "little") + header + b"\x00\x00\x80\x3f\x01\x02"
    assert (tmp_path / "a.safetensors").read_bytes() == data


def test_safetensors_aligns_every_array(tmp_path):
    dtypes = ("bool", "int64", "float16")
    save(tmp_path / "a.safetensors", {f"{n} {d}": np.ones(n, d) for n in (1, 3) for d in dtypes})
    header, _ = header_of(tmp_path / "a.safetensors")
    del header["__metadata__"]
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


STATES = {
    "nested": {"a": np.arange(3, dtype="float32"), "b": np.ones((2, 2), bool), "n": [1, "x"],
               "inf": float("inf"), "half": np.ones(2, ml_dtypes.bfloat16)},
    "flat": {"a": np.arange(3, dtype="float32"), "b": np.zeros((0, 2)), "c": np.array(2)},
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_every_damaged_byte_is_detected(path, state):
    """Truncated files raise ValueError; a changed byte raises ValueError or changes no value."""
    save(path, state)
    intact = path.read_bytes()
    for n in range(len(intact)):
        path.write_bytes(intact[:n])
        with pytest.raises(ValueError, match="is not a valid"):
            load(path)
        change = 1 << n % 8 if n % 2 else 0xFF
        path.write_bytes(intact[:n] + bytes([intact[n] ^ change]) + intact[n + 1:])
        try:
            assert same(load(path), state), f"byte {n}"
        except ValueError as e:
            assert "is not a valid" in str(e)
    path.write_bytes(intact + b"\0")
    with pytest.raises(ValueError, match="is not a valid"):
        load(path)


def replaced_entry(path, name, array):
    """An npz file in which one entry is replaced; the comment of the archive stays."""
    with zipfile.ZipFile(path) as archive:
        comment = archive.comment
        entries = {info: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = comment
        for info, data in entries.items():
            if info.filename == f"{name}.npy":
                file = io.BytesIO()
                np.lib.format.write_array(file, array)
                data = file.getvalue()
            archive.writestr(info.filename, data)


def test_an_edited_npz(tmp_path):
    path = tmp_path / "a.npz"
    save(path, {"a": np.zeros(2), "b": np.zeros(2)})
    replaced_entry(path, "b", np.zeros(2))
    assert same(load(path), {"a": np.zeros(2), "b": np.zeros(2)})
    replaced_entry(path, "b", np.ones(2))
    with pytest.raises(ValueError, match="digest"):
        load(path)
    save(path, {"a": np.zeros(2), "b": np.zeros(2)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("c.npy", b"")
    with pytest.raises(ValueError, match="digest"):
        load(path)


@pytest.mark.parametrize("edit", [
    lambda header, data: ({**header, "c": header["a"], "a": header["b"]}, data),
    lambda header, data: ({"__metadata__": header["__metadata__"], "a": header["b"],
                           "b": header["a"]}, data),
    lambda header, data: ({**header, "a": {**header["a"], "shape": [2, 1]}}, data),
    lambda header, data: ({**header, "a": {**header["a"], "dtype": "U32"}}, data),
    lambda header, data: (header, b"\1" + data[1:]),
    lambda header, data: (
        {**header, "__metadata__": {"x": header["__metadata__"]["gpuprop.digest"]}}, bytes(16)),
    lambda header, data: ({**header, "__metadata__": {"gpuprop.digest": "x"}}, data),
], ids=["name", "names", "shape", "dtype", "data", "the digest's key", "the digest"])
def test_an_edited_safetensors_file(tmp_path, edit):
    path = tmp_path / "a.safetensors"
    save(path, {"a": np.ones(2, "float32"), "b": np.zeros(2, "float32")})
    header, data = edit(*header_of(path))
    path.write_bytes(safetensors_file(header, data))
    with pytest.raises(ValueError, match=r"digest|belong to no array|expected data_offsets"):
        load(path)


def safetensors_file(header, data):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + data


def test_files_without_digest(tmp_path):
    """Those of other programs and of earlier versions."""
    state = {"a": np.arange(3.0)}
    np.savez(tmp_path / "a.npz", **state)
    entry = {"dtype": "F64", "shape": [3], "data_offsets": [0, 24]}
    for metadata in ({}, {"__metadata__": {"format": "pt"}}):
        data = safetensors_file({**metadata, "a": entry}, state["a"].tobytes())
        (tmp_path / "a.safetensors").write_bytes(data)
        assert same(load(tmp_path / "a.safetensors"), state)
    assert same(load(tmp_path / "a.npz"), state)
    tree = {"dict": [["a", {"array": "a"}], ["lr", float("nan")]]}
    metadata = {"__metadata__": {"gpuprop": json.dumps(tree)}}
    (tmp_path / "a.safetensors").write_bytes(
        safetensors_file({**metadata, "a": entry}, state["a"].tobytes()))
    assert same(load(tmp_path / "a.safetensors"), {**state, "lr": float("nan")})


# ---- files that change while they are read -------------------------------------------------------

CHANGES = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "grown": lambda path: write_at(path, path.stat().st_size, b"x"),
    "overwritten": lambda path: write_at(path, 0, bytes(path.stat().st_size)),
    "one byte": lambda path: write_at(path, path.stat().st_size // 2, b"\x55"),
}


def write_at(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("has_digest", [True, False])
def test_a_file_that_changes_while_it_is_read(path, monkeypatch, change, has_digest):
    state = {f"layer{n}": np.arange(50_000.0) for n in range(3)}
    save(path, state)
    if not has_digest:
        make_foreign(path, state)
    module = gpuprop.io._state.FORMATS[path.suffix]
    check = "_check_entries" if path.suffix == ".npz" else "_checked_order"
    original = getattr(module, check)

    def check_and_change(*args):
        time.sleep(0.02)  # file systems count time in ticks
        change(path)
        return original(*args)

    monkeypatch.setattr(module, check, check_and_change)
    with pytest.raises(ValueError, match="is not a valid"):
        load(path)


def make_foreign(path, state):
    if path.suffix == ".npz":
        np.savez(path, **state)
    else:
        header, data = header_of(path)
        del header["__metadata__"]
        path.write_bytes(safetensors_file(header, data))


def test_a_thread_that_writes_into_the_file(path):
    """Every load gives one of the two states or an error."""
    contents = []
    for k in range(2):
        save(path, {"w": np.full(20_000, k), "k": k})
        contents.append(path.read_bytes())
    done = threading.Event()

    def overwrite():
        while not done.is_set():
            for content in contents:
                write_at(path, 0, content)

    thread = threading.Thread(target=overwrite)
    thread.start()
    loaded = 0
    for _ in range(300):
        try:
            state = load(path)
        except ValueError:
            continue
        loaded += 1
        assert (state["w"] == state["k"]).all()
    done.set()
    thread.join()
    assert same(load(path)["k"], 1)


# ---- files that are made to do harm --------------------------------------------------------------


@contextlib.contextmanager
def at_most(size):
    """Raise if the block allocates more than `size` bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def npy(header, data=b"", version=(1, 0)):
    """An npy file with a header, a dict or text."""
    text = header if isinstance(header, bytes) else repr(header).encode()
    size = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text + data


def npz(path, *entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data, compression)
    return path


def header(shape, descr="<f4", order=False):
    return {"descr": descr, "fortran_order": order, "shape": shape}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("content, message", [
    (npy(header((10**15,)), b"1234"), "need 4000000000000000 bytes, .* has 4"),
    (npy(header((2**62, 2**62)), b"1234"), "shape"),
    (npy(header((10**30, 0)), b""), "'a'"),
    (npy(header((-1, -1)), b"1234"), "shape"),
    (npy(header((-1,)), b"1234"), "shape"),
    (npy(header((2,)), b"1234"), "need 8 bytes, .* has 4"),
    (npy(header((0,)), b"1234"), "need 0 bytes, .* has 4"),
    (npy(header((1.5,)), b"1234"), "shape"),
    (npy(header((1,), "<f5"), b"1234"), "descr"),
    (npy(header((1,), "f4, (10000,10000)f8"), b"1234"), "need"),
    (npy(header((1,), "<U1000000000"), b"1234"), "need|descr"),
    (npy(header((1,), "|O"), b"1234"), "Python objects"),
    (npy(header((1,), "|O"), b"1234", (2, 0)), "Python objects"),
    (npy(header((1,), [("x", "|O")]), b"1234"), "Python objects"),
    (npy(header((1,), "<f4"), b"1234", (3, 0)), "version"),
    (npy(header((1,), "<f4"), b"1234", (9, 9)), "version"),
    (npy(b"(" * 9000), "'a'"),
    (npy(b"[" * 9000 + b"]" * 9000), "'a'"),
    (npy(b" " * 60_000), "large"),
    (npy(b"__import__('os').abort()"), "'a'"),
    (b"", "'a'"), (b"\x93NUMPY", "'a'"), (b"\x93NUMPY\1\0\xff\xff", "'a'"),
], ids=lambda value: repr(value[:60]))
def test_arrays_in_an_npz_that_are_not_what_they_say(tmp_path, content, compression, message):
    path = npz(tmp_path / "a.npz", ("a", content), compression=compression)
    with at_most(3e6), pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_sparse_arrays_of_numpy(tmp_path):
    """Zeros compress a thousandfold; the memory is that of the array."""
    zeros = np.zeros(3_000_000)
    np.savez_compressed(tmp_path / "a.npz", a=zeros)
    assert (tmp_path / "a.npz").stat().st_size < zeros.nbytes / 900
    with at_most(zeros.nbytes + 4e6):
        state = load(tmp_path / "a.npz")
    assert same(state, {"a": zeros})


def test_archives_that_inflate(tmp_path):
    content = npy(header((10**7,), "|u1"), bytes(10**7))
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = npz(tmp_path / "a.npz", ("a", content), compression=compression)
        with at_most(3e6), pytest.raises(ValueError, match="compression"):
            load(path)

    # a hundred entries of the directory for the same compressed bytes
    path = npz(tmp_path / "a.npz", ("a", content), compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a") as archive:
        info = archive.infolist()[0]
        archive.filelist += [copy.copy(info) for _ in range(99)]
        archive._didModify = True
    with at_most(3e6), pytest.raises(ValueError, match="overlap"):
        load(path)

    # a size that the compressed bytes cannot have
    path = npz(tmp_path / "a.npz", ("a", npy(header((10**12,), "|u1"), bytes(100))))
    for compression, size in [(zipfile.ZIP_STORED, 10**12), (zipfile.ZIP_DEFLATED, 10**12)]:
        with zipfile.ZipFile(path, "a") as archive:
            archive.infolist()[0].file_size = size
            archive.infolist()[0].compress_type = compression
            archive._didModify = True
        with at_most(3e6), pytest.raises(ValueError, match="claims to have 1000000000000 bytes"):
            load(path)


@pytest.mark.parametrize("size", [0, 1, 3, 2**20 + 1])
def test_compressed_entries_that_end_early(tmp_path, size):
    content = npy(header((size + 4,), "|u1"), b"x" * size)
    path = npz(tmp_path / "a.npz", ("a", content), compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a") as archive:
        archive.infolist()[0].file_size += 4
        archive._didModify = True
    with pytest.raises(ValueError, match="'a'"):
        load(path)


def test_two_entries_of_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        npz(tmp_path / "a.npz", ("a", npy(header((0,)))), ("a", npy(header((0,)))))
    (tmp_path / "a.safetensors").write_bytes(safetensors_file(
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)))
    for suffix in SUFFIXES:
        with pytest.raises(ValueError, match="two entries"):
            load(tmp_path / f"a{suffix}")


def test_deeply_nested_json(tmp_path):
    for deep in (b"[" * 10**6, b'{"a":' * 10**6, b'{"a":' * 10**5 + b"1" + b"}" * 10**5):
        (tmp_path / "a.safetensors").write_bytes(safetensors_file(deep, b""))
        with pytest.raises(ValueError, match="is not a valid"):
            load(tmp_path / "a.safetensors")
    tree = '{"list":[' * 50_000 + "]}" * 50_000
    metadata = {"__metadata__": {"gpuprop": tree}}
    (tmp_path / "a.safetensors").write_bytes(safetensors_file(metadata, b""))
    with pytest.raises(ValueError, match="is not a valid"):
        load(tmp_path / "a.safetensors")


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 70), st.floats(),
              st.sampled_from([2**31, 2**63, 10**30, "F32", "BF16", "U8", "", "<f4", "|O", "a"])),
    lambda values: st.one_of(st.lists(values, max_size=3), st.dictionaries(
        st.sampled_from(["dtype", "shape", "data_offsets", "a"]), values, max_size=3)),
    max_leaves=6)
ENTRIES = st.fixed_dictionaries({
    "dtype": st.one_of(st.sampled_from(["F32", "BF16", "U8", "BOOL", "C64"]), VALUES),
    "shape": st.one_of(st.lists(st.integers(-1, 4), max_size=3), VALUES),
    "data_offsets": st.one_of(st.lists(st.integers(-1, 32), min_size=2, max_size=2), VALUES)})
HEADERS = st.one_of(VALUES, st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__"]), st.one_of(ENTRIES, VALUES), max_size=3))


@settings(deadline=None, max_examples=300)
@given(header=HEADERS, size=st.integers(0, 40))
def test_any_safetensors_header(tmp_path_factory, header, size):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(safetensors_file(header, bytes(size)))
    with contextlib.suppress(ValueError):
        state = load(path)
        assert sum(array.nbytes for array in state.values()) == size


@settings(deadline=None, max_examples=300)
@given(descr=st.one_of(st.sampled_from(["<f4", ">f8", "|b1", "<U2", "|V3", "|O", "<M8[s]", "|S0"]),
                       VALUES),
       order=st.one_of(st.booleans(), VALUES),
       shape=st.one_of(st.lists(st.integers(-1, 4), max_size=3).map(tuple), VALUES),
       size=st.integers(0, 40))
def test_any_npy_header(tmp_path_factory, descr, order, shape, size):
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    npz(path, ("a", npy(header(shape, descr, order), bytes(size))))
    with contextlib.suppress(ValueError):
        assert load(path)["a"].nbytes == size


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
    ({"a": {**ENTRY, "shape": [-1, -1]}}, "shape .* at least 0, got -1"),
    ({"a": {**ENTRY, "shape": [float("nan")]}}, "shape .* integer .* got nan"),
    ({"a": {**ENTRY, "shape": [True]}}, "shape .* integer .* got True"),
    ({"a": {**ENTRY, "shape": "1"}}, "shape .* integer .* got '1'"),
    ({"a": {**ENTRY, "shape": [1] * 65}}, "65 dimensions"),
    ({"a": {**ENTRY, "shape": [0, 10**4000]}}, "'a'"),
    ({"a": {**ENTRY, "data_offsets": [-4, 0]}}, "data_offsets .* at least 0, got -4"),
    ({"__metadata__": {"n": 1}, "a": ENTRY}, "__metadata__ must hold strings"),
    ({"a": {**ENTRY, "dtype": "F4"}}, "'a' has unknown dtype 'F4'"),
    ({"a": ENTRY, "b": ENTRY}, "'b' of shape"),
    ({}, "4 of 4 bytes of data belong to no array"),
    ({"a": {}}, "KeyError"),
    ([1], "AttributeError|TypeError"),
], ids=str)
def test_invalid_safetensors_headers(tmp_path, header, message):
    (tmp_path / "a.safetensors").write_bytes(safetensors_file(header, bytes(4)))
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
