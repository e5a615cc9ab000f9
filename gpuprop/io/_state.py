"""A state, nested dicts of arrays and plain values, in a file: arrays by name, and JSON for what these do not say."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gpuprop._core.registry import get_backend
from gpuprop._core.tensor import asnumpy
from gpuprop.io import _npz as npz
from gpuprop.io import _safetensors as safetensors
from gpuprop.io._files import replacing

FORMATS: dict[str, ModuleType] = {".npz": npz, ".safetensors": safetensors}
RESERVED = (npz.TEXT, npz.TYPES, safetensors.TEXT)
PYTORCH = (".pt", ".pth", ".bin", ".ckpt")


def save(path: str | os.PathLike, state: Mapping) -> None:
    """Write a state, such as ``model.state_dict()``, to a ``.npz`` or ``.safetensors`` file, whole or not at all.

    Values are arrays of any backend, Tensors, numbers, strings, None, and dicts, lists and tuples of them.  A flat dict
    of arrays makes the file that other libraries make of it.  Raises TypeError for other values, before it writes.
    """
    if isinstance(path, Mapping):
        raise TypeError("save(path, state): the path comes first, as in numpy.save")
    form = _format(path)
    if not isinstance(state, Mapping):
        hint = ": give its state_dict()" * hasattr(state, "state_dict")
        raise TypeError(f"a state is a dict, not {type(state).__name__}{hint}")
    arrays: dict[str, np.ndarray] = {}
    tree = _pack(state, "", arrays)
    flat = all(isinstance(entry, dict) and entry.get("array") == key for key, entry in tree["dict"])
    with replacing(path, binary=True) as file:
        form.write(file, arrays, None if flat else json.dumps(tree))


def load(path: str | os.PathLike) -> dict[str, Any]:
    """What `save` or another library wrote, with NumPy's arrays: ``model.load_state_dict(gpuprop.load(path))``.

    bfloat16 comes as float32 where ml_dtypes is not installed.  Raises ValueError for files that are damaged, hold
    pickles or are of another format.
    """
    form = _format(path)
    with open(path, "rb") as file:
        try:
            arrays, text = form.read(file)
            return arrays if text is None else _unpack(json.loads(text), arrays)
        except MemoryError:
            raise
        except Exception as e:
            reason = e if isinstance(e, ValueError) else f"{type(e).__name__}: {e}"
            raise ValueError(f"{os.fspath(path)!r} is no whole {Path(path).suffix} file of arrays: {reason}") from e


def _format(path: str | os.PathLike) -> Any:
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        hint = ": PyTorch's files are pickles, which can run any code; convert it by safetensors.torch.save_file first"
        raise ValueError(f"a state is in a .npz or .safetensors file, and {os.fspath(path)!r} is named otherwise"
                         + hint * (suffix in PYTORCH))
    return FORMATS[suffix]


def _pack(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` for JSON: a container is {its kind: entries}, an array {"array": its name}, and goes to `arrays`."""
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    inside = lambda key, entry: _pack(entry, f"{name}.{key}" if name else f"{key}", arrays)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int):
                raise TypeError(f"{_where(name)} has the key {key!r}, and keys are strings or integers")
        return {"dict": [[key, inside(key, entry)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [inside(i, entry) for i, entry in enumerate(value)]}
    array = _on_host(value)
    if array is None or array.dtype.hasobject:
        kind = type(value).__name__ + " of Python objects" * (array is not None)
        raise TypeError(f"{_where(name)} is {kind}: a file holds arrays, numbers, strings, None, and dicts, lists and "
                        f"tuples of them")
    while name in arrays or name in RESERVED:
        name += "_"
    arrays[name] = array
    return {"array": name}


def _on_host(value: Any) -> np.ndarray | None:
    if isinstance(value, np.ndarray | np.generic):
        return get_backend("numpy").asarray(value)  # no copy
    return asnumpy(value) if hasattr(value, "shape") else None


def _where(name: str) -> str:
    return f"state entry {name!r}" if name else "the state"


def _unpack(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    (kind, inside), = tree.items()
    if kind == "array":
        return arrays[inside]
    if kind == "dict":
        return {key: _unpack(entry, arrays) for key, entry in inside}
    return {"list": list, "tuple": tuple}[kind](_unpack(entry, arrays) for entry in inside)
