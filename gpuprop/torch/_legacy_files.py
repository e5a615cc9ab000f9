"""The file format of PyTorch before 1.6, and of ``_use_new_zipfile_serialization=False``.

Five pickles follow each other: a magic number, the version, facts about the machine, the object,
and the keys of its storages.  Then come the storages, each as its number of elements and its bytes,
both little-endian.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuprop._core.dtypes import as_dtype

MAGIC = pickle.dumps(0x1950a86a20f9469cfc6c, protocol=2)
VERSION = 1001


def read(file: Any, storage_dtypes: Mapping[str, str]) -> tuple[bytes, dict[str, np.ndarray]]:
    """The pickle of the object, and the storages by their keys.

    `storage_dtypes` are the dtypes of storages by the names of their types.
    """
    magic, version, _, text, keys = [_next_pickle(file) for _ in range(5)]
    found = _Plain(io.BytesIO(version)).load()
    if magic != MAGIC or found != VERSION:
        raise ValueError(f"load: the file has version {found!r} of PyTorch's old format, expected "
                         f"{VERSION}")
    finder = _StorageFinder(text, storage_dtypes)
    finder.load()
    start = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(start)
    storages = {}
    for key in _Plain(io.BytesIO(keys)).load():
        dtype, numel = finder.storages[key]
        written = int.from_bytes(file.read(8), "little", signed=True)
        size = numel * dtype.itemsize
        if written != numel or not 0 <= size <= end - file.tell():
            raise ValueError(f"load: storage {key} has {written} elements in a file with "
                             f"{end - file.tell()} more bytes, expected {numel} of {dtype}")
        array = np.frombuffer(bytearray(file.read(size)), dtype)
        storages[key] = array if sys.byteorder == "little" else array.byteswap()
    return text, storages


def _next_pickle(file: Any) -> bytes:
    """The bytes of the next pickle, which is not loaded."""
    import pickletools

    start = file.tell()
    for _ in pickletools.genops(file):
        pass
    size = file.tell() - start
    file.seek(start)
    return file.read(size)


class _Plain(pickle.Unpickler):
    """Loads numbers, texts and containers of them."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"load: {module}.{name} where PyTorch writes plain values")


class _Inert(dict):
    """Stands for every object that a pickle makes, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, *_: Any) -> None:
        pass

    add = extend = append


class _StorageFinder(pickle.Unpickler):
    """Finds the dtype and the number of elements of each storage; makes no objects."""

    def __init__(self, text: bytes, storage_dtypes: Mapping[str, str]) -> None:
        super().__init__(io.BytesIO(text))
        self._storage_dtypes = storage_dtypes
        self.storages: dict[str, tuple[np.dtype, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        return name if name in self._storage_dtypes else _Inert

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "storage":
            _, kind, key, _, numel, *_ = pid
            self.storages[key] = as_dtype(self._storage_dtypes[kind]), numel
        return _Inert()
