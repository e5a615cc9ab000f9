"""NumPy's own format: a zip archive with an npy file for each array."""

from __future__ import annotations

import io
import json
import zipfile
from typing import IO

import numpy as np
from numpy.lib import format as npy

from gpuprop._core.dtypes import extension_dtype, is_extension

TEXT, TYPES = "__metadata__", "__types__"  # arrays that hold a text: what came with the arrays; their foreign types


def write(file: IO[bytes], arrays: dict[str, np.ndarray], text: str | None) -> None:
    """Write arrays, those of foreign types as float32, and a text."""
    types = {name: array.dtype.name for name, array in arrays.items() if is_extension(array.dtype)}
    texts = {TEXT: text, TYPES: json.dumps(types) if types else None}
    extra = {name: np.array(text) for name, text in texts.items() if text is not None}
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in {**arrays, **extra}.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:  # dated 1980, not now
                npy.write_array(entry, array.astype("float32") if name in types else array, allow_pickle=False)


def read(file: IO[bytes]) -> tuple[dict[str, np.ndarray], str | None]:
    """Arrays by name, and the text."""
    with zipfile.ZipFile(file) as archive:  # its `read` compares checksums, and a damaged array is never looked at
        arrays = {name.removesuffix(".npy"): _native(npy.read_array(io.BytesIO(archive.read(name)), allow_pickle=False))
                  for name in archive.namelist()}
    text, types = (str(arrays.pop(name)) if name in arrays else None for name in (TEXT, TYPES))
    for name, kind in json.loads(types or "{}").items():
        dtype = extension_dtype(kind)
        arrays[name] = arrays[name] if dtype is None else arrays[name].astype(dtype)
    return arrays, text


def _native(array: np.ndarray) -> np.ndarray:
    """In this machine's order of bytes, the only one that devices know."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)
