"""`torch.save` and `torch.load` of both libraries read each other's files."""

import collections
import io
import pickle
import types
import zipfile

import numpy as np
import pytest
import torch as theirs

import gpuprop.torch as ours

LEGACY = {"_use_new_zipfile_serialization": False}
DTYPES = "float16 float32 float64 uint8 int8 int16 int32 int64 bool".split()


def checkpoint(torch):
    """What programs save: states of a model, an optimizer and a schedule, and numbers."""
    nn = torch.nn
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(3):
        model(torch.ones(5, 3) * torch.arange(3)).pow(2).sum().backward()
        optimizer.step()
        schedule.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
             "schedule": schedule.state_dict(), "epoch": 3, "history": [0.5, None, "text"],
             "ordered": collections.OrderedDict(a=(1, 2)), "device": torch.device("cpu"),
             "size": torch.Size([2, 3]), "dtype": torch.float32}
    return state, model, optimizer, schedule


def same(a, b):
    """Raise unless two states have the same structure and the same bits."""
    if isinstance(a, theirs.Tensor | ours.Tensor):
        a, b = a.detach().numpy(), b.detach().numpy()
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert str(a).removeprefix("torch.") == str(b).removeprefix("torch.")


@pytest.mark.parametrize(("writer", "reader", "options"), [
    (ours, theirs, {}), (theirs, ours, {}), (ours, ours, {}), (theirs, ours, LEGACY)],
    ids=["ours to theirs", "theirs to ours", "ours to ours", "theirs to ours, the old format"])
