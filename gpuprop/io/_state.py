"""Save and load states: nested dicts of arrays and plain values.

A file holds the arrays by name.  Its metadata hold the structure and the plain values, as JSON.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from gpuprop._core.checks import as_path
from gpuprop._core.registry import get_backend
from gpuprop._core.tensor import asnumpy
from gpuprop.io import _npz as npz
from gpuprop.io import _safetensors as safetensors
from gpuprop.io._files import replacing

FORMATS: dict[str, ModuleType] = {".npz": npz, ".safetensors": safetensors}
RESERVED_NAMES = (npz.METADATA, npz.EXTENSION_DTYPES, safetensors.METADATA)
PYTORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
MAX_DEPTH = 100  # of a state; JSON cannot be nested much deeper


def save(path: str | os.PathLike, state: Mapping) -> None:
    """Write a state, such as ``model.state_dict()``, to a ``.npz`` or ``.safetensors`` file.

    Values are arrays of any backend, Tensors, numbers, strings, None, and dicts, lists and tuples
    of them.  A flat dict of arrays is saved as other libraries do, so that they can read it.  The
    file is written completely or not at all, as by `gpuprop.io.replacing`, with a digest of its
    content.  Raises TypeError for other values, before writing anything.

    >>> import tempfile
    >>> import gpuprop
    >>> from gpuprop import nn
    >>> model = nn.Linear(2, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gpuprop.save(f"{folder}/model.npz", {"model": model.state_dict(), "epoch": 5})
    ...     state = gpuprop.load(f"{folder}/model.npz")
    >>> state["epoch"], state["model"]["weight"].shape
    (5, (3, 2))
    """
    if isinstance(path, Mapping):
        raise TypeError("save(path, state): the path comes first, as in numpy.save")
    path = checked_path("save", path)
    file_format = FORMATS[path.suffix]
    if not isinstance(state, Mapping):
        hint = ": pass its state_dict()" if hasattr(state, "state_dict") else ""
        raise TypeError(f"save: state must be a dict, got {type(state).__name__}{hint}")
    arrays: dict[str, np.ndarray] = {}
    tree = _pack(state, "", arrays)
    is_flat = all(entry == {"array": key} for key, entry in tree["dict"])
    metadata = None if is_flat else json.dumps(tree, allow_nan=False)
    with replacing(path, binary=True) as file:
        file_format.write(file, arrays, metadata)


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a state that `save` or another library wrote; its arrays are NumPy arrays.

    ``model.load_state_dict(gpuprop.load(path))`` loads a model.  bfloat16 becomes float32 if
    ml_dtypes is not installed.  Raises ValueError if the file is damaged, changes while it is read,
    does not match the digest that `save` wrote, holds pickles or has another format.
    """
    path = checked_path("load", path)
    file_format = FORMATS[path.suffix]
    with path.open("rb") as file:
        try:
            before = _version(file)
            arrays, metadata = file_format.read(file)
            if _version(file) != before:
                raise ValueError("another program changed it while it was read: load it again")
            return arrays if metadata is None else _unpack(json.loads(metadata), arrays)
        except MemoryError:
            raise
        except Exception as e:
            reason = e if isinstance(e, ValueError) else f"{type(e).__name__}: {e}"
            raise ValueError(f"{str(path)!r} is not a valid {path.suffix} file: {reason}") from e


def _version(file: IO[bytes]) -> tuple[int, int]:
    """What differs after another program has written into a file."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def checked_path(call: str, path: str | os.PathLike) -> Path:
    """`path` as a Path; raises unless its suffix is that of a format."""
    path = as_path(f"{call}: path", path)
    if path.suffix not in FORMATS:
        hint = ""
        if path.suffix in PYTORCH_SUFFIXES:
            hint = (": PyTorch files are pickles; gpuprop.torch.load(path) reads their tensors and "
                    "runs no code")
        raise ValueError(f"{call}: the path of a state must end in .npz or .safetensors, got "
                         f"{str(path)!r}{hint}")
    return path


def _pack(value: Any, name: str, arrays: dict[str, np.ndarray], depth: int = 0) -> Any:
    """Convert `value` for JSON, and add its arrays to `arrays` by name.

    A dict, list or tuple becomes {type: entries}, an array {"array": name}, and an infinite float
    or NaN, which JSON lacks, {"float": text}.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"the state contains itself, or is nested deeper than {MAX_DEPTH} levels, "
                         f"at {name[:200]!r}")
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value

    def pack_entry(key: Any, entry: Any) -> Any:
        return _pack(entry, f"{name}.{key}" if name else f"{key}", arrays, depth + 1)

    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int):
                raise TypeError(f"{_describe(name)} has the key {key!r}: keys must be strings or "
                                f"integers")
        return {"dict": [[key, pack_entry(key, entry)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack_entry(i, entry) for i, entry in enumerate(value)]}
    array = _host_array(value)
    if array is None or array.dtype.hasobject:
        found = type(value).__name__
        if array is not None:
            found += " of Python objects"
        raise TypeError(f"cannot save {_describe(name)}, {found}: a state may hold arrays, "
                        f"numbers, strings, None, and dicts, lists and tuples of them")
    name = name.replace("\0", "_").encode(errors="replace").decode()  # what files can represent
    while name in arrays or name in RESERVED_NAMES:
        name += "_"
    arrays[name] = array
    return {"array": name}


def _host_array(value: Any) -> np.ndarray | None:
    """A NumPy array of an array, Tensor or NumPy scalar, else None."""
    if isinstance(value, np.ndarray | np.generic):
        return get_backend("numpy").asarray(value)  # no copy
    return asnumpy(value) if hasattr(value, "shape") else None


def _describe(name: str) -> str:
    return f"state entry {name!r}" if name else "the state"


def _unpack(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The value from which `_pack` made `tree` and `arrays`."""
    if not isinstance(tree, dict):
        return tree
    (kind, content), = tree.items()
    if kind == "array":
        return arrays[content]
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {key: _unpack(entry, arrays) for key, entry in content}
    container: type = {"list": list, "tuple": tuple}[kind]
    return container(_unpack(entry, arrays) for entry in content)
