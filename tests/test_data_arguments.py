"""Wrong arguments of datasets, readers, augmentations and files are refused, by name, at once."""

import inspect
import math

import numpy as np
import pytest

from gpuprop import data, io

MODULES = ("gpuprop.data._dataset", "gpuprop.data._readers", "gpuprop.data._augmentation",
           "gpuprop.io._files", "gpuprop.io._state")


def public_calls():
    """Every public class and function of these modules that has arguments, by name."""
    found = {}
    for package in (data, io):
        for name in package.__all__:
            value = getattr(package, name)
            if value.__module__ in MODULES and inspect.signature(value).parameters:
                found[value.__name__] = value
    del found["Table"]  # a result
    return found


# Right arguments, and for each argument those of the wrong values that are right.
CALLS = {
    "ArrayDataset": ({"arrays": [1, 2]}, {"arrays": [[], [[]], ["text"], [-1], [1.5], [math.nan],
                                                     np.array(["a"])]}),
    "ConcatDataset": ({"datasets": [[1], [2]]}, {"datasets": [[[]], ["text"]]}),
    "Subset": ({"dataset": [5, 6], "indices": [0]},
               {"dataset": ["text", b"text", [None], [[]], ["text"], {"a": 1}, np.array(["a"]),
                            np.array([None]), [-1], [1.5], [math.nan]], "indices": [[], [-1]]}),
    "random_split": ({"dataset": [5, 6], "lengths": [1, 1], "rng": None}, {"rng": [None]}),
    "read_csv": ({"path": "FILE", "target": None, "columns": None, "header": None,
                  "delimiter": ","},
                 {"target": [None, -1], "columns": [None, [], [-1]], "header": [None, True]}),
    "read_idx": ({"path": "FILE"}, {}),
    "read_image": ({"path": "FILE", "mode": "RGB", "size": (2, 2)}, {"size": [None]}),
    "ImageFolder": ({"root": "FOLDER", "transform": None, "mode": "RGB", "size": (2, 2)},
                    {"transform": [None, int], "size": [None]}),
    "Compose": ({"transforms": [abs]}, {"transforms": [[]]}),
    "Normalize": ({"mean": 0.0, "std": 1.0}, {"mean": [-1, 1.5, [-1], [1.5]],
                                              "std": [1.5, [1.5]]}),
    "RandomHorizontalFlip": ({"p": 0.5}, {}),
    "RandomCrop": ({"size": 2, "padding": 1, "fill": 0}, {"fill": [-1, 1.5]}),
    "Cutout": ({"size": 2, "fill": 0}, {"fill": [-1, 1.5]}),
    "Mixup": ({"alpha": 1.0, "num_classes": 3}, {"alpha": [1.5], "num_classes": [None]}),
    "save": ({"path": "FOLDER/a.npz", "state": {}}, {"state": [{"a": 1}]}),
    "load": ({"path": "FILE"}, {}),
    "replacing": ({"path": "FOLDER/a.txt", "binary": False}, {"binary": [True]}),
}
WRONG = [None, "text", b"text", -1, math.nan, math.inf, True, 1.5, 1j, object(), [], [None], [[]],
         ["text"], {"a": 1}, np.array([None]), np.array(["a"]), [-1], [1.5], [math.nan], int]


def test_the_list_is_complete():
    assert set(CALLS) == set(public_calls())
    for name, (arguments, _) in CALLS.items():
        assert set(arguments) == set(inspect.signature(public_calls()[name]).parameters), name


def call(name, arguments):
    if name == "ArrayDataset":
        return data.ArrayDataset(arguments["arrays"])
    result = public_calls()[name](**arguments)
    if name == "replacing":
        with result:
            pass
    return result


ARGUMENTS = [(name, argument) for name, (right, _) in CALLS.items() for argument in right]


@pytest.mark.parametrize("name, argument", ARGUMENTS, ids=map(".".join, ARGUMENTS))
def test_wrong_arguments(tmp_path, monkeypatch, name, argument):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FILE").write_bytes(b"1,2\n3,4\n")
    right, allowed = CALLS[name]
    accepted = {repr(value) for value in allowed.get(argument, [])}
    if argument in ("path", "root"):
        accepted |= {repr("text")}
    for value in WRONG:
        if repr(value) not in accepted:
            pattern = f"{name}.*: .*{argument.rstrip('s')}|no column "
            with pytest.raises((TypeError, ValueError, IndexError), match=pattern):
                call(name, {**right, argument: value})
                print(repr(value))
    assert list((tmp_path / "FOLDER").iterdir()) == []