def test_a_checkpoint(writer, reader, options, tmp_path):
    state = checkpoint(writer)[0]
    writer.save(state, tmp_path / "checkpoint.pt", **options)
    loaded = reader.load(tmp_path / "checkpoint.pt", map_location=reader.device("cpu"))
    same(state, loaded)
    _, model, optimizer, schedule = checkpoint(reader)
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    schedule.load_state_dict(loaded["schedule"])
    same(model.state_dict(), loaded["model"])
    same(optimizer.state_dict()["state"], loaded["optimizer"]["state"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("writer", "reader"), [(ours, theirs), (theirs, ours)],
                         ids=["ours to theirs", "theirs to ours"])
def test_tensors_of_all_dtypes(writer, reader, dtype):
    x = writer.arange(24).reshape(2, 3, 4).to(getattr(writer, dtype))
    tensors = [x, x.transpose(0, 2), x[1], x[..., ::2], x[0, 0, 0], x[:0], x.expand(2, 2, 3, 4)
               if writer is theirs else x]
    file = io.BytesIO()
    writer.save(tensors, file)
    file.seek(0)
    same(tensors, reader.load(file))


def test_requires_grad_and_parameters():
    file = io.BytesIO()
    ours.save([ours.ones(2, requires_grad=True), ours.nn.Parameter(ours.ones(2))], file)
    file.seek(0)
    leaf, parameter = theirs.load(file, weights_only=True)
    assert leaf.requires_grad and isinstance(parameter, theirs.nn.Parameter)
    file.seek(0)
    leaf, parameter = ours.load(file)
    assert leaf.requires_grad and isinstance(parameter, ours.nn.Parameter)


def test_a_model_of_gpuprop_as_a_whole(tmp_path):
    model = ours.nn.Sequential(ours.nn.Linear(3, 2), ours.nn.ReLU())
    ours.save(model, tmp_path / "model.pt")
    with pytest.raises(pickle.UnpicklingError, match="weights_only=False"):
        ours.load(tmp_path / "model.pt")
    again = ours.load(tmp_path / "model.pt", weights_only=False)
    same(model.state_dict(), again.state_dict())
    assert isinstance(again[0], ours.nn.Linear)


class Code:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_file_runs_no_code(tmp_path, capsys):
    theirs.save({"model": Code()}, tmp_path / "code.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"print.*trust"):
        ours.load(tmp_path / "code.pt")
    assert "this ran" not in capsys.readouterr().out


def test_files_that_save_did_not_write(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(b"not a zip archive")
    with pytest.raises(ValueError, match="neither a zip archive"):
        ours.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", "c")
    with pytest.raises(ValueError, match=r"no data\.pkl"):
        ours.load(path)
    with pytest.raises(TypeError, match="the object is first"):
        ours.save(path.name, {"a": 1})
    with pytest.raises(TypeError, match="the object is first"):
        ours.save(str(path), ours.ones(2))


def test_a_tensor_that_does_not_fit_into_its_storage():
    file = io.BytesIO()
    theirs.save(theirs.arange(10), file)
    changed = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                assert content.count(b"K\n\x85") == 1  # the size, (10,)
                content = content.replace(b"K\n\x85", b"K\xff\x85")
            new.writestr(name, content)
    changed.seek(0)
    with pytest.raises(ValueError, match="does not fit"):
        ours.load(changed)


def test_an_interrupted_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.pt"
    ours.save({"a": ours.ones(2)}, path)
    with pytest.raises(TypeError, match="pickle"):
        ours.save({"a": ours.zeros(2), "b": (x for x in ())}, path)
    np.testing.assert_array_equal(ours.load(path)["a"].numpy(), [1, 1])


def test_safe_globals():
    """`load` creates a module whose classes a program names."""
    for torch in theirs, ours:
        model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        file = io.BytesIO()
        torch.save(model, file)
        classes = [torch.nn.Sequential, torch.nn.Linear, torch.nn.ReLU]
        file.seek(0)
        with torch.serialization.safe_globals(classes):
            assert classes[0] in torch.serialization.get_safe_globals()
            if torch is ours:  # PyTorch asks for more classes, which are internal
                again = torch.load(file)
                assert (again[0].weight == model[0].weight).all() and type(again[1]) is classes[2]
        file.seek(0)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(file)


# ---- the format before 1.6 -----------------------------------------------------------------------


def legacy(state, **options):
    file = io.BytesIO()
    theirs.save(state, file, **LEGACY, **options)
    return file.getvalue()


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_old_files_of_all_dtypes(dtype):
    t = theirs.arange(12).reshape(3, 4).to(getattr(theirs, dtype))
    views = {"whole": t, "transposed": t.T, "part": t[1:, ::2], "empty": t[:0], "0-d": t[1, 2]}
    loaded = ours.load(io.BytesIO(legacy(views)))
    for name, want in views.items():
        assert str(loaded[name].dtype) == dtype
        assert loaded[name].tolist() == want.tolist(), name


class PicklerOf2017(pickle.Pickler):
    """Writes tensors and parameters as PyTorch 0.1 did."""

    is_whole = False

    def reducer_override(self, obj):
        hooks = collections.OrderedDict()
        if isinstance(obj, theirs.nn.Parameter):
            if self.is_whole:
                state = obj.data, None, hooks, obj.requires_grad, False
                return theirs.nn.Parameter, (theirs.zeros(1),), state
            return theirs.nn.Parameter, (obj.data,), (obj.requires_grad, False, hooks)
        if isinstance(obj, theirs.Tensor):
            storage = theirs.storage.TypedStorage(
                wrap_storage=obj.untyped_storage(), dtype=obj.dtype, _internal=True)
            return (theirs._utils._rebuild_tensor,
                    (storage, obj.storage_offset(), tuple(obj.shape), obj.stride()))
        return NotImplemented


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_as_of_2017(whole, monkeypatch):
    """Such are the first weights that torchvision published."""
    monkeypatch.setattr(PicklerOf2017, "is_whole", whole)
    module = types.SimpleNamespace(
        __name__="pickle", Pickler=PicklerOf2017, dump=pickle.dump)
    state = collections.OrderedDict(
        weight=theirs.nn.Parameter(theirs.randn(3, 4)), mean=theirs.randn(4),
        frozen=theirs.nn.Parameter(theirs.randn(2), requires_grad=False))
    data = legacy(state, pickle_module=module)
    assert b"_rebuild_tensor\n" in data and b"torch.nn.parameter\nParameter" in data
    same(theirs.load(io.BytesIO(data)), state)
    loaded = ours.load(io.BytesIO(data))
    same(loaded, state)
    assert type(loaded["weight"]) is ours.nn.Parameter and loaded["weight"].requires_grad
    assert type(loaded["mean"]) is ours.Tensor and not loaded["frozen"].requires_grad


def test_old_files_that_are_damaged():
    data = legacy({"a": theirs.arange(6.0), "b": theirs.arange(3)})
    for n in range(len(data)):
        with pytest.raises((ValueError, EOFError, pickle.UnpicklingError)):
            ours.load(io.BytesIO(data[:n]))
    huge = data.replace(b"K\x06", b"J\xff\xff\xff\x7f")  # the number of elements
    assert huge != data
    with pytest.raises(ValueError, match=r"storage .* has 6 elements"):
        ours.load(io.BytesIO(huge))
    version = data.replace(b"M\xe9\x03", b"M\xea\x03", 1)
    with pytest.raises(ValueError, match="version 1002"):
        ours.load(io.BytesIO(version))


def test_an_old_file_runs_no_code(capsys):
    for place in (1, 3, 4):
        parts = [pickle.dumps(v, 2) for v in (0x1950a86a20f9469cfc6c, 1001, {}, {}, [])]
        parts[place] = pickle.dumps(Printing(), 2)
        with pytest.raises(pickle.UnpicklingError):
            ours.load(io.BytesIO(b"".join(parts)))
    assert capsys.readouterr().out == ""


class Printing:
    def __reduce__(self):
        return print, ("code has run",)
