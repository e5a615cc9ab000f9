"""`save` and `load` in PyTorch's file format: a zip archive of a pickle and the tensors' memory.

PyTorch reads what `save` writes, and `load` reads what PyTorch writes, also in its older format.
By default, `load` creates nothing but tensors, numbers, text, and containers of them, so a file
cannot run code.

The format: https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import collections
import contextlib
import io
import math
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from gpuprop._core.dtypes import as_dtype
from gpuprop._core.tensor import Tensor as Plain
from gpuprop._core.tensor import asnumpy, tensor
from gpuprop.io import replacing
from gpuprop.torch import _legacy_files
from gpuprop.torch._tensor import Parameter, Size, as_torch, device

STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
}
STORAGE_OF = {dtype: name for name, dtype in STORAGES.items()}
DTYPES = "float16 float32 float64 bfloat16 uint8 int8 int16 int32 int64 bool".split()
REMEDY = "torch.load(path, weights_only=False) runs the code that a file names: for your own files"


class Global:
    """A name of a module that is pickled as such, whether or not the module is installed."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.module}.{self.name} is only a name in a file")


REBUILD_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = Global("torch._utils", "_rebuild_parameter")


class Storage:
    """The memory of a tensor in a file, written by its persistent id."""

    def __init__(self, array: np.ndarray, key: str, place: str) -> None:
        self.array = array
        self.id = ("storage", Global("torch", STORAGE_OF[array.dtype.name]), key, place, array.size)


# ---- writing -------------------------------------------------------------------------------------


def save(obj: Any, f: Any, pickle_module: Any = None, pickle_protocol: int = 2,
         _use_new_zipfile_serialization: bool = True) -> None:
    """Write an object, such as ``{"model": model.state_dict(), "epoch": 3}``, to a path or file.

    An existing file is replaced when the new one is complete.  PyTorch's `load` reads the file.
    """
    if isinstance(obj, str) or hasattr(obj, "write"):
        raise TypeError(f"save(obj, f): the object is first, the path second; got the object "
                        f"{obj!r}")
    if hasattr(f, "write"):
        _write(obj, f, "archive")
        return
    with replacing(f, binary=True) as file:
        _write(obj, file, Path(f).stem or "archive")


def _write(obj: Any, file: Any, name: str) -> None:
    text = io.BytesIO()
    pickler = _Pickler(text)
    pickler.dump(obj)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
        archive.writestr(f"{name}/data.pkl", text.getvalue())
        archive.writestr(f"{name}/byteorder", sys.byteorder)
        for key, array in pickler.arrays.items():
            archive.writestr(f"{name}/data/{key}", array.tobytes())
        archive.writestr(f"{name}/version", "3\n")


PythonPickler: Any = pickle._Pickler  # the one whose methods can be overridden


