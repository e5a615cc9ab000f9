"""NumPy's npz format: a zip archive with one npy file for each array."""

from __future__ import annotations

import io
import json
import zipfile
from typing import IO

import numpy as np
from numpy.lib import format as npy

from gpuprop._core.dtypes import extension_dtype, is_extension

# names of string arrays: the metadata, and as JSON the extension dtypes, such as bfloat16, by name
METADATA = "__metadata__"
EXTENSION_DTYPES = "__types__"


def write(file: IO[bytes], arrays: dict[str, np.ndarray], metadata: str | None) -> None:
    """Write arrays and metadata; arrays of extension dtypes are stored as float32."""
    extensions = {n: a.dtype.name for n, a in arrays.items() if is_extension(a.dtype)}
    entries = {n: a.astype("float32") if n in extensions else a for n, a in arrays.items()}
    if metadata is not None:
        entries[METADATA] = np.array(metadata)
    if extensions:
        entries[EXTENSION_DTYPES] = np.array(json.dumps(extensions))
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in entries.items():
            info = zipfile.ZipInfo(f"{name}.npy")  # with a fixed date: equal states, equal files
            with archive.open(info, "w", force_zip64=True) as entry:
                npy.write_array(entry, array, allow_pickle=False)


def read(file: IO[bytes]) -> tuple[dict[str, np.ndarray], str | None]:
    """The arrays by name, and the metadata."""
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            data = archive.read(name)  # compares the checksum before the array is used
            array = npy.read_array(io.BytesIO(data), allow_pickle=False)
            arrays[name.removesuffix(".npy")] = _native(array)
    metadata = _pop_string(arrays, METADATA)
    extensions = json.loads(_pop_string(arrays, EXTENSION_DTYPES) or "{}")
    for name, dtype_name in extensions.items():
        dtype = extension_dtype(dtype_name)
        if dtype is not None:
            arrays[name] = arrays[name].astype(dtype)
    return arrays, metadata


def _pop_string(arrays: dict[str, np.ndarray], name: str) -> str | None:
    return str(arrays.pop(name)) if name in arrays else None


def _native(array: np.ndarray) -> np.ndarray:
    """In this machine's byte order, the only one that devices support."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)
