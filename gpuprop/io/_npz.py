"""NumPy's npz format: a zip archive with one npy file per array."""

from __future__ import annotations

import io
import json
import zipfile
from typing import IO

import numpy as np
from numpy.lib import format as npy

from gpuprop._core.dtypes import extension_dtype, is_extension

# two entries of the archive hold a string instead of an array of the state
METADATA = "__metadata__"
EXTENSION_DTYPES = "__types__"  # JSON: {array name: dtype name} of extension dtypes like bfloat16


def write(file: IO[bytes], arrays: dict[str, np.ndarray], metadata: str | None) -> None:
    """Write arrays and metadata; arrays of extension dtypes are stored as float32."""
    entries = dict(arrays)
    extensions = {n: a.dtype.name for n, a in arrays.items() if is_extension(a.dtype)}
    for name in extensions:
        entries[name] = arrays[name].astype("float32")
    if metadata is not None:
        entries[METADATA] = np.array(metadata)
    if extensions:
        entries[EXTENSION_DTYPES] = np.array(json.dumps(extensions))
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in entries.items():
            # ZipInfo's date is fixed, so that equal states give identical files
            info = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(info, "w", force_zip64=True) as entry:
                npy.write_array(entry, array, allow_pickle=False)


def read(file: IO[bytes]) -> tuple[dict[str, np.ndarray], str | None]:
    """Read the arrays by name, and the metadata."""
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            data = archive.read(name)  # the whole entry, so that its checksum is verified
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
    """The array in this machine's byte order, the only one that devices support."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)