class _Pickler(PythonPickler):
    """Pickles Tensors as PyTorch does, by names of modules that need not be installed."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=2)
        self.arrays: dict[str, np.ndarray] = {}

    def persistent_id(self, obj: Any) -> Any:
        return obj.id if isinstance(obj, Storage) else None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Plain):
            return self._reduce_tensor(obj)
        if isinstance(obj, np.ndarray):  # the state of an optimizer
            return self._reduce_tensor(as_torch(tensor(obj)))
        if isinstance(obj, np.dtype) and obj.name in DTYPES:
            return obj.name  # a name, which save_global writes
        if isinstance(obj, Size):
            return Global("torch", "Size"), (tuple(obj),)
        if isinstance(obj, device):
            index = () if obj.index is None else (obj.index,)
            return Global("torch", "device"), (obj.type, *index)
        return NotImplemented

    def _reduce_tensor(self, t: Any) -> tuple:
        hooks: Any = collections.OrderedDict()
        array = np.ascontiguousarray(asnumpy(t)).reshape(t.array.shape)
        key = str(len(self.arrays))
        self.arrays[key] = array
        place = "cpu" if isinstance(t.array, np.ndarray) else str(as_torch(t).device)
        strides = tuple(s // array.itemsize for s in array.strides)
        needs_grad = t.requires_grad and not isinstance(t, Parameter)
        rebuilt = Rebuilt(REBUILD_TENSOR, (Storage(array, key, place), 0, array.shape, strides,
                                           needs_grad, hooks))
        if isinstance(t, Parameter):
            return REBUILD_PARAMETER, (rebuilt, t.requires_grad, hooks)
        return rebuilt.function, rebuilt.args

    def save_global(self, obj: Any, name: Any = None) -> None:
        found = Global("torch", obj.name) if isinstance(obj, np.dtype) else obj
        if isinstance(found, Global):
            self.write(pickle.GLOBAL + f"{found.module}\n{found.name}\n".encode())
            self.memoize(obj)
            return
        super().save_global(obj, name)


class Rebuilt:
    """A call that is pickled as its result."""

    def __init__(self, function: Global, args: tuple) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple:
        return self.function, self.args


_Pickler.dispatch = {**PythonPickler.dispatch, Global: _Pickler.save_global}


# ---- reading -------------------------------------------------------------------------------------


# Classes that `load` may create, by their names: those of `serialization.safe_globals`.
allowed: ContextVar[Mapping[str, Any]] = ContextVar(
    "gpuprop_safe_globals", default=MappingProxyType({}))


def load(f: Any, map_location: Any = None, pickle_module: Any = None, *,
         weights_only: bool | None = None, mmap: bool | None = None, **_: Any) -> Any:
    """Read an object that `save`, of this library or of PyTorch, wrote.

    `map_location` is a device, a dict from devices to devices, or a function of a storage and its
    device.  With ``weights_only=False`` a pickle may name any class, which runs its code: only for
    files that you trust.
    """
    with contextlib.ExitStack() as stack:
        file = f if hasattr(f, "read") else stack.enter_context(open(f, "rb"))
        start = file.tell()
        head = file.read(len(_legacy_files.MAGIC))
        file.seek(start)
        if head == _legacy_files.MAGIC:
            text, storages = _legacy_files.read(file, STORAGES)
            read: Callable = lambda key, dtype, numel: storages[key]
        elif head[:4] == b"PK\x03\x04":
            text, read = _archived(f, stack.enter_context(zipfile.ZipFile(file)))
        else:
            raise ValueError(f"load: {f} is neither a zip archive, as torch.save writes, nor a "
                             f"file in PyTorch's older format")
        return _Unpickler(text, read, map_location, weights_only is not False).load()


def _archived(f: Any, archive: zipfile.ZipFile) -> tuple[bytes, Callable]:
    """The pickle in an archive, and the function that reads a storage."""
    names = archive.namelist()
    text = next((n for n in names if n.endswith("/data.pkl")), None)
    if text is None:
        raise ValueError(f"load: {f} has no data.pkl, so torch.save did not write it")
    folder = text.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    is_swapped = order in names and archive.read(order).decode() != sys.byteorder

    def read(key: str, dtype: np.dtype, numel: int) -> np.ndarray:
        name = f"{folder}data/{key}"
        size = archive.getinfo(name).file_size
        if size != numel * dtype.itemsize:
            raise ValueError(f"load: {name} has {size} bytes, but {numel} elements of {dtype}")
        array = np.frombuffer(bytearray(archive.read(name)), dtype)
        return array.byteswap() if is_swapped else array

    return archive.read(text), read


class _Unpickler(pickle.Unpickler):
    """Creates Tensors of storages, and other objects only if `weights_only` is False.

    ``read(key, dtype, number of elements)`` returns a storage.
    """

    def __init__(self, text: bytes, read: Callable, map_location: Any, weights_only: bool) -> None:
        super().__init__(io.BytesIO(text))
        self._read = read
        self._map_location = map_location
        self._weights_only = weights_only
        self._storages: dict[str, tuple[np.ndarray, str | None]] = {}

    def find_class(self, module: str, name: str) -> Any:
        found = GLOBALS.get(f"{module}.{name}")
        if found is not None:
            return found
        if module in ("torch", "torch.storage") and name in STORAGES:
            return name
        if f"{module}.{name}" in allowed.get():
            return allowed.get()[f"{module}.{name}"]
        if self._weights_only:
            raise pickle.UnpicklingError(
                f"load: the file names {module}.{name}, which is no tensor, number or container. "
                f"If you trust the file, {REMEDY}")
        return super().find_class(module.replace("torch", "gpuprop.torch", 1)
                                  if module.split(".")[0] == "torch" else module, name)

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] != "storage":  # ("module", class, its file, its source) in old files
            return pid[1]
        _, kind, key, place, numel, *view = pid
        if key not in self._storages:
            self._storages[key] = (self._read(key, as_dtype(STORAGES[kind]), numel),
                                   self._place(place))
        if not any(view):
            return self._storages[key]
        _, offset, size = view[0]  # a part of the storage, in old files
        array, where = self._storages[key]
        return array[offset:offset + size], where

    def _place(self, place: str) -> str | None:
        """The device for a storage that was saved on `place`; None for the CPU."""
        wanted = self._map_location
        if isinstance(wanted, dict):
            wanted = wanted.get(place, place)
        elif callable(wanted) and not isinstance(wanted, str):
            wanted = "cpu"  # a function such as `lambda storage, location: storage`
        wanted = place if wanted is None else str(wanted)
        return None if wanted == "cpu" else wanted


def _rebuild_tensor(storage: tuple, offset: int, size: tuple, stride: tuple,
                    requires_grad: bool, hooks: Any, *_: Any) -> Any:
    array, place = storage
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and (offset < 0 or min(stride, default=0) < 0 or last >= array.size):
        raise ValueError(f"load: a tensor of size {tuple(size)} and stride {tuple(stride)} at "
                         f"{offset} does not fit into its storage of {array.size} elements")
    strides = [s * array.itemsize for s in stride]
    view = np.lib.stride_tricks.as_strided(array[offset:], tuple(size), strides)
    t = as_torch(tensor(view))
    t = t if place is None else as_torch(t.to(place))
    t.requires_grad = requires_grad
    return t


def _rebuild_old_tensor(storage: tuple, offset: int, size: tuple, stride: tuple) -> Any:
    return _rebuild_tensor(storage, offset, size, stride, False, None)


def _rebuild_parameter(data: Any, requires_grad: bool, hooks: Any, *_: Any) -> Any:
    return Parameter(data, requires_grad)


class _OldParameter(Parameter):
    """A Parameter in a file of 2017: ``Parameter(data)``, and then its state."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        is_whole = isinstance(state[0], Plain)  # (data, grad, hooks, requires_grad, volatile)
        self.requires_grad = state[3] if is_whole else state[0]
        if is_whole:
            self.array = state[0].array
        self.__class__ = Parameter  # type: ignore[assignment]


def _as_device(type: str, index: int | None = None) -> device:
    return device(type, index)


GLOBALS: dict[str, Callable] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor": _rebuild_old_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.nn.parameter.Parameter": _OldParameter,
    "torch.Size": Size,
    "torch.device": _as_device,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "builtins.set": set,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.int": int,
    "builtins.float": float,
    **{f"torch.{name}": np.dtype(name) for name in DTYPES if name != "bfloat16"},  # type: ignore
}
